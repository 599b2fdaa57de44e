"""Pictures drawn together are those drawn alone, requests leave between two steps, one that fails takes no other."""

import queue
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from caller import until

from ptq_export.engines.base import Engine
from ptq_export.guidance import Guided
from ptq_export.sampling import initial_noise, sample_loop
from ptq_export.schedulers import SAMPLERS, make_scheduler
from ptq_export.serving.batcher import Batcher, Busy, Closed, Failed, Finished, measured_times
from ptq_export.serving.request import Generation, Subject
from ptq_export.serving.step_times import StepTimes

TOKENS = [[0.5, -1.0, 2.0], [0.0, 1.0, 1.0]]


def batcher_of(engine: Engine, subject: Subject, rows: int = 8, pictures: int = 64) -> Batcher:
    times = measured_times(engine, rows)
    return Batcher(engine, subject.schedule, times, rows, pictures)


def asked(subject: Subject, seed: int = 0, **given: Any) -> Generation:
    plain = {"steps": 8, "sampler": "ddim", "conditions": {"label": 1, "tokens": TOKENS}}
    return subject.generation(seed=seed, **{**plain, **given})


def drawn(batcher: Batcher, wanted: list[Generation]) -> list[torch.Tensor]:
    events: queue.Queue[Any] = queue.Queue()
    batcher.submit(wanted, events.put)
    found = [events.get(timeout=30) for _ in wanted]
    assert all(isinstance(each, Finished) for each in found)
    return [each.sample for each in sorted(found, key=lambda each: each.index)]


def alone(engine: Engine, subject: Subject, wanted: Generation) -> torch.Tensor:
    """The picture that the one sampling loop of the package draws."""
    scheduler, noise = make_scheduler(subject.schedule, wanted.sampler), initial_noise((1, 2, 4, 4), wanted.seed)
    model: Any = engine if wanted.guidance is None else Guided(engine, wanted.guidance, wanted.unconditional)
    return sample_loop(model, scheduler, noise, wanted.steps, wanted.conditions, seed=wanted.seed)


def test_pictures_of_one_batch_are_bit_for_bit_those_drawn_alone(engine: Engine, subject: Subject) -> None:
    samplers = sorted({*SAMPLERS} - {"flow-euler"})
    wanted = [asked(subject, seed, sampler=name, steps=5 + seed) for seed, name in enumerate(samplers)]
    wanted += [asked(subject, 9, conditions={"label": 0, "tokens": TOKENS[:1]})]
    away: Mapping[str, Any] = {"label": 2, "tokens": np.zeros((2, 3), np.float32)}
    wanted += [asked(subject, 7, guidance=3.0, unconditional=away)]
    batcher = batcher_of(engine, subject)
    for found, each in zip(drawn(batcher, wanted), wanted, strict=True):
        assert torch.equal(found, alone(engine, subject, each)), each
    assert batcher.close(10)


def test_no_more_are_accepted_than_there_is_room_for(slow_engine: Engine, subject: Subject) -> None:
    batcher = batcher_of(slow_engine, subject, pictures=3)
    tickets = batcher.submit([asked(subject)] * 2, lambda _: None)
    with pytest.raises(Busy) as busy:
        batcher.submit([asked(subject)] * 2, lambda _: None)
    assert 0 < busy.value.retry_after_s < 8
    for ticket in tickets:
        ticket.cancel()
    assert until(lambda: batcher.accepted == 0)


def test_a_cancelled_one_leaves_within_a_step(slow_engine: Engine, subject: Subject) -> None:
    batcher = batcher_of(slow_engine, subject)
    [long] = batcher.submit([asked(subject, steps=500)], lambda _: None)
    assert until(lambda: batcher.running == 1)
    at = long.calls_left
    long.cancel()
    assert until(lambda: batcher.accepted == 0, 0.5)
    assert at - long.calls_left <= 2


def test_one_that_fails_takes_no_other(engine: Engine, subject: Subject) -> None:
    events: queue.Queue[Any] = queue.Queue()
    wild = {"guidance": 1e4, "unconditional": {"label": 0, "tokens": np.full((2, 3), 3e38, np.float32)}}
    batcher = batcher_of(engine, subject)
    batcher.submit([asked(subject, 1), asked(subject, 2, **wild), asked(subject, 3)], events.put)
    found = {each.index: each for each in (events.get(timeout=30) for _ in range(3))}
    assert isinstance(found[1], Failed) and "NaN or infinite" in str(found[1].error)
    for index, seed in ((0, 1), (2, 3)):
        assert torch.equal(found[index].sample, alone(engine, subject, asked(subject, seed)))


def test_close_finishes_what_was_accepted(slow_engine: Engine, subject: Subject) -> None:
    events: queue.Queue[Any] = queue.Queue()
    batcher = batcher_of(slow_engine, subject)
    batcher.submit([asked(subject, seed) for seed in range(3)], events.put)
    assert batcher.close(20)
    assert events.qsize() == 3 and batcher.accepted == 0
    with pytest.raises(Closed):
        batcher.submit([asked(subject)], events.put)


def test_a_short_one_behind_many_long_ones_ends_within_twice_its_time_alone(
    slow_engine: Engine, subject: Subject
) -> None:
    """Where a batch of n takes n times as long, as this engine's times are said to be."""
    times = StepTimes({rows: 0.02 * rows for rows in (1, 2, 4, 8)})
    batcher = Batcher(slow_engine, subject.schedule, times, 4, 64)
    long = batcher.submit([asked(subject, seed, steps=100) for seed in range(16)], lambda _: None)
    assert until(lambda: long[0].calls_left < 98)
    done = threading.Event()
    at = [ticket.calls_left for ticket in long]
    [short] = batcher.submit([asked(subject, steps=4)], lambda _: done.set())
    assert done.wait(10)
    taken = sum(before - ticket.calls_left for before, ticket in zip(at, long, strict=True))
    assert short.calls_left == 0 and taken <= 2 * 4  # the step under way, and nobody beside it
    for ticket in long:
        ticket.cancel()


def test_a_wrong_measurement_of_the_start_is_put_right_while_serving(slow_engine: Engine, subject: Subject) -> None:
    """This engine takes as long for eight rows as for one; its times say that batches gain nothing."""
    times = StepTimes({rows: 0.02 * rows for rows in (1, 2, 4, 8)})
    batcher = Batcher(slow_engine, subject.schedule, times, 8, 64, adapts=True)
    assert batcher.rows == 1
    tickets = batcher.submit([asked(subject, seed, steps=500) for seed in range(16)], lambda _: None)
    assert until(lambda: batcher.rows == 8, 60)
    for ticket in tickets:
        ticket.cancel()
