"""The engine read back: each conv and linear is found again, in the precision that ONNX Runtime gave it, and why."""

import ast
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from diffusers import UNet2DModel
from layer_net import Net
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import nn

from ptq_export.denoiser import UNetEps
from ptq_export.engines.base import EngineOptions
from ptq_export.engines.exported_layers import LayerRecord
from ptq_export.engines.ort.engine import OrtEngine
from ptq_export.errors import InputError


def read_back(source: Path, expected: dict[str, str]) -> list[LayerRecord]:
    return OrtEngine(source, source.parent / "engine", EngineOptions(threads=1)).executed_layers(expected)


def one_layer(net: Net, tmp_path: Path) -> LayerRecord:
    (record,) = read_back(net.save(tmp_path / "net.onnx"), {"block.layer": "int8"})
    assert record.name == "block.layer"
    return record


@pytest.mark.parametrize(
    ("build", "executed"),
    [
        (lambda net: net.quantise().conv("block.layer", True).quantise(), "QLinearConv"),
        (lambda net: net.rows().quantise().gemm("block.layer", True).quantise(), "QGemm"),
        (lambda net: net.rows().quantise().gemm("block.layer", True, integer_bias=True), "QGemm"),
        (lambda net: net.rows().quantise().matmul("block.layer").quantise(), "QLinearMatMul"),
        (lambda net: net.rows().quantise().matmul("block.layer"), "MatMulIntegerToFloat"),
    ],
    ids=["conv", "gemm", "gemm without Q", "matmul", "matmul without Q"],
)
def test_an_int8_layer_is_recognised(build: Callable[[Net], Net], executed: str, tmp_path: Path) -> None:
    record = one_layer(build(Net()), tmp_path)
    assert (record.precision, record.executed, record.reason) == ("int8", executed, "")


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda net: net.quantise().conv("block.layer", True), "no Q on its output"),
        (lambda net: net.quantise().conv("block.layer", False), "its weights are float"),
        (lambda net: net.conv("block.layer", True).quantise(), "no Q/DQ on its input"),
        (lambda net: net.rows().quantise().gemm("block.layer", True, False).quantise(), "no zero point on its weights"),
        (lambda net: net.rows().quantise().gemm("block.layer", True), "no Q on its output, and its bias is float"),
    ],
)
def test_a_float_layer_says_why(build: Callable[[Net], Net], reason: str, tmp_path: Path) -> None:
    record = one_layer(build(Net()), tmp_path)
    assert (record.precision, record.intended, record.reason) == ("float", "int8", reason)


def test_a_float_layer_that_the_engine_quantises_by_itself_is_noticed(tmp_path: Path) -> None:
    source = Net().quantise().conv("block.layer", False).quantise().save(tmp_path / "net.onnx")
    (record,) = read_back(source, {"block.layer": "float"})
    assert (record.precision, record.intended) == ("int8", "float")
    assert record.reason == "ONNX Runtime quantised its float weights: Q/DQ on both sides"


def test_float_layers_keep_their_names_through_fusions(tmp_path: Path) -> None:
    net = Net().conv("a.plain", False).op("Relu").conv("a.relu", False).op("Tanh").quantise()
    net.conv("b.int8", True).quantise().op("Sigmoid").rows().gemm("b.linear", False).op("Relu")
    records = read_back(net.save(tmp_path / "net.onnx"), {"b.int8": "int8"})
    assert [(record.name, record.precision, record.reason) for record in records] == [
        ("a.plain", "float", "kept float"),
        ("a.relu", "float", "kept float"),
        ("b.int8", "int8", ""),
        ("b.linear", "float", "kept float"),
    ]
    assert all(record.executed != "folded" for record in records)


def test_a_layer_that_was_never_exported_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no layer block\.other"):
        read_back(Net().conv("block.layer", False).save(tmp_path / "net.onnx"), {"block.other": "int8"})


class Noise(CalibrationDataReader):
    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        sample = rng.standard_normal((2, 1, 8, 8)).astype(np.float32)
        self.batches = iter([{"sample": sample, "timestep": np.array([0, 900])}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


@pytest.fixture(scope="module")
def unet() -> UNetEps:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    return UNetEps(UNet2DModel(8, 1, 1, block_out_channels=(16, 32), norm_num_groups=8, layers_per_block=1, **blocks))


@pytest.fixture(scope="module")
def unet_onnx(unet: UNetEps, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A U-Net with attention as torch exports it, its layers named by their module paths."""
    example = (torch.randn(2, 1, 8, 8), torch.tensor([5, 6]))
    names = {"input_names": ["sample", "timestep"], "output_names": ["eps"]}
    program = torch.onnx.export(unet.eval(), example, dynamo=True, opset_version=18, verbose=False, **names)
    model = program.model_proto
    for node in model.graph.node:
        scopes = {item.key: item.value for item in node.metadata_props}.get("pkg.torch.onnx.name_scopes", "[]")
        *_, path, function = ["", "", *ast.literal_eval(scopes)]
        if node.op_type in ("Conv", "Gemm", "MatMul") and function.startswith(("conv2d", "linear")):
            node.name = path
    file = tmp_path_factory.mktemp("unet") / "denoiser.fp32.onnx"
    onnx.save(model, file)
    return file


def layer_paths(unet: UNetEps) -> list[str]:
    return sorted(name for name, module in unet.named_modules() if isinstance(module, nn.Conv2d | nn.Linear))


@pytest.mark.slow
def test_every_layer_of_a_float_unet_is_found(unet: UNetEps, unet_onnx: Path) -> None:
    records = read_back(unet_onnx, {})
    assert sorted(record.name for record in records) == layer_paths(unet)
    assert {record.precision for record in records} == {"float"}
    assert [record.name for record in records if record.executed == "folded"] == []


@pytest.mark.slow
def test_every_layer_of_an_int8_unet_is_found(unet: UNetEps, unet_onnx: Path) -> None:
    source = unet_onnx.with_name("denoiser.ort-int8.onnx")
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
    ops = ["Conv", "Gemm", "MatMul"]
    quantize_static(unet_onnx, source, Noise(), QuantFormat.QDQ, op_types_to_quantize=ops, **types)
    records = {record.name: record for record in read_back(source, dict.fromkeys(layer_paths(unet), "int8"))}
    assert sorted(records) == layer_paths(unet)
    assert {name: record.reason for name, record in records.items() if record.precision != "int8"} == {}
    assert {record.executed for record in records.values()} == {"QLinearConv", "QGemm", "QLinearMatMul"}
