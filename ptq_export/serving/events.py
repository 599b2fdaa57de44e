"""A request's progress, previews and pictures as server-sent events (https://html.spec.whatwg.org, section 9.2)."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from torch import Tensor

from ptq_export.sampling import Step
from ptq_export.serving.answers import cut_of, error_body, text_of
from ptq_export.serving.batcher import Finished, Progress
from ptq_export.serving.connection import while_connected
from ptq_export.serving.guards import ClientGone
from ptq_export.serving.job import Job
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
                async with asyncio.timeout(self.job.seconds_left):
                    content = await anext(events, None)
            except Exception as error:
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
            if self._is_due(each) and not self._is_late(each):
                count = previews[each.index] = previews.get(each.index, -1) + 1
                small = await self._preview(each)
                shown = {**told, "partial_image_index": count, "b64_json": text_of(small)}
                yield event("image_generation.partial_image", shown)

    async def _picture(self, done: Finished) -> dict[str, Any]:
        [image] = await self.job.model.images([done.sample])
        content = await asyncio.to_thread(picture, image[0], self.job.model.range)
        told = {"index": done.index, "seed": self.job.asked.pictures[done.index].seed, **cut_of(self.job.asked)}
        return {**told, "b64_json": text_of(content), "created_at": int(time.time())}

    def _is_due(self, progress: Progress) -> bool:
        return is_due(progress.step.index, progress.calls, self.job.asked.partial_images)

    def _is_late(self, progress: Progress) -> bool:
        """Whether the decoder would only hold up what is newer: the picture itself, or its next preview."""
        if self.job.model.decoding is None:
            return False
        return progress.index in self.job.samples or any(map(self._is_due, self.job.untold(progress.index)))

    async def _preview(self, progress: Progress) -> bytes:
        model = self.job.model
        [image] = await model.images([await asyncio.to_thread(self._seen, progress.step)])
        return await asyncio.to_thread(preview, image[0], model.range)

    def _seen(self, step: Step) -> Tensor:
        return self.job.model.clean_estimate(step) if self.job.asked.preview == "estimate" else step.previous
