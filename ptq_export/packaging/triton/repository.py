"""The model repository: `denoiser_step`, what the run has besides, each as a model of its own, and `sampler`, which
calls them.

The sampler draws one picture per request and calls the step by BLS: Triton's dynamic batcher joins the steps of all
requests that are being drawn, each at its own time-step. Prompts are encoded and latents decoded by models, too.
"""

import shutil
import sys
from importlib.metadata import version
from pathlib import Path

from ptq_export.command_options import Packaging
from ptq_export.engines.base import Signature
from ptq_export.engines.text_to_image import DECODED_AT_ONCE, ENCODED_AT_ONCE
from ptq_export.errors import InputError
from ptq_export.interface import OUTPUT
from ptq_export.packaging.folder import FILES, fill
from ptq_export.packaging.parts import Parts
from ptq_export.packaging.triton.backends import NATIVE
from ptq_export.packaging.triton.config import Tensor, tensor_of
from ptq_export.packaging.triton.sampler_model import condition_rows, image_of, refuse_settings, write_sampler
from ptq_export.packaging.triton.writing import (
    PYTHON,
    batched_config,
    opens,
    write_config,
    write_graph,
    write_program,
)
from ptq_export.text_to_image import DECODER, TEXT_ENCODER

__all__ = ["DECODER_MODEL", "PROMPT_MODEL", "STEP_MODEL", "TEXT_MODEL", "write_repository"]

STEP_MODEL = "denoiser_step"
PROMPT_MODEL = "denoiser_prompt"
TEXT_MODEL = "text_encoder"
DECODER_MODEL = "decoder"


def write_repository(parts: Parts, folder: Path, packaging: Packaging) -> None:
    """Write the repository of an engine.

    Raises:
        InputError: no backend of Triton runs it, or its graph is for one batch size alone.
        EnvironmentMissing: its TensorRT plan was not built yet.
    """
    if parts.target.engine == "jetson":
        raise InputError("a run for a Jetson has no engine yet", f"copy {parts.run / 'jetson'} to the device")
    refuse_settings(parts.signature.conditions)
    if parts.signature.batch is not None:
        told = f"the graph is for batches of {parts.signature.batch} alone: no steps could be joined"
        raise InputError(told, "make the run for any batch: --batch dynamic")
    (_write_python if packaging.engine == "python" else _write_native)(parts, folder, packaging.max_batch)
    for model, (names, most) in _graphs(parts).items():
        if names:
            write_graph(parts, folder, model, names, min(most, packaging.max_batch), packaging.engine)
    asked = {"step": STEP_MODEL, "prompt": PROMPT_MODEL, "text": TEXT_MODEL, "decoder": DECODER_MODEL}
    write_sampler(parts, folder, packaging, asked)
    (folder / "README.md").write_text(fill(FILES / "triton.md", _told(parts, packaging)), encoding="utf-8")


def _graphs(parts: Parts) -> dict[str, tuple[tuple[str, ...], int]]:
    """The files of each float graph, none where the run has none, and how many rows it computes at once."""
    return {
        PROMPT_MODEL: (parts.prompt_names, sys.maxsize),
        TEXT_MODEL: (parts.with_data(TEXT_ENCODER), ENCODED_AT_ONCE),
        DECODER_MODEL: (parts.with_data(DECODER), DECODED_AT_ONCE),
    }


def _write_native(parts: Parts, folder: Path, max_batch: int) -> None:
    backend = NATIVE.get(parts.target.engine)
    if backend is None:
        raise InputError(f"Triton has no backend of its own for {parts.target.name}", "take --engine python")
    model, place = backend.model(parts), folder / STEP_MODEL / "1"
    if model.path.name == parts.target.onnx:
        parts.copy(parts.step_names, place)
    else:
        place.mkdir(parents=True)
        shutil.copyfile(model.path, place / model.path.name)
    most, opened = min(max_batch, model.max_batch or max_batch), opens(backend.fields, model.path.name)
    write_config(folder, STEP_MODEL, _step_config(parts.signature, opened, most, backend.device))


def _write_python(parts: Parts, folder: Path, max_batch: int) -> None:
    """The step's version folder is a package of format `folder` beside its program."""
    place = folder / STEP_MODEL / "1"
    parts.copy(parts.names, place)
    parts.write_manifest(place, format="folder")
    write_program(folder, STEP_MODEL, STEP_MODEL)
    device = "KIND_GPU" if parts.runtime.device == "gpu" else "KIND_CPU"
    write_config(folder, STEP_MODEL, _step_config(parts.signature, PYTHON, max_batch, device))


def _step_config(signature: Signature, backend: str, max_batch: int, device: str) -> str:
    inputs = [tensor_of(each) for each in signature.step_inputs]
    outputs = [Tensor(OUTPUT, "FP32", signature.output_shape(1)[1:])]
    return batched_config(STEP_MODEL, backend, max_batch, device, inputs, outputs)


def _told(parts: Parts, packaging: Packaging) -> dict[str, str]:
    """What the page says of this repository."""
    image, text = image_of(parts), parts.text
    pixels = "" if image is None else f"| `image` | uint8 {list(image.dims)} | the same in pixels, black to white |\n"
    told = {
        "target": parts.target.name,
        "version": version("ptq-export"),
        "engine": packaging.engine,
        "conditions": condition_rows(parts),
        "image": pixels,
    }
    if text is None:
        return told | {"extra": "", "guidance": "1: none", "words": "", "cut": ""}
    return told | {
        "extra": "[text]",
        "guidance": f"with a prompt {text.scale:g}, else 1; 1 is none",
        "words": (FILES / "triton_prompts.md").read_text(encoding="utf-8"),
        "cut": "| `cut` | int32 [2] | 1 where `prompt`, `negative_prompt` was cut, else 0 |\n",
    }
