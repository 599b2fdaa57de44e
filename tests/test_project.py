"""What an open project states about itself: one version, its license, its changelog, hooks that can run."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

import ptq_export

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ("ptq_export", "calibrators", "engines", "benchmarks")
PINNED = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M))


def test_version_stands_in_pyproject_alone() -> None:
    assert ptq_export.__version__ == importlib.metadata.version("ptq-export") == PROJECT["version"]
    own = re.compile(rf"__version__ *=|[\"']{re.escape(PROJECT['version'])}[\"']")
    sources = [path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py")]
    assert [path for path in sources if own.search(path.read_text(encoding="utf-8"))] == []


def test_changelog_begins_with_what_is_unreleased_and_tells_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\]", text, re.M)
    assert headings[0] == "Unreleased"
    assert PROJECT["version"] in headings


def test_license_is_the_text_that_the_metadata_names() -> None:
    metadata = importlib.metadata.metadata("ptq-export")
    assert metadata["License-Expression"] == PROJECT["license"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    words = " ".join((ROOT / "LICENSE").read_text(encoding="utf-8").split())
    assert words.startswith("Apache License Version 2.0, January 2004")
    assert "END OF TERMS AND CONDITIONS" in words


def test_every_hook_is_a_pinned_program_of_the_development_extras() -> None:
    config = ROOT / ".pre-commit-config.yaml"
    bin_folder = Path(sys.executable).parent
    subprocess.run([bin_folder / "pre-commit", "validate-config", config], check=True)
    [repo] = yaml.safe_load(config.read_text(encoding="utf-8"))["repos"]
    programs = {Path(hook["entry"].split()[0]) for hook in repo["hooks"]}
    assert {program.parent.as_posix() for program in programs} == {".venv/bin"}
    owners = {
        script.name: found.name.replace("-", "_")
        for found in importlib.metadata.distributions()
        for script in found.entry_points.select(group="console_scripts")
    }
    owners["ruff"] = "ruff"  # a binary, no entry point
    for program in programs:
        package = owners[program.name]
        assert (bin_folder / program.name).exists()
        assert PINNED[package] == importlib.metadata.version(package)
