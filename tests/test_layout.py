"""The house rules that a reader relies on: which module may import which, names, paths, docstrings and `__all__`."""

import ast
import re
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOMES = {
    "ptq_export": "ptq_export",
    **{name: f"ptq_export.{name}" for name in ("calibrators", "engines", "benchmarks")},
}
LIBRARY = ("ptq_export.calibrators", "ptq_export.engines", "ptq_export.benchmarks")
ON_DEVICE = ("ptq_export.engines.jetson.on_device",)
TOP = (
    *("ptq_export.pipeline", "ptq_export.packaging", "ptq_export.serving", "ptq_export.cli", "ptq_export.__main__"),
    *("ptq_export.benchmarks.peers", "ptq_export.benchmarks.serving", "ptq_export.benchmarks.emoji_groups"),
)
DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
ABSOLUTE = re.compile(r"^(/(home|root|work|tmp|usr|opt|mnt|data|Users|content)/|[A-Z]:\\)")


def module_name(path: Path) -> str:
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([HOMES[folder], *(part for part in rest if part != "__init__")])


MODULES = {
    module_name(path): ast.parse(path.read_text(encoding="utf-8"), str(path))
    for folder in HOMES
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def imports(name: str) -> set[str]:
    """Absolute names of what a module imports; `from a import b` counts as `a.b` where that is a module."""
    found: set[str] = set()
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {member if member in MODULES else str(node.module) for member in members}
    return found


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def may_import(importer: str, imported: str) -> bool:
    if not within(imported, ("ptq_export",)) or importer == "ptq_export":
        return True
    if within(importer, TOP):
        return not within(importer, ("ptq_export.pipeline",)) or not within(imported, ("ptq_export.cli",))
    own = tuple(package for package in LIBRARY if within(importer, (package,)))
    if own == ("ptq_export.benchmarks",):
        own += ("ptq_export.engines.base",)
        if "main" in defined(MODULES[importer]):  # a program may calibrate and build what it measures
            own += ("ptq_export.calibrators", "ptq_export.engines")
    return within(imported, own) or not within(imported, LIBRARY + TOP)


def test_imports_follow_the_arrows() -> None:
    pairs = ((name, imported) for name in MODULES for imported in sorted(imports(name)))
    assert [f"{name} imports {imported}" for name, imported in pairs if not may_import(name, imported)] == []


def test_no_module_is_named_like_something_imported() -> None:
    """The programs for a Jetson aside: there they lie in one folder and import each other."""
    installed = [name for name in MODULES if not within(name, ON_DEVICE)]
    imported = {name.partition(".")[0] for module in installed for name in imports(module)} - {"ptq_export"}
    own = {name.rpartition(".")[2] for name in installed}
    assert imported & own == set()


def test_no_two_files_of_tests_have_one_name() -> None:
    """They are modules without a package: pytest would import one for both."""
    names = sorted(path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py")
    assert [name for name, after in pairwise(names) if name == after] == []


def test_no_test_imports_a_private_helper() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {alias.name}"
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and within(str(node.module), ("ptq_export",))
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert found == []


def test_no_fixed_absolute_path() -> None:
    nodes = (
        (name, node) for name, tree in MODULES.items() for node in ast.walk(tree) if isinstance(node, ast.Constant)
    )
    assert [
        f"{name}: {node.value}" for name, node in nodes if isinstance(node.value, str) and ABSOLUTE.match(node.value)
    ] == []


def test_every_module_says_what_it_is_and_what_it_offers() -> None:
    assert [f"{name}: {fault}" for name, tree in MODULES.items() for fault in faults(name, tree)] == []


def faults(name: str, tree: ast.Module) -> list[str]:
    """What a reader misses at the head of a module."""
    found = [] if ast.get_docstring(tree) else ["no module docstring"]
    if name.endswith("__main__") or len(tree.body) == 1:
        return found
    names = declared(tree)
    if names is None:
        return [*found, "no __all__"]
    public = {node.name for node in tree.body if isinstance(node, DEFINITIONS)}
    missing = {text for text in public if not text.startswith("_")} - {*names, "main"}
    found += [f"__all__ names {text}, which is not there" for text in sorted(set(names) - defined(tree))]
    return found + [f"{text} is public, but not in __all__" for text in sorted(missing)]


def declared(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return None


def defined(tree: ast.Module) -> set[str]:
    """Names that a module binds at its top level, TYPE_CHECKING blocks included."""
    blocks = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.If))]
    names: set[str] = set()
    for node in (node for block in blocks for node in block):
        if isinstance(node, DEFINITIONS):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {ast.unparse(target) for target in targets}
    return names
