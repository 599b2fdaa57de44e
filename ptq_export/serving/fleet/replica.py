"""A replica: the whole service of one process, called with requests as the front door read them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.types import Message

from ptq_export.command_options import Serving
from ptq_export.serving.app import make_app
from ptq_export.serving.metrics import Metrics
from ptq_export.serving.model import load_models
from ptq_export.serving.service import Service

__all__ = ["Forwarded", "Replica"]


@dataclass(frozen=True)
class Forwarded:
    """A request whose body was read."""

    method: str
    path: str
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    @property
    def scope(self) -> dict[str, Any]:
        """As ASGI tells it."""
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "http",
            "method": self.method,
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": self.query,
            "root_path": "",
            "headers": list(self.headers),
            "client": None,
            "server": None,
        }


class Replica:
    """`run` is where this process, too, finds the run folder."""

    def __init__(self, run: str, serving: Serving) -> None:
        service = Service(serving, Metrics())
        service.models = load_models(Path(run), serving, service.metrics)
        self._service, self._app = service, make_app(service)

    def shown(self) -> str:
        """Its models, for people."""
        models = self._service.models.items()
        return ", ".join(f"{name} (at most {it.batcher.most_rows} rows a step)" for name, it in models)

    async def answer(self, request: Forwarded) -> AsyncIterator[Message]:
        """The messages of the answer as they come. Who stops reading frees the slot, as a client that leaves does."""
        messages: asyncio.Queue[Message | None] = asyncio.Queue()
        left = asyncio.Event()
        given = iter([{"type": "http.request", "body": request.body, "more_body": False}])

        async def receive() -> Message:
            if (first := next(given, None)) is not None:
                return first
            await left.wait()
            return {"type": "http.disconnect"}

        task = asyncio.create_task(self._app(request.scope, receive, messages.put))  # type: ignore[arg-type]
        task.add_done_callback(lambda _: messages.put_nowait(None))
        try:
            while (message := await messages.get()) is not None:
                yield message
            await task
        finally:
            left.set()
            if not task.done():
                await asyncio.wait({task}, timeout=1)
                task.cancel()
