"""IdleTransposes: what moves no number becomes a Reshape, what does stays."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from graph_models import Array, model_bytes, noise, ops, shaped

from ptq_export.engines.ort.idle_transposes import IdleTransposes


def net(shape: str, perm: list[int]) -> ir.Model:
    result = ",".join("NABCDEF"[axis] for axis in perm)
    return shaped(
        f'<ir_version: 10, opset_import: ["": 18]> net (float[{shape}] x) => (float[{result}] y) '
        f"{{ t = Transpose<perm = {perm}>(x) y = Neg(t) }}"
    )


def run(model: ir.Model, x: Array) -> Array:
    found: Array = onnxruntime.InferenceSession(model_bytes(model), providers=["CPUExecutionProvider"]).run(
        None, {"x": x}
    )[0]
    return found


@pytest.mark.parametrize(
    ("shape", "perm"),
    [("N,5,1,3", [0, 2, 1, 3]), ("N,1,5,3", [0, 2, 1, 3]), ("N,5,1,3", [0, 1, 3, 2]), ("2,1,4", [1, 0, 2])],
)
def test_an_axis_of_size_one_moves_without_a_copy(shape: str, perm: list[int]) -> None:
    model, x = net(shape, perm), noise(*[2 if size == "N" else int(size) for size in shape.split(",")])
    assert IdleTransposes()(model).modified and ops(model) == ["Reshape", "Neg"]
    assert np.array_equal(run(model, x), -x.transpose(perm))


@pytest.mark.parametrize(
    ("shape", "perm"),
    [
        ("N,5,2,3", [0, 2, 1, 3]),  # two heads
        ("N,5,1,3", [0, 2, 3, 1]),  # keys are turned
        ("N,M,1,3", [0, 2, 1, 3]),  # an open size would stand elsewhere
        ("1,N,3", [1, 0, 2]),
    ],
)
def test_what_moves_numbers_or_an_open_size_stays(shape: str, perm: list[int]) -> None:
    model = net(shape, perm)
    assert not IdleTransposes()(model).modified and ops(model) == ["Transpose", "Neg"]
