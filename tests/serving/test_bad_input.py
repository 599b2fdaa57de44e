"""Whatever is sent is answered with a reason and a 4xx, and nothing is left hanging."""

import json
import socket
from typing import Any

import pytest
from caller import TOKENS, Caller, Start, until

from ptq_export.engines.base import Engine
from ptq_export.serving import guards, protocol

DEEP = "[" * 100_000
BODIES = {
    "empty": b"",
    "no JSON": b"{",
    "no UTF-8": b"\xff\xfe",
    "no object": b"[1]",
    "NaN": b'{"guidance": NaN}',
    "infinite": b'{"conditions": {"tokens": [[1e999, 0, 0]]}}',
    "deep": f'{{"conditions": {{"tokens": {DEEP}'.encode(),
    "long number": b'{"seed": ' + b"9" * 5000 + b"}",
}
FIELDS: dict[str, dict[str, Any]] = {
    "n": {"n": 10**9},
    "n twice": {"n": 0},
    "steps": {"steps": -1},
    "steps ": {"steps": 1001},
    "steps  ": {"steps": 1.5},
    "steps   ": {"steps": 2, "sampler": "pndm"},
    "seed": {"seed": -1},
    "seed ": {"seed": True},
    "sampler": {"sampler": "flow-euler"},
    "sampler ": {"sampler": ["ddim"]},
    "size": {"size": "1024x1024"},
    "class": {"class": 3},
    "class ": {"class": "cat"},
    "unknown": {"step": 4},
    "prompt": {"prompt": "a cat"},
    "negative prompt": {"negative_prompt": "a cat"},
    "response_format": {"response_format": "url"},
    "png of two": {"response_format": "png", "n": 2},
    "stream": {"stream": "yes"},
    "stream of npy": {"stream": True, "response_format": "npy"},
    "guidance": {"guidance": 2},
    "guidance ": {"guidance": 1e300, "unconditional": TOKENS},
    "unconditional": {"unconditional": TOKENS},
    "unconditional ": {"guidance": 2, "unconditional": {"tokens": [[1, 2, 3], [1, 2, 3]]}},
    "unconditional  ": {"guidance": 2, "unconditional": {"other": 1}},
    "conditions": {"conditions": {}},
    "conditions ": {"conditions": [1]},
    "shape": {"conditions": {"tokens": [[1, 2]]}},
    "ragged": {"conditions": {"tokens": [[1, 2, 3], [1]]}},
    "text": {"conditions": {"tokens": [["a", "b", "c"]]}},
    "null": {"conditions": {"tokens": [[None, 1, 2]]}},
    "too large": {"conditions": {"tokens": [[1e39, 1, 2]]}},
    "no number": {"conditions": {"tokens": [[10**400, 1, 2]]}},
    "empty tokens": {"conditions": {"tokens": []}},
    "surplus": {"conditions": {**TOKENS, "image": [1]}},
    "surplus null": {"conditions": {**TOKENS, "": None}},
    "null guidance": {"guidance": None},
    "null conditions": {"conditions": None},
    "twice": {"conditions": {**TOKENS, "label": 1}, "class": 1},
    "label": {"conditions": {**TOKENS, "label": [1, 2]}},
}


def test_null_is_absence_wherever_nothing_depends_on_the_field(caller: Caller) -> None:
    """As OpenAI's clients send it; what is ignored may hold anything."""
    absent = dict.fromkeys(("model", "prompt", "n", "seed", "size", "stream", "response_format", "user"))
    assert caller.generate(**absent, quality=3, steps=1, conditions=TOKENS).status == 200


@pytest.fixture
def caller(engine: Engine, start: Start) -> Caller:
    return start(engine)[1]


def refused(caller: Caller, body: bytes) -> str:
    answer = caller.post(body)
    assert answer.status == 400, (answer.status, answer.body[:300])
    assert {*answer.error} == {"message", "type", "param", "code"} and answer.error["message"]
    return str(answer.error["message"])


def test_bodies_that_hold_no_request_are_refused_with_a_reason(caller: Caller) -> None:
    for name, body in BODIES.items():
        assert refused(caller, body), name
    assert caller.generate(steps=2).status == 200


def test_fields_that_cannot_be_used_are_refused_with_a_reason(caller: Caller) -> None:
    told = {name: refused(caller, json.dumps({"conditions": TOKENS, **each}).encode()) for name, each in FIELDS.items()}
    assert "1..10" in told["n"] and "1..1000" in told["steps"] and "0..2" in told["class"]
    assert "did you mean steps" in told["unknown"] and "8" not in told["size"] and "4x4" in told["size"]
    assert "[1, 1, 2]" in told["shape"] and "tokens" in told["conditions"]
    assert caller.generate(steps=2).status == 200


def test_unknown_models_paths_methods_and_media_types_are_refused_in_the_same_form(caller: Caller) -> None:
    assert (caller.generate(model="dall-e").status, caller.get("/v1").status) == (404, 404)
    assert caller.get("/v1/images/generations").status == 405
    for kind in ("text/plain", ""):  # what a page of another origin may send
        assert caller.post(b"{}", **{"content-type": kind}).error["code"] == "unsupported_media_type"
    assert caller.get("/v1").error["message"] == "Not Found"


def test_an_announced_body_that_is_too_large_is_not_waited_for(caller: Caller) -> None:
    head = "POST /v1/images/generations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with caller.raw(f"{head}content-length: 999999999\r\n\r\n".encode()) as connection:
        assert b" 413 " in connection.recv(4096)
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    with caller.raw(f"{head}transfer-encoding: chunked\r\n\r\n".encode()) as connection:
        try:
            for _ in range(8):
                connection.sendall(chunk)
        except OSError:
            return  # it was cut off while sending
        assert b" 413 " in connection.recv(4096)


def test_slow_clients_are_cut_off(engine: Engine, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 0.3)
    monkeypatch.setattr(guards, "BODY_S", 0.3)
    service, caller = start(engine)
    head = b"POST /v1/images/generations HTTP/1.1\r\nhost: x\r\n"
    silent, partial = caller.raw(b""), caller.raw(head)
    body = caller.raw(head + b"content-type: application/json\r\ncontent-length: 50\r\n\r\n{")
    assert b" 408 " in body.recv(4096)
    for connection in (silent, partial, body):
        assert until(lambda connection=connection: is_closed(connection), 3)
        connection.close()
    assert service.answering == 0


def is_closed(connection: socket.socket) -> bool:
    connection.settimeout(0.01)
    try:
        return connection.recv(4096) == b""
    except TimeoutError:
        return False
