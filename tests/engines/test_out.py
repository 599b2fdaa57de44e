"""Answers in the caller's memory, and steps that are bound to it, on every engine kind of the CPU."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cpu_kinds import CPU_KINDS, built

from ptq_export.engines.base import Engine
from ptq_export.errors import InputError

Write = Callable[..., Path]
every_kind = pytest.mark.parametrize("kind", CPU_KINDS)


def noise(batch: int = 3) -> np.ndarray:
    return np.random.default_rng(batch).standard_normal((batch, 2, 4, 4)).astype(np.float32)


@pytest.fixture
def engine(kind: str, denoiser_onnx: Write) -> Engine:
    return built(kind, denoiser_onnx())


@every_kind
@pytest.mark.parametrize("kind_of_out", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
def test_the_answer_is_in_out_and_the_next_one_leaves_it(engine: Engine, kind_of_out: Callable[..., Any]) -> None:
    own = np.full((4, 2, 4, 4), np.nan, np.float32)
    out = kind_of_out(own[1:])  # of a larger array: its rows alone are written
    assert engine(noise(), 4, out=out) is out
    np.testing.assert_array_equal(own[1:], engine(noise(), 4))
    engine(2 * noise(), 4)
    np.testing.assert_array_equal(own[1:], engine(noise(), 4))
    assert np.isnan(own[0]).all()


READ_ONLY = np.zeros((3, 2, 4, 4), np.float32)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize("kind", CPU_KINDS[:1])
@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.zeros((3, 2, 4, 4)), r"out is float64 \[3, 2, 4, 4\] on cpu\nthis call writes contiguous float32"),
        (np.zeros((2, 2, 4, 4), np.float32), r"out is float32 \[2, 2, 4, 4\]"),
        (np.zeros((3, 2, 4, 8), np.float32)[..., ::2], "not contiguous"),
        (torch.zeros(3, 2, 4, 4, device="meta"), "on meta"),
        (READ_ONLY, "cannot be written"),
        ([0.0], "out is list"),
    ],
    ids=["type", "rows", "strides", "device", "read only", "list"],
)
def test_an_out_that_does_not_fit_is_refused(engine: Engine, out: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        engine(noise(), 4, out=out)


@pytest.mark.parametrize("kind", CPU_KINDS[:1])
def test_an_out_that_is_the_sample_is_refused(engine: Engine) -> None:
    sample = noise()
    with pytest.raises(InputError, match="shares its memory with sample"):
        engine(sample, 4, out=sample)


@every_kind
@pytest.mark.parametrize("given", [np.asarray, torch.from_numpy], ids=["arrays", "tensors"])
def test_a_bound_step_computes_what_its_memory_holds_by_then(engine: Engine, given: Callable[..., Any]) -> None:
    sample, timestep, out = given(noise()), given(np.array([1, 2, 3])), given(np.empty_like(noise()))
    step = engine.bind(sample, timestep, out)
    for turn in range(3):
        sample *= 2
        timestep[:] = turn
        assert step() is out
        np.testing.assert_array_equal(np.asarray(out), engine(np.asarray(sample).copy(), turn))


@every_kind
def test_a_bound_step_refuses_values_that_a_call_refuses(engine: Engine) -> None:
    sample, timestep = noise(), np.array([1, 2, 3])
    step = engine.bind(sample, timestep, np.empty_like(sample))
    timestep[1] = 10
    with pytest.raises(InputError, match=r"time-step \[1, 10, 3\] is out of range"):
        step()
    timestep[1], sample[2, 1, 0, 0] = 0, np.nan
    with pytest.raises(InputError, match="NaN"):
        step()


@every_kind
@pytest.mark.parametrize(
    ("sample", "timestep", "message"),
    [
        (noise(), 3, "timestep would be a copy"),
        (noise(), np.full(3, 3, np.int32), r"give a contiguous, writable int64 .* \[3\]"),
        (noise().swapaxes(2, 3), np.full(3, 3), "sample would be a copy"),
        (READ_ONLY, np.full(3, 3), "writable float32"),
    ],
)
def test_what_would_be_copied_cannot_be_bound(engine: Engine, sample: Any, timestep: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        engine.bind(sample, timestep, np.empty_like(noise()))


@every_kind
@pytest.mark.parametrize("given", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
def test_the_runtime_reads_the_callers_own_memory(
    engine: Engine, given: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    run = engine.run
    monkeypatch.setattr(engine, "run", lambda feeds, out=None: (seen.append(feeds), run(feeds, out))[1])
    sample, timestep = noise(), np.array([1, 2, 3])
    engine(given(sample), given(timestep))
    [feeds] = seen
    assert np.shares_memory(feeds["sample"], sample) and np.shares_memory(feeds["timestep"], timestep)


@every_kind
def test_a_step_allocates_nothing_of_its_samples_size(engine: Engine) -> None:
    """16 MB in and out, of which numpy, which tells tracemalloc, makes no second array."""
    sample, timestep = np.ones((131072, 2, 4, 4), np.float32), np.zeros(131072, np.int64)
    out = np.empty_like(sample)
    step = engine.bind(sample, timestep, out)
    step()
    tracemalloc.start()
    try:
        step()
        assert tracemalloc.get_traced_memory()[1] < sample.nbytes / 100
    finally:
        tracemalloc.stop()
