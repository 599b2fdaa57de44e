"""Which file of a diffusers folder is read, and a trainer's checkpoint folder with its averages."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel

from ptq_export.checkpoints import load_checkpoint
from ptq_export.denoiser import Denoiser
from ptq_export.errors import InputError

STEM = "diffusion_pytorch_model"


def _error(denoiser: Denoiser, unet: UNet2DModel) -> float:
    sample = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    timestep = torch.tensor([0, 499])
    with torch.no_grad():
        return float((denoiser(sample, timestep) - unet(sample, timestep).sample).abs().max())


def _moved(unet: UNet2DModel) -> UNet2DModel:
    """Another net of the same shape."""
    other = UNet2DModel(**{key: value for key, value in unet.config.items() if not key.startswith("_")})
    other.load_state_dict({name: value + 0.01 for name, value in unet.state_dict().items()})
    return other.eval()


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("variant", [None, "fp16", "ema", "non_ema"])
@pytest.mark.parametrize("shard", ["10GB", "200KB"], ids=["whole", "sharded"])
def test_every_way_that_diffusers_saves_is_loaded(
    safe: bool, variant: str | None, shard: str, unet: UNet2DModel, tmp_path: Path
) -> None:
    unet.save_pretrained(tmp_path, safe_serialization=safe, variant=variant, max_shard_size=shard)
    assert len(list(tmp_path.glob("*-of-*"))) == (0 if shard == "10GB" else 7)
    denoiser = load_checkpoint(str(tmp_path))
    assert _error(denoiser, unet) == 0
    assert denoiser.source.ema is {"ema": True, "non_ema": False}.get(variant or "")


def test_averages_come_before_the_plain_file_and_that_before_the_half_one(unet: UNet2DModel, tmp_path: Path) -> None:
    _moved(unet).half().save_pretrained(tmp_path, variant="fp16")
    unet.save_pretrained(tmp_path)
    plain = load_checkpoint(str(tmp_path))
    assert _error(plain, unet) == 0
    assert plain.source.notes[0] == "not stated whether these are EMA weights"
    _moved(unet).save_pretrained(tmp_path, variant="ema")
    denoiser = load_checkpoint(str(tmp_path))
    assert _error(denoiser, _moved(unet)) == 0
    assert denoiser.source.notes[0] == f"EMA weights of the variant ema: {STEM}.ema.safetensors"


@pytest.fixture
def sharded(unet: UNet2DModel, tmp_path: Path) -> Path:
    unet.save_pretrained(tmp_path, max_shard_size="200KB")
    return tmp_path


def test_sha256_of_shards_is_that_of_all_of_them(sharded: Path) -> None:
    before = load_checkpoint(str(sharded)).source.sha256
    last = max(sharded.glob(f"{STEM}-*"))
    last.write_bytes(last.read_bytes()[:-4] + bytes(4))
    assert load_checkpoint(str(sharded)).source.sha256 != before


@pytest.mark.parametrize("fault", ["absent", "swapped", "outside", "no map"])
def test_shards_that_are_not_what_the_index_says_are_refused(fault: str, sharded: Path) -> None:
    index = sharded / f"{STEM}.safetensors.index.json"
    content = json.loads(index.read_text())
    names: dict[str, Any] = content["weight_map"]
    first, second = sorted(set(names.values()))[:2]
    if fault == "absent":
        (sharded / first).unlink()
    elif fault == "swapped":
        names.update({name: second if file == first else file for name, file in names.items()})
    elif fault == "outside":
        names["conv_in.weight"] = f"../{sharded.name}/{first}"
    else:
        content["weight_map"] = ["conv_in.weight"]
    index.write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        load_checkpoint(str(sharded))
    assert caught.value.remedy


@pytest.fixture
def checkpoint(unet: UNet2DModel, tmp_path: Path) -> Path:
    """What diffusers' unconditional trainer leaves: live weights, averages, and the scheduler one level higher."""
    folder = tmp_path / "out" / "checkpoint-500"
    average = EMAModel(unet.parameters(), model_cls=UNet2DModel, model_config=unet.config)
    _moved(unet).save_pretrained(folder / "unet")
    average.save_pretrained(folder / "unet_ema")
    DDPMScheduler(500, prediction_type="sample").save_pretrained(tmp_path / "out" / "scheduler")
    return folder


@pytest.mark.parametrize("name", [".", "unet_ema"])
def test_averages_of_a_training_checkpoint_are_taken(name: str, checkpoint: Path, unet: UNet2DModel) -> None:
    denoiser = load_checkpoint(str(checkpoint / name))
    assert _error(denoiser, UNet2DModel.from_pretrained(checkpoint / "unet_ema").eval()) == 0
    assert (denoiser.schedule.num_train_timesteps, denoiser.schedule.prediction_type) == (500, "sample")
    assert denoiser.source.ema is True
    assert denoiser.source.notes[0] == "EMA weights: unet_ema/config.json tells the decay 0.9999 of EMAModel"


def test_live_weights_beside_averages_are_named_as_such(checkpoint: Path, unet: UNet2DModel) -> None:
    denoiser = load_checkpoint(str(checkpoint / "unet"))
    assert _error(denoiser, _moved(unet)) == 0
    assert denoiser.source.ema is False
    assert denoiser.source.notes[0].startswith("unet_ema/ beside unet/ has EMA weights, which are not used")


def test_folder_of_checkpoints_names_the_newest(checkpoint: Path) -> None:
    checkpoint.rename(checkpoint.parent / "checkpoint-1500")
    (checkpoint.parent / "checkpoint-900").mkdir()
    with pytest.raises(InputError) as caught:
        load_checkpoint(str(checkpoint.parent))
    assert caught.value.remedy.endswith("checkpoint-1500")
