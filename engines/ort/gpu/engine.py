"""ONNX Runtime on NVIDIA GPUs: its TensorRT provider for the int8 graph, its CUDA provider for the float16 baseline.

A step of CUDA tensors is bound to them where they lie (`ort_tensors`); one of arrays or tensors of the host includes
its transfers.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ptq_export.engines.base import EngineOptions, Feeds, Signature
from ptq_export.engines.build_cache import Identity, current, stale_reasons, verified_sha256, writable, write_identity
from ptq_export.engines.cuda.driver import describe_gpu
from ptq_export.engines.exported_layers import LayerRecord, asked_layers
from ptq_export.engines.ort.engine import OrtEngine
from ptq_export.engines.ort.gpu.options import OrtCudaOptions
from ptq_export.engines.ort.gpu.providers import CUDA, TENSORRT, provider_error, tensorrt_version
from ptq_export.engines.ort.gpu.tensors import OrtGpuEngine
from ptq_export.engines.ort.session import (
    CPU,
    Level,
    Provider,
    SessionEngine,
    open_session,
    session_settings,
)
from ptq_export.engines.output import written
from ptq_export.engines.signature import read_signature
from ptq_export.engines.trt.options import TrtOptions
from ptq_export.engines.trt.reuse import fitted
from ptq_export.errors import InputError
from ptq_export.interface import SAMPLE
from ptq_export.provenance import private_name

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["OrtCudaEngine", "OrtTrtEngine", "taken_layers", "tensorrt_options"]

logger = logging.getLogger(__name__)
BRIEF = "1"
RECORD = "session.record_ep_graph_assignment_info"


class OrtCudaEngine(OrtGpuEngine, OrtEngine):
    """A denoiser on ONNX Runtime's CUDA provider, in float: it has no int8 convolution."""

    providers: ClassVar[tuple[Provider, ...]] = ((CUDA, {}), CPU)
    options_type = OrtCudaOptions
    options: OrtCudaOptions
    suffix: ClassVar[str] = "cuda.onnx"
    bound_run = SessionEngine.bound_run  # arrays of the host are copied to the device and back: nothing is bound

    def __init__(
        self, source: Path, cache: Path, options: EngineOptions | None = None, sha256: str | None = None
    ) -> None:
        _require(CUDA)
        super().__init__(source, cache, options, sha256)

    def layer_times_ms(self, feeds: Feeds) -> dict[str, float]:
        """None: ONNX Runtime's profiler sees the launches of a GPU's kernels, not the kernels."""
        return {}

    def _identity(self, onnx_sha256: str) -> Identity:
        return replace(super()._identity(onnx_sha256), engine="ort-cuda", isa=(), device=_device())

    def _open_on(self, stream: int, graph: bool) -> onnxruntime.InferenceSession:
        settings = self._settings(Level.ORT_DISABLE_ALL)
        options = {"user_compute_stream": str(stream), "enable_cuda_graph": str(int(graph))}
        return open_session(self.optimised_path, settings, [(CUDA, options), CPU])

    def _parts(self, feeds: "Mapping[str, Tensor]") -> "tuple[Mapping[str, Tensor], Sequence[slice]]":
        return feeds, [slice(None)]

    def _least_batch(self) -> int:
        return self.signature.batch or 1


class OrtTrtEngine(OrtGpuEngine, SessionEngine):
    """A denoiser on ONNX Runtime's TensorRT provider.

    `context_path` is the graph with TensorRT's engine in it, loaded in place of the source once it stands. The engines
    and timings that the provider caches lie in a folder that bears the digest of their identity and of a secret of this
    account: what another device, version or person has built is never read.
    """

    options: TrtOptions
    # For the parts of a proof, which are many: what they compute does not depend on how long TensorRT searches.
    providers: ClassVar[tuple[Provider, ...]] = ((TENSORRT, {"trt_builder_optimization_level": BRIEF}), (CUDA, {}), CPU)

    def __init__(
        self, source: Path, cache: Path, options: EngineOptions | None = None, sha256: str | None = None
    ) -> None:
        """Load `source` (ONNX) as TensorRT has built it, which is kept in the folder `cache`.

        Raises:
            InputError: `source` is absent, is not the file with that `sha256`, or is not a denoiser.
            EnvironmentMissing: the provider cannot be loaded.
        """
        _require(TENSORRT)
        self.options = TrtOptions.of(options)
        self.source = source
        self._batches = self.options.batch_range
        identity = self._identity(verified_sha256(source, sha256))
        super().__init__(read_signature(source, self.options.batch))
        least, _, most = self._batches
        self.context_path = cache / f"{source.stem}.batch{least}-{most}.context.onnx"
        self._engines = f"ort-trt-{private_name(asdict(identity))}"
        reasons = stale_reasons(self.context_path, identity, self.options.trusted)
        self._model = source
        if not reasons:
            try:
                self.session = self._open(self.context_path)
                self._model = self.context_path
                return
            except InputError as error:
                reasons = [error.cause]
        logger.info("building %s: %s", source.name, "; ".join(reasons))
        if not self._cache_options():
            logger.warning("%s cannot be written: %s is built at every start", cache, source.name)
            self.session = self._open(source)
            return
        self.context_path.unlink(missing_ok=True)
        self.session = self._open(source, dump=True)
        if self.context_path.is_file():
            write_identity(self.context_path, identity)
            self._model = self.context_path
        else:
            logger.warning("TensorRT did not take all of %s: there is no context model, its engines are cached", source)

    def run(self, feeds: Feeds, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """In parts, where there are more samples than the engine's largest batch; fewer than its least are made as
        many."""
        rows, parts = fitted(feeds, self._batches)
        eps = np.empty(self.signature.output_shape(len(rows[SAMPLE])), np.float32)
        for part in parts:
            eps[part] = SessionEngine.run(self, {name: value[part] for name, value in rows.items()})
        return written(eps[: len(feeds[SAMPLE])], out)

    def executed_layers(self, expected: Mapping[str, str]) -> list[LayerRecord]:
        """Every conv and linear, int8 where its Q/DQ asks for that and TensorRT took it.

        The provider gives the whole graph, strongly typed, to TensorRT and does not let its inspector out: that the
        kernel is an int8 one, which TensorRT may still decide against, is shown by the target trt-int8.
        """
        return taken_layers(asked_layers(self.source, expected), self._open(self.source), TENSORRT)

    def layer_times_ms(self, feeds: Feeds) -> dict[str, float]:
        """None: for ONNX Runtime all that TensorRT took is one node."""
        return {}

    def _identity(self, onnx_sha256: str) -> Identity:
        versions = {"onnxruntime": onnxruntime.__version__, "tensorrt": tensorrt_version()}
        options = {
            "batch": list(self._batches),
            "builder_level": self.options.builder_level,
            "workspace_mib": self.options.workspace_mib,
        }
        return current("ort-trt", versions, onnx_sha256, options, isa=(), device=_device())

    def _open_on(self, stream: int, graph: bool) -> onnxruntime.InferenceSession:
        return self._open(self._model, on={"user_compute_stream": str(stream)}, graph=graph)

    def _parts(self, feeds: "Mapping[str, Tensor]") -> "tuple[Mapping[str, Tensor], Sequence[slice]]":
        return fitted(feeds, self._batches)

    def _least_batch(self) -> int:
        return self._batches[0]

    def _open(
        self, model: Path, dump: bool = False, on: Mapping[str, str] | None = None, graph: bool = False
    ) -> onnxruntime.InferenceSession:
        """The session of a model; `on` are the options of all providers that name a stream."""
        options = tensorrt_options(self.signature, self._batches, self.options) | self._cache_options()
        options |= {**(on or {}), **({"trt_cuda_graph_enable": "1"} if graph else {})}
        if dump:
            options |= {
                "trt_dump_ep_context_model": "1",
                "trt_ep_context_file_path": str(self.context_path.absolute()),
                "trt_ep_context_embed_mode": "1",  # one file, covered by one digest
                "trt_engine_cache_path": self._engines,  # relative to the context model, as the provider demands
            }
        # TensorRT optimises: what it is given is the graph that was linted, with its nodes' names.
        settings = session_settings(self.options.threads, Level.ORT_DISABLE_ALL)
        settings.add_session_config_entry(RECORD, "1")
        return open_session(model.absolute(), settings, [(TENSORRT, options), (CUDA, dict(on or {})), CPU])

    def _cache_options(self) -> dict[str, str]:
        folder = self.context_path.parent.absolute() / self._engines
        if not writable(folder):
            return {}
        return {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder),
        }


def tensorrt_options(signature: Signature, batches: tuple[int, int, int], options: TrtOptions) -> dict[str, str]:
    """Options of the TensorRT provider for batches from `batches[0]` to `batches[2]`.

    `trt_fp16_enable` and `trt_int8_enable` stay off: then the network is strongly typed, each type the graph's own.
    """
    found = {}
    for place, batch in zip(("min", "opt", "max"), batches, strict=True):
        shapes = {it.name: "x".join(map(str, (batch, *it.shape))) for it in signature.inputs}
        found[f"trt_profile_{place}_shapes"] = ",".join(f"{name}:{shape}" for name, shape in shapes.items())
    if options.builder_level is not None:
        found["trt_builder_optimization_level"] = str(options.builder_level)
    if options.workspace_mib is not None:
        found["trt_max_workspace_size"] = str(options.workspace_mib << 20)
    return found


def taken_layers(
    asked: Sequence[LayerRecord], session: onnxruntime.InferenceSession, provider: str
) -> list[LayerRecord]:
    """`asked`, with what runs each layer in `session` (opened to record that): int8 only where `provider` took it."""
    takers = {
        node.name: subgraph.ep_name
        for subgraph in session.get_provider_graph_assignment_info()
        for node in subgraph.get_nodes()
    }
    return [_taken(record, takers.get(record.name, "nothing"), provider) for record in asked]


def _taken(record: LayerRecord, taker: str, provider: str) -> LayerRecord:
    if taker != provider:
        return replace(record, executed=taker, precision="float", reason=f"{provider} left it to {taker}")
    if record.precision == "int8":
        return replace(record, executed=taker, reason=f"{provider} took it; its Q/DQ asks for int8")
    return replace(record, executed=taker)


def _require(provider: str) -> None:
    error = provider_error(provider)
    if error is not None:
        raise error


def _device() -> str:
    gpu = describe_gpu()
    return f"{gpu.label}, CUDA {gpu.driver_cuda}"
