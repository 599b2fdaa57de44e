"""Final samples of the same noise, FP32 beside the engine, as PNG data URIs and the difference amplified.

One channel is grey and three are RGB. Any other number is not an image but latents or data: its channels stand side
by side, each in grey, in as square a block as their number allows. A sequence is one grey image, a row per channel.
"""

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

__all__ = ["Gallery", "Pair", "load_gallery", "load_samples", "png_bytes", "png_uri", "sample_grid"]

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
    """The first samples of a run; `gain` amplifies |difference|, one image pixel is `scale` screen pixels.

    Black to white is `low` to `high`; a picture has `height` and `width` pixels.
    """

    pairs: list[Pair]
    total: int
    shape: tuple[int, int, int]
    gain: int
    scale: int
    low: float
    high: float
    height: int
    width: int


def load_samples(path: Path) -> tuple[Array, Array]:
    """What FP32 and the engine made of the same noise: `reference` and `engine` `[K, C, H, W]` of a safetensors
    file; `[K, C, L]` as grey images.

    Raises:
        InputError: the file is damaged or holds something else.
    """
    try:
        tensors = load_file(path)
        reference, engine = (_as_images(tensors[name].astype(np.float64)) for name in ("reference", "engine"))
    except (SafetensorError, OSError, KeyError) as error:
        raise InputError(f"{path} cannot be read: {error}", "make the run again, in a new folder") from error
    if reference.ndim != 4 or reference.shape != engine.shape or not reference.size:
        raise InputError(f"{path} does not hold two equal sets of images [K, C, H, W]", "make the run again")
    if not (np.isfinite(reference).all() and np.isfinite(engine).all()):
        raise InputError(f"{path} holds images with NaN or infinite values", "make the run again")
    return reference, engine


def load_gallery(path: Path, low: float = -1.0, high: float = 1.0) -> Gallery:
    """The gallery of a file of samples, with values between `low` and `high`.

    Raises:
        InputError: the file is damaged or holds something else.
    """
    reference, engine = load_samples(path)
    span = max(high - low, np.finfo(np.float32).tiny)
    difference = np.abs(engine - reference) / span
    gain = _gain(difference)
    pairs = [
        Pair(
            index=index,
            reference=png_uri((reference[index] - low) / span),
            engine=png_uri((engine[index] - low) / span),
            difference=png_uri(gain * difference[index]),
            psnr_db=_psnr_db(difference[index]),
        )
        for index in range(min(SHOWN, len(reference)))
    ]
    channels, height, width = reference.shape[1:]
    scale = max(1, LARGEST_SIDE_PX // max(height, width))
    size = _pixels(reference[0]).shape
    return Gallery(pairs, len(reference), (channels, height, width), gain, scale, low, high, size[0], size[1])


def png_uri(image: Array) -> str:
    """An image `[C, H, W]` in [0, 1] as a PNG data URI."""
    return f"data:image/png;base64,{base64.b64encode(_png(image, optimize=True)).decode()}"


def png_bytes(sample: Array, low: float = -1.0, high: float = 1.0) -> bytes:
    """One sample `[C, H, W]`, or a sequence `[C, L]`, between `low` and `high` as PNG, a pixel a number."""
    [image] = _as_images(sample[None])
    return _png((image - low) / max(high - low, np.finfo(np.float32).tiny))


def sample_grid(images: Array, path: Path, low: float = -1.0, high: float = 1.0) -> None:
    """Write images `[N, C, H, W]`, or sequences `[N, C, L]`, between `low` and `high` as one picture, as square as N
    allows, pixels enlarged."""
    tiles = [_pixels((image - low) / max(high - low, np.finfo(np.float32).tiny)) for image in _as_images(images)]
    height, width, *colours = tiles[0].shape
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    canvas = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, *colours), 255, np.uint8)
    for index, tile in enumerate(tiles):
        top, left = (index // columns) * (height + 1) + 1, (index % columns) * (width + 1) + 1
        canvas[top : top + height, left : left + width] = tile
    scale = max(1, LARGEST_SIDE_PX // max(height, width))
    picture = Image.fromarray(canvas)
    with atomic_path(path) as temporary:
        size = (picture.width * scale, picture.height * scale)
        picture.resize(size, Image.Resampling.NEAREST).save(temporary, format="PNG")


def _png(image: Array, optimize: bool = False) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_pixels(image)).save(buffer, "PNG", optimize=optimize)
    return buffer.getvalue()


def _as_images(samples: Array) -> Array:
    """Sequences `[N, C, L]` as grey images, a row per channel; images as they are."""
    return samples[:, None] if samples.ndim == 3 else samples


def _pixels(image: Array) -> npt.NDArray[np.uint8]:
    """Bytes `[H, W]` or `[H, W, 3]` of an image `[C, H, W]` in [0, 1]; see the module for channels."""
    levels = np.clip(np.rint(255 * image), 0, 255).astype(np.uint8)
    channels, height, width = levels.shape
    if channels == 3:
        return np.ascontiguousarray(np.moveaxis(levels, 0, -1))
    across = next(count for count in range(math.isqrt(channels - 1) + 1, channels + 1) if channels % count == 0)
    block = levels.reshape(channels // across, across, height, width).swapaxes(1, 2)
    return np.ascontiguousarray(block.reshape(channels // across * height, across * width))


def _gain(difference: Array) -> int:
    """The power of two that brings the 99.5th percentile of |difference| near full brightness."""
    bright = float(np.quantile(difference, 0.995))
    return 1 if bright <= 0 else 2 ** max(0, min(10, math.floor(math.log2(1 / bright))))


def _psnr_db(difference: Array) -> float:
    error = float(np.mean(difference**2))
    return math.inf if error == 0 else -10 * math.log10(error)
