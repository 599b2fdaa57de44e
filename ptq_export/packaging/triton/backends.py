"""Which of Triton's own backends runs an engine kind, and the file that it runs.

The others have none that computes what was proved: there the Python backend serves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ptq_export.artifacts import inside, require_regular, sha256_file
from ptq_export.engines.build_cache import read_identity
from ptq_export.errors import EnvironmentMissing, InputError
from ptq_export.packaging.parts import Parts

__all__ = ["NATIVE", "Backend", "Model"]


@dataclass(frozen=True)
class Model:
    """The file that a backend opens, and the largest batch that it takes, where it has one."""

    path: Path
    max_batch: int | None = None


@dataclass(frozen=True)
class Backend:
    """A backend of Triton.

    Attributes:
        fields: What config.pbtxt says of it.
        device: `KIND_CPU` or `KIND_GPU`.
        model: The file of an engine that it opens.
    """

    fields: str
    device: str
    model: Callable[[Parts], Model]


def _graph(parts: Parts) -> Model:
    return Model(parts.run / parts.target.onnx)


def _plan(parts: Parts) -> Model:
    """The plan with the largest batch that was built of the run's graph; it is not loaded here.

    Raises:
        EnvironmentMissing: none was built.
        InputError: it wants more than one sample at a time.
    """
    sha256 = parts.manifest["artefacts"][parts.target.onnx]["sha256"]
    found = [each for each in _plans(parts.run) if each[1] == sha256]
    if not found:
        told = f"{parts.run} holds no TensorRT plan of its {parts.target.onnx}"
        remedy = "run `ptq-export bench` on the run where its GPU is, or take --engine python, which builds it there"
        raise EnvironmentMissing(told, remedy)
    path, _, least, most = max(found, key=lambda each: each[3])
    if least != 1:
        raise InputError(f"{path.name} takes batches of {least} and more", "build it for --batch 1:4:64")
    return Model(path, most)


def _plans(run: Path) -> list[tuple[Path, str, int, int]]:
    """Plans with the digest of their graph, and least and largest batch, as their sidecars say."""
    found = []
    for path in sorted([*run.glob("*.plan"), *run.glob("engine/*.plan")]):
        try:
            require_regular(inside(run, str(path.relative_to(run))))
            identity, file_sha256 = read_identity(path)
        except InputError:
            continue
        least, _, most = _numbers(identity.options.get("batch"))
        if identity.engine == "trt" and most and sha256_file(path) == file_sha256:
            found.append((path, identity.onnx_sha256, least, most))
    return found


def _numbers(batch: object) -> tuple[int, int, int]:
    """Least, usual and largest batch; zeros where a sidecar says something else."""
    whole = isinstance(batch, list) and len(batch) == 3 and all(type(size) is int for size in batch)
    return tuple(batch) if whole else (0, 0, 0)  # type: ignore[arg-type, return-value]


NATIVE = {
    "ort": Backend('backend: "onnxruntime"', "KIND_CPU", _graph),
    "trt": Backend('backend: "tensorrt"', "KIND_GPU", _plan),
}
