"""The whole command, with real processes, quantisers and runtimes."""

import json
import shutil
from pathlib import Path

import pytest
from peers_run import make_run

from ptq_export.benchmarks.peers import registry
from ptq_export.benchmarks.peers.command import main
from ptq_export.benchmarks.peers.ort_static import OrtStatic
from ptq_export.benchmarks.peers.peer import Peer
from ptq_export.options import Options
from ptq_export.pipeline import run

TINY = Path(__file__).parents[1] / "data" / "ddim_tiny.pt"
OWN = ("ptq-export ort-int8", "ptq-export ort-int8, ORT's operators")
BRIEF = ("--batch", "1", "2", "--threads", "1", "--rounds", "10", "--samples", "2", "--pairs", "2")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "ort")


@pytest.fixture(scope="module")
def compared(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole comparison; do not change it."""
    folder = tmp_path_factory.mktemp("peers")
    assert main([str(finished), "--out", str(folder), "--peers", "ort minmax", "float, ONNX Runtime", *BRIEF]) == 0
    return folder


@pytest.mark.slow
def test_peers_are_quantised_scored_and_timed(compared: Path) -> None:
    value = json.loads((compared / "peers.json").read_text())
    models = value["models"]
    assert set(models) == {*OWN, "float, ONNX Runtime", "ort minmax"}
    # This run's "int8" graph is the FP32 graph: exact, and none of its layers is int8.
    assert models["ptq-export ort-int8"]["accuracy"]["psnr_min_db"] == 150
    assert models["ort minmax"]["accuracy"]["psnr_mean_db"] < 100
    assert 5 < models["ort minmax"]["accuracy"]["sqnr_median_db"] < 100
    assert models["ptq-export ort-int8"]["int8_layers"] == 0 < models["ort minmax"]["int8_layers"]
    assert [(it["threads"], it["batch"], len(it["models"])) for it in value["speed"]] == [(1, 1, 4), (1, 2, 4)]
    assert [(it["target"], it["batch"], it["steps"]) for it in value["loops"]] == [("ort-int8", b, 50) for b in (1, 2)]
    assert (compared / "peers.png").is_file()


@pytest.mark.slow
def test_a_peer_that_fails_is_named_with_its_own_error_and_the_others_go_on_with_what_was_kept(
    finished: Path, compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Peer(
        "broken", "a tool", OrtStatic("no calibrator", False), "model.onnx", ("ort",), (), ("onnxruntime",), ""
    )
    absent = Peer(
        "absent", "a tool", OrtStatic("minmax", False), "model.onnx", ("ort",), (), ("no_such_module",), "no-such"
    )
    for peer in (broken, absent):
        monkeypatch.setitem(registry.PEERS, peer.name, peer)
    folder = Path(shutil.copytree(compared, tmp_path / "peers"))
    made = folder / "ort-minmax" / "model" / "model.onnx"
    before = made.stat().st_mtime_ns
    names = ("broken", "absent", "ort minmax", "float, ONNX Runtime")
    assert main([str(finished), "--out", str(folder), "--no-accuracy", "--peers", *names, *BRIEF]) == 0
    assert "> ptq-export ort-int8" in capsys.readouterr().out
    value = json.loads((folder / "peers.json").read_text())
    assert value["absent"] == {"broken": "KeyError: 'no calibrator'", "absent": "not installed: pip install no-such"}
    assert set(value["models"]) == {*OWN, "float, ONNX Runtime", "ort minmax"}
    assert value["models"]["ort minmax"]["accuracy"] is None and made.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--peers", "nobody"], "no peer is called 'nobody'"), (["--samples", "1"], "--samples must be 2 or more")],
)
def test_bad_options_are_refused(
    finished: Path, tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main([str(finished), "--out", str(tmp_path / "peers"), *arguments])
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "peers").exists()


@pytest.mark.slow
def test_a_real_run_beside_nncf_and_torch(tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    brief = {
        "samples": 4,
        "steps": 2,
        "iterations": 2,
        "held_out": 2,
        "rounds": 10,
        "seconds": 0.1,
        "threads": 1,
        "min_sqnr": 0.0,
    }
    runs = [
        run(Options(str(TINY), target=target, resolution=16, out=tmp_path / target, **brief))
        for target in ("ort-int8", "openvino-int8")
    ]
    peers = ("ort entropy", "nncf", "float, ONNX Runtime", "float, torch eager")
    assert main([*map(str, runs), "--out", str(tmp_path / "peers"), "--peers", *peers, *BRIEF]) in (0, 1)
    value = json.loads((tmp_path / "peers" / "peers.json").read_text())
    assert value["absent"] == {}
    models = value["models"]
    layers = {
        models[name]["int8_layers"] for name in ("ptq-export ort-int8", "ptq-export openvino-int8", "ort entropy")
    }
    assert len(layers) == 1 and layers != {0}
    assert models["float, torch eager"]["accuracy"]["sqnr_median_db"] > 80
    assert 5 < models["nncf, OpenVINO"]["accuracy"]["sqnr_median_db"] < 100
