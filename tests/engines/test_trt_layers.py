"""What TensorRT executes, from its inspector's JSON: layers as 8.6, 10 and 11 tell them, cut to what is read."""

import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from convolutions import SIZE, Stack, quantised
from exported_net import exported
from onnx import TensorProto, helper, numpy_helper

from ptq_export.engines.trt.layers import EngineLayer, executed_layers, layer_times_ms, parse_inspector
from ptq_export.engines.trt.plan import RTX
from ptq_export.errors import GateFailed, InputError
from ptq_export.graph.model_file import save_model
from ptq_export.graph.passes.half_precision import HalfPrecision
from ptq_export.graph.passes.name_layers import NameLayers
from ptq_export.nn.scheme import TENSORRT

LAYERS = ("conv_in", "mid.0.conv1", "mid.0.to_q", "conv_out")
EXPECTED = dict.fromkeys(LAYERS[:3], "int8")
I8, HALF = (
    "Thirty-two wide channel vectorized row major Int8 format",
    "Channel major FP16 format where channel % 8 == 0",
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A graph of three convolutions and a linear, called by their module paths."""
    weights = {name: np.zeros((4, 4, 1, 1), np.float32) for name in LAYERS} | {
        "mid.0.to_q": np.zeros((4, 4), np.float32)
    }
    nodes, tensor = [], "sample"
    for name in LAYERS:
        op = "MatMul" if name.endswith("to_q") else "Conv"
        nodes.append(helper.make_node(op, [tensor, f"{name}.weight"], [f"{name}.out"], name=name))
        tensor = f"{name}.out"
    io = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 4, 4]) for name in ("sample", tensor)]
    initializers = [numpy_helper.from_array(value, f"{name}.weight") for name, value in weights.items()]
    path = tmp_path / "denoiser.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", io[:1], io[1:], initializers)), path)
    return path


def layer(name: str, kind: str, reads: list[str], **more: Any) -> dict[str, Any]:
    inputs = [
        {"Name": f"in{index}", "Dimensions": [1, 4, 4, 4], "Format/Datatype": it} for index, it in enumerate(reads)
    ]
    return {"Name": name, "LayerType": kind, "Inputs": inputs, "Outputs": inputs} | more


def metadata(*nodes: str, between: str = "\x1e") -> str:
    return between.join(f"[ONNX Layer: {node}]" for node in nodes)


TENSORRT_8 = [
    layer("Reformatting CopyNode for Input Tensor 0 to conv_in", "Reformat", ["Row major linear FP32"], Metadata=""),
    layer("w.0 + Quantize_3 + conv_in", "CaskConvolution", [I8], Weights={"Type": "Int8", "Count": 16}),
    layer(
        "w.1 + Quantize_7 + mid.0.conv1 + PWN(PWN(Sigmoid_9), Mul_10)",
        "CaskConvolution",
        [I8, I8],
        Weights={"Type": "Int8", "Count": 16},
        TacticName="sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32",
    ),
    layer("{ForeignNode[Transpose_11...mid.0.to_q]}", "Myelin", [HALF]),
    layer("conv_out", "CaskConvolution", [HALF], Weights={"Type": "Half", "Count": 16}),
]
TENSORRT_10 = [
    layer("Reformatting CopyNode for Input Tensor 0 to conv_in", "Reformat", ["Float"], Metadata=metadata("conv_in")),
    layer(
        "conv_in.weight + conv_in",
        "CaskConvolution",
        ["Int8"],
        Weights={"Type": "Int8", "Count": 16},
        Metadata=metadata("node_DequantizeLinear_4", "conv_in"),
    ),
    layer("mid.0.conv1 || mid.0.to_q", "CaskConvolution", ["Int8"], Metadata=metadata("mid.0.conv1", "mid.0.to_q")),
    layer("__myl_Move_myl0_2", "kgen", ["Half"], Metadata=metadata("mid.0.to_q")),
    layer("conv_out", "CaskConvolution", ["Half"], Metadata=metadata("conv_out")),
]
TENSORRT_11 = [
    {
        "Name": f"{name}_myl0_{index}",
        "LayerType": kind,
        "Inputs": [{"Name": "x", "Dimensions": [1, 4, 4, 4], "Format": "Row major linear", "Datatype": datatype}],
        "TacticName": tactic,
        "Metadata": metadata(name, f"node_silu_{index}", between="\x1f"),
    }
    for index, (name, kind, datatype, tactic) in enumerate(
        [
            ("conv_in", "correlation", "Int8", "sm80_xmma_fprop_implicit_gemm_i8i8_i8i32_f32_nhwckrsc_nhwc_tn_n"),
            ("mid.0.conv1", "kgen", "Half", "__myl_CastMulAdd_0x12"),
            ("mid.0.conv1", "correlation", "Int8", ""),
            ("mid.0.to_q", "gemm", "Half", "sm80_xmma_gemm_f16f16_f16f32_f32_tn_n"),
            ("conv_out", "correlation", "Half", ""),
        ]
    )
]


def told(layers: list[Any]) -> str:
    return json.dumps({"Layers": layers, "Bindings": ["sample", "timestep", "eps"]})


@pytest.mark.parametrize(
    ("layers", "int8"),
    [(TENSORRT_8, LAYERS[:2]), (TENSORRT_10, LAYERS[:3]), (TENSORRT_11, LAYERS[:2])],
    ids=["8.6", "10", "11"],
)
def test_every_layer_is_found_with_its_precision(source: Path, layers: list[Any], int8: tuple[str, ...]) -> None:
    records = executed_layers(source, told(layers), EXPECTED)
    assert [record.name for record in records] == list(LAYERS)
    assert tuple(record.name for record in records if record.precision == "int8") == int8
    assert all(record.reason == "" for record in records if record.precision == "int8")
    assert records[-1].reason == "kept float" and records[-1].intended == "float"


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        (TENSORRT_8, "inside {ForeignNode[Transpose_11...mid.0.to_q]}, which TensorRT does not open"),
        (TENSORRT_11, "gemm: its kernel is sm80_xmma_gemm_f16f16_f16f32_f32_tn_n"),
        ([], "no layer of the engine names it"),
        ([layer("mid.0.to_q", "gemm", ["Half"])], "gemm: it reads Half"),
        ([layer("mid.0.to_q", "CaskGemm", ["Int8"], Weights={"Type": "Float"})], "CaskGemm: its weights are Float"),
    ],
    ids=["opaque", "kernel", "gone", "input", "weights"],
)
def test_a_float_layer_that_was_meant_to_be_int8_says_why(source: Path, layers: list[Any], reason: str) -> None:
    record = executed_layers(source, told(layers), EXPECTED)[2]
    assert (record.precision, record.intended, record.reason) == ("float", "int8", reason)


def test_a_layer_in_several_kernels_is_int8_only_if_all_are(source: Path) -> None:
    parts = [
        layer(f"conv_in.{index}", "gemm", [it], Metadata=metadata("conv_in"))
        for index, it in enumerate(("Int8", "Half"))
    ]
    record = executed_layers(source, told(parts), EXPECTED)[0]
    assert (record.precision, record.executed) == ("float", "gemm + gemm")


def test_nodes_inside_functions_keep_their_own_name() -> None:
    text = told([layer("x", "gemm", [], Metadata="[ONNX Layer: mid.0.to_q | attention (MyFunction)]")])
    assert parse_inspector(text) == [EngineLayer("x", "gemm", ("mid.0.to_q",), (), "", "")]


@pytest.mark.skipif(find_spec(RTX) is None, reason="TensorRT for RTX has no package for this platform")
def test_the_parser_of_tensorrt_writes_our_module_paths_where_we_read_them(tmp_path: Path) -> None:
    graph = exported(quantised(Stack(16, 2), TENSORRT), (16, SIZE, SIZE))
    NameLayers()(graph)
    save_model(HalfPrecision()(graph).model, tmp_path / "net.onnx")
    trt = import_module(RTX)
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(0)
    assert trt.OnnxParser(network, logger).parse_from_file(str(tmp_path / "net.onnx"))
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    products = [
        layer(it.name, str(it.type), [], Metadata=it.metadata) for it in layers if it.type == trt.LayerType.CONVOLUTION
    ]
    assert [found.nodes for found in parse_inspector(told(products))] == [("layers.0",), ("layers.1",)]


def test_an_engine_that_tells_names_only_is_refused() -> None:
    with pytest.raises(GateFailed, match="names of its layers only"):
        parse_inspector(told(["conv_in", "conv_out"]))


def test_a_layer_that_is_not_in_the_graph_is_refused(source: Path) -> None:
    with pytest.raises(InputError, match="has no layer conv_on"):
        executed_layers(source, told(TENSORRT_10), {"conv_on": "int8"})


def test_the_time_of_a_shared_kernel_is_divided(source: Path) -> None:
    times_ms = {"conv_in.weight + conv_in": 0.5, "mid.0.conv1 || mid.0.to_q": 0.25, "__myl_Move_myl0_2": 1.0}
    found = layer_times_ms(source, told(TENSORRT_10), times_ms)
    assert found == {"conv_in": 0.5, "mid.0.conv1": 0.125, "mid.0.to_q": 0.125, "conv_out": 0.0}
