"""Every command of the README, the guides in `docs/` and CONTRIBUTING runs: a page's ```bash and ```python blocks in
order, in one folder per page, as a reader would type them.

An HTML comment on the line before a block says otherwise: `<!-- test: slow -->` leaves it to `make test-all`, and
`<!-- test: skip, because … -->` is for what a test cannot do (clone, install), with the reason.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
}
BLOCK = re.compile(
    r"(?:<!-- test: (?P<mark>[^>]*?) -->\n+)?^```(?P<language>bash|python)\n(?P<text>.*?)^```$", re.M | re.S
)
SHOWN = ("docs", "examples", "tests", "README.md", "pyproject.toml", "constraints.txt", "Makefile")
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)\s#]+)")


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
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where the readers of the pages stand: in clones, but for the package's own folders, which would hide the
    installed one."""
    made = {page: tmp_path_factory.mktemp("clone") for page in PAGES}
    for folder in made.values():
        for name in SHOWN:
            (folder / name).symlink_to(ROOT / name)
    return made


@pytest.mark.parametrize("block", [as_case(block) for block in BLOCKS])
def test_block_runs(block: Block, folders: dict[str, Path]) -> None:
    interpreter = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}[block.language]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*interpreter, block.text],
        cwd=folders[block.page],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def test_readme_shows_the_main_command_and_the_python_api() -> None:
    shown = [block for block in BLOCKS if block.page == "README.md"]
    assert any("ptq-export --ckpt" in block.text for block in shown if block.language == "bash")
    assert any("from ptq_export" in block.text for block in shown if block.language == "python")


def test_every_flag_that_is_shown_exists() -> None:
    commands = [line for block in BLOCKS for line in block.text.replace("\\\n", " ").splitlines()]
    wide = {**os.environ, "COLUMNS": "200"}
    for words in (line.split() for line in commands if line.startswith("ptq-export ")):
        subcommand = words[1:2] if not words[1].startswith("-") else []
        command = str(Path(sys.executable).with_name("ptq-export"))
        help_command = [command, *subcommand, "--help"]
        done = subprocess.run(help_command, env=wide, capture_output=True, text=True, check=True)
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= set(done.stdout.split()), words


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_links_to_exists(page: str) -> None:
    home = (ROOT / page).parent
    assert [target for target in LINK.findall(PAGES[page]) if not (home / target).exists()] == []
