"""WinogradConv gives the codes of 64-bit sums of products, code for code: any shape, any weights, any zero points, with
the kernels for every instruction set that this processor has."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from operator_nets import run, sums_of_products
from own_copy import WINOGRAD_ISAS, loaded

pytestmark = pytest.mark.usefixtures("operators")

SOURCES = Path(__file__).parents[2] / "engines" / "ort" / "custom_ops"
Array = Any
Compute = Callable[..., Array]
EXACT = 2**26
"""So many sums of a range of input channels can be told apart."""


@pytest.fixture(scope="module", params=WINOGRAD_ISAS)
def compute(
    operators: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Compute]:
    """Runs the operator with the kernels for one instruction set."""
    with pytest.MonkeyPatch.context() as patch:
        library, _settings = loaded(operators, request.param, tmp_path_factory.mktemp(request.param), patch)
        yield lambda inputs, pads, threads=2: run(library, "WinogradConv", inputs, {"pads": pads}, threads)


def layer(x: Array, weight: Array, x_zero: int, y_zero: int, rng: np.random.Generator) -> dict[str, Array]:
    """The operator's inputs, with scales that spread the sums over the codes."""
    outputs, spread = len(weight), max(1.0, float(np.abs(weight.astype(float)).mean() * 64 * weight[0].size ** 0.5))
    scales = rng.uniform(0.5, 1.5, outputs).astype(np.float32)
    bias = rng.integers(-int(spread), int(spread) + 1, outputs).astype(np.int32)
    numbers = {"x_scale": np.float32(0.02), "x_zero": np.uint8(x_zero), "weight": weight, "scales": scales}
    numbers |= {
        "zeros": np.zeros(outputs, np.int8),
        "y_scale": np.float32(0.02 * spread / 50),
        "y_zero": np.uint8(y_zero),
    }
    return {"x": x} | {name: np.asarray(it) for name, it in numbers.items()} | {"bias": bias}


def codes_of(inputs: dict[str, Array], pads: list[int]) -> Array:
    """What QLinearConv is defined to give: exact sums, one float32 product, rounded to even, zero point, clamped."""
    x = inputs["x"].astype(np.int64) - int(inputs["x_zero"])
    sums = sums_of_products(x, inputs["weight"], pads).astype(np.int64) + inputs["bias"]
    scale = inputs["x_scale"] * inputs["scales"] / inputs["y_scale"]
    return np.clip(np.rint(sums.astype(np.float32) * scale) + int(inputs["y_zero"]), 0, 255).astype(np.uint8)


WEIGHTS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
    "any": lambda rng, shape: rng.integers(-128, 128, shape).astype(np.int8),
    "small": lambda rng, shape: rng.integers(-3, 4, shape).astype(np.int8),
    "the least": lambda _, shape: np.full(shape, -128, np.int8),
    "the most": lambda _, shape: np.full(shape, 127, np.int8),
    "both ends": lambda rng, shape: rng.choice(np.array([-128, 127], np.int8), shape),
}


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("seed", range(6))
def test_every_code_is_that_of_exact_sums(compute: Compute, kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images, height, width = rng.integers(1, 4), rng.integers(3, 19), rng.integers(3, 19)
    inputs, outputs = rng.choice([1, 2, 3, 16, 31, 32, 33, 64, 100, 300]), rng.choice([1, 3, 15, 16, 17, 40])
    x = rng.integers(0, 256, (images, height, width, inputs)).astype(np.uint8)
    if seed % 3 == 0:
        x[:] = rng.choice([0, 255])
    weight = WEIGHTS[kind](rng, (outputs, inputs, 3, 3))
    pads = [int(pad) for pad in rng.integers(0, 2, 4)]
    given = layer(x, weight, *map(int, rng.integers(0, 256, 2)), rng)
    np.testing.assert_array_equal(compute(given, pads, int(rng.integers(1, 3))), codes_of(given, pads))


@pytest.mark.parametrize("channels", [230, 231, 460, 461, 1000])
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_are_exact_at_and_beyond_the_edge_of_what_26_bits_hold(compute: Compute, channels: int, sign: int) -> None:
    """Up to 230 channels of weights of 127 fit one range; the image holds both of the range's ends."""
    assert (255 * 127 * 9 * channels < EXACT) == (channels <= 230)
    rng = np.random.default_rng(channels)
    x = np.zeros((1, 8, 8, channels), np.uint8)
    x[:, 4:] = 255
    given = layer(x, np.full((2, channels, 3, 3), 127 * sign, np.int8), 0, 128, rng)
    given["scales"][:], given["y_scale"] = 1, np.float32(0.02 * 127 * 9 * channels * 2)
    np.testing.assert_array_equal(compute(given, [1] * 4), codes_of(given, [1] * 4))


@pytest.mark.parametrize("channels", [32, 128])
def test_many_images_are_computed_in_parts(compute: Compute, channels: int) -> None:
    """Their transforms take more memory than is transformed at once, one part or several, and end within a part."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (9, 33, 31, channels)).astype(np.uint8)
    given = layer(x, WEIGHTS["any"](rng, (5, channels, 3, 3)), 7, 99, rng)
    np.testing.assert_array_equal(compute(given, [1] * 4), codes_of(given, [1] * 4))


def test_no_image_gives_none(compute: Compute) -> None:
    rng = np.random.default_rng(0)
    given = layer(np.zeros((0, 5, 5, 4), np.uint8), WEIGHTS["any"](rng, (3, 4, 3, 3)), 0, 0, rng)
    assert compute(given, [1] * 4).shape == (0, 5, 5, 3)


REFUSED: dict[str, tuple[dict[str, Array], list[int], str]] = {
    "weights of 5 x 5": ({"weight": np.zeros((3, 4, 5, 5), np.int8)}, [1] * 4, "not 3 x 3"),
    "no weights": ({"weight": np.zeros((3, 0, 3, 3), np.int8)}, [1] * 4, "not 3 x 3"),
    "weights of uint8": ({"weight": np.zeros((3, 4, 3, 3), np.uint8)}, [1] * 4, "Type"),
    "weights with a zero point": ({"zeros": np.full(3, 1, np.int8)}, [1] * 4, "zero point"),
    "other scales": ({"scales": np.ones(4, np.float32)}, [1] * 4, "scales do not fit"),
    "an infinite scale": ({"y_scale": np.asarray(np.float32(0))}, [1] * 4, "not finite"),
    "another bias": ({"bias": np.zeros(4, np.int32)}, [1] * 4, "bias does not fit"),
    "several zero points": ({"x_zero": np.zeros(2, np.uint8)}, [1] * 4, "one number"),
    "wide padding": ({}, [2, 1, 1, 1], "pads is out of range"),
    "negative padding": ({}, [-1, 1, 1, 1], "pads is out of range"),
    "two pads": ({}, [1, 1], "pads is out of range"),
    "six pads": ({}, [1] * 6, "pads is out of range"),
    "channels of another layer": ({"x": np.zeros((1, 5, 5, 6), np.uint8)}, [1] * 4, "channels"),
    "a row of pixels": ({"x": np.zeros((1, 25, 4), np.uint8)}, [1] * 4, "four dimensions"),
    "an image smaller than a kernel": ({"x": np.zeros((1, 2, 5, 4), np.uint8)}, [0] * 4, "smaller than a kernel"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_a_message(operators: Path, case: str) -> None:
    changes, pads, message = REFUSED[case]
    rng = np.random.default_rng(0)
    given = layer(np.zeros((1, 5, 5, 4), np.uint8), WEIGHTS["any"](rng, (3, 4, 3, 3)), 0, 0, rng) | changes
    with pytest.raises(Exception, match=message):
        run(operators, "WinogradConv", given, {"pads": pads})


def test_weights_that_are_computed_are_refused(operators: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("operator_nets.CONSTANTS", ())
    rng = np.random.default_rng(0)
    given = layer(np.zeros((1, 5, 5, 4), np.uint8), WEIGHTS["any"](rng, (3, 4, 3, 3)), 0, 0, rng)
    with pytest.raises(Exception, match="must be a constant"):
        run(operators, "WinogradConv", given, {"pads": [1] * 4})


def matrix(file: str, beginning: str) -> Array:
    """The rows that a comment of the sources states, `beginning: {...} {...}`."""
    line = next(line for line in (SOURCES / file).read_text().splitlines() if line.startswith(beginning))
    return np.array([[int(number) for number in row.split(",")] for row in re.findall(r"\{([^}]*)\}", line)], object)


def test_the_stated_matrices_convolve_and_their_transforms_fit_16_bits() -> None:
    """In Python's integers, over a basis of all patches and kernels: the map is bilinear, so it holds for every one."""
    to_input, to_weight = matrix("winograd_kernels.h", "// B' d:"), matrix("winograd_kernels.h", "// G g:")
    to_output = matrix("winograd_kernels.h", "// A' m:")
    for patch in np.eye(36, dtype=object).reshape(36, 6, 6):
        for kernel in np.eye(9, dtype=object).reshape(9, 3, 3):
            product = (to_weight @ kernel @ to_weight.T) * (to_input @ patch @ to_input.T)
            direct = [[(patch[r : r + 3, c : c + 3] * kernel).sum() for c in range(4)] for r in range(4)]
            assert (to_output @ product @ to_output.T == 576 * np.array(direct)).all()
    points = [np.multiply.outer(row, column) for row in to_input for column in to_input]
    assert max(255 * max(np.maximum(it, 0).sum(), np.maximum(-it, 0).sum()) for it in points) == 17340 < 2**15
    assert 128 * np.abs(to_weight).sum(1).max() ** 2 == 18432 < 2**15
