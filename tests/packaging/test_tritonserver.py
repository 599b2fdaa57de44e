"""A model repository in a real tritonserver, its steps in the Python backend (the server here has no other)."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_runs import prompted_run
from triton_server import Server, missing, running

from ptq_export.command_options import Packaging
from ptq_export.engines import load_engine
from ptq_export.guidance import Guided
from ptq_export.options import Options
from ptq_export.packaging import check_package, package
from ptq_export.pipeline import run
from ptq_export.pipeline.commands.reopened import finished_manifest, read_schedule
from ptq_export.sampling import initial_noise, sample_loop
from ptq_export.schedulers import make_scheduler

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.skipif(bool(missing()), reason=missing())]
DATA = Path(__file__).parents[1] / "data"
MOST = 12


def served(engine: Path, folder: Path) -> Path:
    """A repository whose sampler draws 12 pictures at a time."""
    out = Path(package(engine, Packaging(folder / "models", "triton", "python"))["package"])
    config = out / "sampler" / "config.pbtxt"
    config.write_text(config.read_text().replace('"64"', f'"{MOST}"'))
    return out


@pytest.fixture(scope="module")
def labelled_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real int8 engine with a thousand classes."""
    told: dict[str, Any] = {
        "assume": "head-width=32,qkv=new,betas=cosine",
        "keep_float": "*.attentions.*",
        "resolution": 16,
    }
    least: dict[str, Any] = {"samples": 4, "steps": 2, "held_out": 2, "rounds": 10, "seconds": 0.1, "min_sqnr": 0.0}
    out = tmp_path_factory.mktemp("runs") / "adm"
    return run(Options(str(DATA / "adm_tiny.pt"), rounding="nearest", out=out, **told, **least))


@pytest.fixture(scope="module")
def server(labelled_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("triton")
    with running(served(labelled_engine, folder), folder) as found:
        yield found


@pytest.fixture(scope="module")
def prompted_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prompted_run(tmp_path_factory.mktemp("runs") / "prompted")


def alone(engine: Path, inputs: dict[str, Any], sampler: str, **conditions: torch.Tensor) -> Any:
    """The picture of one request, as this package draws it in this process."""
    schedule, model = read_schedule(finished_manifest(engine), engine), load_engine(engine)
    noise, denoise = initial_noise((1, *model.sample_shape), inputs["seed"][0]), model
    if "guidance" in inputs:
        away = {name[14:]: torch.tensor(value) for name, value in inputs.items() if name.startswith("unconditional_")}
        rows = {name: value if value.ndim == 1 else value[None] for name, value in away.items()}
        denoise = Guided(model, inputs["guidance"][0], rows)
    scheduler, seed = make_scheduler(schedule, sampler), inputs["seed"][0]
    return sample_loop(denoise, scheduler, noise, inputs["steps"][0], conditions, None, seed)[0].numpy()


REQUESTS = [
    ({"seed": [1], "steps": [6], "label": [3]}, "ddim"),
    ({"seed": [2], "steps": [6], "label": [3]}, "ddim"),
    ({"seed": [3], "steps": [9], "label": [999]}, "ddim"),
    ({"seed": [4], "steps": [5], "label": [0]}, "ddpm"),
    ({"seed": [5], "steps": [6], "label": [7]}, "dpm-solver++"),
    ({"seed": [6], "steps": [8], "label": [8]}, "euler"),
    ({"seed": [7], "steps": [6], "label": [9], "guidance": [2.0], "unconditional_label": [1]}, "ddim"),
    ({"seed": [8], "steps": [7], "label": [10], "preview": [3]}, "unipc"),
]


def test_every_one_of_concurrent_requests_gets_its_own_picture_and_their_steps_are_joined(
    server: Server, labelled_engine: Path
) -> None:
    rows, calls = server.counts()
    wanted = [{"inputs": inputs, "parameters": {"sampler": sampler}} for inputs, sampler in REQUESTS]
    answers = server.ask("draw", wanted)
    for (inputs, sampler), answer in zip(REQUESTS, answers, strict=True):
        picture = np.array(answer["frames"][-1]["sample"], np.float32)
        expected = alone(labelled_engine, inputs, sampler, label=torch.tensor(inputs["label"]))
        assert np.array_equal(picture, expected), (sampler, np.abs(picture - expected).max())
        assert answer["frames"][-1]["seed"] == inputs["seed"]
    rows, calls = server.counts()[0] - rows, server.counts()[1] - calls
    assert rows == 59 and calls < 0.6 * rows, (rows, calls)
    assert [frame["step"] for frame in answers[-1]["frames"]] == [[3], [6], [7]]


def test_a_step_is_the_engine_s_over_http_and_grpc_and_a_bad_one_is_refused_by_name(
    server: Server, labelled_engine: Path
) -> None:
    sample = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32)
    feeds = {"sample": sample.tolist(), "timestep": [[5], [500], [999]], "label": [[1], [2], [3]]}
    good = [{"protocol": protocol, "inputs": feeds} for protocol in ("http", "grpc")]
    bad = [{"label": [[1], [1000], [3]]}, {"timestep": [[1], [-1], [3]]}, {"sample": (sample * np.nan).tolist()}]
    bad += [{"label": [[1], [2]]}, {"label": [1, 2, 3]}]
    answers = server.ask("step", good + [{"protocol": "grpc", "inputs": feeds | each} for each in bad])
    expected = load_engine(labelled_engine)(sample, np.array([5, 500, 999]), label=np.array([1, 2, 3]))
    for answer in answers[:2]:
        assert np.array_equal(np.array(answer["eps"], np.float32), expected)
    told = ("the label", "the time-step", "NaN", "batch size does not match", "unexpected shape for input 'label'")
    assert [word in answer["error"] for word, answer in zip(told, answers[2:], strict=True)] == [True] * 5, answers[2:]


def test_errors_say_what_was_wrong_and_the_server_goes_on(server: Server) -> None:
    good = {"seed": [1], "steps": [2], "label": [3]}
    bad: list[tuple[dict[str, Any], str]] = [
        ({"steps": [0]}, "at least one is needed"),
        ({"steps": [100000]}, "fewer training steps"),
        ({"label": [1000]}, "known: 0..999"),
        ({"seed": [-1]}, "seed is -1"),
        ({"guidance": [float("nan")]}, "guidance is nan"),
        ({"guidance": [2.0]}, "unconditional_label"),
        ({"label": [1, 2]}, "label"),
    ]
    requests: list[dict[str, Any]] = [{"inputs": good | each} for each, _ in bad]
    requests += [{"inputs": good, "parameters": {"sampler": "dim"}}, {"inputs": {"seed": [1]}}, {"inputs": good}]
    answers = server.ask("draw", requests)
    told = [*(words for _, words in bad), "did you mean ddim?", "label"]
    for words, answer in zip(told, answers[:-1], strict=True):
        assert words in answer["error"] and answer["frames"] == [], (words, answer)
    assert "error" not in answers[-1]


def test_plain_http_streams_previews_and_the_picture(server: Server) -> None:
    body = {"label": 3, "seed": 1, "steps": 4, "preview": 2, "sampler": "ddim"}
    lines = server.post("v2/models/sampler/generate_stream", body).splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert [event["step"] for event in events] == [2, 4] and len(events[-1]["image"]) == 3 * 16 * 16
    [frame] = server.ask("draw", [{"inputs": {"label": [3], "seed": [1], "steps": [4]}}])[0]["frames"]
    assert np.array(frame["image"]).ravel().tolist() == events[-1]["image"]
    assert "unknown sampler" in server.post("v2/models/sampler/generate_stream", body | {"sampler": "none"})


def test_a_client_that_leaves_ends_its_picture_within_a_step(server: Server) -> None:
    long = {"inputs": {"label": [3], "seed": [1], "steps": [1000], "preview": [1]}, "leave_after": 3}
    [answer] = server.ask("draw", [long])
    assert len(answer["frames"]) == 3
    time.sleep(1)
    before = server.counts()
    time.sleep(2)
    assert server.counts() == before and before[0] > 0


def test_more_requests_than_threads_are_refused_at_once_and_the_others_drawn(server: Server) -> None:
    wanted = [{"inputs": {"label": [3], "seed": [seed], "steps": [40]}} for seed in range(MOST + 8)]
    answers = server.ask("draw", wanted)
    refused = [answer for answer in answers if "error" in answer]
    assert 0 < len(refused) <= 8 and all("try again later" in answer["error"] for answer in refused)
    assert len({json.dumps(answer["frames"][-1]["seed"]) for answer in answers if "error" not in answer}) >= MOST


def test_a_prompt_of_any_length_has_a_model_of_its_own(prompted_engine: Path, tmp_path: Path) -> None:
    lengths = {11: 2, 12: 5, 13: 5, 14: 5}
    requests = [
        {"seed": [seed], "steps": [6], "text": np.full((tokens, 3), seed / 40).tolist(), "shift": [[0.1] * 4] * 2}
        for seed, tokens in lengths.items()
    ]
    requests[-1] |= {"guidance": [3.0], "unconditional_text": np.zeros((5, 3)).tolist()}
    repository = served(prompted_engine, tmp_path)
    with running(repository, tmp_path) as server:
        before, _ = server.counts("denoiser_prompt")
        answers = server.ask("draw", [{"inputs": each} for each in requests])
        assert server.counts("denoiser_prompt")[0] - before == 5, "a row per prompt, and two under guidance"
    for inputs, answer in zip(requests, answers, strict=True):
        rows = {name: torch.tensor(inputs[name], dtype=torch.float32)[None] for name in ("text", "shift")}
        expected = alone(prompted_engine, inputs, "ddim", **rows)
        picture = np.array(answer["frames"][-1]["sample"], np.float32)
        np.testing.assert_allclose(picture, expected, rtol=0, atol=1e-5)
    (repository / "sampler" / "config.pbtxt").unlink()
    with pytest.raises(Exception, match=r"config\.pbtxt is damaged"):
        check_package(repository)
