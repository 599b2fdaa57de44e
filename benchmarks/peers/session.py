"""Workers that hold the models of a measurement, one worker per family of runtimes, all with the same threads."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptq_export.benchmarks.peers.peer import Entry, slug
from ptq_export.benchmarks.peers.runtimes import RUNTIMES
from ptq_export.benchmarks.peers.served import close_models, eps, open_model, step_ms
from ptq_export.benchmarks.peers.subject import Subject
from ptq_export.benchmarks.peers.worker import Worker
from ptq_export.benchmarks.peers.workshop import Workshop
from ptq_export.denoiser import draw_labels
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
        inputs = self._inputs(batch)
        return worker.ask(
            open_model, entry.name, entry.runtime, self._subject, entry.file, cache, batch, self._threads, inputs
        )

    def model(self, entry: Entry, batch: int) -> EpsModel:
        """A model that was opened for `batch` samples, as a function of any batch of tensors."""
        worker = self._worker(entry)

        def call(*inputs: Tensor) -> Tensor:
            short = -len(inputs[0]) % batch
            padded = [torch.cat([value, value[:1].expand(short, *value.shape[1:])]) for value in inputs]
            chunks = zip(*(torch.split(value, batch) for value in padded), strict=True)
            answers = [worker.ask(eps, entry.name, [value.numpy() for value in chunk]) for chunk in chunks]
            return torch.from_numpy(np.concatenate(answers))[: len(inputs[0])]

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

    def _inputs(self, batch: int) -> Sequence[Sequence[NDArray[Any]]]:
        """Arguments of a step: one normal sample at `TIMES` time-steps from all of T, in turn."""
        total = self._subject.schedule.num_train_timesteps
        sample = initial_noise((batch, *self._subject.sample_shape), seed=batch).numpy()
        label = [value.numpy() for value in draw_labels(self._subject.classes, batch, batch)]
        times = range(0, total, max(1, total // TIMES))
        return [[sample, np.full(batch, t, np.int64), *label] for t in times]
