"""The bound on what int8 may gain: shapes of a network whose products are known, arithmetic, and refusals."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from ptq_export.benchmarks.ceiling import bound, find_products, main
from ptq_export.benchmarks.products import Product
from ptq_export.calibrators.sites import find_sites
from ptq_export.denoiser import Denoiser, NoiseSchedule, Source
from ptq_export.nn.scheme import TENSORRT

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


class Net(nn.Module):
    """Two convolutions between a first and a last one, and a linear over the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(32, 1, 3, padding=1)
        self.same, self.down = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1, stride=2)
        self.mix = nn.Linear(32, 32)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        x = self.down(self.same(self.first(sample)))
        x = self.mix(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (4, 4))
        return self.last(nn.functional.interpolate(x, scale_factor=2.0)) + timestep[:, None, None, None]


def test_the_products_are_those_of_the_int8_layers() -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(Net(), NoiseSchedule(), (1, 8, 8), Source("test:net", "", ""))
    products = find_products(denoiser, find_sites(denoiser, TENSORRT))
    assert products == {Product(64, 144, 32): 1, Product(16, 288, 32): 1, Product(16, 32, 32): 1}
    assert Product(64, 144, 32).macs == 64 * 144 * 32


@pytest.mark.parametrize(
    ("step_ms", "int8_ms", "float16_ms", "factor"),
    [(10.0, 2.0, 6.0, 10 / 6), (10.0, 6.0, 6.0, 1.0), (10.0, 8.0, 6.0, 10 / 12), (5.0, 2.0, 6.0, None)],
    ids=["int8 faster", "the same", "int8 slower", "products longer than the step"],
)
def test_the_bound_exchanges_the_products_times_alone(
    step_ms: float, int8_ms: float, float16_ms: float, factor: float | None
) -> None:
    found = bound(step_ms, int8_ms, float16_ms)
    assert found is factor is None or found == pytest.approx(factor)


@without_cuda
def test_without_cuda_the_shapes_are_listed_and_the_exit_code_is_3(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ckpt", "embedded:digits"]) == 3
    said = capsys.readouterr()
    assert "GMAC per sample" in said.out and "no CUDA device" in said.err and "--list" in said.err
    assert main(["--ckpt", "embedded:digits", "--list"]) == 0


@pytest.mark.parametrize("arguments", [["--batch", "0"], ["--ckpt", "absent-file"]], ids=" ".join)
def test_wrong_input_is_refused_without_a_trace(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2 and "error: " in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_on_a_gpu_the_bound_is_measured(tmp_path: Path) -> None:
    assert main(["--ckpt", "embedded:digits", "--batch", "4", "--json", str(tmp_path / "ceiling.json")]) == 0
    value = json.loads((tmp_path / "ceiling.json").read_text())
    assert "not an engine" in value["what"] and all(ms > 0 for ms in value["products_ms"].values())
    assert value["float16_step_ms"]["CUDA graph"] > 0
