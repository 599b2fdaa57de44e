"""What Triton's sampler draws, without Triton: by the models of a package, called as the server would call them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported_net import inputs_of
from made_runs import denoiser, finish
from numpy.typing import NDArray
from served_models import Arrays, Server, unasked

from ptq_export.denoiser import NoiseSchedule
from ptq_export.engines import load_engine
from ptq_export.engines.base import Engine, EngineOptions
from ptq_export.errors import InputError
from ptq_export.guidance import Guided
from ptq_export.interface import Input
from ptq_export.packaging.triton.drawing import Drawer, Frame
from ptq_export.packaging.triton.served import Models
from ptq_export.sampling import initial_noise, sample_loop
from ptq_export.schedulers import make_scheduler

ONE = EngineOptions(threads=1)
CLASS = {"label": np.array([3])}
PROMPT = {"text": np.full((5, 3), 0.3, np.float32), "shift": np.full((2, 4), 0.1, np.float32)}


def settings(seed: int = 5, steps: int = 4, **more: Any) -> Arrays:
    return {"seed": np.array([seed]), "steps": np.array([steps], np.int32)} | more


def alone(engine: Engine | Guided, schedule: NoiseSchedule, sampler: str, shape: Any, rows: Arrays) -> NDArray[Any]:
    """The picture as this package's own loop draws it."""
    conditions = {name: torch.from_numpy(value) for name, value in rows.items()}
    model: Any = engine
    return sample_loop(model, make_scheduler(schedule, sampler), initial_noise((1, *shape), 5), 4, conditions, None, 5)[
        0
    ].numpy()


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm-solver++", "euler", "pndm", "unipc"])
def test_a_picture_is_the_one_of_the_loop_with_the_same_seed(labelled: Path, sampler: str) -> None:
    server, engine = Server(labelled), load_engine(labelled, options=ONE)
    drawn = server.draw(settings() | CLASS, sampler=sampler)
    assert np.array_equal(drawn.sample, alone(engine, server.drawer.schedule, sampler, (1, 8, 8), CLASS))
    assert drawn.step == drawn.steps == server.steps and drawn.image is not None
    levels = 255 * (drawn.sample.astype(np.float64)[0] + 1) / 2
    assert np.abs(drawn.image[..., 0] - levels.clip(0, 255)).max() <= 0.5


def test_a_prompt_is_computed_once_and_guided_by_another(prompted: Path) -> None:
    server, engine = Server(prompted), load_engine(prompted, options=ONE)
    away = np.zeros((5, 3), np.float32)
    guided = settings(guidance=np.array([3], np.float32), unconditional_text=away)
    drawn = server.draw(guided | PROMPT)
    rows = {name: value[None] for name, value in PROMPT.items()}
    twice = Guided(engine, 3.0, {"text": torch.from_numpy(away[None])})
    assert np.array_equal(drawn.sample, alone(twice, server.drawer.schedule, "ddim", (2, 4), rows))
    assert (server.steps, server.prompts, drawn.image) == (4, 1, None)
    assert not np.array_equal(drawn.sample, server.draw(settings() | PROMPT).sample)


def test_previews_come_when_they_are_due_and_what_they_raise_ends_the_work(labelled: Path) -> None:
    server, seen = Server(labelled), []
    last = server.draw(settings(steps=5, preview=np.array([2], np.int32)) | CLASS, after=seen.append)
    assert [frame and frame.step for frame in seen] == [None, 2, None, 4] and last.step == 5

    def leave(_: Frame | None) -> None:
        raise KeyError("left")

    before = server.steps
    with pytest.raises(KeyError):
        server.draw(settings() | CLASS, after=leave)
    assert server.steps == before + 1


def test_a_condition_of_one_number_is_a_row_of_one(tmp_path: Path) -> None:
    finish(
        tmp_path, denoiser=denoiser(inputs_of((2, 4), Input("scale", "float32", (1,)))), package={"format": "triton"}
    )
    drawer = Drawer(tmp_path, Models(unasked, unasked, unasked, unasked))
    assert drawer.wish({"scale": np.array([0.5], np.float32)}).conditions["scale"].shape == (1, 1)


def test_a_seed_that_is_not_given_is_drawn(labelled: Path) -> None:
    drawer = Server(labelled).drawer
    assert len({drawer.wish(CLASS).seed for _ in range(4)}) == 4


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"steps": np.array([0])}, "0 ddim steps of the 1000"),
        ({"steps": np.array([1001])}, "there are fewer training steps"),
        ({"seed": np.array([-1])}, "seed is -1"),
        ({"preview": np.array([-1])}, "preview is -1"),
        ({"label": np.array([10])}, r"label \[10\] is out of range"),
        ({"guidance": np.array([np.nan])}, "guidance is nan"),
        ({"guidance": np.array([np.inf])}, "guidance is inf"),
        ({"guidance": np.array([2.0])}, "give unconditional_label"),
        ({"unconditional_label": np.array([1])}, "unconditional_label would be left unused"),
        ({"unconditional_label": np.array([-1]), "guidance": np.array([2.0])}, r"unconditional_label \[-1\] is out"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_drawn_is_refused_by_its_name(labelled: Path, given: Arrays, told: str) -> None:
    drawer = Server(labelled).drawer
    with pytest.raises(InputError, match=told):
        drawer.wish(settings() | CLASS | given)
    with pytest.raises(InputError, match=r"label .* is missing"):
        drawer.wish(settings())
    with pytest.raises(InputError, match="unknown sampler 'dim'"):
        drawer.wish(settings() | CLASS, {"sampler": "dim"})


def test_conditions_that_are_not_finite_or_do_not_fit_are_refused(prompted: Path) -> None:
    drawer = Server(prompted).drawer
    with pytest.raises(InputError, match="text"):
        drawer.wish(settings() | PROMPT | {"text": np.full((5, 3), np.nan, np.float32)})
    with pytest.raises(InputError, match="shift"):
        drawer.wish(settings() | PROMPT | {"shift": np.zeros((2, 5), np.float32)})
