"""x86 without VNNI adds uint8 x int8 products two by two in 16 bits; codes under the pair rule never saturate there.

The rule: codes c of one output channel, flattened as [kh, kw, cin], have |c_2j| + |c_2j+1| <= 128, as 255 * 128 < 2^15.
"""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ptq_export.processor import instruction_sets

WIDE = {"avx512_vnni", "avx_vnni", "amx_int8"} & set(instruction_sets())
needs_narrow_sums = pytest.mark.skipif(
    "avx2" not in instruction_sets() or bool(WIDE), reason=f"this processor adds in 32 bits: {' '.join(sorted(WIDE))}"
)
layers = pytest.mark.parametrize(
    ("kernel", "cin", "size"),
    [(3, 32, 4), (3, 33, 4), (3, 64, 20), (1, 32, 1), (1, 33, 8), (1, 64, 20), (0, 33, 1), (0, 64, 1), (0, 64, 40)],
    ids=lambda value: str(value),
)
OUTPUTS = 24


def wrong_results(codes: np.ndarray, kernel: int, cin: int, size: int) -> int:
    """How many outputs are not exact, of a layer (kernel 0: a Gemm of `size` rows) with codes `[O, kh * kw * cin]`.

    All scales are 1 and the bias is minus the true sum of products, so an exact output is its zero point, 128.
    """
    rng = np.random.default_rng(1)
    pixel = np.where(rng.random(cin) < 0.8, 255, rng.integers(0, 256, cin)).astype(np.uint8)
    taps = max(kernel, 1) ** 2
    bias = -(codes.astype(np.int64) @ np.tile(pixel, taps).astype(np.int64)).astype(np.int32)
    if kernel:
        weight = np.ascontiguousarray(codes.reshape(OUTPUTS, kernel, kernel, cin).transpose(0, 3, 1, 2))
        sample = np.broadcast_to(pixel[None, :, None, None], (1, cin, size, size))
        layer = helper.make_node("Conv", ["x", "w", "b"], ["y"])
    else:
        weight, sample = codes, np.broadcast_to(pixel, (size, cin))
        layer = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)
    constants = {
        "one": np.float32(1),
        "ones": np.ones(OUTPUTS, np.float32),
        "zero_point": np.uint8(0),
        "zero_points": np.zeros(OUTPUTS, np.int8),
        "middle": np.uint8(128),
        "codes": weight,
        "bias": bias,
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["sample", "one", "zero_point"], ["x"]),
        helper.make_node("DequantizeLinear", ["codes", "ones", "zero_points"], ["w"], axis=0),
        helper.make_node("DequantizeLinear", ["bias", "ones"], ["b"], axis=0),
        layer,
        helper.make_node("QuantizeLinear", ["y", "one", "middle"], ["eps"]),
    ]
    inputs = [helper.make_tensor_value_info("sample", TensorProto.UINT8, sample.shape)]
    outputs = [helper.make_tensor_value_info("eps", TensorProto.UINT8, None)]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "layer", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return int((session.run(None, {"sample": np.ascontiguousarray(sample)})[0] != 128).sum())


def codes_under_the_rule(length: int) -> np.ndarray:
    """Codes `[O, length]` at the rule's bound, pairs of one sign mostly: the worst that it allows."""
    rng = np.random.default_rng(0)
    first = rng.choice([1, 2, 64, 100, 126, 127], (OUTPUTS, (length + 1) // 2))
    sign = rng.choice([-1, 1], first.shape)
    second = (128 - first) * np.where(rng.random(first.shape) < 0.9, sign, -sign)
    return np.stack([first * sign, second], -1).reshape(OUTPUTS, -1)[:, :length].astype(np.int8)


@layers
def test_codes_under_the_pair_rule_are_exact(kernel: int, cin: int, size: int) -> None:
    codes = codes_under_the_rule(max(kernel, 1) ** 2 * cin)
    assert wrong_results(codes, kernel, cin, size) == 0


@layers
@pytest.mark.parametrize("sign", [-1, 1])
def test_pairs_of_opposite_sign_need_no_rule(kernel: int, cin: int, size: int, sign: int) -> None:
    codes = np.tile([127 * sign, -127 * sign], (OUTPUTS, max(kernel, 1) ** 2 * cin))[:, : max(kernel, 1) ** 2 * cin]
    assert wrong_results(codes.astype(np.int8), kernel, cin, size) == 0


@needs_narrow_sums
@layers
def test_codes_that_break_the_rule_saturate(kernel: int, cin: int, size: int) -> None:
    codes = np.full((OUTPUTS, max(kernel, 1) ** 2 * cin), 65, np.int8)
    assert wrong_results(codes, kernel, cin, size) > 0


@needs_narrow_sums
def test_the_rule_in_torch_order_saturates() -> None:
    in_torch_order = codes_under_the_rule(9 * 32).reshape(OUTPUTS, 32, 9)
    assert wrong_results(in_torch_order.transpose(0, 2, 1).reshape(OUTPUTS, -1), 3, 32, 4) > 0
