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
from ptq_export.report.images import load_gallery, png_uri, sample_grid


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


def test_grey_and_colour_images_survive_the_png() -> None:
    grey = np.array([[[0.0, 0.5], [1.0, 2.0]]])
    assert pixels(png_uri(grey)).tolist() == [[0, 128], [255, 255]]
    colour = np.random.default_rng(0).integers(0, 256, (3, 4, 5)) / 255
    assert np.array_equal(pixels(png_uri(colour)), np.rint(255 * np.moveaxis(colour, 0, -1)))


@pytest.mark.parametrize(("channels", "shape"), [(2, (4, 10)), (4, (8, 10)), (5, (4, 25)), (8, (8, 20))])
def test_other_numbers_of_channels_stand_side_by_side(channels: int, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (channels, 4, 5)) / 255
    shown = pixels(png_uri(image))
    assert shown.shape == shape
    across = shape[1] // 5
    for index in range(channels):
        top, left = index // across * 4, index % across * 5
        assert np.array_equal(shown[top : top + 4, left : left + 5], np.rint(255 * image[index]))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 8])
def test_grid_of_any_number_of_channels_is_a_picture(channels: int, tmp_path: Path) -> None:
    latents = np.random.default_rng(0).normal(size=(5, channels, 8, 8)) * 3
    sample_grid(latents, tmp_path / "grid.png", latents.min(), latents.max())
    picture = Image.open(tmp_path / "grid.png")
    assert picture.mode == ("RGB" if channels == 3 else "L")
    assert {0, 255} < set(np.unique(np.asarray(picture)))


def test_gallery_of_latents_spans_their_range(tmp_path: Path) -> None:
    reference = np.linspace(-4, 6, 2 * 4 * 64, dtype=np.float32).reshape(2, 4, 8, 8)
    save_file({"reference": reference, "engine": reference + 0.1}, tmp_path / "samples.safetensors")
    gallery = load_gallery(tmp_path / "samples.safetensors", -4.0, 6.0)
    assert (gallery.height, gallery.width, gallery.low, gallery.high) == (16, 16, -4, 6)
    assert gallery.pairs[0].psnr_db == pytest.approx(40, abs=1e-3)
    assert pixels(gallery.pairs[0].reference).min() == 0 and pixels(gallery.pairs[1].reference).max() == 255


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


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    path = tmp_path / "samples.safetensors"
    save_file({"reference": np.zeros((1, 1, 8, 8)), "engine": np.full((1, 1, 8, 8), value)}, path)
    with pytest.raises(InputError, match="NaN or infinite"):
        load_gallery(path)


def test_sets_of_different_shapes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.safetensors"
    save_file({"reference": np.zeros((2, 1, 8, 8)), "engine": np.zeros((1, 1, 8, 8))}, path)
    with pytest.raises(InputError, match="two equal sets"):
        load_gallery(path)
