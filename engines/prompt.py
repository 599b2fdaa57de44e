"""The prompt graph of an engine: what its step graph takes in place of conditions, computed once per prompt.

ONNX Runtime computes it in float32 on the CPU, whatever runs the steps.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from ptq_export.engines.base import EngineOptions, Feeds, Signature
from ptq_export.engines.exported_layers import CALLS, WARMUP
from ptq_export.engines.ort.session import CPU, Level, open_session, session_settings
from ptq_export.errors import InputError
from ptq_export.graph.model_file import read_proto
from ptq_export.graph.prompt_file import require_prompt
from ptq_export.interface import Prompt

__all__ = ["PromptSession", "open_prompt"]


KEPT = 8
KEPT_BYTES = 256 << 20
"""Of the last prompts, with their values: fewer are kept where they are larger, the last one always."""


class _Known(NamedTuple):
    """Conditions, and the values that were computed of them: never changed, so no thread sees half of another's."""

    given: Feeds
    values: Feeds

    def serves(self, given: Feeds) -> bool:
        return all(np.array_equal(value, given[name]) for name, value in self.given.items())

    @property
    def size_bytes(self) -> int:
        return sum(array.nbytes for part in self for array in part.values())


class PromptSession:
    """Feeds of the step graph from feeds of the denoiser; what conditions alone decide is kept for the last prompts,
    the most recently used ones first. It may be called from several threads at once.
    """

    def __init__(self, path: Path, signature: Signature, prompt: Prompt, options: EngineOptions) -> None:
        """Open the prompt graph `path`, whose digest was verified.

        Raises:
            InputError: it is no ONNX file, or makes other values from other conditions than the step graph says.
        """
        self.path = path
        self._direct = [each.name for each in signature.inputs if each.name not in prompt.instead_of]
        self._values = prompt.values
        self._reads = _require_stated(read_proto(path), signature, prompt, path)
        self.session = open_session(path, session_settings(options.threads, Level.ORT_ENABLE_ALL), [CPU])
        self._known: tuple[_Known, ...] = ()
        self._changing = Lock()

    def step_feeds(self, feeds: Feeds) -> Feeds:
        """What the step graph takes: `feeds` with the values of this graph in place of conditions."""
        given = {name: feeds[name] for name in self._reads}
        known = next((each for each in self._known if each.serves(given)), None)
        if known is None:
            # Copies: the caller may write the next prompt into the same array.
            known = _Known({name: value.copy() for name, value in given.items()}, self.compute(feeds))
        if not (self._known and self._known[0] is known):
            self._remember(known)
        return {**{name: feeds[name] for name in self._direct}, **known.values}

    def compute(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """The values of these conditions, computed anew.

        Raises:
            InputError: they are not those that the step graph says.
        """
        names = [each.name for each in self._values]
        found = dict(zip(names, self.session.run(names, {name: feeds[name] for name in self._reads}), strict=True))
        sizes: dict[str, int] = {}
        for each in self._values:
            if not each.fits(found[each.name].shape, sizes):
                made = f"{self.path.name} makes {each.name} {list(found[each.name].shape)}"
                raise InputError(f"{made}, and its step graph takes {each}", "export it again")
        return found

    def _remember(self, known: _Known) -> None:
        """Put it first, and forget the least recently used ones past the bounds."""
        with self._changing:
            kept = [known, *(each for each in self._known if each is not known)][:KEPT]
            while len(kept) > 1 and sum(each.size_bytes for each in kept) > KEPT_BYTES:
                kept.pop()
            self._known = tuple(kept)

    def median_ms(self, feeds: Feeds) -> float:
        """Milliseconds that the values of a prompt take."""
        spent = []
        for _ in range(WARMUP + CALLS):
            started = time.perf_counter_ns()
            self.compute(feeds)
            spent.append((time.perf_counter_ns() - started) / 1e6)
        return median(spent[WARMUP:])


def open_prompt(source: Path, signature: Signature, options: EngineOptions) -> PromptSession | None:
    """The prompt graph beside the step graph `source`; None where that is the whole network.

    Raises:
        InputError: the file is absent, damaged, or not the one that `source` states.
    """
    if signature.prompt is None:
        return None
    return PromptSession(require_prompt(source, signature.prompt), signature, signature.prompt, options)


def _require_stated(model: onnx.ModelProto, signature: Signature, prompt: Prompt, path: Path) -> list[str]:
    """The conditions that a prompt graph reads; those and its outputs are the ones that the step graph states."""
    known: Mapping[str, str] = {each.name: each.dtype for each in signature.conditions}
    constants = {item.name for item in model.graph.initializer}
    reads = [value.name for value in model.graph.input if value.name not in constants]
    makes = {value.name for value in model.graph.output}
    if other := sorted({*reads} - {*known}) + sorted({each.name for each in prompt.values} ^ makes):
        told = f"{path.name} is another graph than its step graph says: {', '.join(other)}"
        raise InputError(told[:400], "export it again")
    return reads
