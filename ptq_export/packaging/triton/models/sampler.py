"""Pictures for Triton's Python backend: previews while one is drawn, and then the picture.

Every request is drawn by a thread of its own, which asks `denoiser_step` by BLS and waits: so the steps of all requests
that are being drawn meet in that model's dynamic batcher, and each goes on with its own sample. The models that encode
prompts and decode latents are asked the same way.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import partial
from pathlib import Path
from threading import Event, Semaphore
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from ptq_export.errors import InputError, PtqExportError, explained
from ptq_export.packaging.triton.drawing import Drawer, Frame
from ptq_export.packaging.triton.served import Arrays, Models
from ptq_export.packaging.triton.tensors import array_of, dlpack_of
from ptq_export.packaging.triton.wish import TEXTS, Wish

__all__ = ["Stopped", "TritonPythonModel"]

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class Stopped(Exception):
    """The client has left, or the server stops."""


class TritonPythonModel:
    """A decoupled model: it answers a request as often as there are previews, and once more."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the manifest beside this file, and the tokenizers of a run that takes prompts."""
        torch.set_num_threads(1)  # of a loop: there are as many loops as requests
        config = json.loads(args["model_config"])
        told = {name: value["string_value"] for name, value in config["parameters"].items()}
        most = int(told["most_requests"])
        models = Models(*(partial(_infer, told[f"{each.name}_model"]) for each in fields(Models)))
        self.drawer = Drawer(Path(args["model_repository"]) / args["model_version"], models)
        self.names = [each["name"] for each in config["input"]]
        self.pool, self.free, self.stopping = ThreadPoolExecutor(most), Semaphore(most), Event()

    def execute(self, requests: Sequence[Any]) -> None:
        """Begin to draw; a request for which there is no thread is refused at once."""
        for request in requests:
            sender = request.get_response_sender()
            if not self.free.acquire(blocking=False):
                busy = "as many pictures as this server draws at a time are being drawn: try again later"
                _refuse(sender, busy, pb_utils.TritonError.UNAVAILABLE)
                continue
            try:
                given, told = self._given(request), _told(request)
            except Exception as error:
                self.free.release()
                _refuse(sender, explained(error).in_one_line, pb_utils.TritonError.INVALID_ARG)
                continue
            self.pool.submit(self._answer, given, told, sender)

    def finalize(self) -> None:
        """End what is being drawn."""
        self.stopping.set()
        self.pool.shutdown()

    def _given(self, request: Any) -> dict[str, NDArray[Any]]:
        found = {name: pb_utils.get_input_tensor_by_name(request, name) for name in self.names}
        return {name: array_of(tensor) for name, tensor in found.items() if tensor is not None}

    def _answer(self, given: Arrays, told: Mapping[str, Any], sender: Any) -> None:
        try:
            wish = self.drawer.wish(given, told)
            picture = self.drawer.draw(wish, partial(self._after, wish, sender))
            sender.send(self._response(picture, wish), flags=FINAL)
        except Stopped:
            _refuse(sender, "the request was cancelled", pb_utils.TritonError.CANCELLED)
        except InputError as error:
            _refuse(sender, error.in_one_line, pb_utils.TritonError.INVALID_ARG)
        except Exception as error:
            _refuse(sender, explained(error).in_one_line, pb_utils.TritonError.INTERNAL)
        finally:
            self.free.release()

    def _after(self, wish: Wish, sender: Any, preview: Frame | None) -> None:
        if self.stopping.is_set() or sender.is_cancelled():
            raise Stopped
        if preview is not None:
            sender.send(self._response(preview, wish))

    def _response(self, frame: Frame, wish: Wish) -> Any:
        tensors: dict[str, NDArray[Any] | None] = {"sample": frame.sample, "image": frame.image}
        numbers = {"step": (frame.step, np.int32), "steps": (frame.steps, np.int32), "seed": (wish.seed, np.int64)}
        tensors |= {name: np.array([value], kind) for name, (value, kind) in numbers.items()}
        if self.drawer.takes_text:
            tensors["cut"] = np.array([name in wish.cut for name in TEXTS], np.int32)
        return pb_utils.InferenceResponse([_tensor(name, it) for name, it in tensors.items() if it is not None])


def _infer(model: str, feeds: Arrays) -> dict[str, NDArray[Any]]:
    """What a model of this server answers, waited for."""
    inputs = [_tensor(name, value) for name, value in feeds.items()]
    response = pb_utils.InferenceRequest(model_name=model, requested_output_names=[], inputs=inputs).exec()
    if response.has_error():
        raise PtqExportError(f"{model}: {response.error().message()}")
    return {tensor.name(): array_of(tensor) for tensor in response.output_tensors()}


def _told(request: Any) -> dict[str, Any]:
    """The parameters of a request.

    Raises:
        InputError: text in them is no UTF-8.
    """
    try:
        found: dict[str, Any] = json.loads(request.parameters() or "{}")
    except ValueError as error:  # UnicodeDecodeError is one
        told = f"the parameters of the request cannot be read: {error!s:.200}"
        raise InputError(told, "send text as UTF-8") from error
    return found


def _tensor(name: str, value: NDArray[Any]) -> Any:
    return pb_utils.Tensor.from_dlpack(name, dlpack_of(value))


def _refuse(sender: Any, told: str, code: int) -> None:
    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(told, code)), flags=FINAL)
