"""Prompts as rows of conditions, on a thread of its own: neither the event loop nor the engine waits for it."""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ptq_export.engines.text_to_image import PromptEncoder

__all__ = ["KEPT", "Encode", "Encoded", "Encoding", "encoded_alone"]

Result = TypeVar("Result")
KEPT = 32
"""Of the last prompts: 7 MB with the text encoder of Stable Diffusion, 20 MB with those of SDXL."""


@dataclass(frozen=True)
class Encoded:
    """A row of every condition that a prompt decides, without the batch, and whether the prompt was cut."""

    rows: Mapping[str, NDArray[np.float32]]
    was_cut: bool


Encode = Callable[[str], Encoded]


def encoded_alone(encoder: PromptEncoder, prompt: str) -> Encoded:
    """One prompt: so its rows do not depend on what is encoded with it."""
    found = encoder([prompt])
    return Encoded({name: rows[0] for name, rows in found.items()}, bool(encoder.cut([prompt])))


class Encoding:
    """The prompt encoder of a run; the last prompts are kept. `waiting` counts the requests that are being read."""

    def __init__(self, encoder: PromptEncoder, observe: Callable[[float], None]) -> None:
        """`observe` is told the seconds of each prompt that was encoded. The empty one, of guidance, is at once."""
        self.parts = encoder.parts
        self.waiting = 0
        self._encoder, self._observe = encoder, observe
        self._kept = lru_cache(KEPT)(self._encode)
        self._thread = ThreadPoolExecutor(1, "prompts")
        self("")

    def __call__(self, prompt: str) -> Encoded:
        """Its rows. It takes time: for `reading`, where a prompt that others ask for too is encoded once."""
        return self._kept(prompt)

    @property
    def tokens(self) -> int:
        """How many a prompt may have before it is cut."""
        return self._encoder.length

    async def reading(self, read: Callable[[], Result]) -> Result:
        """What `read`, which encodes, answers on the thread; one at a time."""
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, read)
        finally:
            self.waiting -= 1

    def close(self) -> None:
        """Encode nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _encode(self, prompt: str) -> Encoded:
        began = time.perf_counter()
        found = encoded_alone(self._encoder, prompt)
        self._observe(time.perf_counter() - began)
        return found
