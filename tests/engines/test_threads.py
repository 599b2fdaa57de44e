"""Threads on one engine: each gets the answers that it gets alone, bit for bit."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from cpu_kinds import CPU_KINDS, built
from layer_net import CHANNELS, Net
from nets_by_hand import net_by_hand

from ptq_export.engines.base import Engine, EngineOptions
from ptq_export.graph.prompt_file import save_split
from ptq_export.interface import Input

THREADS = 8
TURNS = 30
PROMPTED = """
<ir_version: 10, opset_import: ["": 18]>
net (float[batch,16,4,4] sample, int64[batch] timestep, float[batch,tokens,3] text) => (float[batch,16,4,4] eps)
<float[3,16] w, int64[2] rows = {2, 3}>
{
    k = MatMul(text, w)
    seen = ReduceMean <keepdims = 0> (k, axes)
    wide = Unsqueeze(seen, rows)
    eps = Mul(sample, wide)
}
"""
Feeds = dict[str, np.ndarray]


@pytest.fixture
def int8(tmp_path: Path) -> Path:
    """Layers in int8 and in float, of batch 2."""
    net = Net().conv("plain", False).op("Relu").quantise().conv("quantised", True).quantise().conv("next", True)
    return net.quantise().save(tmp_path / "net.onnx")


@pytest.fixture
def prompted(tmp_path: Path) -> Path:
    """A step graph and its prompt graph."""
    text = PROMPTED.replace("int64[2] rows", "int64[1] axes = {1}, int64[2] rows")
    weight = ", ".join(f"{value:.3f}" for value in np.random.default_rng(0).standard_normal(48))
    text = text.replace("w, int64", f"w = {{{weight}}}, int64", 1)
    model = net_by_hand(text, (CHANNELS, 4, 4), Input("text", "float32", ("tokens", 3)))
    return save_split(model, tmp_path / "denoiser.onnx")


def feeds(seed: int, batches: tuple[int, ...], tokens: bool) -> Iterator[Feeds]:
    """Different samples, batches, time-steps and prompts; each prompt serves some turns."""
    rng = np.random.default_rng(seed)
    for turn in range(TURNS):
        batch = batches[(seed + turn // 5) % len(batches)]
        if turn % 5 == 0:
            text = rng.standard_normal((batch, 1 + seed % 3, 3)).astype(np.float32)
        sample = rng.standard_normal((batch, CHANNELS, 4, 4)).astype(np.float32)
        yield {"sample": sample, "timestep": rng.integers(0, 10, batch)} | ({"text": text} if tokens else {})


def agree(engine: Engine, given: Callable[[int], Iterator[Feeds]]) -> None:
    alone = [[engine(**each) for each in given(seed)] for seed in range(THREADS)]
    start = Barrier(THREADS)

    def loop(seed: int) -> list[np.ndarray]:
        start.wait()
        return [engine(**each) for each in given(seed)]

    with ThreadPoolExecutor(THREADS) as pool:
        together = [*pool.map(loop, range(THREADS))]
    for one, other in zip(alone, together, strict=True):
        assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", CPU_KINDS)
def test_eight_threads_get_the_answers_that_each_gets_alone(kind: str, threads: int, int8: Path) -> None:
    engine = built(kind, int8, EngineOptions(threads=threads))
    agree(engine, lambda seed: feeds(seed, (2,), tokens=False))


@pytest.mark.parametrize("kind", CPU_KINDS)
def test_threads_of_other_batches_and_prompts_are_not_mixed(kind: str, prompted: Path) -> None:
    agree(built(kind, prompted), lambda seed: feeds(seed, (1, 2, 3), tokens=True))


@pytest.mark.parametrize("kind", CPU_KINDS)
def test_more_shapes_than_are_kept_are_served_to_threads(kind: str, prompted: Path) -> None:
    engine = built(kind, prompted)
    engine.__dict__.update(_shapes_kept=1)  # of OpenVINO: every other batch is compiled again, or read from its file
    agree(engine, lambda seed: [*feeds(seed, (1, 2), tokens=True)][:6])
