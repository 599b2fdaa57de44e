"""Latents as pictures, on a thread of its own: neither the event loop nor the engine waits for it."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from ptq_export.engines.text_to_image import LatentDecoder, finite_images

__all__ = ["Decoding"]


class Decoding:
    """The decoder of a run, a picture at a time. `waiting` counts those that are not decoded yet."""

    def __init__(self, decoder: LatentDecoder, sample_shape: tuple[int, ...], observe: Callable[[float], None]) -> None:
        """`observe` is told the seconds of each picture."""
        self.waiting = 0
        self._decoder, self._observe = decoder, observe
        self.image_shape: tuple[int, ...] = tuple(self._decode(torch.zeros(1, *sample_shape)).shape[1:])
        self._thread = ThreadPoolExecutor(1, "decoder")

    async def __call__(self, latents: Tensor) -> Tensor:
        """The picture `[1, C, H, W]`, in [-1, 1], of `latents` `[1, ...]`. Whoever leaves while it waits, leaves it
        undone.

        Raises:
            InputError: it holds NaN or infinite values.
        """
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._decode, latents)
        finally:
            self.waiting -= 1

    def close(self) -> None:
        """Decode nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _decode(self, latents: Tensor) -> Tensor:
        began = time.perf_counter()
        found = finite_images(self._decoder, latents.numpy())
        self._observe(time.perf_counter() - began)
        return torch.from_numpy(found)
