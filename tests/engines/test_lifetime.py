"""An engine lives in the process that loaded it, until it is closed, and is never copied."""

import copy
import gc
import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from cpu_kinds import CPU_KINDS, built

from ptq_export.engines.base import Engine
from ptq_export.errors import InputError

Write = Callable[..., Path]
SAMPLE = np.ones((1, 2, 4, 4), np.float32)
pytestmark = pytest.mark.parametrize("kind", CPU_KINDS)


@pytest.fixture
def engine(kind: str, denoiser_onnx: Write) -> Engine:
    return built(kind, denoiser_onnx())


def spawned(engine: Engine) -> None:
    multiprocessing.get_context("spawn").Process(target=print, args=(engine,)).start()


def deep_copied_unet(engine: Engine) -> None:
    copy.deepcopy(engine.as_unet())


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy, spawned, deep_copied_unet])
def test_a_copy_is_refused_with_the_remedy(engine: Engine, copied: Callable[[Engine], object]) -> None:
    with pytest.raises(InputError, match=r"cannot be pickled or copied: .*\ncall load_engine in each process"):
        copied(engine)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_is_refused_and_does_not_hang(engine: Engine) -> None:
    engine(SAMPLE, 3)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            engine(SAMPLE, 3)
        except InputError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        assert f"loaded by process {os.getpid()}, and process {child} is a fork of it" in told.read()
    assert os.waitpid(child, 0)[1] == 0
    assert engine(SAMPLE, 3).shape == SAMPLE.shape, "the one that loaded it goes on"


def test_a_closed_engine_says_so(engine: Engine) -> None:
    step = engine.bind(SAMPLE.copy(), np.zeros(1, np.int64), SAMPLE.copy())
    with engine as entered:
        assert entered(SAMPLE, 3).shape == SAMPLE.shape
    for call in (lambda: engine(SAMPLE, 3), lambda: engine.bind(SAMPLE, 3, SAMPLE), step):
        with pytest.raises(InputError, match=r"closed\nload it again"):
            call()
    engine.close()


def test_memory_is_flat_over_many_loads(kind: str, denoiser_onnx: Write) -> None:
    source, process = denoiser_onnx(), psutil.Process()

    def resident_after(cycles: int) -> int:
        for _ in range(cycles):
            with built(kind, source) as engine:
                engine(np.repeat(SAMPLE, 64, axis=0), 3)
        gc.collect()
        return process.memory_info().rss

    settled = resident_after(20)
    assert resident_after(60) - settled < 4 << 20
