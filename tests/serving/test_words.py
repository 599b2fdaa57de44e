"""A run that takes prompts, served: its pictures are those of `ptq-export sample`, whatever else is asked meanwhile."""

import base64
import io
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caller import Answer, Caller, Start, until
from numpy.typing import NDArray
from PIL import Image
from worded_run import SCALE, TOKENS, picture_of_sample

from ptq_export.engines.text_to_image import load_latent_decoder, load_prompt_encoder

APPLE: dict[str, Any] = {"prompt": "a red apple", "seed": 3, "steps": 5}
LONG = "a red apple a green dog"
BY_HAND = {"text": [[0.1, 0.2, 0.3]] * TOKENS}
Draw = Callable[..., NDArray[np.uint8]]
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "neither": ({}, "prompt"),
    "no text": ({"prompt": 7}, "prompt"),
    "a list": ({"prompt": ["a dog"]}, "prompt"),
    "huge": ({"prompt": "dog " * 10_000}, "prompt"),
    "surrogate": ({"prompt": "\ud800"}, "prompt"),
    "huge negative": ({"prompt": "a dog", "negative_prompt": "x" * 32_001}, "negative_prompt"),
    "negative alone": ({"negative_prompt": "a dog"}, "prompt"),
    "negative without guidance": ({"prompt": "a dog", "negative_prompt": "red", "guidance": 1}, "negative_prompt"),
    "both": ({"prompt": "a dog", "conditions": BY_HAND}, "prompt"),
    "both ": ({"negative_prompt": "a dog", "conditions": BY_HAND}, "negative_prompt"),
    "unconditional": ({"prompt": "a dog", "guidance": 2, "unconditional": BY_HAND}, "unconditional"),
    "guidance": ({"prompt": "a dog", "guidance": "NaN"}, "guidance"),
    "guidance ": ({"prompt": "a dog", "guidance": 1e300}, "guidance"),
    "guidance by hand": ({"conditions": BY_HAND, "guidance": 2}, "unconditional"),
    "size of latents": ({"prompt": "a dog", "size": "4x4"}, "size"),
    "width": ({"conditions": {"text": [[0.1, 0.2]] * TOKENS}}, "conditions"),
    "surplus": ({"prompt": "a dog", "conditions": {"image": [1]}}, "conditions"),
}


@pytest.fixture
def drawn(worded: Path, tmp_path: Path) -> Draw:
    """What `ptq-export sample` draws."""

    def draw(prompt: str, seed: int = 3, **asked: Any) -> NDArray[np.uint8]:
        return picture_of_sample(worded, tmp_path / "one.png", prompt, seed, 5, **asked)

    return draw


def pixels(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)))


def pngs(answer: Answer) -> list[NDArray[np.uint8]]:
    return [pixels(base64.b64decode(each["b64_json"])) for each in answer.json["data"]]


def prompts_encoded(caller: Caller) -> int:
    lines = caller.get("/metrics").body.decode().splitlines()
    return int(float(next(line.split()[-1] for line in lines if line.startswith("ptq_prompt_seconds_count"))))


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ({}, {}),
        ({"guidance": 1}, {"guidance": 1.0}),
        ({"guidance": SCALE}, {}),
        ({"negative_prompt": "a green dog", "guidance": 5}, {"negative": "a green dog", "guidance": 5.0}),
    ],
    ids=["the run's guidance", "none", "the same by its number", "away from a prompt"],
)
def test_a_prompt_is_the_picture_of_sample_bit_for_bit(
    worded: Path, serve_run: Start, drawn: Draw, words: dict[str, Any], asked: dict[str, Any]
) -> None:
    _, caller = serve_run(worded)
    wanted = drawn("a red apple", **asked)
    assert wanted.shape == (8, 8, 3) and not np.array_equal(wanted, drawn("a green dog", **asked))
    raw = caller.generate(**APPLE, **words, size="8x8", response_format="png")
    assert np.array_equal(pixels(raw.body), wanted) and "x-cut" not in raw.headers
    several = caller.generate(**{**APPLE, "seed": 2}, **words, n=2)
    assert np.array_equal(pngs(several)[1], wanted) and "cut" not in several.json


def test_npy_is_the_decoded_picture(worded: Path, serve_run: Start) -> None:
    _, caller = serve_run(worded)
    found = np.load(io.BytesIO(caller.generate(**APPLE, n=2, response_format="npy").body))
    assert found.shape == (2, 3, 8, 8) and found.dtype == np.float32 and 0.1 < np.abs(found).max() <= 1
    levels = np.rint(255 * (found[0].astype(np.float64) + 1) / 2).astype(np.uint8)
    assert np.array_equal(np.moveaxis(levels, 0, -1), pngs(caller.generate(**APPLE))[0])


def test_a_stream_holds_decoded_previews_and_the_picture(worded: Path, serve_run: Start) -> None:
    _, caller = serve_run(worded)
    events = list(caller.events(**{**APPLE, "prompt": LONG, "steps": 200}, partial_images=199))
    small = [each for each in events if each["type"].endswith("partial_image")]
    assert small and [each["partial_image_index"] for each in small] == [*range(len(small))]
    for each in (*small, events[-1]):
        assert pixels(base64.b64decode(each["b64_json"])).shape == (8, 8, 3)
    assert events[-1]["type"].endswith("completed") and events[-1]["cut"] == ["prompt"]


def test_a_prompt_that_is_too_long_is_cut_and_said(worded: Path, serve_run: Start) -> None:
    _, caller = serve_run(worded)
    long, short = (caller.generate(**{**APPLE, "prompt": text}) for text in (LONG, "a red apple a green"))
    assert long.json["cut"] == ["prompt"] and long.json["data"] == short.json["data"]
    both = caller.generate(**{**APPLE, "prompt": LONG}, negative_prompt=LONG, response_format="png")
    assert both.headers["x-cut"] == "prompt,negative_prompt"
    assert caller.generate(**{**APPLE, "prompt": "dog " * 8000}).status == 200


def test_a_prompt_is_encoded_once_whoever_asks(worded: Path, serve_run: Start) -> None:
    _, caller = serve_run(worded)
    assert prompts_encoded(caller) == 1, "the empty one, at the start"
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: caller.generate(**APPLE, negative_prompt="a dog").json["data"], range(8)))
    assert prompts_encoded(caller) == 3 and answers == [answers[0]] * 8


def test_conditions_may_be_given_by_hand(worded: Path, serve_run: Start) -> None:
    """OpenAI's clients cannot leave out the prompt; what no prompt decides may be given beside one."""
    _, caller = serve_run(worded)
    asked = {"conditions": BY_HAND, "seed": 3, "steps": 5}
    plain = pngs(caller.generate(**asked))[0]
    assert np.array_equal(pngs(caller.generate(**asked, prompt=""))[0], plain)
    away = {"text": [[0.0, 0.0, 0.1]] * TOKENS}
    guided = caller.generate(**asked, guidance=3, unconditional=away)
    assert guided.status == 200 and not np.array_equal(pngs(guided)[0], plain)
    same, other = (caller.generate(**APPLE, conditions={"sizes": sizes}) for sizes in ([0.5, 0.5], [-1, 2]))
    assert same.json["data"] == caller.generate(**APPLE).json["data"] != other.json["data"]


@pytest.mark.parametrize("name", REFUSED)
def test_words_that_cannot_be_used_are_refused_by_name(worded: Path, serve_run: Start, name: str) -> None:
    _, caller = serve_run(worded)
    fields, param = REFUSED[name]
    answer = caller.post(json.dumps({"steps": 2, **fields}).encode())
    assert (answer.status, answer.error["param"]) == (400, param), answer.body
    assert caller.get("/healthz").status == 200


def test_both_engines_of_a_run_take_prompts(worded: Path, serve_run: Start) -> None:
    service, caller = serve_run(worded, also="ort-int8")
    assert len({id(model.subject.encoding) for model in service.models.values()}) == 1
    document = caller.get("/openapi.json").json["components"]["schemas"]["Request"]
    assert document["properties"]["size"]["enum"] == ["8x8", "auto", None]


def test_a_decoder_that_is_slow_holds_up_neither_steps_nor_health(
    worded: Path, serve_run: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Late previews are left out; a client that leaves meanwhile leaves nothing behind; the time limit holds."""
    service, caller = serve_run(worded, timeout=2.0)
    decoding, decoder = service.models["worded"].decoding, load_latent_decoder(worded)
    assert decoding is not None and decoder is not None

    def slow(latents: NDArray[np.float32]) -> NDArray[np.float32]:
        assert not until(lambda: False, 0.25)
        return decoder(latents)

    monkeypatch.setattr(decoding, "_decoder", slow)
    events = list(caller.events(**{**APPLE, "steps": 20}, partial_images=19))
    assert len([each for each in events if each["type"].endswith("partial_image")]) < 10
    assert events[-1]["type"].endswith("completed")
    connection = caller.open(**APPLE, n=10)
    assert until(lambda: decoding.waiting > 1) and service.models["worded"].batcher.accepted == 0
    assert caller.get("/healthz").status == 200
    connection.close()
    assert until(lambda: decoding.waiting == 0 and service.answering == 0, 1)
    assert caller.generate(**APPLE, n=10).error["code"] == "timeout"


def test_prompts_that_wait_take_up_room_and_leave_with_their_client(
    worded: Path, serve_run: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, caller = serve_run(worded, queue=2, timeout=1.0)
    encoding, encoder = service.models["worded"].subject.encoding, load_prompt_encoder(worded)
    assert encoding is not None and encoder is not None

    class Slow:
        cut = staticmethod(encoder.cut)

        def __call__(self, prompts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
            assert not until(lambda: False, 0.6)
            return encoder(prompts)

    monkeypatch.setattr(encoding, "_encoder", Slow())
    first = caller.open(prompt="a red dog", steps=2)
    assert until(lambda: encoding.waiting == 1)
    second = caller.open(prompt="a green dog", steps=2)
    assert until(lambda: encoding.waiting == 2)
    assert caller.generate(**APPLE).error["code"] == "busy" and caller.get("/healthz").status == 200
    second.close()
    assert until(lambda: encoding.waiting < 2, 0.3)
    assert first.getresponse().status == 200
    late = caller.generate(prompt="red", negative_prompt="green", steps=2)
    assert (late.status, late.error["code"]) == (503, "queue_timeout")
    first.close()


@pytest.mark.parametrize(("fault", "status", "code"), [(None, 422, "not_finite"), (OSError(), 500, "fault")])
def test_a_picture_that_cannot_be_decoded_is_told(
    worded: Path, serve_run: Start, monkeypatch: pytest.MonkeyPatch, fault: Exception | None, status: int, code: str
) -> None:
    service, caller = serve_run(worded)

    def broken(latents: NDArray[np.float32]) -> NDArray[np.float32]:
        if fault is not None:
            raise RuntimeError("no memory") from fault
        return np.full((len(latents), 3, 8, 8), np.nan, np.float32)

    monkeypatch.setattr(service.models["worded"].decoding, "_decoder", broken)
    answer = caller.generate(**APPLE)
    assert (answer.status, answer.error["code"]) == (status, code)
    *_, last = caller.events(**APPLE)
    assert (last["type"], last["error"]["code"]) == ("error", code)
    assert until(lambda: service.answering == 0)
