"""How different the pictures of a run look to a network that you give: the engine's beside FP32's, of the same noise.

    python -m ptq_export.benchmarks.perceptual RUN --backbone NET.onnx

NET.onnx reads images `[N, C, H, W]` in [-1, 1] and gives features of one layer or more, `[N, D]` or `[N, D, h, w]`. The
distance is that of LPIPS before its learned weights (Zhang et al. 2018, https://arxiv.org/abs/1801.03924, equation 1):
the features of each place scaled to length 1, their squared difference, averaged over places and layers. What it means
is told by the same distance between FP32's pictures of different noise.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ptq_export.benchmarks.program import parser_of, run_program
from ptq_export.engines.ort.session import CPU, Level, open_session, session_settings
from ptq_export.errors import InputError
from ptq_export.report.build import SAMPLES_FILE
from ptq_export.report.images import load_samples

__all__ = ["distances", "main"]

WANTED = "float32 features [N, D] or [N, D, h, w] of N images are wanted"
Features = Sequence[NDArray[np.float32]]


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns the exit code."""
    parser = parser_of("perceptual", __doc__)
    parser.add_argument("--backbone", type=Path, required=True, metavar="FILE", help="an ONNX file: images to features")
    options = parser.parse_args(arguments)
    return run_program(lambda: _measure(options.run, options.backbone))


def distances(first: Features, second: Features) -> NDArray[np.float64]:
    """The distance `[N]` of every image of one batch from that of another, by the features of their layers."""
    apart = [np.square(_directions(a) - _directions(b)).sum(1) for a, b in zip(first, second, strict=True)]
    averaged: NDArray[np.float64] = np.mean([layer.reshape(len(layer), -1).mean(1) for layer in apart], 0, np.float64)
    return averaged


def _directions(features: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    directions: NDArray[np.float32] = np.divide(features, length, out=np.zeros_like(features), where=length > 0)
    return directions


def _measure(run: Path, backbone: Path) -> list[str]:
    exact, engine = (images.astype(np.float32) for images in load_samples(run / SAMPLES_FILE))
    session = open_session(backbone, session_settings(0, Level.ORT_ENABLE_ALL), (CPU,))
    seen, found = (_features(session, images, backbone) for images in (exact, engine))
    apart = distances(seen, found)
    others = distances(seen, [np.roll(layer, 1, axis=0) for layer in seen])
    return [
        f"{len(apart)} pictures, {len(seen)} layers of {backbone.name}",
        f"the engine's from FP32's of the same noise: mean {apart.mean():.4f}, worst {apart.max():.4f}",
        f"FP32's of different noise from each other:  mean {others.mean():.4f}, least {others.min():.4f}",
    ]


def _features(session: onnxruntime.InferenceSession, images: NDArray[np.float32], backbone: Path) -> Features:
    if len(given := session.get_inputs()) != 1:
        raise InputError(f"{backbone} reads {len(given)} inputs", "a backbone reads images alone")
    try:
        results: list[Any] = session.run(None, {given[0].name: images})
    except Exception as error:  # ONNX Runtime's own exceptions have no base class of theirs.
        raise InputError(
            f"{backbone} does not read images {list(images.shape)}: {error}", "export it for images of this size"
        ) from error
    features = [np.asarray(result) for result in results]
    if any(it.ndim not in (2, 4) or len(it) != len(images) or it.dtype != np.float32 for it in features):
        raise InputError(f"{backbone} gives {[f'{it.dtype} {list(it.shape)}' for it in features]}", WANTED)
    if not all(np.isfinite(it).all() for it in features):
        raise InputError(f"{backbone} gives numbers that are not finite", "features of images in [-1, 1] must be")
    return features


if __name__ == "__main__":
    sys.exit(main())
