"""Weights of latent diffusion's own nets, drawn from numpy's frozen generator, and what those nets answered.

`tests/data/latent_diffusion.npz` holds shapes, inputs and outputs (its README tells whose code made them); the weights
are drawn here from the shapes, in the order of the names.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["drawn", "golden"]

State = dict[str, Tensor]


def drawn(shapes: Mapping[str, Sequence[int]]) -> State:
    """Normal numbers: weights scaled by what they sum over, those of norms around one; no layer at zero."""
    generator, state = np.random.RandomState(0), {}
    for name, shape in sorted(shapes.items()):
        spread = 0.7 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.1
        values = spread * generator.standard_normal(shape) + (len(shape) == 1 and name.endswith("weight"))
        state[name] = torch.tensor(values, dtype=torch.float32)
    return state


def golden(folder: Path, name: str) -> tuple[State, dict[str, Tensor]]:
    """The weights of a net, and its inputs and output."""
    with np.load(folder / "latent_diffusion.npz") as file:
        found: dict[str, Any] = {key.removeprefix(f"{name}."): file[key] for key in file if key.startswith(f"{name}.")}
    shapes = json.loads(str(found.pop("shapes")))
    return drawn(shapes), {key: torch.from_numpy(value) for key, value in found.items()}
