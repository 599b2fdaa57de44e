"""Prompts in Triton's sampler, without Triton: the pictures of `ptq-export sample`, by the models of a package."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served_models import Arrays, Server
from worded_run import SCALE, TOKENS, picture_of_sample

from ptq_export.errors import InputError
from ptq_export.packaging.triton.drawing import Frame

SETTINGS: Arrays = {"seed": np.array([3]), "steps": np.array([5], np.int32)}
LONG = "a red apple a green dog"
BY_HAND: Arrays = {"text": np.full((TOKENS, 3), 0.1, np.float32)}


def guidance(scale: float) -> Arrays:
    return {"guidance": np.array([scale], np.float32)}


@pytest.fixture
def server(worded: Path) -> Server:
    return Server(worded)


@pytest.mark.parametrize(
    ("given", "told", "asked"),
    [
        ({}, {}, {}),
        (guidance(SCALE), {"negative_prompt": ""}, {}),
        (guidance(1), {}, {"guidance": 1.0}),
        (guidance(5), {"negative_prompt": "a green dog"}, {"negative": "a green dog", "guidance": 5.0}),
    ],
    ids=["the run's guidance", "the same by its number", "none", "away from a prompt"],
)
def test_a_prompt_is_the_picture_of_sample_bit_for_bit(
    server: Server, worded: Path, tmp_path: Path, given: Arrays, told: dict[str, str], asked: dict[str, Any]
) -> None:
    wanted, other = (
        picture_of_sample(worded, tmp_path / "one.png", text, 3, 5, **asked) for text in ("a red apple", "a dog")
    )
    drawn = server.draw(SETTINGS | given, prompt="a red apple", **told)
    assert drawn.image is not None and drawn.sample.shape == (2, 4, 4)
    assert np.array_equal(drawn.image, wanted) and not np.array_equal(wanted, other)


def test_previews_are_decoded_and_a_prompt_is_encoded_once(server: Server) -> None:
    seen: list[Frame | None] = []
    for _ in range(2):
        server.draw(SETTINGS | {"preview": np.array([2], np.int32)}, seen.append, prompt="a dog")
    shown = [frame for frame in seen if frame is not None]
    assert [frame.step for frame in shown] == [2, 4] * 2
    assert all(frame.image is not None and frame.image.shape == (8, 8, 3) for frame in shown)
    assert server.asked.count("text_encoder") == 2, "the prompt, and the empty one"
    assert server.asked.count("decoder") == 6


def test_text_that_is_too_long_is_cut_and_said(server: Server) -> None:
    long, short = (server.drawer.wish(SETTINGS, {"prompt": text}) for text in (LONG, "a red apple a green"))
    assert (long.cut, short.cut) == (("prompt",), ())
    assert np.array_equal(long.conditions["text"], short.conditions["text"])
    both = server.drawer.wish(SETTINGS, {"prompt": LONG, "negative_prompt": LONG})
    assert both.cut == ("prompt", "negative_prompt")


def test_conditions_may_be_given_by_hand_and_what_no_prompt_decides_beside_one(server: Server) -> None:
    made = server.drawer.wish(SETTINGS | guidance(1), {"prompt": "a dog"}).conditions
    by_hand = server.draw(SETTINGS | {"text": made["text"][0]})
    assert np.array_equal(by_hand.sample, server.draw(SETTINGS | guidance(1), prompt="a dog").sample)
    assert made["sizes"].tolist() == [[0.5, 0.5]]
    beside = {"sizes": np.array([-1, 2], np.float32)}
    assert server.drawer.wish(SETTINGS | beside, {"prompt": "a dog"}).conditions["sizes"].tolist() == [[-1, 2]]


@pytest.mark.parametrize(
    ("given", "told", "cause"),
    [
        ({}, {}, "takes text: give `prompt`, or the condition text"),
        ({}, {"negative_prompt": "a dog"}, "takes text"),
        ({}, {"prompt": 7}, "prompt must be text"),
        ({}, {"prompt": "dog " * 10_000}, "prompt must be text of at most"),
        ({}, {"prompt": "\ud800"}, "half of a surrogate pair"),
        ({}, {"prompt": "a dog", "negative_prompt": ["red"]}, "negative_prompt must be text"),
        (BY_HAND, {"prompt": "a dog"}, "text is what the prompt decides"),
        (BY_HAND, {"negative_prompt": "a dog"}, "text is what the prompt decides"),
        ({"unconditional_text": BY_HAND["text"]}, {"prompt": "a dog"}, "leads away from `negative_prompt`"),
        (guidance(1), {"prompt": "a dog", "negative_prompt": "red"}, "no guidance to lead away"),
        (guidance(np.nan), {"prompt": "a dog"}, "guidance is nan"),
        (guidance(1e5), {"prompt": "a dog"}, "guidance must be a number in"),
        (BY_HAND | guidance(2), {}, "give unconditional_text"),
        ({"sizes": np.array([np.nan, 1], np.float32)}, {"prompt": "a dog"}, "sizes"),
    ],
)
def test_words_that_cannot_be_used_are_refused_by_name(
    server: Server, given: Arrays, told: dict[str, Any], cause: str
) -> None:
    with pytest.raises(InputError, match=cause):
        server.drawer.wish(SETTINGS | given, told)


def test_a_run_without_text_refuses_prompts(labelled: Path) -> None:
    with pytest.raises(InputError, match="takes no text"):
        Server(labelled).drawer.wish(SETTINGS | {"label": np.array([3])}, {"prompt": "a dog"})


def test_a_picture_that_cannot_be_decoded_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.drawer, "decoder", lambda latents: np.full((len(latents), 3, 8, 8), np.nan, np.float32))
    with pytest.raises(InputError, match="infinite in the decoder"):
        server.draw(SETTINGS, prompt="a dog")


def test_a_tokenizer_that_is_damaged_is_refused(server: Server, worded: Path) -> None:
    (server.out / "sampler" / "1" / "tokenizer.json").write_text(json.dumps({}))
    with pytest.raises(InputError, match=r"tokenizer\.json is damaged"):
        type(server.drawer)(server.out / "sampler" / "1", server.drawer.models)
