"""x86 without VNNI adds uint8 x int8 products two by two in 16 bits; codes under the pair rule never saturate there.

The rule: codes c of one output channel, flattened as [kh, kw, cin], have |c_2j| + |c_2j+1| <= 128, as 255 * 128 < 2^15.
OpenVINO needs it of any two neighbours in some layers. CONTRIBUTING.md says how to run this file without VNNI.
"""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from saturating import Layer, wrong_in_openvino, wrong_in_ort
from torch import nn

from ptq_export.calibrators.rounding import SoftLayer
from ptq_export.nn.layers import Grid
from ptq_export.nn.scheme import OPENVINO, ORT_CPU, Scheme
from ptq_export.processor import instruction_sets

WIDE = {"avx512_vnni", "avx_vnni", "amx_int8"} & set(instruction_sets())
needs_narrow_sums = pytest.mark.skipif(
    "avx2" not in instruction_sets() or bool(WIDE), reason=f"this processor adds in 32 bits: {' '.join(sorted(WIDE))}"
)
PLAIN = [
    *(Layer(3, 32, 4), Layer(3, 33, 4), Layer(3, 64, 20), Layer(1, 32, 1), Layer(1, 33, 8), Layer(1, 64, 20)),
    *(Layer(0, 33, 1), Layer(0, 64, 1), Layer(0, 64, 40)),
]
GROUPED = [Layer(3, 66, 8, groups=2), Layer(3, 72, 8, groups=24), Layer(3, 68, 8, groups=2), Layer(1, 48, 8, groups=2)]
LAYERS = [
    *PLAIN,
    *GROUPED,
    *(Layer(3, 33, 9, stride=2), Layer(3, 3, 8), Layer(3, 32, 9, groups=32), Layer(5, 48, 9, groups=48)),
    *(Layer(0, 297, 16), Layer(0, 306, 1), Layer(0, 1920, 4)),
]
plain = pytest.mark.parametrize("layer", PLAIN, ids=str)
every = pytest.mark.parametrize("layer", LAYERS, ids=str)
Codes = NDArray[np.int8]


def codes_under_the_rule(layer: Layer) -> Codes:
    """Codes `[O, length]` at the rule's bound, pairs of one sign mostly: the worst that it allows."""
    rng = np.random.default_rng(0)
    first = rng.choice([1, 2, 64, 100, 126, 127], (layer.outputs, (layer.length + 1) // 2))
    sign = rng.choice([-1, 1], first.shape)
    second = (128 - first) * np.where(rng.random(first.shape) < 0.9, sign, -sign)
    both = np.stack([first * sign, second], -1).reshape(layer.outputs, -1)
    return both[:, : layer.length].astype(np.int8)


def learned_codes(layer: Layer, scheme: Scheme) -> Codes:
    """The product's codes of a layer whose weights at even places and the ones behind are never both large."""
    rng = np.random.default_rng(0)
    first = rng.random((layer.outputs, (layer.length + 1) // 2)) < 0.5
    rows = np.where(np.stack([first, ~first], -1), 1.0, 0.01).reshape(layer.outputs, -1)[:, : layer.length]
    conv = nn.Conv2d(layer.cin, layer.outputs, layer.kernel, groups=layer.groups) if layer.kernel else None
    module = conv or nn.Linear(layer.cin, layer.outputs)
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(layer.weight(rows)))
    grid = Grid(torch.tensor(1.0), torch.tensor(0, dtype=torch.uint8))
    weight = SoftLayer(module, grid, None, scheme, learn=False).harden().weight_codes
    found: Codes = (weight.permute(0, 2, 3, 1) if weight.ndim == 4 else weight).flatten(1).numpy()
    return found


@every
@pytest.mark.parametrize("channels_last", [False, True])
def test_codes_under_the_pair_rule_are_exact(layer: Layer, channels_last: bool) -> None:
    if layer.kernel or not channels_last:
        assert wrong_in_ort(layer, codes_under_the_rule(layer), channels_last) == 0


@every
def test_learned_codes_are_exact_in_onnx_runtime(layer: Layer) -> None:
    codes = learned_codes(layer, ORT_CPU)
    assert np.abs(codes).max() > 120
    assert wrong_in_ort(layer, codes) == 0


@every
def test_learned_codes_are_exact_in_openvino(layer: Layer) -> None:
    pytest.importorskip("openvino")
    assert wrong_in_openvino(layer, learned_codes(layer, OPENVINO)) == 0


@plain
@pytest.mark.parametrize("sign", [-1, 1])
def test_pairs_of_opposite_sign_need_no_rule(layer: Layer, sign: int) -> None:
    codes = np.tile([127 * sign, -127 * sign], (layer.outputs, layer.length))[:, : layer.length]
    assert wrong_in_ort(layer, codes.astype(np.int8)) == 0


@needs_narrow_sums
@plain
def test_codes_that_break_the_rule_saturate(layer: Layer) -> None:
    assert wrong_in_ort(layer, np.full((layer.outputs, layer.length), 65, np.int8)) > 0


@needs_narrow_sums
def test_the_rule_in_torch_order_saturates() -> None:
    layer = Layer(3, 32, 4)
    in_torch_order = codes_under_the_rule(layer).reshape(layer.outputs, 32, 9)
    assert wrong_in_ort(layer, in_torch_order.transpose(0, 2, 1).reshape(layer.outputs, -1)) > 0


@needs_narrow_sums
@pytest.mark.parametrize("layer", [Layer(3, 33, 4), Layer(3, 68, 8, groups=2), Layer(0, 306, 1)], ids=str)
def test_openvino_needs_the_rule_of_any_two_neighbours(layer: Layer) -> None:
    pytest.importorskip("openvino")
    assert wrong_in_openvino(layer, learned_codes(layer, ORT_CPU)) > 0
