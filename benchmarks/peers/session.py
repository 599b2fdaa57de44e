"""Workers that hold the models of a measurement, one worker per family of runtimes, all with the same threads."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ptq_export.benchmarks.peers.peer import Entry, slug
from ptq_export.benchmarks.peers.runtimes import RUNTIMES
from ptq_export.benchmarks.peers.served import close_models, eps, open_model, step_ms
from ptq_export.benchmarks.peers.subject import Subject
from ptq_export.benchmarks.peers.worker import Worker
from ptq_export.benchmarks.peers.workshop import Workshop
from ptq_export.interface import SAMPLE, TIMESTEP
from ptq_export.pairs import Pairs
from ptq_export.sampling import EpsModel, initial_noise

__all__ = ["Session"]

TIMES = 20


class Session:
    """Use it as a context: the workers end with the block."""

    def __init__(self, subject: Subject, workshop: Workshop, threads: int) -> None:
        self._subject, self._workshop, self._threads = subject, workshop, threads
        self._workers: dict[str, Worker] = {}

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.close()

    def open(self, entry: Entry, batch: int) -> int:
        """Open a model for `batch` samples; returns how many layers it computes in int8.

        Raises:
            PeerFailed: its runtime cannot.
        """
        worker = self._worker(entry)
        cache = self._workshop.cache / slug(entry.name)
        inputs = [self._subject.as_read(entry.file, feeds) for feeds in self._inputs(batch)]
        return worker.ask(
            open_model, entry.name, entry.runtime, self._subject, entry.file, cache, batch, self._threads, inputs
        )

    def model(self, entry: Entry, batch: int) -> EpsModel:
        """A model that was opened for `batch` samples, as a function of any batch of tensors."""
        worker = self._worker(entry)

        def compute(sample: Tensor, timestep: Tensor, **conditions: Tensor) -> Tensor:
            feeds = Pairs(sample, timestep, conditions).feeds
            arrays = {name: value.numpy() for name, value in feeds.items()}
            answer = worker.ask(eps, entry.name, self._subject.as_read(entry.file, arrays))
            return torch.from_numpy(answer)

        def call(sample: Tensor, timestep: Tensor, **conditions: Tensor) -> Tensor:
            return Pairs(sample, timestep, conditions).in_batches_of(batch, compute)

        return call

    def step_ms(self, entry: Entry) -> float:
        """Milliseconds of one step of a model that was opened."""
        return self._worker(entry).ask(step_ms, entry.name)

    def close_models(self) -> None:
        """Forget every model, and keep the workers."""
        for worker in self._workers.values():
            worker.ask(close_models)

    def _worker(self, entry: Entry) -> Worker:
        family = RUNTIMES[entry.runtime].family
        if family not in self._workers:
            self._workers[family] = Worker(self._workshop.log(f"runtime {family}"))
        return self._workers[family]

    def _inputs(self, batch: int) -> Sequence[Mapping[str, NDArray[Any]]]:
        """Feeds of a step: one normal sample at `TIMES` time-steps from all of T, in turn."""
        total = self._subject.schedule.num_train_timesteps
        sample = initial_noise((batch, *self._subject.sample_shape), seed=batch).numpy()
        given = {name: value.numpy() for name, value in self._subject.draw(batch, batch).items()}
        times = range(0, total, max(1, total // TIMES))
        as_times = self._subject.schedule.timesteps
        return [{SAMPLE: sample, TIMESTEP: as_times([t] * batch).numpy(), **given} for t in times]
