import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from diffusers import UNet2DModel
from onnx import numpy_helper
from safetensors.torch import save_file

from ptq_export.benchmarks import ort_calibrators
from ptq_export.benchmarks.ort_calibrators import (
    CALIBRATORS,
    RunFiles,
    Score,
    main,
    margin_db,
    open_session,
    quantise_with_ort,
    score,
)
from ptq_export.denoiser import UNetEps
from ptq_export.errors import InputError
from ptq_export.graph.export import export_module
from ptq_export.graph.name_layers import NameLayers
from ptq_export.graph.single_file import save_model

SHAPE = (1, 8, 8)
FLOAT = ("conv_in", "conv_out")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a net with attention, whose "int8" engine is the FP32 graph itself."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ["AttnDownBlock2D"], "up_block_types": ["UpBlock2D"], "add_attention": False}
    unet = UNet2DModel(8, 1, 1, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, **blocks)
    model = export_module(UNetEps(unet), SHAPE)
    NameLayers()(model)
    layers = [node.name for node in model.graph if node.name.startswith("unet.") and "time" not in node.name]
    folder = tmp_path_factory.mktemp("run")
    for name in ("denoiser.fp32.onnx", "denoiser.ort-int8.onnx"):
        save_model(model, folder / name)
    pairs = {"sample": torch.randn(4, *SHAPE), "timestep": torch.tensor([10, 300, 600, 990])}
    save_file(pairs, folder / "pairs.safetensors")
    rows = [{"name": name, "precision": "float" if name.endswith(FLOAT) else "int8"} for name in layers]
    (folder / "layers.json").write_text(json.dumps({"layers": rows}))
    (folder / "manifest.json").write_text(json.dumps({"denoiser": {"sample_shape": SHAPE, "schedule": {}}}))
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_every_calibrator_quantises_exactly_the_int8_layers(finished: Path, tmp_path: Path, calibrator: str) -> None:
    files = RunFiles(finished)
    quantise_with_ort(files, tmp_path / "q.onnx", calibrator, reduce_range=False)
    graph = onnx.load(tmp_path / "q.onnx").graph
    constants = {item.name for item in graph.initializer}
    dequantised = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    quantised = [node for node in graph.node if any(dequantised.get(name) in constants for name in node.input[1:2])]
    assert sorted(node.name for node in quantised) == sorted(files.layers)
    assert {node.op_type for node in quantised} == {"Conv", "MatMul"}
    assert all(node.input[0] in dequantised for node in quantised)


@pytest.mark.parametrize(("reduce_range", "largest"), [(False, 127), (True, 64)])
def test_weights_have_a_step_per_channel_and_keep_to_their_range(
    finished: Path, tmp_path: Path, reduce_range: bool, largest: int
) -> None:
    quantise_with_ort(RunFiles(finished), tmp_path / "q.onnx", "minmax", reduce_range)
    graph = onnx.load(tmp_path / "q.onnx").graph
    arrays = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    codes = {name: array for name, array in arrays.items() if array.dtype == np.int8 and array.ndim == 4}
    assert {np.abs(array.astype(int)).max() for array in codes.values()} == {largest}
    scales = [node.input[1] for node in graph.node if node.input and node.input[0] in codes]
    assert {arrays[scale].size for scale in scales} == {8}


def test_models_are_ranked_by_their_likeness_to_fp32(finished: Path) -> None:
    exact = open_session(finished / "denoiser.fp32.onnx")
    models = {"rough": lambda x, t: 0.9 * exact(x, t), "exact": exact}
    scores = score(RunFiles(finished), models, samples=2, latency=False)
    assert list(scores) == ["exact", "rough"]
    assert scores["exact"].to_json()["psnr_min_db"] == scores["exact"].to_json()["sqnr_worst_db"] == 150
    assert scores["rough"].to_json()["sqnr_median_db"] == pytest.approx(20, abs=1e-3)


def test_margin_is_paired_over_the_samples() -> None:
    assert margin_db(Score([30, 50], []), Score([28, 48], [])) == (2, 0)
    assert margin_db(Score([30, 50], []), Score([31, 45], [])) == pytest.approx((2, 3))


def test_table_and_json_say_how_far_ours_is_ahead(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ort_calibrators, "CALIBRATORS", {"minmax": CALIBRATORS["minmax"]})
    assert main([str(run), "--samples", "2", "--out", str(run / "result.json")]) == 0
    result = json.loads((run / "result.json").read_text())
    assert next(iter(result["models"])) == "ours"
    assert set(result["models"]) == {"ours", "minmax", "minmax, reduce_range"}
    best = max(result["models"][name]["psnr_mean_db"] for name in ("minmax", "minmax, reduce_range"))
    assert best < 100
    assert result["margin"]["mean_db"] == pytest.approx(150 - best, abs=1e-3)
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].startswith("> ours")
    assert f"{150 - best:+.2f}" in printed[-1]


def test_ours_below_a_calibrator_is_a_failure(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.load(run / "denoiser.ort-int8.onnx")
    bias = next(item for item in model.graph.initializer if item.name.endswith("conv_out.bias"))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 0.5, bias.name))
    onnx.save(model, run / "denoiser.ort-int8.onnx")
    monkeypatch.setattr(ort_calibrators, "CALIBRATORS", {"minmax": CALIBRATORS["minmax"]})
    assert main([str(run), "--samples", "2"]) == 1


def test_graph_for_batch_1_is_fed_sample_by_sample(run: Path) -> None:
    model = onnx.load(run / "denoiser.fp32.onnx")
    sample, timestep = torch.randn(3, *SHAPE), torch.tensor([1, 500, 999])
    wanted = open_session(run / "denoiser.fp32.onnx")(sample, timestep)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, run / "fixed.onnx")
    torch.testing.assert_close(open_session(run / "fixed.onnx")(sample, timestep), wanted)


@pytest.mark.parametrize("name", ["denoiser.ort-int8.onnx", "pairs.safetensors", "manifest.json"])
def test_incomplete_run_is_refused(run: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (run / name).unlink()
    assert main([str(run), "--out", str(run / "result.json")]) == 2
    assert name in capsys.readouterr().err
    assert not (run / "result.json").exists()


@pytest.mark.parametrize("rows", [[], [{"name": "unet.absent", "precision": "int8"}]])
def test_layers_that_the_fp32_graph_lacks_are_refused(run: Path, rows: list[dict[str, str]]) -> None:
    (run / "layers.json").write_text(json.dumps({"layers": rows}))
    with pytest.raises(InputError, match=r"denoiser\.fp32\.onnx has no layer (unet\.absent|that is int8)"):
        RunFiles(run)
