"""The verbs of the Python API: what they return is what a run would store, and nothing else is written."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ptq_export.calibrators.quantise import quantised_modules
from ptq_export.denoiser import Denoiser, NoiseSchedule, Source
from ptq_export.engines.ort.engine import OrtEngine
from ptq_export.errors import InputError
from ptq_export.options import Options
from ptq_export.pipeline import export, quantise


class Convolutions(nn.Module):
    """Three convolutions and a shift by t: exported in a second."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.middle, self.head = (nn.Conv2d(a, b, 3, padding=1) for a, b in ((1, 8), (8, 8), (8, 1)))
        self.shift = nn.Linear(1, 8)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        x = self.stem(sample) + self.shift(timestep[:, None].float() / 1000)[:, :, None, None]
        return self.head(torch.relu(self.middle(torch.relu(x))))


@pytest.fixture
def denoiser() -> Denoiser:
    module = Convolutions().eval().requires_grad_(False)
    return Denoiser(module, NoiseSchedule(), (1, 8, 8), Source("here", "here", "0" * 64))


def test_quantise_gives_the_codes_of_a_run_with_the_same_options(finished: Path, tmp_path: Path) -> None:
    original = tiny.denoiser()
    original.module.eval().requires_grad_(False)
    layers = quantised_modules(quantise(original, tiny.options(tmp_path / "unused")).module)
    stored = load_file(finished / "quantised.safetensors")
    found = {f"{name}.{key}": value for name, layer in layers.items() for key, value in layer.state_dict().items()}
    assert set(found) == set(stored)
    assert all(torch.equal(found[name], stored[name]) for name in stored)
    assert not quantised_modules(original.module)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rounding", ["learned", "nearest"])
def test_exported_file_computes_what_the_quantised_denoiser_computes(
    rounding: str, denoiser: Denoiser, tmp_path: Path
) -> None:
    options = Options(samples=4, steps=3, iterations=2, rounding=rounding)
    simulation = quantise(denoiser, options)
    path = export(simulation, tmp_path / "int8.onnx")
    sample, times = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 500, 999])
    found = OrtEngine.run_graph(path.read_bytes(), {"sample": sample.numpy(), "timestep": times.numpy()})
    np.testing.assert_allclose(found, simulation(sample, times).numpy(), atol=0.02)
    assert set(quantised_modules(simulation.module)) == {"middle"}
    assert [file.name for file in tmp_path.iterdir()] == ["int8.onnx"]


def test_float_denoiser_is_exported_as_it_is(denoiser: Denoiser, tmp_path: Path) -> None:
    path = export(denoiser, str(tmp_path / "fp32.onnx"))
    sample, times = torch.ones(1, 1, 8, 8), torch.tensor([123])
    found = OrtEngine.run_graph(path.read_bytes(), {"sample": sample.numpy(), "timestep": times.numpy()})
    np.testing.assert_allclose(found, denoiser(sample, times).numpy(), atol=1e-5)


def test_baseline_target_has_nothing_to_quantise(denoiser: Denoiser) -> None:
    with pytest.raises(InputError, match="ort-fp32 is a baseline"):
        quantise(denoiser, Options(target="ort-fp32"))
