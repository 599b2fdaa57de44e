"""A float graph for Triton's Python backend, the one beside this file: what is asked once per prompt or picture."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from ptq_export.engines.feeds import check_values
from ptq_export.engines.ort.session import CPU, Level, open_session, session_settings
from ptq_export.errors import InputError, explained
from ptq_export.graph.part_file import part_interface
from ptq_export.interface import Input
from ptq_export.machine import physical_cores
from ptq_export.packaging.triton.tensors import array_of, dlpack_of

__all__ = ["TritonPythonModel"]


class TritonPythonModel:
    """The graph, on the CPU. Each request is computed alone: its rows do not depend on what it waited with."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the graph."""
        name = json.loads(args["model_config"])["parameters"]["onnx"]["string_value"]
        path = Path(args["model_repository"]) / args["model_version"] / name
        self.inputs, outputs = part_interface(path)
        self.session = open_session(path, session_settings(physical_cores(), Level.ORT_ENABLE_ALL), [CPU])
        self.outputs = [output.name for output in outputs]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """The outputs of every request, or an error that says what is wrong with it."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            given = {it: array_of(pb_utils.get_input_tensor_by_name(request, it.name)) for it in self.inputs}
            feeds = {it.name: _checked(it, value) for it, value in given.items()}
            values = self.session.run(self.outputs, feeds)
            pairs = zip(self.outputs, map(dlpack_of, values), strict=True)
            tensors = [pb_utils.Tensor.from_dlpack(*pair) for pair in pairs]
            return pb_utils.InferenceResponse(tensors)
        except Exception as error:
            told = explained(error).in_one_line
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(told, pb_utils.TritonError.INVALID_ARG))


def _checked(wanted: Input, value: NDArray[Any]) -> NDArray[Any]:
    if not wanted.fits(value.shape, {}):
        raise InputError(f"{wanted.name} is {list(value.shape)}, this engine takes {wanted}")
    return np.ascontiguousarray(check_values(wanted, None, value))
