"""Bounds on what a client may send and how slowly it may read: each connection costs little, whoever holds it."""

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["BodyTooLarge", "BodyTooSlow", "ClientGone", "SendBound", "SlowReader", "read_body"]

BODY_S, SEND_S = 20.0, 20.0


class BodyTooLarge(Exception):
    """More bytes than are allowed, announced or sent."""


class BodyTooSlow(Exception):
    """It did not arrive in time."""


class ClientGone(Exception):
    """The connection was closed."""


async def read_body(scope: Scope, receive: Receive, most: int) -> bytes:
    """The body; an announced length is believed before anything is read.

    Raises:
        BodyTooLarge, BodyTooSlow, ClientGone: there is none.
    """
    announced = dict(scope["headers"]).get(b"content-length", b"0")
    if announced.isdigit() and int(announced) > most:
        raise BodyTooLarge
    content = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                content += message.get("body", b"")
                if len(content) > most:
                    raise BodyTooLarge
                if not message.get("more_body", False):
                    return bytes(content)
    except TimeoutError as error:
        raise BodyTooSlow from error


class SlowReader(ConnectionError):
    """The client did not take what was sent to it."""


class SendBound:
    """An app whose client must read: one that does not take a chunk for `SEND_S` is cut off."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def bounded(message: Message) -> None:
            try:
                async with asyncio.timeout(SEND_S):
                    await send(message)
            except TimeoutError:
                raise SlowReader("the client does not read") from None

        with suppress(SlowReader):  # an answer that was not completed is cut off by the server
            await self.app(scope, receive, bounded)
