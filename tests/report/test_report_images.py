"""Images are what the tensors say, pixel by pixel."""

import base64
import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from ptq_export.errors import InputError
from ptq_export.report.images import load_gallery, png_uri


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


def test_grey_and_colour_images_survive_the_png() -> None:
    grey = np.array([[[0.0, 0.5], [1.0, 2.0]]])
    assert pixels(png_uri(grey)).tolist() == [[0, 128], [255, 255]]
    colour = np.random.default_rng(0).integers(0, 256, (3, 4, 5)) / 255
    assert np.array_equal(pixels(png_uri(colour)), np.rint(255 * np.moveaxis(colour, 0, -1)))


def test_gallery_amplifies_the_difference_and_states_psnr(tmp_path: Path) -> None:
    reference = np.zeros((20, 1, 16, 16), dtype=np.float32)
    engine = reference.copy()
    engine[1:] += 0.02
    save_file({"reference": reference, "engine": engine}, tmp_path / "samples.safetensors")
    gallery = load_gallery(tmp_path / "samples.safetensors")
    assert (len(gallery.pairs), gallery.total, gallery.scale, gallery.gain) == (16, 20, 7, 64)
    assert math.isinf(gallery.pairs[0].psnr_db)
    assert gallery.pairs[1].psnr_db == pytest.approx(40.0, abs=1e-3)
    assert pixels(gallery.pairs[0].difference).max() == 0
    assert set(np.unique(pixels(gallery.pairs[1].difference))) == {163}


def test_sets_of_different_shapes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.safetensors"
    save_file({"reference": np.zeros((2, 1, 8, 8)), "engine": np.zeros((1, 1, 8, 8))}, path)
    with pytest.raises(InputError, match="two equal sets"):
        load_gallery(path)
