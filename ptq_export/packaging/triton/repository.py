"""The model repository: `denoiser_step`, `denoiser_prompt` where the network has one, and `sampler`, which calls both.

The sampler draws one picture per request and calls the step by BLS: Triton's dynamic batcher joins the steps of all
requests that are being drawn, each at its own time-step.
"""

import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from ptq_export.command_options import Packaging
from ptq_export.engines.base import Signature
from ptq_export.errors import InputError
from ptq_export.interface import LABEL, OUTPUT, SAMPLE, Input, prompt_to_json
from ptq_export.packaging.folder import FILES, fill
from ptq_export.packaging.parts import Parts
from ptq_export.packaging.triton.backends import NATIVE
from ptq_export.packaging.triton.config import (
    Tensor,
    dynamic_batching,
    instance,
    model_config,
    parameters,
    tensor_of,
    warm_up,
)
from ptq_export.packaging.triton.drawing import UNCONDITIONAL, shows_images
from ptq_export.pipeline.commands.reopened import read_schedule

__all__ = ["PROMPT_MODEL", "SAMPLER_MODEL", "STEP_MODEL", "write_repository"]

STEP_MODEL = "denoiser_step"
PROMPT_MODEL = "denoiser_prompt"
SAMPLER_MODEL = "sampler"
MODELS = Path(__file__).parent / "models"
DELAY_US = 100
"""A lone request waits as long for others at every step."""
MOST_REQUESTS = 64
PYTHON = 'backend: "python"'


def write_repository(parts: Parts, folder: Path, packaging: Packaging) -> None:
    """Write the repository of an engine.

    Raises:
        InputError: no backend of Triton runs it, or its graph is for one batch size alone.
        EnvironmentMissing: its TensorRT plan was not built yet.
    """
    if parts.target.engine == "jetson":
        raise InputError("a run for a Jetson has no engine yet", f"copy {parts.run / 'jetson'} to the device")
    taken = {each.name for each in _settings()} & {each.name for each in parts.signature.conditions}
    if taken:
        told = f"the network has a condition {', '.join(sorted(taken))}, and so is called a setting of the sampler"
        raise InputError(told, "call it something else in the checkpoint's factory")
    if parts.signature.batch is not None:
        told = f"the graph is for batches of {parts.signature.batch} alone: no steps could be joined"
        raise InputError(told, "make the run for any batch: --batch dynamic")
    (_write_python if packaging.engine == "python" else _write_native)(parts, folder, packaging.max_batch)
    _write_sampler(parts, folder, packaging)
    values = {
        "target": parts.target.name,
        "version": version("ptq-export"),
        "engine": packaging.engine,
        "conditions": _condition_rows(parts.signature.conditions),
        "image": _image_row(parts.signature) if _has_images(parts) else "",
    }
    (folder / "README.md").write_text(fill(FILES / "triton.md", values), encoding="utf-8")


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
    most = min(max_batch, model.max_batch or max_batch)
    opens = f'{backend.fields}\ndefault_model_filename: "{model.path.name}"'
    _write_config(folder, STEP_MODEL, _step_config(parts.signature, opens, most, backend.device))
    if parts.prompt_names:
        parts.copy(parts.prompt_names, folder / PROMPT_MODEL / "1")
        opens = f'backend: "onnxruntime"\ndefault_model_filename: "{parts.prompt_names[0]}"'
        _write_config(folder, PROMPT_MODEL, _prompt_config(parts, opens, most))


def _write_python(parts: Parts, folder: Path, max_batch: int) -> None:
    """The step's version folder is a package of format `folder` beside its program."""
    place = folder / STEP_MODEL / "1"
    parts.copy(parts.names, place)
    parts.write_manifest(place, format="folder")
    _write_program(folder, STEP_MODEL)
    device = "KIND_GPU" if parts.runtime.device == "gpu" else "KIND_CPU"
    _write_config(folder, STEP_MODEL, _step_config(parts.signature, PYTHON, max_batch, device))
    if parts.prompt_names:
        parts.copy(parts.prompt_names, folder / PROMPT_MODEL / "1")
        _write_program(folder, PROMPT_MODEL)
        told = parameters({"onnx": parts.prompt_names[0]})
        _write_config(folder, PROMPT_MODEL, _prompt_config(parts, PYTHON, max_batch, told))


def _write_sampler(parts: Parts, folder: Path, packaging: Packaging) -> None:
    prompt = parts.signature.prompt
    stated = {} if prompt is None else {"prompt": prompt_to_json(prompt)}
    reads = {"prompt_reads": [each.name for each in parts.prompt_inputs]} if prompt is not None else {}
    place = folder / SAMPLER_MODEL / "1"
    place.mkdir(parents=True)
    parts.write_manifest(place, format=packaging.format, engine=packaging.engine, **stated, **reads)
    _write_program(folder, SAMPLER_MODEL)
    told = {"step_model": STEP_MODEL, "prompt_model": PROMPT_MODEL, "most_requests": str(MOST_REQUESTS)}
    inputs = [*_settings(), *_sampler_conditions(parts.signature.conditions)]
    outputs = [
        Tensor(SAMPLE, "FP32", parts.signature.sample_shape),
        *([_image(parts.signature)] if _has_images(parts) else []),
        *(Tensor(name, "INT32", (1,)) for name in ("step", "steps")),
        Tensor("seed", "INT64", (1,)),
    ]
    decoupled = "model_transaction_policy {\n  decoupled: true\n}"
    blocks = (decoupled, instance("KIND_CPU"), parameters(told))
    _write_config(folder, SAMPLER_MODEL, model_config(SAMPLER_MODEL, PYTHON, 0, inputs, outputs, *blocks))


def _step_config(signature: Signature, backend: str, max_batch: int, device: str) -> str:
    inputs = [tensor_of(each) for each in signature.step_inputs]
    outputs = [Tensor(OUTPUT, "FP32", signature.output_shape(1)[1:])]
    return _batched_config(STEP_MODEL, backend, max_batch, device, inputs, outputs)


def _prompt_config(parts: Parts, backend: str, max_batch: int, *blocks: str) -> str:
    values = () if parts.signature.prompt is None else parts.signature.prompt.values
    inputs, outputs = [tensor_of(it) for it in parts.prompt_inputs], [tensor_of(it) for it in values]
    return _batched_config(PROMPT_MODEL, backend, max_batch, "KIND_CPU", inputs, outputs, *blocks)


def _batched_config(
    name: str,
    backend: str,
    max_batch: int,
    device: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    *more: str,
) -> str:
    batches = sorted({1, max_batch})
    blocks = (dynamic_batching(max_batch, DELAY_US), instance(device), warm_up(inputs, batches), *more)
    return model_config(name, backend, max_batch, inputs, outputs, *blocks)


def _settings() -> list[Tensor]:
    """What every sampler is told; each may be left out. The name of the sampler is a parameter of the request: Triton
    before 24.12 dies of text for the Python backend beside numpy 2."""
    kinds = {"seed": "INT64", "steps": "INT32", "guidance": "FP32", "preview": "INT32"}
    return [Tensor(name, kind, (1,), optional=True) for name, kind in kinds.items()]


def _sampler_conditions(conditions: Sequence[Input]) -> list[Tensor]:
    """The conditions of one picture, and what guidance takes in their place."""
    given = [tensor_of(each) for each in conditions]
    away = [Tensor(f"{UNCONDITIONAL}{it.name}", it.kind, it.sizes, optional=True) for it in given]
    return [*given, *away]


def _has_images(parts: Parts) -> bool:
    return shows_images(parts.signature.sample_shape, read_schedule(parts.manifest, parts.run))


def _image(signature: Signature) -> Tensor:
    channels, *sides = signature.sample_shape
    return Tensor("image", "UINT8", (*sides, channels))


def _write_program(folder: Path, model: str) -> None:
    shutil.copyfile(MODELS / f"{model}.py", folder / model / "1" / "model.py")


def _write_config(folder: Path, model: str, text: str) -> None:
    (folder / model / "config.pbtxt").write_text(text, encoding="utf-8")


def _condition_rows(conditions: Sequence[Input]) -> str:
    return "\n".join(f"| `{it.name}` | {it.dtype} {list(tensor_of(it).dims)} | {_told(it)} |" for it in conditions)


def _told(condition: Input) -> str:
    known = f"0..{condition.limit - 1}" if condition.limit is not None else "a condition"
    return f"the class, {known}" if condition.name == LABEL else known


def _image_row(signature: Signature) -> str:
    return f"| `image` | uint8 {list(_image(signature).dims)} | the same, black to white |\n"
