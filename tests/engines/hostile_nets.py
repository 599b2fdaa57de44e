"""Random nets of our operators, well-formed and hostile."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from operator_nets import CONSTANTS, FLOAT_RESULT, Array

__all__ = ["Case", "make_case"]

INPUTS = {
    "GroupNormQuantize": ("x", "per_image", "per_image", "vector", "more"),
    "DequantizeGroupNormQuantize": ("codes", "vector", "vector", "per_image", "per_image", "vector", "shift"),
    "QuantizeChannels": ("x", "vector", "more"),
    "RepeatPixels": ("codes",),
    "DequantizeChannels": ("codes", "vector", "vector"),
    "DequantizeAdd": ("codes", "vector", "vector", "x"),
    "DequantizeSum": ("codes", "vector", "vector", "codes", "vector"),
    "WinogradConv": ("codes", "step", "code", "kernels", "steps", "zeros", "step", "code", "bias"),
}
IMAGES = ("RepeatPixels", "WinogradConv")
SIZES = (1, 2, 3, 4, 5, 7, 8, 12, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 100, 127, 128, 129, 300)
MOST_VALUES = 100_000
HOSTILE = {
    "integer": (-1, 0, 3, 256, 2**31, 2**62, 2**63 - 1, -(2**63)),
    "float": (float("nan"), float("inf"), -1.0, 0.0, 1e-45),
    "size": (0, 0, 1, 2, 3, 1000, 2**20, 2**40),
    "value": (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, 0.0),
}


@dataclass
class Case:
    """A net and its inputs; `odd`: something in it may be refused; `wild`: not all of its numbers are ordinary."""

    op: str
    inputs: dict[str, Array | None]
    attributes: dict[str, Any]
    threads: int
    odd: bool = False
    wild: bool = False


def make_case(rng: np.random.Generator) -> Case:
    """One net; about half of them are well-formed."""
    op = str(rng.choice(list(INPUTS)))
    shape = [int(rng.choice(SIZES)) for _ in range(4 if op in IMAGES else int(rng.choice([2, 3, 4, 4, 4, 5])))]
    while np.prod(shape) > MOST_VALUES:
        shape[int(np.argmax(shape))] //= 2
    if op == "WinogradConv":
        shape[1:3] = np.maximum(shape[1:3], 3).tolist()
    groups = int(rng.choice([divisor for divisor in range(1, shape[-1] + 1) if shape[-1] % divisor == 0]))
    inputs: dict[str, Array | None] = {f"i{at}": _input(kind, shape, rng) for at, kind in enumerate(INPUTS[op])}
    if "more" in INPUTS[op] and shape[-1] > 1 and rng.random() < 0.5:
        _share_channels(inputs, int(rng.integers(1, shape[-1])))
    case = Case(op, inputs, _attributes(op, groups, rng), int(rng.choice([1, 2])))
    for change, chance in CHANGES:
        if rng.random() < chance:
            change(case, rng)
    return case


def _share_channels(inputs: dict[str, Array | None], first: int) -> None:
    """The first input keeps so many channels, the last one has the others."""
    x = inputs["i0"]
    assert x is not None
    inputs["i0"], inputs[list(inputs)[-1]] = x[..., :first].copy(), x[..., first:].copy()


def _input(kind: str, shape: list[int], rng: np.random.Generator) -> Array | None:
    if kind == "codes":
        return rng.integers(0, 256, shape).astype(np.uint8)
    if kind == "x":
        return rng.standard_normal(shape).astype(np.float32)
    if kind == "vector" or (kind == "per_image" and rng.random() < 0.5):
        return rng.standard_normal(shape[-1]).astype(np.float32)
    if kind == "more" or (kind in ("shift", "bias") and rng.random() < 0.5):
        return None
    if kind in CONSTANT_INPUTS:
        return np.asarray(CONSTANT_INPUTS[kind](rng, shape[-1], shape[-1] // 2 + 1))
    form = (shape[0], shape[-1]) if rng.random() < 0.5 else (shape[0], shape[-1], 1, 1)
    return rng.standard_normal(form).astype(np.float32)


CONSTANT_INPUTS: dict[str, Callable[[np.random.Generator, int, int], Any]] = {
    "step": lambda rng, inputs, outputs: np.float32(rng.uniform(0.01, 1)),
    "code": lambda rng, inputs, outputs: np.uint8(rng.integers(0, 256)),
    "kernels": lambda rng, inputs, outputs: rng.integers(-128, 128, (outputs, inputs, 3, 3)).astype(np.int8),
    "steps": lambda rng, inputs, outputs: rng.uniform(1e-5, 1e-3, outputs).astype(np.float32),
    "zeros": lambda rng, inputs, outputs: np.zeros(outputs, np.int8),
    "bias": lambda rng, inputs, outputs: rng.integers(-20000, 20000, outputs).astype(np.int32),
}
"""Of WinogradConv, by its numbers of channels."""


def _attributes(op: str, groups: int, rng: np.random.Generator) -> dict[str, Any]:
    if op == "RepeatPixels":
        return {"height": int(rng.integers(1, 5)), "width": int(rng.integers(1, 5))}
    if op == "WinogradConv":
        return {"pads": rng.integers(0, 2, 4).tolist()}
    if op in FLOAT_RESULT:
        return {}
    zero_point = {"zero_point": int(rng.integers(0, 256))}
    if op == "QuantizeChannels":
        return zero_point
    epsilon = float(rng.choice([1e-6, 1e-5, 1e-3]))
    return zero_point | {"groups": groups, "epsilon": epsilon, "silu": int(rng.integers(0, 2))}


def _odd_shape(case: Case, rng: np.random.Generator) -> None:
    """Another rank, other sizes, empty ones among them, of one input."""
    name = _any_input(case, rng)
    shape = [int(rng.choice(HOSTILE["size"] + SIZES)) for _ in range(int(rng.integers(0, 7)))]
    if np.prod(shape, dtype=float) > MOST_VALUES:
        shape[int(rng.integers(len(shape)))] = 0
    if np.prod([size for size in shape if size], dtype=float) > 2**50:
        shape = [0]
    old = case.inputs[name]
    case.inputs[name] = np.zeros(shape, np.float32 if old is None else old.dtype)
    case.odd = True


def _other_sizes(case: Case, rng: np.random.Generator) -> None:
    """One size of one input is off by a little."""
    name = _any_input(case, rng)
    old = case.inputs[name]
    if old is not None and old.ndim:
        shape, at = list(old.shape), int(rng.integers(old.ndim))
        shape[at] = max(0, shape[at] + int(rng.choice([-1, 1])))
        case.inputs[name], case.odd = np.resize(old, shape), True


def _other_type(case: Case, rng: np.random.Generator) -> None:
    name = _any_input(case, rng)
    old, dtype = case.inputs[name], rng.choice(["f8", "f2", "i1", "u1", "f4", "i8", "?"])
    if old is not None:
        case.inputs[name], case.odd = np.zeros(old.shape, dtype), True


def _missing_input(case: Case, rng: np.random.Generator) -> None:
    name = _any_input(case, rng)
    if rng.random() < 0.5:
        case.inputs[name] = None
    else:
        del case.inputs[name]
    if rng.random() < 0.2:
        case.inputs |= {f"more{at}": np.zeros(3, np.float32) for at in range(int(rng.integers(1, 9)))}
    case.odd = True


def _hostile_attribute(case: Case, rng: np.random.Generator) -> None:
    if not case.attributes:
        return
    name = str(rng.choice(list(case.attributes)))
    if name == "pads":
        case.attributes[name] = [int(rng.choice(HOSTILE["size"])) for _ in range(int(rng.integers(1, 7)))]
        case.odd = True
        return
    kind = "float" if name == "epsilon" else "integer"
    if rng.random() < 0.1:
        kind = {"float": "integer", "integer": "float"}[kind]
    value = rng.choice(np.array(HOSTILE[kind], object))
    if rng.random() < 0.1:
        del case.attributes[name]
    else:
        case.attributes[name] = value
    case.odd = True


def _wild_values(case: Case, rng: np.random.Generator) -> None:
    """Not a number, infinities, the largest and the smallest floats, in one input or in all."""
    chosen = list(case.inputs) if rng.random() < 0.3 else [_any_input(case, rng)]
    for value in (case.inputs[name] for name in chosen):
        if value is not None and value.size and value.dtype == np.float32:
            hit = rng.random(value.shape) < rng.choice([0.01, 0.3, 1.0])
            value[hit] = rng.choice(HOSTILE["value"], int(hit.sum()))
            case.wild, case.odd = True, case.odd or case.op in CONSTANTS


def _any_input(case: Case, rng: np.random.Generator) -> str:
    return str(rng.choice(list(case.inputs)))


CHANGES = [
    (_wild_values, 0.2),
    (_other_sizes, 0.15),
    (_odd_shape, 0.15),
    (_hostile_attribute, 0.2),
    (_other_type, 0.03),
    (_missing_input, 0.03),
]
