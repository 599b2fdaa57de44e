"""Self-describing safetensors: by path, as the embedded model, and with a damaged header."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file

from ptq_export.checkpoints import embedded, load_checkpoint
from ptq_export.errors import InputError

SCHEDULE = {"num_train_timesteps": 400, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.05}


@pytest.fixture
def header(unet_config: dict[str, Any]) -> dict[str, str]:
    return {
        "format": "ptq-export/unet2d",
        "unet": json.dumps(unet_config),
        "scheduler": json.dumps(SCHEDULE),
        "training": json.dumps({"steps": 30, "ema": True}),
    }


def _write(path: Path, unet: UNet2DModel, header: dict[str, str]) -> str:
    save_file({name: tensor.half() for name, tensor in unet.state_dict().items()}, path, metadata=header)
    return str(path)


def test_self_describing_file_is_loaded_by_path(
    tmp_path: Path, unet: UNet2DModel, unet_config: dict[str, Any], header: dict[str, str]
) -> None:
    denoiser = load_checkpoint(_write(tmp_path / "any.bin", unet, header))
    half = UNet2DModel(**unet_config).eval()
    half.load_state_dict({name: tensor.half().float() for name, tensor in unet.state_dict().items()})
    sample, timestep = torch.ones(2, 1, 8, 8), torch.tensor([0, 399])
    with torch.no_grad():
        assert torch.equal(denoiser(sample, timestep), half(sample, timestep).sample)
    assert (denoiser.schedule.num_train_timesteps, denoiser.schedule.beta_end) == (400, 0.05)
    assert (denoiser.source.format, denoiser.source.ema) == ("ptq-export/unet2d", True)
    assert "trained with steps = 30, ema = True" in denoiser.source.notes


def test_embedded_name_loads_the_packages_file(
    tmp_path: Path, unet: UNet2DModel, header: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path / "digits.safetensors", unet, header)
    monkeypatch.setattr(embedded, "ASSETS", tmp_path)
    denoiser = load_checkpoint("embedded:digits")
    assert denoiser.source.spec == "embedded:digits"
    assert denoiser.sample_shape == (1, 8, 8)


def test_incomplete_installation_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "ASSETS", tmp_path)
    with pytest.raises(InputError, match=r"lacks the embedded model digits\.safetensors"):
        load_checkpoint("embedded:digits")


@pytest.mark.skipif(not (embedded.ASSETS / "digits.safetensors").exists(), reason="the model is not embedded yet")
def test_model_of_this_package_loads() -> None:
    denoiser = load_checkpoint("embedded:digits")
    eps = denoiser(torch.randn(1, *denoiser.sample_shape), torch.tensor([500]))
    assert denoiser.source.ema is True
    assert 0.1 < eps.std() < 10


def test_unknown_embedded_name_offers_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean digits"):
        load_checkpoint("embedded:digit")


@pytest.mark.parametrize("key", ["unet", "scheduler", "training"])
@pytest.mark.parametrize("value", [None, "{", "[]"])
def test_damaged_header_is_named(
    key: str, value: str | None, tmp_path: Path, unet: UNet2DModel, header: dict[str, str]
) -> None:
    header.pop(key) if value is None else header.update({key: value})
    with pytest.raises(InputError, match=repr(key)):
        load_checkpoint(_write(tmp_path / "model.safetensors", unet, header))
