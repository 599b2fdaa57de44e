"""A client of the service, on sockets that a test may treat badly."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

from ptq_export.serving.service import Service

__all__ = ["TOKENS", "Answer", "Caller", "Start", "until"]

TOKENS = {"tokens": [[0.1, 0.2, 0.3]]}


@dataclass(frozen=True)
class Answer:
    """Status, headers and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json["error"]
        return found


class Caller:
    """Calls 127.0.0.1:`port`; `conditions` that are not given are `TOKENS`."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str) -> Answer:
        return self._ask("GET", path, None, {})

    def generate(self, accept: str = "*/*", **fields: Any) -> Answer:
        return self.post(json.dumps({"conditions": TOKENS, **fields}).encode(), accept=accept)

    def post(self, body: bytes, **headers: str) -> Answer:
        return self._ask("POST", "/v1/images/generations", body, {"content-type": "application/json", **headers})

    def events(self, **fields: Any) -> Iterator[dict[str, Any]]:
        """The data of the events of a stream; leave the loop and the connection is closed."""
        connection = self.open(stream=True, **fields)
        try:
            for line in connection.getresponse():
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])
        finally:
            connection.close()

    def open(self, **fields: Any) -> HTTPConnection:
        """A connection on which a request was sent, its answer not read."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        body = json.dumps({"conditions": TOKENS, **fields}).encode()
        connection.request("POST", "/v1/images/generations", body, {"content-type": "application/json"})
        return connection

    def raw(self, content: bytes) -> socket.socket:
        """A socket on which these bytes were sent."""
        found = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        found.sendall(content)
        return found

    def _ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()


Start = Callable[..., tuple[Service, Caller]]
"""Of the fixture `start`: the service, and a caller of it."""


def until(holds: Callable[[], bool], limit_s: float = 10.0) -> bool:
    """Whether it holds within the limit."""
    end = time.monotonic() + limit_s
    while not holds() and time.monotonic() < end:
        time.sleep(0.005)
    return holds()
