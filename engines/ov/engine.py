"""OpenVINO on x86 CPUs: every batch size is compiled as a static graph, kept beside the run, and imported from then on.

Static shapes fuse far better than an open batch: a U-Net's elementwise operations go from a hundred fused subgraphs to
six. Floats are float32, or bfloat16 where the processor has it, which OpenVINO would choose by itself.
"""

import io
import mmap
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
import openvino
from numpy.typing import NDArray

from ptq_export.engines.base import Engine, EngineOptions, Feeds
from ptq_export.engines.build_cache import Identity, build_or_reuse, current, verified_sha256
from ptq_export.engines.exported_layers import CALLS, WARMUP, LayerRecord
from ptq_export.engines.ov.layers import executed_layers, layer_of_nodes
from ptq_export.engines.prompt import open_prompt
from ptq_export.engines.signature import read_signature
from ptq_export.errors import InputError
from ptq_export.graph.model_file import model_bytes
from ptq_export.interface import OUTPUT, SAMPLE
from ptq_export.machine import total_memory_bytes

__all__ = ["OpenVinoBf16Engine", "OpenVinoEngine"]

DEVICE = "CPU"
SHAPES_KEPT = 8
MEMORY_KEPT = 0.25
"""Of what this machine has: fewer shapes are kept where their weights would take more."""
Shapes: TypeAlias = tuple[tuple[int, ...], ...]
"""Of every input of a step, in the order of the signature's."""


@dataclass(frozen=True)
class _Compiled:
    """The graph for inputs of certain shapes, and requests that no thread computes with: one serves one at a time.
    OpenVINO reads constants in the mapped file whenever it wants, and does not keep it mapped: that must be let go
    last."""

    idle: deque[openvino.InferRequest]
    model: openvino.CompiledModel
    file: mmap.mmap

    def infer(self, feeds: Feeds, out: NDArray[np.float32]) -> None:
        """One step from contiguous `feeds` into contiguous `out`."""
        try:
            request = self.idle.pop()
        except IndexError:  # each has one that is at work
            request = self.model.create_infer_request()
        try:
            request.set_output_tensor(openvino.Tensor(out, shared_memory=True))
            request.infer(dict(feeds), share_inputs=True, share_outputs=True)
        finally:
            self.idle.append(request)

    def bound(self, arrays: Feeds) -> Callable[[], object]:
        """A request of its own on inputs and output where they lie."""
        request = self.model.create_infer_request()
        for name, array in arrays.items():
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))

        def compute() -> object:
            return request.infer(share_outputs=True)

        return compute


class OpenVinoEngine(Engine):
    """A denoiser on OpenVINO's CPU plugin. Without `options.batch` each batch size is compiled when it is first
    met, and so is each open size."""

    precision = "f32"

    def __init__(
        self, source: Path, cache: Path, options: EngineOptions | None = None, sha256: str | None = None
    ) -> None:
        """Load `source` (ONNX); what is compiled of it is taken from the folder `cache` or put there.

        Raises:
            InputError: `source` is absent, is not the file with that `sha256`, is not a denoiser, or the options are
                another runtime's; or its prompt graph is not the file beside it.
        """
        self.options = EngineOptions.of(options)
        self.source, self.cache = source, cache
        self._onnx_sha256 = verified_sha256(source, sha256)
        signature = read_signature(source, self.options.batch)
        super().__init__(signature, open_prompt(source, signature, self.options))
        self._core = openvino.Core()
        self._compiled: OrderedDict[Shapes, _Compiled] = OrderedDict()
        self._looking = Lock()
        self._shapes_kept = max(1, min(SHAPES_KEPT, int(MEMORY_KEPT * total_memory_bytes() / model_bytes(source))))
        if not any(each.open_sizes for each in self.signature.step_inputs):
            self._ready(self._least)

    def run(self, feeds: Feeds, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        if out is None:
            out = np.empty(self.signature.output_shape(len(feeds[SAMPLE])), np.float32)
        feeds = self.step_feeds(feeds)
        self._ready(self._shapes(feeds)).infer(feeds, out)
        return out

    def bound_run(self, feeds: Feeds, out: NDArray[np.float32]) -> Callable[[], object]:
        if self.prompt:
            return super().bound_run(feeds, out)
        return self._ready(self._shapes(feeds)).bound({**feeds, OUTPUT: out})

    def executed_layers(self, expected: Mapping[str, str]) -> list[LayerRecord]:
        ready = self._ready(next(iter(self._compiled), self._least))
        return executed_layers(self.source, ready.model.get_runtime_model(), expected)

    def layer_times_ms(self, feeds: Feeds) -> dict[str, float]:
        feeds, settings = self.step_feeds(feeds), self._settings() | {"PERF_COUNT": True}
        compiled = _compile(self._core, self.source, self._named(self._shapes(feeds)), settings)
        request = compiled.create_infer_request()
        calls_ms: dict[str, list[float]] = {}
        for _ in range(WARMUP + CALLS):
            request.infer(dict(feeds))
            for node in request.get_profiling_info():
                calls_ms.setdefault(node.node_name, []).append(node.real_time.total_seconds() * 1e3)
        times_ms: dict[str, float] = {}
        for node_name, layer in layer_of_nodes(self.source, compiled.get_runtime_model()).items():
            spent = calls_ms.get(node_name, [0.0])
            times_ms[layer] = times_ms.get(layer, 0.0) + float(np.median(spent[WARMUP:] or spent))
        return times_ms

    @staticmethod
    def run_graph(model: bytes, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        core = openvino.Core()
        graph = core.read_model(io.BytesIO(model))
        graph.reshape({name: list(value.shape) for name, value in inputs.items()})
        request = core.compile_model(graph, DEVICE, {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
        result: NDArray[np.float32] = request.infer(dict(inputs))[0]
        return result

    def _settings(self) -> dict[str, Any]:
        return {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.options.threads,
            "INFERENCE_PRECISION_HINT": self.precision,
        }

    @property
    def _least(self) -> Shapes:
        return self._shapes(self.signature.nothing(self.signature.batch or 1))

    def _shapes(self, feeds: Feeds) -> Shapes:
        return tuple(tuple(feeds[each.name].shape) for each in self.signature.step_inputs)

    def _named(self, shapes: Shapes) -> dict[str, tuple[int, ...]]:
        return {each.name: shape for each, shape in zip(self.signature.step_inputs, shapes, strict=True)}

    def _ready(self, shapes: Shapes) -> _Compiled:
        """The graph of inputs of these shapes; the least recently used ones are forgotten. While one is compiled, the
        others serve."""
        if (found := self._found(shapes)) is not None:
            return found
        with self._turn:
            if (found := self._found(shapes)) is not None:  # compiled by another thread meanwhile
                return found
            with self._looking:
                while len(self._compiled) >= self._shapes_kept:
                    self._compiled.popitem(last=False)
            made = self._import(self._blob(shapes))
            with self._looking:
                self._compiled[shapes] = made
            return made

    def _found(self, shapes: Shapes) -> _Compiled | None:
        with self._looking:
            if shapes in self._compiled:
                self._compiled.move_to_end(shapes)
            return self._compiled.get(shapes)

    def _import(self, blob: Path) -> _Compiled:
        with blob.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        content = np.frombuffer(mapped, np.uint8)
        tensor = openvino.Tensor(content, content.shape, openvino.Type.u8)  # no copy
        model = self._core.import_model(tensor, DEVICE, self._settings())
        idle = deque([model.create_infer_request()])
        if hasattr(mmap, "MADV_DONTNEED"):  # weights are laid out anew elsewhere: their pages have been read
            mapped.madvise(mmap.MADV_DONTNEED)
        return _Compiled(idle, model, mapped)

    def _blob(self, shapes: Shapes) -> Path:
        """The file of the graph compiled for inputs of these shapes, in the cache where that can be written."""

        def build(path: Path) -> None:
            compiled = _compile(self._core, self.source, self._named(shapes), self._settings())
            path.write_bytes(compiled.export_model().getbuffer())  # no second copy of its weights

        sizes = self._open_sizes(shapes)
        name = ".".join(f"{size}{value}" for size, value in sizes.items())
        path = self.cache / f"{self.source.stem}.{self.precision}.{name}.compiled.blob"
        doing, done = f"compiling {self.source.name} for {name}", f"{self.source.name} is compiled"
        return build_or_reuse(path, self._identity(sizes), build, doing, done, self, self.options.trusted)

    def _open_sizes(self, shapes: Shapes) -> dict[str, int]:
        """The batch, and the sizes that the graph leaves open."""
        found = {"batch": shapes[0][0]}
        for each, shape in zip(self.signature.step_inputs, shapes, strict=True):
            found |= {name: size for name, size in zip(each.shape, shape[1:], strict=True) if isinstance(name, str)}
        return found

    def _identity(self, sizes: Mapping[str, int]) -> Identity:
        options = {**sizes, "precision": self.precision, "threads": self.options.threads}
        return current("openvino", {"openvino": openvino.__version__}, self._onnx_sha256, options)


class OpenVinoBf16Engine(OpenVinoEngine):
    """The same with bfloat16 floats."""

    precision = "bf16"


def _compile(
    core: openvino.Core, source: Path, shapes: Mapping[str, tuple[int, ...]], settings: Mapping[str, Any]
) -> openvino.CompiledModel:
    try:
        graph = core.read_model(source)
        graph.reshape({name: list(shape) for name, shape in shapes.items()})
        return core.compile_model(graph, DEVICE, dict(settings))
    except RuntimeError as error:
        raise InputError(f"OpenVINO cannot load {source.name}: {error}", "export it again") from error
