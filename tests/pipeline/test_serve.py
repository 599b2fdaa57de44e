"""`ptq-export serve` on a finished run: its pictures are those of `ptq-export sample`, and it ends in order."""

import json
import queue
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner
from watcher import Watcher

from ptq_export import cli, serving
from ptq_export.command_options import Sampling, Serving
from ptq_export.pipeline import sample
from ptq_export.sampling import initial_noise, sample_loop
from ptq_export.schedulers import make_scheduler
from ptq_export.serving.metrics import Metrics
from ptq_export.serving.model import Model, load_models

SIDE = 8


@pytest.fixture
def server(finished: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "ptq_export", "serve", str(finished), "--port", "0", "--max-batch", "4"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    address = next(found[0] for line in process.stderr if (found := re.search(r"http://\S+", line)))
    yield process, address
    process.kill()
    process.communicate()


def generate(address: str, accept: str = "image/png", **fields: Any) -> tuple[int, bytes]:
    headers = {"content-type": "application/json", "accept": accept}
    asked = Request(f"{address}/v1/images/generations", json.dumps(fields).encode(), headers)
    try:
        with urlopen(asked, timeout=60) as answer:
            return answer.status, answer.read()
    except HTTPError as refused:
        return refused.code, refused.read()


def long_one(address: str) -> tuple[int, bytes]:
    """A request that takes seconds on any machine."""
    return generate(address, "application/json", n=10, steps=1000, seed=1)


def until(told: Callable[[], bool]) -> None:
    while not told():
        time.sleep(0.01)


def is_drawing(address: str) -> bool:
    with urlopen(f"{address}/metrics", timeout=60) as answer:
        return re.search(rb"^ptq_slots_in_use\{.*\} [1-9]", answer.read(), re.MULTILINE) is not None


def is_draining(address: str) -> bool:
    try:
        with urlopen(f"{address}/readyz", timeout=60):
            return False
    except HTTPError as refused:
        return refused.code == 503


def test_same_picture_as_sample_and_an_orderly_end(
    server: tuple[subprocess.Popen[str], str], finished: Path, tmp_path: Path, watcher: Watcher
) -> None:
    process, address = server
    sample(finished, Sampling(tmp_path / "one.png", 1, 10, "dpm-solver++", seed=3), watcher)
    grid = np.asarray(Image.open(tmp_path / "one.png"))
    scale = grid.shape[0] // (SIDE + 2)
    status, png = generate(address, seed=3, steps=10, sampler="dpm-solver++")
    assert status == 200
    assert np.array_equal(np.asarray(Image.open(BytesIO(png))), grid[::scale, ::scale][1:-1, 1:-1])
    with ThreadPoolExecutor() as pool:
        accepted = pool.submit(long_one, address)
        until(lambda: is_drawing(address))
        process.send_signal(signal.SIGTERM)
        until(lambda: is_draining(address))
        refused = generate(address, steps=1)
        assert accepted.result()[0] == 200
    assert refused[0] == 503 and json.loads(refused[1])["error"]["code"] == "draining"
    assert process.wait(20) == 0


def test_a_second_signal_ends_at_once(server: tuple[subprocess.Popen[str], str]) -> None:
    process, address = server
    with ThreadPoolExecutor() as pool:
        cut_off = pool.submit(long_one, address)
        until(lambda: is_drawing(address))
        process.send_signal(signal.SIGTERM)
        until(lambda: is_draining(address))
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 128 + signal.SIGTERM
        assert cut_off.exception() is not None


def test_int8_pictures_of_one_batch_are_bit_for_bit_those_drawn_alone(finished: Path) -> None:
    [model] = load_models(finished, Serving(max_batch=8), Metrics()).values()
    wanted = [(seed, 3 + seed) for seed in range(8)]
    found: queue.Queue[Any] = queue.Queue()
    asked = [model.subject.generation(seed=s, steps=n, sampler="ddim", conditions={}) for s, n in wanted]
    model.batcher.submit(asked, found.put)
    for _ in wanted:
        event = found.get(timeout=60)
        assert torch.equal(event.sample, alone(model, *wanted[event.index]))
    assert model.batcher.close(10)


def alone(model: Model, seed: int, steps: int) -> torch.Tensor:
    scheduler, noise = make_scheduler(model.subject.schedule, "ddim"), initial_noise((1, 1, SIDE, SIDE), seed)
    return sample_loop(model.batcher.engine, scheduler, noise, steps, seed=seed)


def test_two_engines_of_a_run_are_served_side_by_side(finished: Path) -> None:
    models = load_models(finished, Serving(also="ort-fp32", max_batch=1), Metrics())
    assert {name: model.target for name, model in models.items()} == {
        finished.name: "ort-int8",
        f"{finished.name}:ort-fp32": "ort-fp32",
    }


def test_what_cannot_be_served_is_told(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = CliRunner()
    assert runner.invoke(cli.app, ["serve", str(tmp_path)]).exit_code == 2
    busy = runner.invoke(cli.app, ["serve", str(finished), "--host", "192.0.2.1"])
    assert busy.exit_code == 2 and "cannot listen on 192.0.2.1:8000" in busy.output
    monkeypatch.setattr(serving, "PACKAGES", ("starlette_that_is_absent",))
    absent = runner.invoke(cli.app, ["serve", str(finished)])
    assert absent.exit_code == 3 and "pip install 'ptq-export[serve]'" in absent.output
