"""A request's progress, previews and pictures as server-sent events (https://html.spec.whatwg.org, section 9.2)."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ptq_export.serving.answers import error_body, text_of
from ptq_export.serving.batcher import Finished, Progress
from ptq_export.serving.connection import while_connected
from ptq_export.serving.guards import ClientGone
from ptq_export.serving.job import Job, JobFailed
from ptq_export.serving.pictures import picture, preview
from ptq_export.serving.service import Service

__all__ = ["EventStream", "event", "is_due"]

HEADERS = {"content-type": "text/event-stream", "cache-control": "no-store", "x-accel-buffering": "no"}


def event(kind: str, value: dict[str, Any]) -> bytes:
    """One event; OpenAI's clients read its type inside of the data."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **value})}\n\n".encode()


def is_due(index: int, calls: int, previews: int) -> bool:
    """Whether a preview follows step `index` of `calls`, `previews` of them spread evenly, none after the last."""
    shares = previews + 1
    return index + 1 < calls and (index + 1) * shares // calls > index * shares // calls


class EventStream(Response):
    """The answer to a request with `stream`: it ends with the last picture, or with an event `error`."""

    def __init__(self, service: Service, job: Job) -> None:
        self.service, self.job, self.background = service, job, None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        try:
            with self.job:
                await send({"type": "http.response.start", "status": 200, "headers": raw})
                await while_connected(receive, self._tell(send))
        except (ClientGone, OSError, asyncio.CancelledError) as gone:
            self.service.ended(self.job, gone)
            if not isinstance(gone, ClientGone):
                raise
        finally:
            self.service.answering -= 1

    async def _tell(self, send: Send) -> None:
        """Every event, and how it ended; what `send` raises is the caller's."""
        events = self._events()
        failure: Exception | None = None
        while True:
            try:
                async with asyncio.timeout(self.job.time_limit_s - self.job.seconds):
                    content = await anext(events, None)
            except (TimeoutError, JobFailed) as error:
                failure, content = error, None
            if content is None:
                break
            await send({"type": "http.response.body", "body": content, "more_body": True})
        status, code, message = self.service.ended(self.job, failure)
        last = b"" if failure is None else event("error", error_body(status, code, message))
        await send({"type": "http.response.body", "body": last})

    async def _events(self) -> AsyncIterator[bytes]:
        previews: dict[int, int] = {}
        async for each in self.job.progress():
            if isinstance(each, Finished):
                yield event("image_generation.completed", await self._picture(each))
                continue
            told = {"index": each.index, "step": each.step.index + 1, "steps": each.calls}
            yield event("image_generation.progress", told)
            if is_due(each.step.index, each.calls, self.job.asked.partial_images):
                count = previews[each.index] = previews.get(each.index, -1) + 1
                small = await asyncio.to_thread(self._preview, each)
                shown = {**told, "partial_image_index": count, "b64_json": text_of(small)}
                yield event("image_generation.partial_image", shown)

    async def _picture(self, done: Finished) -> dict[str, Any]:
        content = await asyncio.to_thread(picture, done.sample[0], self.job.model.range)
        seed = self.job.asked.pictures[done.index].seed
        return {"index": done.index, "seed": seed, "b64_json": text_of(content), "created_at": int(time.time())}

    def _preview(self, progress: Progress) -> bytes:
        model, step = self.job.model, progress.step
        seen = model.clean_estimate(step) if self.job.asked.preview == "estimate" else step.previous
        return preview(seen[0], model.range)
