"""Sessions of ONNX Runtime, as all engines on it open them: on the provider that was asked for, or not at all.

ONNX Runtime itself goes on with another provider, the CPU in the end, where one cannot be loaded.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from ptq_export.engines.base import Engine, Feeds
from ptq_export.engines.ort.operators import register
from ptq_export.engines.output import written
from ptq_export.errors import EnvironmentMissing, InputError

__all__ = ["CPU", "Level", "Provider", "SessionEngine", "as_written", "open_session", "session_settings"]

Provider: TypeAlias = tuple[str, dict[str, str]]
"""The name of an execution provider, and its options."""

CPU: Provider = ("CPUExecutionProvider", {})
FATAL_ONLY = 4  # errors are raised as well, and a graph's names in them should not reach a terminal from native code
Level = onnxruntime.GraphOptimizationLevel


class SessionEngine(Engine):
    """An engine that is one session; `providers` in the order in which they may take nodes, the first must be there."""

    providers: ClassVar[tuple[Provider, ...]] = (CPU,)
    session: onnxruntime.InferenceSession

    def run(self, feeds: Feeds, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        eps: NDArray[np.float32] = self.session.run(None, dict(self.step_feeds(feeds)))[0]
        return written(eps, out)

    @classmethod
    def run_graph(
        cls,
        model: bytes,
        inputs: Mapping[str, NDArray[Any]],
        settings: onnxruntime.SessionOptions | None = None,
    ) -> NDArray[np.float32]:
        settings = register(settings or onnxruntime.SessionOptions())
        settings.log_severity_level = FATAL_ONLY
        result: NDArray[np.float32] = open_session(model, settings, cls.providers).run(None, dict(inputs))[0]
        return result


def session_settings(threads: int, level: onnxruntime.GraphOptimizationLevel) -> onnxruntime.SessionOptions:
    """Settings for a session that optimises its graph up to `level`."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.graph_optimization_level = level
    settings.log_severity_level = FATAL_ONLY
    # Between two calls the sampler works on the same cores: threads that spin there make it many times slower.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    return settings


def as_written(settings: onnxruntime.SessionOptions, graph: ir.Model) -> onnxruntime.SessionOptions:
    """`settings` under which a graph with int8 activations is computed in float on its grids, as it is written.

    Such graphs are TensorRT's, and are only proved here. A convolution between such quantisers would become an integer
    kernel that adds in 16 bits on processors without VNNI, and nothing bounds the weights of another engine for that.
    """
    if any(_makes_int8(node) for node in graph.graph):
        settings.add_session_config_entry("session.disable_quant_qdq", "1")
    return settings


def _makes_int8(node: ir.Node) -> bool:
    zero_point = node.inputs[2] if node.op_type == "QuantizeLinear" and len(node.inputs) > 2 else None
    return zero_point is not None and zero_point.dtype == ir.DataType.INT8


def open_session(
    model: Path | bytes, settings: onnxruntime.SessionOptions, providers: Sequence[Provider]
) -> onnxruntime.InferenceSession:
    """The session of an ONNX file, or of a serialised graph.

    Raises:
        InputError: ONNX Runtime cannot load it.
        EnvironmentMissing: the first of `providers` cannot be loaded.
    """
    source, name = (model, "the graph") if isinstance(model, bytes) else (str(model), model.name)
    try:
        session = onnxruntime.InferenceSession(source, settings, providers=list(providers), enable_fallback=0)
    except Exception as error:  # ONNX Runtime's own exceptions have no base class of theirs.
        raise InputError(f"ONNX Runtime cannot load {name}: {error}", "export it again") from error
    wanted, found = providers[0][0], session.get_providers()
    if wanted not in found:
        raise EnvironmentMissing(
            f"ONNX Runtime could not load its {wanted} and would have run {name} on {found[0]}",
            "its own messages on stderr name the library that it misses",
        )
    return session
