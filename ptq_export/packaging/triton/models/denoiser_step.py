"""A denoising step for Triton's Python backend, by the engine whose package this file lies in.

Each request is checked alone, so that a bad one fails alone; the rows of all others are one call of the engine.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from ptq_export.engines import load_engine
from ptq_export.engines.base import Feeds
from ptq_export.engines.feeds import checked
from ptq_export.errors import explained
from ptq_export.interface import OUTPUT, SAMPLE
from ptq_export.packaging.triton.tensors import array_of, dlpack_of

__all__ = ["TritonPythonModel"]


class TritonPythonModel:
    """The engine; Triton's dynamic batcher hands it the requests that it has joined."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the engine; what conditions alone decide comes with each request, from the model for prompts."""
        self.engine = load_engine(Path(args["model_repository"]) / args["model_version"])
        self.engine.prompt = None

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """eps of every request, or an error that says what is wrong with it."""
        found = [self._feeds(request) for request in requests]
        good = [feeds for feeds in found if isinstance(feeds, dict)]
        try:
            rows = iter(self._predict(good))
        except Exception as error:
            return [_refusal(error, pb_utils.TritonError.INTERNAL) for _ in requests]
        return [_answer(next(rows)) if isinstance(feeds, dict) else feeds for feeds in found]

    def _feeds(self, request: Any) -> Any:
        """Checked inputs by name, or the response that refuses them."""
        signature = self.engine.signature
        given = {each.name: pb_utils.get_input_tensor_by_name(request, each.name) for each in signature.step_inputs}
        try:
            arrays = {name: array_of(tensor) for name, tensor in given.items()}
            return checked(signature.step_inputs, signature.num_train_timesteps, None, arrays)
        except Exception as error:
            return _refusal(error, pb_utils.TritonError.INVALID_ARG)

    def _predict(self, requests: Sequence[Feeds]) -> list[NDArray[np.float32]]:
        if not requests:
            return []
        ends = np.cumsum([len(feeds[SAMPLE]) for feeds in requests])
        joined = {name: np.concatenate([feeds[name] for feeds in requests]) for name in requests[0]}
        return np.split(self.engine.run(joined), ends[:-1])


def _answer(eps: NDArray[np.float32]) -> Any:
    return pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack(OUTPUT, dlpack_of(eps))])


def _refusal(error: Exception, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(explained(error).in_one_line, code))
