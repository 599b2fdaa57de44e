"""One request on the event loop: its tickets, its events, its time limit, its client that may leave."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from torch import Tensor

from ptq_export.errors import InputError
from ptq_export.serving.batcher import Failed, Finished, Progress
from ptq_export.serving.body import Asked
from ptq_export.serving.model import Model

__all__ = ["Job", "JobFailed"]

KEPT = 64
"""Progress that a slow reader has not taken; the oldest of it is dropped, never a picture."""


class JobFailed(Exception):
    """A picture of the job cannot be drawn."""

    def __init__(self, event: Failed) -> None:
        super().__init__(str(event.error))
        self.error = event.error

    @property
    def by_input(self) -> bool:
        """Whether the request is to blame."""
        return isinstance(self.error, InputError)


class Job:
    """An accepted request. Leaving the `with` block frees whatever it still holds, within one step."""

    def __init__(self, model: Model, asked: Asked, time_limit_s: float) -> None:
        """Submit it.

        Raises:
            Busy, Closed: see `Batcher.submit`.
        """
        self.model, self.asked, self.time_limit_s = model, asked, time_limit_s
        self.samples: dict[int, Tensor] = {}
        self._loop = asyncio.get_running_loop()
        self._events: deque[Progress] = deque(maxlen=KEPT)
        self._failed: Failed | None = None
        self._changed = asyncio.Event()
        self.began = time.monotonic()
        self._tickets = model.batcher.submit(asked.pictures, self._from_thread, watched=asked.stream)

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        for ticket in self._tickets:
            ticket.cancel()

    @property
    def seconds(self) -> float:
        """Since it was accepted."""
        return time.monotonic() - self.began

    @property
    def begun(self) -> bool:
        """Whether the engine has taken up one of its pictures."""
        return any(ticket.slot is not None for ticket in self._tickets)

    async def finished(self) -> list[Tensor]:
        """All pictures `[1, C, ...]`.

        Raises:
            JobFailed: one cannot be drawn.
        """
        async for _ in self.progress():
            pass
        return [self.samples[index] for index in range(len(self.asked.pictures))]

    async def progress(self) -> AsyncIterator[Progress | Finished]:
        """What happens, until all pictures are there.

        Raises:
            JobFailed: one cannot be drawn.
        """
        told: set[int] = set()
        while len(told) < len(self.asked.pictures):
            await self._changed.wait()
            self._changed.clear()
            if self._failed is not None:
                raise JobFailed(self._failed)
            while self._events:
                yield self._events.popleft()
            for index in sorted(self.samples.keys() - told):
                told.add(index)
                yield Finished(index, self.samples[index])

    def _from_thread(self, event: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(self._take, event)
        except RuntimeError:  # the loop has ended
            self.__exit__()

    def _take(self, event: Any) -> None:
        match event:
            case Progress():
                self._events.append(event)
            case Finished():
                self.samples[event.index] = event.sample
            case Failed():
                self._failed = event
        self._changed.set()
