"""The models of a server, as the sampling loop, the prompt encoder and the decoder of latents call what they call."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptq_export.interface import OUTPUT, SAMPLE, TIMESTEP, Input, Prompt

__all__ = ["Arrays", "Compute", "Models", "ServedDenoiser", "ServedGraph"]

Arrays = Mapping[str, NDArray[Any]]
Compute = Callable[[Arrays], Arrays]
"""Outputs by name of inputs by name, as a model of the server takes them: `[N, ...]`, a number per row as `[N, 1]`."""


@dataclass(frozen=True)
class Models:
    """What a sampler asks: a step, and, where there are such, the prompt graph, the text encoder, the decoder."""

    step: Compute
    prompt: Compute
    text: Compute
    decoder: Compute


@dataclass(frozen=True)
class ServedGraph:
    """A float graph, called as a session of ONNX Runtime is (`ptq_export.engines.text_to_image.Graph`)."""

    compute: Compute

    def run(self, names: Sequence[str], feeds: Arrays) -> list[NDArray[Any]]:
        """These outputs of it."""
        found = self.compute(feeds)
        return [found[name] for name in names]


class ServedDenoiser:
    """The denoiser, as the sampling loop calls it, of the models that compute it."""

    def __init__(
        self, inputs: tuple[Input, ...], prompt: Prompt | None, reads: tuple[str, ...], models: Models
    ) -> None:
        taken = inputs if prompt is None else prompt.step_inputs(inputs)
        self._direct = [it.name for it in taken[2:] if prompt is None or it not in prompt.values]
        self._reads, self._models = reads, models
        self._known: tuple[dict[str, NDArray[Any]], Arrays] | None = None

    def __call__(self, sample: Tensor, timestep: Tensor, **conditions: Tensor) -> Tensor:
        """The prediction `[N, ...]`; values of the prompt graph are asked for once."""
        rows = {name: _column(value.numpy()) for name, value in conditions.items()}
        feeds = {SAMPLE: sample.numpy(), TIMESTEP: _column(timestep.numpy()), **{it: rows[it] for it in self._direct}}
        output: Tensor = torch.from_numpy(self._models.step({**feeds, **self._values(rows)})[OUTPUT])
        return output

    def _values(self, rows: Arrays) -> Arrays:
        given = {name: rows[name] for name in self._reads}
        if not given:
            return {}
        if self._known is None or not all(np.array_equal(it, given[name]) for name, it in self._known[0].items()):
            self._known = given, self._models.prompt(given)
        return self._known[1]


def _column(values: NDArray[Any]) -> NDArray[Any]:
    """One number per row as a server takes it, `[N, 1]`."""
    return values.reshape(-1, 1) if values.ndim == 1 else values
