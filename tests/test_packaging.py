"""The wheel: it takes one name in site-packages, holds every file of the package, and every module of it imports."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"ptq_export": "ptq_export", **{n: f"ptq_export/{n}" for n in ("calibrators", "engines", "benchmarks")}}
ABSENT = (".sh", ".so")  # run in a clone, compiled here
EXTRAS = ("ray",)
"""Packages that the development extras do not bring."""
IMPORT_ALL = f"""
import importlib, pkgutil, sys
sys.path.insert(0, sys.argv[1])
EXTRAS = {EXTRAS}
import ptq_export
assert ptq_export.__file__.startswith(sys.argv[1]), ptq_export.__file__
for module in pkgutil.walk_packages(ptq_export.__path__, "ptq_export."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        print(module.name, "needs", error.name)
    else:
        print(module.name)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy: in place, setuptools leaves `build/` behind and ships what is stale in it."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(output), str(source))
    subprocess.run([sys.executable, "-m", "pip", *build], check=True)
    [path] = output.glob("*.whl")
    return path


def test_wheel_takes_one_name_and_holds_every_file(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = {
        f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, target in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in ABSENT
    }
    compiled = {name for name in names if name.endswith(".so")}
    assert len(compiled) == (1 if shutil.which("c++") else 0)
    names -= compiled
    assert {name.partition("/")[0] for name in names} == {"ptq_export"}
    assert names == sources
    assert "ptq_export/py.typed" in names


def test_every_module_of_the_wheel_imports_outside_the_repository(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    command = [sys.executable, "-I", "-c", IMPORT_ALL, str(tmp_path / "site")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"ptq_export.cli", "ptq_export.calibrators", "ptq_export.engines"} <= set(done.stdout.split())
