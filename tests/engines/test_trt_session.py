"""A plan's session on a host that plays the device: which stream does what, what a recording is, what stays alive."""

import ctypes
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ptq_export.engines.trt import session as trt_session
from ptq_export.engines.trt.session import Session
from ptq_export.errors import EnvironmentMissing

CALLER, OWN = 3, 7
X = np.arange(8, dtype=np.float32).reshape(2, 4)


class Host:
    """TensorRT and CUDA, as far as a session uses them; its engine computes y = x + 1 when a step is asked for, and
    its copies from the host read when the stream is waited for."""

    def __init__(self, recordable: bool) -> None:
        self.recordable, self.capturing = recordable, False
        self.done: list[str] = []
        self.pending: list[Callable[[], None]] = []
        self.contexts: weakref.WeakSet[Any] = weakref.WeakSet()
        self.most_contexts = 0

    def finish(self) -> None:
        self.done.append("wait")
        for work in self.pending:
            work()
        self.pending.clear()

    def execute(self, addresses: dict[str, int], size: int, stream: int) -> bool:
        if self.capturing and not self.recordable:
            return False
        self.done.append(f"{'record' if self.capturing else 'execute'} on {stream}")
        if not self.capturing:
            self.later(lambda: self.compute(addresses, size))
        return True

    def later(self, work: Callable[[], None]) -> None:
        self.pending.append(work)

    @staticmethod
    def compute(addresses: dict[str, int], size: int) -> None:
        x, y = (np.ctypeslib.as_array((ctypes.c_float * size).from_address(addresses[name])) for name in ("x", "y"))
        y[:] = x + 1


class Context:
    def __init__(self, host: Host) -> None:
        self.host, self.addresses, self.shape = host, {}, ()  # type: ignore[var-annotated]
        host.contexts.add(self)
        host.most_contexts = max(host.most_contexts, len(host.contexts))

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        return self.host.execute(dict(self.addresses), int(np.prod(self.shape)), stream)


class Block:
    def __init__(self, host: Host, size_bytes: int) -> None:
        self.host, self.size_bytes = host, size_bytes
        self.memory = np.zeros(size_bytes + 256, np.uint8)
        self.address = -(-self.memory.ctypes.data // 256) * 256

    def read(self, array: np.ndarray, stream: int) -> None:
        source, address, size = weakref.ref(array), self.address, array.nbytes

        def copy() -> None:
            found = source()
            assert found is not None, "the array is gone before the device has read it"
            ctypes.memmove(address, found.ctypes.data, size)

        self.host.later(copy)

    def write(self, array: np.ndarray, stream: int) -> None:
        target, address, size = array.ctypes.data, self.address, array.nbytes
        self.host.later(lambda: ctypes.memmove(target, address, size) and None)


@pytest.fixture
def on_host(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Session, Host]]:
    def make(recordable: bool = True) -> tuple[Session, Host]:
        host = Host(recordable)

        class Graph:
            def __init__(self, enqueue: Callable[[int], None], stream: Any) -> None:
                host.capturing = True
                try:
                    enqueue(stream.handle)
                finally:
                    host.capturing = False
                self.addresses = dict(session._context.addresses)

            def launch(self, stream: int) -> None:
                host.done.append(f"launch on {stream}")
                host.later(lambda: host.compute(self.addresses, X.size))

        def event() -> SimpleNamespace:
            return SimpleNamespace(
                record=lambda stream: host.done.append(f"mark {stream}"),
                hold=lambda stream: host.done.append(f"hold {stream}"),
                synchronise=host.finish,
                elapsed_ms=lambda since: 1.5,
            )

        def copy(target: int, source: int, size: int, stream: int) -> None:
            host.done.append(f"copy on {stream}")
            host.later(lambda: ctypes.memmove(target, source, size) and None)

        parts = {
            "Stream": lambda: SimpleNamespace(handle=OWN, synchronise=host.finish),
            "Event": event,
            "Block": lambda size_bytes: Block(host, size_bytes),
            "Graph": Graph,
            "copy": copy,
            "messages_to": lambda trt, heard: None,
            "profiler_of": lambda trt, times_ms: object(),
        }
        for name, part in parts.items():
            monkeypatch.setattr(trt_session, name, part)
        engine = SimpleNamespace(
            num_io_tensors=2,
            get_tensor_name=["x", "y"].__getitem__,
            get_tensor_mode=lambda name: "input" if name == "x" else "output",
            get_tensor_dtype=lambda name: "float",
            create_execution_context=lambda: Context(host),
        )
        trt = SimpleNamespace(
            Runtime=lambda log: SimpleNamespace(deserialize_cuda_engine=lambda plan: engine),
            TensorIOMode=SimpleNamespace(INPUT="input"),
            nptype=lambda kind: np.float32,
        )
        session = Session(trt, "net.plan", b"plan")
        return session, host

    return make


def on_device(*shape: int) -> np.ndarray:
    """An array whose address is a multiple of 256."""
    memory = np.zeros(int(np.prod(shape)) * 4 + 256, np.uint8)
    start = -memory.ctypes.data % 256
    return memory[start : start + int(np.prod(shape)) * 4].view(np.float32).reshape(shape)


def test_a_step_of_tensors_never_runs_on_the_caller_s_stream_and_is_ordered_with_it(
    on_host: Callable[..., tuple[Session, Host]],
) -> None:
    session, host = on_host()
    x, y = on_device(2, 4), on_device(2, 4)
    x[:] = X
    session.enqueue({"x": x.ctypes.data, "y": y.ctypes.data}, {"x": X.shape}, CALLER, False)
    assert host.done == ["mark 3", "hold 7", "execute on 7", "mark 7", "hold 3"], "and nothing was waited for"
    host.finish()
    np.testing.assert_array_equal(y, X + 1)


def test_a_recording_is_made_on_the_stream_that_ran_the_step(on_host: Callable[..., tuple[Session, Host]]) -> None:
    session, host = on_host()
    np.testing.assert_array_equal(session.run({"x": X}, True), X + 1)
    assert host.done[:3] == ["execute on 7", "wait", "record on 7"]
    np.testing.assert_array_equal(session.run({"x": 2 * X}, True), 2 * X + 1)
    assert host.done[-2:] == ["launch on 7", "wait"]


def test_a_plan_that_cannot_be_recorded_is_launched_plainly_told_once_and_not_tried_again(
    on_host: Callable[..., tuple[Session, Host]], caplog: pytest.LogCaptureFixture
) -> None:
    session, host = on_host(recordable=False)
    for factor in (1, 2, 3):
        np.testing.assert_array_equal(session.run({"x": factor * X}, True), factor * X + 1)
    assert not session.timed_step({"x": X}, True)().recorded
    assert caplog.text.count("cannot be a CUDA graph") == 1 and host.done.count("record on 7") == 0
    x, y = on_device(2, 4), on_device(2, 4)
    host.done.clear()
    session.enqueue({"x": x.ctypes.data, "y": y.ctypes.data}, {"x": X.shape}, CALLER, True)
    assert "copy on 7" not in host.done and "execute on 7" in host.done


@pytest.mark.parametrize("graph", [True, False])
def test_a_loop_is_single_steps_and_one_wait_at_its_end(
    graph: bool, on_host: Callable[..., tuple[Session, Host]]
) -> None:
    session, host = on_host()
    loop, launched = session.step_loop({"x": X}, graph), f"{'launch' if graph else 'execute'} on 7"
    loop(2)
    host.done.clear()
    loop(5)
    assert host.done == ["wait", *[launched] * 5, "wait"]


def test_arrays_of_the_host_stay_until_the_device_has_read_them(on_host: Callable[..., tuple[Session, Host]]) -> None:
    session, _ = on_host()
    found = session.run({"x": X.astype(np.float64)}, False)  # of which a copy is made that nobody else holds
    np.testing.assert_array_equal(found, X + 1)


def test_a_failed_step_is_the_environment_s_fault_and_no_matter_of_graphs(
    on_host: Callable[..., tuple[Session, Host]], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, _ = on_host()
    monkeypatch.setattr(Context, "execute_async_v3", lambda self, stream: False)
    with pytest.raises(EnvironmentMissing, match="failed to run a step"):
        session.run({"x": X}, True)


def test_layers_are_timed_without_a_second_context(on_host: Callable[..., tuple[Session, Host]]) -> None:
    session, host = on_host()
    assert session.layer_times_ms({"x": X}) == {}
    assert (len(host.contexts), host.most_contexts) == (1, 1)
    np.testing.assert_array_equal(session.run({"x": X}, False), X + 1)
