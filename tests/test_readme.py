"""Every command of the pages runs, every link leads somewhere: README, CONTRIBUTING, and all of `docs/`.

A page's ```bash and ```python blocks are run in order, in one folder for all pages, as a reader of all of them would
type them. A page makes what it needs, and a run that another page has made already is finished at once.

An HTML comment on the line before a block says otherwise: `<!-- test: slow -->` leaves it to `make test-all`, and
`<!-- test: skip, because … -->` is for what a test cannot do (clone, install), with the reason.
"""

import ast
import os
import re
import subprocess
import sys
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from typer.testing import CliRunner

from ptq_export.cli import app
from ptq_export.options import Options
from ptq_export.targets import TARGETS

ROOT = Path(__file__).parents[1]
TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (*(ROOT / name for name in TOP), *sorted((ROOT / "docs").rglob("*.md")))
}
BLOCK = re.compile(
    r"(?:<!-- test: (?P<mark>[^>]*?) -->\n+)?^```(?P<language>bash|python)\n(?P<text>.*?)^```$", re.M | re.S
)
SHOWN = ("docs", "examples", "tests", "README.md", "pyproject.toml", "constraints.txt", "Makefile")
OWN_PATH = re.compile(r"(?:ptq_export|calibrators|engines|benchmarks|tests|examples|docs)/[\w./-]*")
MARKDOWN = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True)
class Block:
    """One fenced block and what its comment says about testing it."""

    page: str
    line: int
    language: str
    text: str
    mark: str


BLOCKS = [
    Block(page, text.count("\n", 0, match.start()) + 1, match["language"], match["text"], match["mark"] or "")
    for page, text in PAGES.items()
    for match in BLOCK.finditer(text)
]


def as_case(block: Block) -> object:
    name, _, reason = block.mark.partition(", ")
    marks = {"": [], "slow": [pytest.mark.slow], "skip": [pytest.mark.skip(reason=reason)]}[name]
    return pytest.param(block, marks=marks, id=f"{block.page}:{block.line}")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the reader of the pages stands: in a clone, but for the package's own folders, which would hide the
    installed one."""
    folder = tmp_path_factory.mktemp("clone")
    for name in SHOWN:
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.mark.parametrize("block", [as_case(block) for block in BLOCKS])
def test_block_runs(block: Block, clone: Path) -> None:
    interpreter = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}[block.language]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*interpreter, block.text],
        cwd=clone,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def test_readme_shows_the_main_command_and_the_python_api() -> None:
    shown = [block for block in BLOCKS if block.page == "README.md"]
    assert any("ptq-export --ckpt" in block.text for block in shown if block.language == "bash")
    assert any("from ptq_export" in block.text for block in shown if block.language == "python")


def test_readme_has_at_most_900_words() -> None:
    assert len(PAGES["README.md"].split()) <= 900


def test_every_flag_that_is_shown_exists() -> None:
    commands = [line for block in BLOCKS for line in block.text.replace("\\\n", " ").splitlines()]
    runner = CliRunner(env={"COLUMNS": "200"})
    shown: dict[str, set[str]] = {}
    for words in (line.split() for line in commands if line.startswith("ptq-export ")):
        subcommand = "" if words[1].startswith("-") else words[1]
        shown.setdefault(subcommand, set()).update(w.partition("=")[0] for w in words if w.startswith("--"))
    for subcommand, flags in shown.items():
        done = runner.invoke(app, [*subcommand.split(), "--help"], prog_name="ptq-export")
        assert done.exit_code == 0 and flags <= set(done.stdout.split()), subcommand


def test_every_import_and_option_that_python_blocks_show_exists() -> None:
    """Of the slow blocks, too."""
    trees = [ast.parse(block.text) for block in BLOCKS if block.language == "python"]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "Options"]
    assert {word.arg for call in calls for word in call.keywords} <= {field.name for field in fields(Options)}
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    names = [(str(node.module), alias.name) for node in imports for alias in node.names]
    assert [name for module, name in names if not hasattr(import_module(module), name)] == []
    assert ("ptq_export", "run") in names and ("ptq_export", "load_engine") in names


def tokens(text: str) -> list[Token]:
    """Every token of a page, those inside a line included."""
    return [token for outer in MARKDOWN.parse(text) for token in (outer, *(outer.children or ()))]


def anchors(text: str) -> set[str]:
    """The anchors that a forge gives a page's headings: lower case, words with hyphens, no punctuation."""
    parsed = MARKDOWN.parse(text)
    titles = [parsed[index + 1].content for index, token in enumerate(parsed) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file_and_to_its_heading(page: str) -> None:
    targets = [str(token.attrs.get("href") or token.attrs.get("src") or "") for token in tokens(PAGES[page])]
    lost = []
    for target in (found for found in targets if found and not re.match(r"[a-z]+:", found)):
        name, _, anchor = target.partition("#")
        file = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        inside = file.is_relative_to(ROOT) and file.exists()
        if not inside or (anchor and anchor not in anchors(PAGES[file.relative_to(ROOT).as_posix()])):
            lost.append(target)
    assert lost == []


@pytest.mark.parametrize("page", PAGES)
def test_every_path_of_ours_that_a_page_names_exists(page: str) -> None:
    code = [token.content for token in tokens(PAGES[page]) if token.type == "code_inline"]
    assert [text for text in code if OWN_PATH.fullmatch(text) and not (ROOT / text).exists()] == []


def test_every_page_is_listed_in_the_index() -> None:
    index = "".join(text for page, text in PAGES.items() if page.startswith("docs/") and page.endswith("/README.md"))
    pages = [Path(page).name for page in PAGES if page.startswith("docs/") and not page.endswith("/README.md")]
    assert [name for name in pages if f"{name})" not in index] == []


def test_every_target_has_a_page_and_every_baseline_a_line() -> None:
    baselines = PAGES["docs/targets/baselines.md"]
    assert [name for name, it in TARGETS.items() if it.scheme and f"docs/targets/{name}.md" not in PAGES] == []
    assert [name for name, it in TARGETS.items() if not it.scheme and f"`{name}`" not in baselines] == []
