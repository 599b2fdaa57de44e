"""Final samples of the same noise, FP32 beside the engine, as PNG data URIs and the difference amplified."""

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ptq_export.artifacts import atomic_path
from ptq_export.errors import InputError

__all__ = ["Gallery", "Pair", "load_gallery", "png_uri", "sample_grid"]

Array = npt.NDArray[np.float64]
SHOWN = 16
LARGEST_SIDE_PX = 112


@dataclass(frozen=True)
class Pair:
    """One noise denoised twice; the images are data URIs."""

    index: int
    reference: str
    engine: str
    difference: str
    psnr_db: float


@dataclass(frozen=True)
class Gallery:
    """The first samples of a run; `gain` amplifies |difference|, one image pixel is `scale` screen pixels."""

    pairs: list[Pair]
    total: int
    shape: tuple[int, int, int]
    gain: int
    scale: int


def load_gallery(path: Path) -> Gallery:
    """Read `reference` and `engine` `[K, C, H, W]` in [-1, 1] from a safetensors file.

    Raises:
        InputError: the file is damaged or holds something else.
    """
    try:
        tensors = load_file(path)
        reference, engine = (np.clip(tensors[name].astype(np.float64), -1, 1) for name in ("reference", "engine"))
    except (SafetensorError, OSError, KeyError) as error:
        raise InputError(f"{path} cannot be read: {error}", "make the run again, in a new folder") from error
    if reference.ndim != 4 or reference.shape != engine.shape or not len(reference):
        raise InputError(f"{path} does not hold two equal sets of images [K, C, H, W]", "make the run again")
    difference = np.abs(engine - reference) / 2
    gain = _gain(difference)
    pairs = [
        Pair(
            index=index,
            reference=png_uri((reference[index] + 1) / 2),
            engine=png_uri((engine[index] + 1) / 2),
            difference=png_uri(gain * difference[index]),
            psnr_db=_psnr_db(difference[index]),
        )
        for index in range(min(SHOWN, len(reference)))
    ]
    channels, height, width = reference.shape[1:]
    scale = max(1, LARGEST_SIDE_PX // max(height, width))
    return Gallery(pairs, len(reference), (channels, height, width), gain, scale)


def png_uri(image: Array) -> str:
    """An image `[C, H, W]` in [0, 1] as a PNG data URI: RGB from three channels on, else the first one in grey."""
    levels = np.clip(np.rint(255 * image), 0, 255).astype(np.uint8)
    pixels = np.ascontiguousarray(np.moveaxis(levels[:3], 0, -1)) if len(levels) >= 3 else levels[0]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def sample_grid(images: Array, path: Path) -> None:
    """Write images `[N, C, H, W]` in [-1, 1] as one picture, as square as N allows, each pixel enlarged."""
    count, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    canvas = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, channels), 255, np.uint8)
    pixels = np.round((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    for index, image in enumerate(pixels):
        top, left = (index // columns) * (height + 1) + 1, (index % columns) * (width + 1) + 1
        canvas[top : top + height, left : left + width] = image
    scale = max(1, LARGEST_SIDE_PX // max(height, width))
    picture = Image.fromarray(canvas.squeeze(-1) if channels == 1 else canvas)
    with atomic_path(path) as temporary:
        size = (picture.width * scale, picture.height * scale)
        picture.resize(size, Image.Resampling.NEAREST).save(temporary, format="PNG")


def _gain(difference: Array) -> int:
    """The power of two that brings the 99.5th percentile of |difference| near full brightness."""
    bright = float(np.quantile(difference, 0.995))
    return 1 if bright <= 0 else 2 ** max(0, min(10, math.floor(math.log2(1 / bright))))


def _psnr_db(difference: Array) -> float:
    error = float(np.mean(difference**2))
    return math.inf if error == 0 else -10 * math.log10(error)
