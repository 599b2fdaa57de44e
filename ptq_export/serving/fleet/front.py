"""The front door: it reads requests, hands each to a replica, and answers for those whose replica is lost.

A picture is decided by its request alone. So one whose replica ends before anything was sent is drawn again by another
replica, and nobody sees it; a stream of events that has begun ends with an event `error` that names the request.
"""

import asyncio
import logging
import math
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from ptq_export.command_options import Serving
from ptq_export.serving.answers import error, error_body, no_body
from ptq_export.serving.connection import while_connected
from ptq_export.serving.events import event
from ptq_export.serving.fleet.replica import Forwarded
from ptq_export.serving.guards import BodyTooLarge, BodyTooSlow, ClientGone, read_body
from ptq_export.serving.metrics import CONTENT_TYPE, Metrics

__all__ = ["FRONT", "REQUEST_ID", "Front"]

log = logging.getLogger(__name__)
REQUEST_ID = "x-request-id"
FRONT = "front"
"""What its own metrics call it, where a service has the name of a model."""
TRIES = 3
SPARE_S = 30.0
"""Beyond a request's own limit, which the replica keeps: for finding a replica, and for one that is lost in silence."""
WAIT_S = 0.25
NO_ROOM = (429, 503)
MOST_ID = 128

Call = Callable[[Forwarded], AsyncGenerator[Message, None]]
"""Has a replica answer; closed early, it lets go of the replica."""


class _Lost(Exception):
    """A replica ended while it answered."""


class _Full(Exception):
    """A replica has no room for a request that another one had accepted."""


class Front:
    """An ASGI app; `call` is set once there are replicas."""

    def __init__(self, serving: Serving, metrics: Metrics) -> None:
        self.serving, self.metrics = serving, metrics
        self.call: Call | None = None
        self.draining = False
        self.answering = 0

    @property
    def ready(self) -> bool:
        """Whether requests are accepted."""
        return self.call is not None and not self.draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        own = {"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._metrics}.get(scope["path"])
        if own is not None and scope["method"] in ("GET", "HEAD"):
            await own()(scope, receive, send)
            return
        name = _request_id(scope)
        self.answering += 1
        try:
            await self._answer(name, scope, receive, _naming(name, send))
        finally:
            self.answering -= 1

    async def _answer(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(scope, receive, self.serving.max_body)
        except (BodyTooLarge, BodyTooSlow) as refused:
            await no_body(refused, self.serving.max_body)(scope, receive, send)
            return
        except ClientGone:
            return
        if not self.ready or self.call is None:
            code, told = ("draining", "ending") if self.draining else ("loading", "starting its replicas")
            answer = error(503, code, f"the service is {told}", retry_after_s=1, close=True)
            await answer(scope, receive, send)
            return
        headers = tuple((key, value) for key, value in scope["headers"] if key != b"content-length")
        forwarded = Forwarded(scope["method"], scope["path"], scope["query_string"], headers, body)
        passed, outcome = _Passed(send), "disconnected"
        try:
            outcome = await while_connected(receive, self._drawn(name, forwarded, self.call, passed))
        except (ClientGone, OSError):
            outcome = passed.outcome
        finally:
            self.metrics.ended(FRONT, outcome)

    async def _drawn(self, name: str, forwarded: Forwarded, call: Call, passed: "_Passed") -> str:
        """Sends the answer of the first replica that gives one; how that ended.

        Who was accepted once is not refused for want of room at the next replica: it waits there.
        """
        losses, ends = 0, time.monotonic() + self.serving.timeout
        while losses < TRIES and not passed.begun:
            passed.waits = losses > 0 and time.monotonic() < ends
            try:
                await self._pass_on(call(forwarded), passed)
            except _Full:
                await asyncio.sleep(WAIT_S)
            except _Lost as lost:
                losses, cause = losses + 1, f"its replica was lost ({lost})"
                log.warning("request %s: %s", name, cause)
                if not passed.done and (passed.begun or losses == TRIES):
                    await passed.fail(f"request {name} was not finished: {cause}")
        return passed.outcome

    async def _pass_on(self, messages: AsyncGenerator[Message, None], passed: "_Passed") -> None:
        try:
            async with asyncio.timeout(self.serving.timeout + SPARE_S), aclosing(messages):
                async for message in messages:
                    await passed.send(message)
        except (RayError, RayServeException) as found:
            raise _Lost(type(found).__name__) from found
        except TimeoutError as silent:
            raise _Lost(f"silent for {math.ceil(self.serving.timeout + SPARE_S)} s") from silent
        if not passed.done:
            raise _Lost("its answer has no end")

    def _healthz(self) -> Response:
        return JSONResponse({"status": "alive"})

    def _readyz(self) -> Response:
        state = "ready" if self.ready else "draining" if self.draining else "loading"
        return JSONResponse({"status": state}, 200 if self.ready else 503)

    def _metrics(self) -> Response:
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)


class _Passed:
    """What of an answer has reached the client. The head of an answer waits for its body, unless that is a stream of
    events: an answer in one piece is sent whole, or not at all."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._head: Message | None = None
        self.begun = self.done = self.waits = self._failed = self._streams = False

    @property
    def outcome(self) -> str:
        """As the metrics call it."""
        if self._failed or self._head is None or not self.done:
            return "failed" if self._failed else "disconnected"
        return "finished" if self._head["status"] < 400 else "refused"

    async def send(self, message: Message) -> None:
        """Pass one message on."""
        if message["type"] == "http.response.start":
            if self.waits and message["status"] in NO_ROOM:
                raise _Full
            self._head = message
            self._streams = (b"content-type", b"text/event-stream") in [tuple(it) for it in message["headers"]]
            if self._streams:
                self.begun = True
                await self._send(message)
            return
        if not self.begun and self._head is not None:
            self.begun = True
            await self._send(self._head)
        self.done = not message.get("more_body", False)
        await self._send(message)

    async def fail(self, told: str) -> None:
        """The end of an answer that no replica ends."""
        self._failed = True
        if not self.begun:
            await error(503, "replica_lost", told, retry_after_s=1)({"type": "http"}, _nothing, self._send)
        elif self._streams:
            last = event("error", error_body(503, "replica_lost", told))
            await self._send({"type": "http.response.body", "body": last})
        else:
            raise ConnectionError(told)  # half of a picture: the connection is cut


def _request_id(scope: Scope) -> str:
    given: bytes = dict(scope["headers"]).get(REQUEST_ID.encode(), b"")[:MOST_ID]
    return given.decode() if given and all(33 <= byte < 127 for byte in given) else uuid.uuid4().hex


def _naming(name: str, send: Send) -> Send:
    """Answers say which request they are of."""

    async def named(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (REQUEST_ID.encode(), name.encode())]}
        await send(message)

    return named


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
