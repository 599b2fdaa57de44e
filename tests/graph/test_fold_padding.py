"""A Pad of zeros becomes the padding of the convolution behind it; any other stays."""

import numpy as np
import onnx_ir as ir
import pytest
from onnxruntime import InferenceSession

from ptq_export.graph.passes.fold_padding import FoldPadding

HEAD = '<ir_version: 10, opset_import: ["" : 18]>\ng (float[1,2,4,4] x) => (float[1,2,H,W] y)'
BODY = "p = Pad (x, pads, zero)  y = Conv <strides = [2, 2]> (p, w)"
SIDES = [0, 0, 0, 0, 0, 0, 1, 1]


def model(body: str = BODY, pads: object = SIDES, value: float = 0.0) -> ir.Model:
    weight = np.random.default_rng(0).standard_normal((2, 2, 3, 3)).astype(np.float32)
    constants = {"pads": np.asarray(pads, np.int64), "zero": np.float32(value), "w": weight}
    tensors = [
        ir.tensor(each, name=name) for name, each in constants.items() if f"{name})" in body or f"{name}," in body
    ]
    return ir.from_onnx_text(f"{HEAD} {{ {body} }}", initializers=tensors)


def result(graph: ir.Model) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((1, 2, 4, 4)).astype(np.float32)
    y: np.ndarray = InferenceSession(ir.to_proto(graph).SerializeToString()).run(None, {"x": x})[0]
    return y


@pytest.mark.parametrize("own", ["", "pads = [1, 0, 2, 1], "])
def test_zeros_become_the_convolution_s_own_padding(own: str) -> None:
    graph = model(BODY.replace("<", f"<{own}"))
    before = result(graph)
    assert FoldPadding()(graph).modified
    assert [node.op_type for node in graph.graph] == ["Conv"]
    np.testing.assert_allclose(result(graph), before, atol=1e-6)
    assert not FoldPadding()(graph).modified


@pytest.mark.parametrize(
    "graph",
    [
        model(value=1.0),
        model(BODY.replace("Pad (", 'Pad <mode = "reflect"> (')),
        model(pads=[0, 0, -1, 0, 0, 0, 1, 1]),
        model(
            "p = Pad (x, pads, zero)  c = Conv <strides = [2, 2]> (p, w)"
            "  r = Relu (p)  n = ReduceSum (r)  y = Add (c, n)"
        ),
        model("p = Pad (x, pads, zero)  y = Relu (p)"),
    ],
    ids=["value", "reflect", "crop", "read twice", "no convolution"],
)
def test_any_other_pad_stays(graph: ir.Model) -> None:
    assert not FoldPadding()(graph).modified
    assert "Pad" in [node.op_type for node in graph.graph]


def test_padded_channels_stay() -> None:
    graph = model("p = Pad (x, pads, zero)  y = Conv (p, w)", pads=[0, 1, 0, 0, 0, 0, 0, 0])
    assert not FoldPadding()(graph).modified
