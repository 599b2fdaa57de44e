"""One model of a repository: a folder with its description, and its version with what it computes with."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from ptq_export.graph.part_file import part_interface
from ptq_export.packaging.parts import Parts
from ptq_export.packaging.triton.config import (
    Tensor,
    dynamic_batching,
    instance,
    model_config,
    parameters,
    tensor_of,
    warm_up,
)

__all__ = ["ONNX_RUNTIME", "PYTHON", "batched_config", "opens", "write_config", "write_graph", "write_program"]

MODELS = Path(__file__).parent / "models"
DELAY_US = 100
"""A lone request waits as long for others at every step."""
ONNX_RUNTIME = 'backend: "onnxruntime"'
PYTHON = 'backend: "python"'


def write_graph(parts: Parts, folder: Path, model: str, names: tuple[str, ...], max_batch: int, engine: str) -> None:
    """A float graph of the run, the first of `names`, and its data: on the CPU, by Triton's ONNX Runtime backend or in
    the Python backend."""
    parts.copy(names, folder / model / "1")
    inputs, outputs = ([tensor_of(it) for it in each] for each in part_interface(parts.run / names[0]))
    if engine == "python":
        write_program(folder, model, "graph")
        backend, told = PYTHON, parameters({"onnx": names[0]})
    else:
        backend, told = opens(ONNX_RUNTIME, names[0]), ""
    write_config(folder, model, batched_config(model, backend, max_batch, "KIND_CPU", inputs, outputs, told))


def batched_config(
    name: str,
    backend: str,
    max_batch: int,
    device: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    *more: str,
) -> str:
    """The description of a model whose requests are joined, and which is warm before it is ready."""
    blocks = (dynamic_batching(max_batch, DELAY_US), instance(device), warm_up(inputs, sorted({1, max_batch})), *more)
    return model_config(name, backend, max_batch, inputs, outputs, *blocks)


def opens(backend: str, file: str) -> str:
    """The fields of a backend that opens this file."""
    return f'{backend}\ndefault_model_filename: "{file}"'


def write_program(folder: Path, model: str, program: str) -> None:
    """What Triton's Python backend runs for a model, of those in `models`."""
    shutil.copyfile(MODELS / f"{program}.py", folder / model / "1" / "model.py")


def write_config(folder: Path, model: str, text: str) -> None:
    """The description of a model."""
    (folder / model / "config.pbtxt").write_text(text, encoding="utf-8")
