"""The engine's thread: step-level continuous batching. Requests join and leave between two steps."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ptq_export.denoiser import NoiseSchedule
from ptq_export.engines.base import Engine
from ptq_export.engines.feeds import zeros
from ptq_export.errors import InputError, explained
from ptq_export.interface import SAMPLE, TIMESTEP
from ptq_export.sampling import Step
from ptq_export.serving.order import choose, due
from ptq_export.serving.request import Generation
from ptq_export.serving.slot import Rows, Slot
from ptq_export.serving.step_times import StepTimes

__all__ = [
    "Batcher",
    "Busy",
    "Closed",
    "Failed",
    "Finished",
    "Observer",
    "Progress",
    "Ticket",
    "measured_times",
    "predict",
]

EXPLORES = 32
log = logging.getLogger(__name__)


class Busy(Exception):
    """There is no room; `retry_after_s` is when there should be some."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"busy for about {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s


class Closed(Exception):
    """Nothing is accepted any more."""


@dataclass(frozen=True)
class Progress:
    """A step of one picture was done."""

    index: int
    step: Step
    calls: int


@dataclass(frozen=True)
class Finished:
    """x_0 `[1, C, ...]` of one picture."""

    index: int
    sample: Tensor


@dataclass(frozen=True)
class Failed:
    """One picture cannot be drawn: an `InputError` is the request's doing, all else ours."""

    index: int
    error: Exception


class Observer(Protocol):
    """What a batcher tells of itself, from its thread."""

    def stepped(self, rows: int, seconds: float) -> None:
        """A step of so many rows took so long."""


class Ticket:
    """One accepted picture. `on_event` is called in the engine's thread, and must not block."""

    def __init__(self, asked: Generation, index: int, on_event: Callable[[Any], None], watched: bool) -> None:
        self.asked, self.index, self.on_event, self.watched = asked, index, on_event, watched
        self.rows, self.calls, self.kind = asked.rows, asked.calls, asked.kind
        self.arrived = time.monotonic()
        self.due = self.arrived
        self.slot: Slot | None = None
        self.cancelled = False

    @property
    def calls_left(self) -> int:
        """How often it calls the network from here on."""
        return self.calls if self.slot is None else self.calls - self.slot.path.index

    def cancel(self) -> None:
        """Take no part in the next step."""
        self.cancelled = True


class Batcher:
    """One engine and the thread that runs it.

    `most_pictures` bounds what is accepted and not finished; `most_rows` is the largest batch. Where it `adapts`, that
    is a bound, and the batch the best one by the step times; every `EXPLORES`-th step may hold twice as many rows, so
    that the times of larger ones are known.
    """

    def __init__(
        self,
        engine: Engine,
        schedule: NoiseSchedule,
        times: StepTimes,
        most_rows: int,
        most_pictures: int,
        observer: Observer | None = None,
        adapts: bool = False,
    ) -> None:
        self.engine, self.schedule, self.times = engine, schedule, times
        self.most_rows, self.most_pictures = most_rows, most_pictures
        self.observer, self.adapts = observer, adapts
        self._steps = 0
        self._tickets: list[Ticket] = []
        self._changed = threading.Condition()
        self._closing = self._broken = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def rows(self) -> int:
        """Rows of a full batch, as things stand."""
        return min(self.times.best_rows, self.most_rows) if self.adapts else self.most_rows

    @property
    def waiting(self) -> int:
        """Accepted pictures that have not begun."""
        with self._changed:
            return sum(ticket.slot is None for ticket in self._tickets)

    @property
    def running(self) -> int:
        """Pictures that have begun: slots in use."""
        with self._changed:
            return sum(ticket.slot is not None for ticket in self._tickets)

    @property
    def accepted(self) -> int:
        """Both."""
        return len(self._tickets)

    def submit(
        self, asked: Sequence[Generation], on_event: Callable[[Any], None], watched: bool = False
    ) -> list[Ticket]:
        """Accept these pictures, all or none. `on_event` gets `Finished` or `Failed` for each, unless it was cancelled,
        and with `watched` a `Progress` per step.

        Raises:
            Busy: there is no room for them.
            Closed: after `close`.
        """
        tickets = [Ticket(each, index, on_event, watched) for index, each in enumerate(asked)]
        with self._changed:
            if self._closing:
                raise Closed
            if len(self._tickets) + len(tickets) > self.most_pictures:
                raise Busy(self._seconds_until_room(len(tickets)))
            for ticket in tickets:
                ticket.due = due(ticket.arrived, ticket.calls, ticket.rows, self.times)
            self._tickets += tickets
            self._changed.notify()
        return tickets

    def close(self, timeout_s: float | None = None) -> bool:
        """Accept nothing more and finish what was accepted; whether all of it is."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _seconds_until_room(self, wanted: int) -> float:
        """When so many places are free, the first due first, at the full batch's rate."""
        surplus = len(self._tickets) + wanted - self.most_pictures
        first = sorted(self._tickets, key=lambda ticket: ticket.due)[:surplus]
        rows = sum(ticket.rows * ticket.calls_left for ticket in first)
        return rows * self.times.seconds(self.rows) / self.rows

    @property
    def alive(self) -> bool:
        """Whether its thread can serve, or ended as it was told."""
        return not self._broken

    def _work(self) -> None:
        try:
            with torch.no_grad():
                while chosen := self._next():
                    self._step(chosen)
        except BaseException as error:  # a fault of this file: whoever waits must hear it
            with self._changed:
                self._closing = self._broken = True
                left = list(self._tickets)
            for ticket in left:
                self._leave(ticket, Failed(ticket.index, RuntimeError(f"the engine's thread ended: {error!r}")))
            raise

    def _next(self) -> list[Ticket]:
        """Those of the next step; waits for some. Empty when all is done and nothing more is accepted."""
        with self._changed:
            while True:
                self._tickets = [ticket for ticket in self._tickets if not ticket.cancelled]
                chosen = choose(self._tickets, self._rows_now(), self.times, time.monotonic())
                if chosen or self._closing:
                    self._steps += 1
                    return list(chosen)
                self._changed.wait()

    def _rows_now(self) -> int:
        explores = self.adapts and self._steps % EXPLORES == 0
        return min(2 * self.rows, self.most_rows) if explores else self.rows

    def _step(self, tickets: list[Ticket]) -> None:
        began = time.perf_counter()
        asked: list[Rows] = []
        for ticket in list(tickets):
            try:
                ticket.slot = ticket.slot or Slot(ticket.asked, self.schedule, self.engine.sample_shape)
                asked.append(ticket.slot.wanted())
            except Exception as error:
                tickets.remove(ticket)
                self._fail(ticket, error)
        if not tickets:
            return
        try:
            outputs = predict(self.engine, asked)
        except Exception as error:
            self._alone(tickets, error)
            return
        for ticket, output in zip(tickets, outputs, strict=True):
            self._take(ticket, output)
        seconds, rows = time.perf_counter() - began, sum(ticket.rows for ticket in tickets)
        self.times.saw(rows, seconds)
        if self.observer is not None:
            self.observer.stepped(rows, seconds)

    def _alone(self, tickets: list[Ticket], error: Exception) -> None:
        """Find who is to blame for a step that failed: each on its own."""
        if len(tickets) == 1:
            self._fail(tickets[0], error)
            return
        for ticket in tickets:
            self._step([ticket])

    def _take(self, ticket: Ticket, output: Tensor) -> None:
        slot = ticket.slot
        assert slot is not None
        try:
            step = slot.take(output)
        except Exception as error:
            self._fail(ticket, error)
            return
        if ticket.watched and not ticket.cancelled:
            ticket.on_event(Progress(ticket.index, step, ticket.calls))
        if slot.path.done:
            self._leave(ticket, Finished(ticket.index, slot.path.sample))

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        if not isinstance(error, InputError):
            log.error("a picture failed: %s", explained(error), exc_info=error)
        self._leave(ticket, Failed(ticket.index, error))

    def _leave(self, ticket: Ticket, event: Any) -> None:
        with self._changed:
            self._tickets = [each for each in self._tickets if each is not ticket]
        if not ticket.cancelled:
            ticket.on_event(event)


def predict(engine: Engine, asked: Sequence[Rows]) -> list[Tensor]:
    """The engine's answer to all of them in one call; an engine of a fixed batch gets its last row again and again."""
    sizes = [len(rows.sample) for rows in asked]
    surplus = 0 if engine.signature.batch is None else engine.signature.batch - sum(sizes)
    feeds = [(rows.sample, rows.timestep, *rows.conditions.values()) for rows in asked]
    columns = [torch.cat(column) if len(column) > 1 else column[0] for column in zip(*feeds, strict=True)]
    if surplus > 0:
        columns = [torch.cat([column, *[column[-1:]] * surplus]) for column in columns]
    sample, timestep, *conditions = (column.numpy() for column in columns)
    given = dict(zip(asked[0].conditions, conditions, strict=True))
    output = torch.from_numpy(engine(sample, timestep, **given))
    if output.shape[0] == sizes[0]:
        return [output]
    return list(torch.split(output[: sum(sizes)], sizes))


def measured_times(engine: Engine, most: int) -> StepTimes:
    """Time the engine on 1, 2, 4, ... `most` rows; one of a fixed batch knows one time alone."""

    def step(rows: int) -> None:
        found = {name: torch.from_numpy(value) for name, value in zeros(engine.signature.inputs, rows).items()}
        predict(engine, [Rows(found.pop(SAMPLE), found.pop(TIMESTEP), found)])

    fixed = engine.signature.batch
    if fixed is None:
        return StepTimes.measure(step, most)
    one = StepTimes.measure(step, 1).seconds(1)
    return StepTimes({1: one, fixed: one})
