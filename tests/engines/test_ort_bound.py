"""Binding by address, on the CPU with ONNX Runtime's own provider; the host stands in for CUDA's streams and events."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch

from ptq_export.engines.ort.gpu import bound as ort_bound
from ptq_export.engines.ort.gpu.bound import BoundModel, Buffers, Region, bind
from ptq_export.engines.ort.session import CPU, Level, open_session, session_settings
from ptq_export.errors import InputError

Write = Callable[..., Path]
Reference = Callable[[np.ndarray, np.ndarray], np.ndarray]
STREAM = 7


@pytest.fixture
def session(denoiser_onnx: Write) -> onnxruntime.InferenceSession:
    return open_session(denoiser_onnx(), session_settings(1, Level.ORT_DISABLE_ALL), [CPU])


def step(seed: int, batch: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(batch, 2, 4, 4, generator=generator)
    return {"sample": sample, "timestep": torch.arange(batch) + seed, "eps": torch.zeros(batch, 2, 4, 4)}


def regions(tensors: dict[str, torch.Tensor]) -> dict[str, Region]:
    return {name: Region(tensor.data_ptr(), tuple(tensor.shape)) for name, tensor in tensors.items()}


def expected(reference: Reference, tensors: dict[str, torch.Tensor]) -> np.ndarray:
    return reference(tensors["sample"].numpy(), tensors["timestep"].numpy())


def test_tensors_are_read_and_written_where_they_lie(
    session: onnxruntime.InferenceSession, reference: Reference
) -> None:
    tensors = step(0)
    binding = bind(session, regions(tensors), "cpu")
    for seed in (0, 1):
        fresh = step(seed)
        tensors["sample"].copy_(fresh["sample"])
        session.run_with_iobinding(binding)
        np.testing.assert_allclose(tensors["eps"].numpy(), expected(reference, tensors), rtol=1e-4, atol=1e-5)


def test_buffers_keep_their_addresses_when_they_are_loaded_again(
    session: onnxruntime.InferenceSession, reference: Reference
) -> None:
    tensors = step(0)
    buffers = Buffers(session, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, "cpu")
    before = dict(buffers.regions)
    for seed in (1, 2):
        fresh = step(seed)
        buffers.load({name: fresh[name].numpy() for name in ("sample", "timestep")})
        session.run_with_iobinding(buffers.binding)
        np.testing.assert_allclose(buffers.fetch("eps"), expected(reference, fresh), rtol=1e-4, atol=1e-5)
    assert buffers.regions == before and buffers.size_bytes("timestep") == 3 * 8


class Host:
    """A stream whose work is done as soon as it is asked for, and what was done with it."""

    def __init__(self, session: onnxruntime.InferenceSession, follows: bool, refuse_graph: str = "") -> None:
        self.session, self.follows, self.refuse_graph = session, follows, refuse_graph
        self.done: list[str] = []
        self.opened: list[bool] = []

    def open(self, stream: int, graph: bool) -> object:
        """The session as it would be on a GPU: one that tells its options, and is run with or without waiting."""
        self.opened.append(graph)
        if graph and self.refuse_graph == "load":
            raise InputError("ONNX Runtime cannot load it: nodes are left to the CPU")
        options = {"user_compute_stream": str(stream)} if self.follows else {}

        def run(binding: object, options: onnxruntime.RunOptions | None = None) -> None:
            if graph and self.refuse_graph == "record":
                raise RuntimeError("ONNX Runtime cannot record it: operation not permitted when stream is capturing")
            self.done.append("run" if options is None else "run without waiting")
            self.session.run_with_iobinding(binding, options)

        return SimpleNamespace(
            get_inputs=self.session.get_inputs,
            get_outputs=self.session.get_outputs,
            io_binding=self.session.io_binding,
            get_providers=lambda: ["GPU"],
            get_provider_options=lambda: {"GPU": options},
            run_with_iobinding=run,
        )

    def copy(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        self.done.append("copy")
        ctypes.memmove(target, source, size_bytes)


class Event:
    def __init__(self, done: list[str]) -> None:
        self.done = done

    def record(self, stream: int) -> None:
        self.done.append(f"record on {stream}")

    def hold(self, stream: int) -> None:
        self.done.append(f"hold {stream}")

    def synchronise(self) -> None:
        self.done.append("wait for the event")

    def elapsed_ms(self, since: "Event") -> float:
        return 1.5


@pytest.fixture
def on_host(session: onnxruntime.InferenceSession, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Host]:
    def make(follows: bool = True, refuse_graph: str = "") -> Host:
        host = Host(session, follows, refuse_graph)
        stream = SimpleNamespace(handle=STREAM, synchronise=lambda: host.done.append("wait for the stream"))
        monkeypatch.setattr(ort_bound, "Stream", lambda: stream)
        monkeypatch.setattr(ort_bound, "Event", lambda: Event(host.done))
        monkeypatch.setattr(ort_bound, "copy", host.copy)
        return host

    return make


def test_a_step_lies_between_what_was_and_what_comes_on_the_caller_s_stream(
    on_host: Callable[..., Host], reference: Reference
) -> None:
    host, tensors = on_host(), step(0)
    model = BoundModel(host.open, "cpu")
    model.enqueue(regions(tensors), 3, False)
    assert host.done == ["record on 3", "hold 7", "run without waiting", "record on 7", "hold 3"]
    np.testing.assert_allclose(tensors["eps"].numpy(), expected(reference, tensors), rtol=1e-4, atol=1e-5)


def test_a_session_without_our_stream_is_waited_for(on_host: Callable[..., Host]) -> None:
    host, tensors = on_host(follows=False), step(0)
    BoundModel(host.open, "cpu").enqueue(regions(tensors), 3, False)
    assert host.done == ["record on 3", "hold 7", "wait for the stream", "run", "record on 7", "hold 3"]


def test_a_graph_has_one_session_per_shape_and_data_goes_through_its_buffers(
    on_host: Callable[..., Host], reference: Reference
) -> None:
    host = on_host()
    model = BoundModel(host.open, "cpu")
    for seed, batch in ((0, 3), (1, 3), (2, 1)):
        tensors = step(seed, batch)
        model.enqueue(regions(tensors), 3, True)
        np.testing.assert_allclose(tensors["eps"].numpy(), expected(reference, tensors), rtol=1e-4, atol=1e-5)
    assert host.opened == [False, True, True] and host.done.count("copy") == 3 * 3


@pytest.mark.parametrize("when", ["load", "record"])
def test_a_graph_that_is_refused_is_computed_without_told_once_and_not_tried_again(
    when: str, on_host: Callable[..., Host], reference: Reference, caplog: pytest.LogCaptureFixture
) -> None:
    host, tensors = on_host(refuse_graph=when), step(0)
    model = BoundModel(host.open, "cpu")
    for _ in range(2):
        model.enqueue(regions(tensors), 3, True)
        np.testing.assert_allclose(tensors["eps"].numpy(), expected(reference, tensors), rtol=1e-4, atol=1e-5)
    feeds = {name: tensors[name].numpy() for name in ("sample", "timestep")}
    assert not model.timed_step(feeds, "eps", (3, 2, 4, 4), True)().recorded
    assert host.opened == [False, True] and f"ONNX Runtime cannot {when} it" in caplog.text
    assert caplog.text.count("no CUDA graph") == 1


@pytest.mark.parametrize("graph", [True, False])
def test_a_step_is_timed_by_events_behind_another_and_copies_nothing(on_host: Callable[..., Host], graph: bool) -> None:
    host, tensors = on_host(), step(0)
    feeds = {name: tensors[name].numpy() for name in ("sample", "timestep")}
    timed = BoundModel(host.open, "cpu").timed_step(feeds, "eps", (3, 2, 4, 4), graph)
    host.done.clear()
    timing = timed()
    run = "run without waiting"
    assert host.done == ["wait for the stream", run, "record on 7", run, "record on 7", "wait for the event"]
    assert (timing.compute_ms, timing.recorded, timing.by_events) == (1.5, graph, True)
    assert host.opened == [False, True] if graph else [False]


@pytest.mark.parametrize("graph", [True, False])
def test_a_loop_is_single_steps_without_a_wait_between_them(on_host: Callable[..., Host], graph: bool) -> None:
    host, tensors = on_host(), step(0)
    feeds = {name: tensors[name].numpy() for name in ("sample", "timestep")}
    loop = BoundModel(host.open, "cpu").step_loop(feeds, "eps", (3, 2, 4, 4), graph)
    host.done.clear()
    loop(3)
    assert host.done == ["run without waiting"] * 3 + ["wait for the stream"]


def test_without_our_stream_a_step_is_timed_by_the_wall_clock_and_says_so(on_host: Callable[..., Host]) -> None:
    host, tensors = on_host(follows=False), step(0)
    feeds = {name: tensors[name].numpy() for name in ("sample", "timestep")}
    timing = BoundModel(host.open, "cpu").timed_step(feeds, "eps", (3, 2, 4, 4), False)()
    assert not timing.by_events and timing.compute_ms == timing.enqueue_ms > 0 and timing.compute_ms != 1.5
