"""Values of a graph as functions of the time-step: cut out, run by ONNX Runtime unoptimised, one table row per t."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from ptq_export.graph.splice import Array

__all__ = ["TimeFunction"]

_DYNAMIC_BATCH = 64


class TimeFunction:
    """`values` of a model that depend on what one input `timestep` `[N]` holds, and on the others' shapes at most.

    Those others (`ones(sample.shape[0])`) are fed with zeros; their dimensions beside the batch must be static.
    """

    def __init__(self, model: ir.Model, timestep: ir.Value, values: Sequence[ir.Value]) -> None:
        graph = ir.convenience.extract(model.graph, model.graph.inputs, values)
        for unused in [value for value in graph.inputs if not value.uses()]:
            graph.inputs.remove(unused)
        self._batch = _batch_size(timestep)
        self._timestep = timestep.name
        self._others = {value.name: _zeros(value, self._batch) for value in graph.inputs if value.name != timestep.name}
        self._session = _session(ir.Model(graph, ir_version=model.ir_version))

    def row_bytes(self) -> int:
        """Size of one table row over all values."""
        return sum(array.nbytes for array in self._run(np.zeros(self._batch, np.int64))) // self._batch

    def tabulate(self, timesteps: Sequence[int]) -> list[Array] | None:
        """One array `[len(timesteps), ...]` per value, or None if a row depends on more than its own time-step."""
        steps = np.asarray(timesteps, np.int64)
        padded = np.pad(steps, (0, -len(steps) % self._batch), mode="edge")
        chunks = [self._run(chunk) for chunk in padded.reshape(-1, self._batch)]
        if any(array.shape[:1] != (self._batch,) for array in chunks[0]):
            return None
        tables = [np.concatenate(arrays)[: len(steps)] for arrays in zip(*chunks, strict=True)]
        probes = (0, len(steps) // 2, len(steps) - 1)
        return tables if all(self._stands_alone(steps, tables, row) for row in probes) else None

    def _stands_alone(self, steps: npt.NDArray[np.int64], tables: list[Array], row: int) -> bool:
        """Whether a batch of the same time-step only gives the same row, at every place of the batch."""
        alone = self._run(np.full(self._batch, steps[row]))
        scales = [np.abs(table).max(initial=0) for table in tables]
        return all(
            np.allclose(array, table[row], rtol=1e-5, atol=1e-6 * scale)
            for array, table, scale in zip(alone, tables, scales, strict=True)
        )

    def _run(self, steps: npt.NDArray[np.int64]) -> list[Array]:
        outputs: list[Array] = self._session.run(None, {self._timestep: steps, **self._others})
        return outputs


def _batch_size(timestep: ir.Value) -> int:
    batch = timestep.shape[0] if timestep.shape is not None else None
    return batch if isinstance(batch, int) else _DYNAMIC_BATCH


def _zeros(value: ir.Value, batch: int) -> Array:
    assert value.shape is not None and value.dtype is not None, "the inputs of an exported model are typed"
    dims = [dim for dim in value.shape[1:] if isinstance(dim, int)]
    return np.zeros([batch, *dims], value.dtype.numpy())


def _session(model: ir.Model) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1  # the same table whatever the machine's number of cores
    options.log_severity_level = 3
    ir.external_data.load_to_model(model)
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
