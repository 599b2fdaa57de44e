"""A text-to-image run in a real tritonserver: text encoder and decoder are models of it, in its Python backend."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from triton_server import Server, missing, running
from worded_run import TOKENS, picture_of_sample, worded_run

from ptq_export.command_options import Packaging
from ptq_export.packaging import package

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.skipif(bool(missing()), reason=missing())]
SIDE = 8
LONG = "a red apple a green dog"
STREAM = "v2/models/sampler/generate_stream"
BY_HAND = np.full((TOKENS, 3), 0.1).tolist()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worded_run(tmp_path_factory.mktemp("runs") / "worded")


@pytest.fixture(scope="module")
def server(engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("triton")
    repository = Path(package(engine, Packaging(folder / "models", "triton", "python"))["package"])
    with running(repository, folder) as found:
        yield found


REQUESTS: list[tuple[dict[str, Any], dict[str, str], dict[str, Any]]] = [
    ({"seed": [1], "steps": [6]}, {"prompt": "a red apple"}, {}),
    ({"seed": [2], "steps": [6]}, {"prompt": "a red apple"}, {}),
    ({"seed": [1], "steps": [6]}, {"prompt": "a green dog"}, {}),
    ({"seed": [1], "steps": [6], "guidance": [1.0]}, {"prompt": "a green dog"}, {"guidance": 1.0}),
    ({"seed": [4], "steps": [9], "preview": [4]}, {"prompt": "Ein häßliches 猫 apple"}, {}),
    (
        {"seed": [5], "steps": [7], "guidance": [5.0]},
        {"prompt": LONG, "negative_prompt": "a dog"},
        {"negative": "a dog", "guidance": 5.0},
    ),
]


def test_every_prompt_of_concurrent_requests_is_the_picture_of_sample(
    server: Server, engine: Path, tmp_path: Path
) -> None:
    before = {name: server.counts(name)[0] for name in ("text_encoder", "decoder")}
    rows, calls = server.counts()
    wanted = [{"inputs": inputs, "parameters": told | {"sampler": "ddim"}} for inputs, told, _ in REQUESTS]
    answers = server.ask("draw", wanted)
    seen = set()
    for (inputs, told, asked), answer in zip(REQUESTS, answers, strict=True):
        assert "error" not in answer, answer
        last, seed, steps = answer["frames"][-1], inputs["seed"][0], inputs["steps"][0]
        expected = picture_of_sample(engine, tmp_path / "one.png", told["prompt"], seed, steps, **asked)
        found = np.array(last["image"], np.uint8)
        assert np.array_equal(found, expected), np.abs(found.astype(int) - expected).max()
        assert (last["seed"], last["cut"]) == ([seed], [int(told["prompt"] == LONG), 0])
        seen.add(found.tobytes())
    assert len(seen) == len(REQUESTS)
    assert [frame["step"] for frame in answers[4]["frames"]] == [[4], [8], [9]]
    assert np.array(answers[4]["frames"][0]["image"]).shape == (SIDE, SIDE, 3)
    rows, calls = server.counts()[0] - rows, server.counts()[1] - calls
    assert rows == 2 * (6 * 3 + 9 + 7) + 6 and calls < rows, (rows, calls)
    assert server.counts("decoder")[0] - before["decoder"] == len(REQUESTS) + 2
    assert 0 < server.counts("text_encoder")[0] - before["text_encoder"] <= 2 * len(REQUESTS)


def test_words_that_cannot_be_used_are_refused_and_the_server_goes_on(server: Server) -> None:
    least = {"seed": [1], "steps": [2]}
    bad: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({}, {}, "this engine takes text"),
        ({}, {"prompt": 7}, "prompt must be text"),
        ({}, {"prompt": "dog " * 10_000}, "at most 32000 characters"),
        ({}, {"negative_prompt": "a dog"}, "this engine takes text"),
        ({"text": BY_HAND}, {"prompt": "a dog"}, "what the prompt decides"),
        ({"unconditional_text": BY_HAND}, {"prompt": "a dog"}, "leads away from `negative_prompt`"),
        ({"guidance": [1.0]}, {"prompt": "a dog", "negative_prompt": "a dog"}, "no guidance to lead away"),
        ({"guidance": [float("nan")]}, {"prompt": "a dog"}, "guidance is nan"),
    ]
    requests = [{"inputs": least | inputs, "parameters": told} for inputs, told, _ in bad]
    good = {"inputs": least, "parameters": {"prompt": "a dog"}}
    answers = server.ask("draw", [*requests, good])
    for (_, _, cause), answer in zip(bad, answers[:-1], strict=True):
        assert cause in answer["error"] and answer["frames"] == [], (cause, answer)
    assert "error" not in answers[-1]
    for token in (99, -1):
        ids = {"name": "input_ids", "shape": [1, TOKENS], "datatype": "INT64", "data": [token] * TOKENS}
        assert "error" in json.loads(server.post("v2/models/text_encoder/infer", {"inputs": [ids]}))


@pytest.mark.parametrize("text", [b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"a \x80 dog"])
def test_text_that_is_no_utf_8_is_refused(server: Server, text: bytes) -> None:
    found = server.post(STREAM, b'{"steps": 2, "seed": 1, "prompt": "' + text + b'"}')
    assert "error" in found and "send text as UTF-8" in found, found
    assert "error" not in server.post(STREAM, {"steps": 2, "seed": 1, "prompt": "a dog"})


def test_plain_http_takes_a_prompt_and_streams_pictures(server: Server) -> None:
    body = {"prompt": LONG, "seed": 1, "steps": 4, "preview": 2, "sampler": "ddim"}
    events = [json.loads(line.removeprefix("data: ")) for line in server.post(STREAM, body).splitlines() if line]
    assert [event["step"] for event in events] == [2, 4] and events[-1]["cut"] == [1, 0]
    assert len(events[0]["image"]) == len(events[-1]["image"]) == 3 * SIDE**2
    assert "error" in server.post(STREAM, b'{"steps": 2, "prompt": "\\ud800"}')
