"""The README's picture and table come from one run, and the table says what that run's files say."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from ptq_export.artifacts import sha256_file
from ptq_export.errors import InputError

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "examples"))
from readme import block, replace_block  # noqa: E402


def amend(path: Path, change: dict[str, object]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_picture_and_table_name_the_same_manifest() -> None:
    picture = Image.open(ROOT / "examples" / "report.png")
    assert f"manifest {picture.text['manifest']} -->" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_table_has_four_rows_of_the_runs_own_figures(run: Path) -> None:
    comment, head, _, *rows, _, measured, _ = block(run).splitlines()
    latency = json.loads((run / "latency.json").read_text())
    medians = [f"{it['median_ms']:.2f} ms" for it in latency["steps"][0]["candidates"].values()]
    assert sha256_file(run / "manifest.json") in comment
    assert head == "| `make demo` | int8 | FP32 |"
    assert [row.split("|")[1].split(",")[0].strip()[:20] for row in rows] == [
        "one denoising step",
        "one denoising step",
        "same-noise PSNR of 6",
        "layers that run int8",
    ]
    assert medians[0] in rows[0] and medians[1] in rows[0]
    assert "38.4 dB (with exact weights: 39.9 dB)" in rows[2]
    assert "INVALID" not in measured


def test_a_disturbed_timing_is_marked_at_its_figure_and_below(run: Path) -> None:
    steps = json.loads((run / "latency.json").read_text())["steps"]
    amend(run / "latency.json", {"steps": [steps[0], steps[1] | {"valid": False}]})
    lines = block(run).splitlines()
    assert [line for line in lines if "INVALID" in line] == [lines[4], lines[-2]]


def test_a_run_whose_proofs_fail_is_not_shown(run: Path) -> None:
    verdict = json.loads((run / "manifest.json").read_text())["verdict"]
    amend(run / "manifest.json", {"verdict": verdict | {"ok": False, "failures": ["parity: block x"]}})
    with pytest.raises(InputError, match="1 proof failed"):
        block(run)


def test_the_table_is_put_between_the_comments_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- demo: old -->\nrows\n<!-- /demo -->\nafter\n")
    replace_block(page, "<!-- demo: new -->\n<!-- /demo -->")
    assert page.read_text() == "before\n<!-- demo: new -->\n<!-- /demo -->\nafter\n"
    page.write_text("no comments")
    with pytest.raises(SystemExit, match="has no lines"):
        replace_block(page, "")
    assert page.read_text() == "no comments"
