"""The network in torch: eager, and compiled by Inductor; the latter executes torchao's int8 programs, too."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ptq_export.benchmarks.peers.runtimes import Call, Feeds, Opened
from ptq_export.benchmarks.peers.subject import Subject
from ptq_export.pairs import Pairs
from ptq_export.pipeline.commands.reopened import reopen
from ptq_export.pipeline.progress import SILENT

__all__ = ["network", "open_compiled", "open_eager"]

INT8_KERNELS = ("onednn::qconv", "onednn::qlinear", "quantized::linear")


def network(subject: Subject) -> nn.Module:
    """The denoiser's module `(sample, timestep, **conditions)`, its time embedding computed, in evaluation mode."""
    return reopen(subject.folder, SILENT).denoiser.module.eval()


def open_eager(subject: Subject, file: Path | None, cache: Path, batch: int, threads: int) -> Opened:
    """The module as it is; `file`, `cache` and `batch` mean nothing to it."""
    torch.set_num_threads(threads)
    return Opened(_on_numpy(network(subject)), 0)


def open_compiled(subject: Subject, file: Path | None, cache: Path, batch: int, threads: int) -> Opened:
    """`torch.compile` of the module, or of the exported program in `file`, for one batch; weights frozen into it."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache / "inductor")
    import torch._inductor.config as inductor

    inductor.freezing = True
    torch.set_num_threads(threads)
    module = network(subject) if file is None else _program(file)
    call = _on_numpy(torch.compile(module, dynamic=False))
    example = _example(subject, batch)
    call(example)
    return Opened(call, 0 if file is None else _int8_kernels(call, example))


def _program(file: Path) -> nn.Module:
    # Registers the operators that the program is made of, and Inductor's patterns for them.
    import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer  # noqa: F401

    return torch.export.load(file).module()


def _on_numpy(model: Callable[..., Any]) -> Call:
    def call(feeds: Feeds) -> NDArray[Any]:
        with torch.no_grad():
            pairs = Pairs.of_feeds({name: torch.from_numpy(value) for name, value in feeds.items()})
            eps: NDArray[np.float32] = pairs.through(model).numpy()
        return eps

    return call


def _example(subject: Subject, batch: int) -> Feeds:
    rows = np.zeros(batch, np.int64)
    return {name: np.ascontiguousarray(values[rows]) for name, values in subject.pairs().items()}


def _int8_kernels(call: Call, example: Feeds) -> int:
    """How many int8 kernels one call runs."""
    with torch.profiler.profile() as profile:
        call(example)
    return sum(event.count for event in profile.key_averages() if event.key.startswith(INT8_KERNELS))
