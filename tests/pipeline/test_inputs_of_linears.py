"""What was chosen for the inputs of linears belongs to the run: kept, proved, and seen by all that opens it again."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import tiny
from safetensors.torch import load_file, save_file

from ptq_export.artifacts import sha256_file
from ptq_export.calibrators import linears
from ptq_export.errors import GateFailed, InputError
from ptq_export.pipeline import linears as stage
from ptq_export.pipeline import run, verify
from ptq_export.pipeline.commands.reopened import reopen
from ptq_export.pipeline.progress import SILENT
from ptq_export.report.tables import linears_line, linears_table


def test_the_choice_is_in_the_run_folder_and_shown(finished: Path) -> None:
    value = json.loads((finished / "linears.json").read_text())
    moved = {row["readers"][0] for row in value["readings"] if row["alpha"] is not None}
    assert moved and {*load_file(finished / "gains.safetensors")} == moved
    artefacts = json.loads((finished / "manifest.json").read_text())["artefacts"]
    assert artefacts["gains.safetensors"]["sha256"] == sha256_file(finished / "gains.safetensors")
    assert linears_line(value).startswith(f"channels balanced in {len(moved)} of {len(value['readings'])} inputs")
    assert len(linears_table(value)) == 1 + len(value["readings"])
    assert "What linears read" in (finished / "report.html").read_text()


def test_a_reopened_run_has_the_balanced_network(finished: Path) -> None:
    with reopen(finished, SILENT, tiny.SPEC) as job:
        (name, *_) = load_file(finished / "gains.safetensors")
        balanced, given = (it.module.get_submodule(name).weight for it in (job.subject, job.denoiser))
        assert not balanced.equal(given)
    assert verify(finished, SILENT, tiny.SPEC)["parity"] > 0


def test_gains_that_are_gone_are_made_again(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    (folder / "gains.safetensors").unlink()
    with pytest.raises(InputError, match="is damaged or gone"):
        reopen(folder, SILENT, tiny.SPEC)
    run(tiny.options(folder))
    for name in ("gains.safetensors", "denoiser.ort-int8.onnx"):
        assert sha256_file(folder / name) == sha256_file(finished / name), name


@pytest.mark.parametrize(("change", "error"), [("shape", InputError), ("nan", GateFailed)])
def test_gains_of_another_network_are_refused(
    finished: Path, tmp_path: Path, change: str, error: type[Exception]
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    gains = load_file(folder / "gains.safetensors")
    wrong = {name: value[:-1] if change == "shape" else value * float("nan") for name, value in gains.items()}
    save_file(wrong, folder / "gains.safetensors")
    ledger = json.loads((folder / "ledger.json").read_text())
    ledger["gains.safetensors"] = sha256_file(folder / "gains.safetensors")
    (folder / "ledger.json").write_text(json.dumps(ledger))
    with pytest.raises(error, match="does not fit the network" if change == "shape" else "balancing channels"):
        reopen(folder, SILENT, tiny.SPEC)


def test_a_step_per_token_is_one_layer_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linears, "TOKEN", 1e3)  # proposed everywhere
    monkeypatch.setattr(stage, "PAYS", 1e-9)
    options = replace(tiny.options(tmp_path / "run", "families:text"), rounding="nearest", min_sqnr=0.0)
    folder = run(options)
    rows = json.loads((folder / "linears.json").read_text())["readings"]
    assert [row["by_token"] for row in rows] == [True, True] and all(row["share"] > 0 for row in rows)
    graph = onnx.load(folder / "denoiser.ort-int8.onnx")
    assert sum(node.op_type == "ReduceMax" for node in graph.graph.node) == 2
    assert verify(folder, SILENT, "families:text")["parity"] > 0
