"""The program that tells how different pictures look to a network of the user's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ptq_export.benchmarks.emoji import load_emoji_groups
from ptq_export.benchmarks.perceptual import distances, main


class Layers(nn.Module):
    """The emoji classifier's features behind its first and its last convolution."""

    def __init__(self) -> None:
        super().__init__()
        net = load_emoji_groups().net
        assert isinstance(net, nn.Sequential)
        self.first, self.rest = net[:3], net[3:-4]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        first = self.first(image)
        return first, self.rest(first)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backbone") / "layers.onnx"
    torch.onnx.export(Layers().eval(), (torch.zeros(4, 3, 64, 64),), path, dynamo=True, verbose=False)
    return path


def run_of(folder: Path, reference: Tensor, engine: Tensor) -> Path:
    save_file({"reference": reference, "engine": engine}, folder / "samples.safetensors")
    return folder


def pictures() -> Tensor:
    return torch.rand((4, 3, 64, 64), generator=torch.Generator().manual_seed(0)) * 2 - 1


def mean_of(line: str) -> float:
    return float(line.partition("mean ")[2].partition(",")[0])


def test_the_distance_is_that_of_directions_averaged_over_places_and_layers() -> None:
    first = [np.array([[3.0, 4.0]], np.float32), np.array([[[[1.0, 0.0]], [[0.0, 0.0]]]], np.float32)]
    second = [np.array([[6.0, 8.0]], np.float32), np.array([[[[0.0, 0.0]], [[1.0, 0.0]]]], np.float32)]
    assert distances(first, second) == pytest.approx([(0 + (2 + 0) / 2) / 2], abs=1e-6)


def test_less_noise_is_nearer_and_the_same_picture_is_at_zero(
    tmp_path: Path, backbone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for strength in (0.0, 0.02, 0.2):
        noise = torch.randn((4, 3, 64, 64), generator=torch.Generator().manual_seed(1)) * strength
        assert main([str(run_of(tmp_path, pictures(), pictures() + noise)), "--backbone", str(backbone)]) == 0
        engine, others = (line for line in capsys.readouterr().out.splitlines() if "mean" in line)
        found.append(mean_of(engine))
    assert found[0] == 0.0 < found[1] < found[2]
    assert found[1] < mean_of(others)


def test_equal_to_torch(tmp_path: Path, backbone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = pictures(), pictures().flip(3)
    assert main([str(run_of(tmp_path, one, two)), "--backbone", str(backbone)]) == 0
    with torch.no_grad():
        pairs = zip(Layers()(one), Layers()(two), strict=True)
    wanted = [
        (nn.functional.normalize(a, dim=1) - nn.functional.normalize(b, dim=1)).square().sum(1).mean() for a, b in pairs
    ]
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "same noise" in line)
    assert mean_of(line) == pytest.approx(sum(wanted).item() / 2, abs=1e-4)


@pytest.mark.parametrize("shape", [(4, 1, 64, 64), (4, 3, 64, 8)])
def test_pictures_that_the_backbone_does_not_read_are_refused(
    shape: tuple[int, ...], tmp_path: Path, backbone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path, torch.zeros(shape), torch.zeros(shape))
    assert main([str(run), "--backbone", str(backbone)]) == 2
    assert "does not read images" in capsys.readouterr().err


def test_what_is_no_backbone_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.onnx").write_bytes(b"no graph")
    run = run_of(tmp_path, pictures(), pictures())
    assert main([str(run), "--backbone", str(tmp_path / "net.onnx")]) == 2
    assert "cannot load net.onnx" in capsys.readouterr().err
    assert main([str(tmp_path / "absent"), "--backbone", str(tmp_path / "net.onnx")]) == 2
    assert "samples.safetensors cannot be read" in capsys.readouterr().err
