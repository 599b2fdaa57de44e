"""uvicorn's HTTP/1.1 protocol with a bound on how long a request's head may take, which it lacks."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["BoundedHeads"]

HEAD_S = 10.0


class BoundedHeads(H11Protocol):
    """A connection that is silent, or sends a head byte by byte, is closed after `HEAD_S`."""

    head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._bound_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._let_go()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._bound_head()

    def _bound_head(self) -> None:
        """The first byte of a head starts the clock, no later one starts it again."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._let_go()
        elif self.head_timer is None:
            self.head_timer = self.loop.call_later(HEAD_S, self.timeout_keep_alive_handler)

    def _let_go(self) -> None:
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None
