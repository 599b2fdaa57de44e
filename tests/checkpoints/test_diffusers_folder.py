"""diffusers folders: the same output as diffusers' own loading, the scheduler found, and what is not supported yet."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file

from ptq_export.artifacts import sha256_file
from ptq_export.checkpoints import load_checkpoint
from ptq_export.denoiser import Denoiser, NoiseSchedule
from ptq_export.errors import InputError
from ptq_export.options import Options
from ptq_export.pipeline.stages import load_denoiser

WEIGHTS = "diffusion_pytorch_model.safetensors"


def _error(denoiser: Denoiser, unet: UNet2DModel) -> float:
    sample = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    timestep = torch.tensor([0, 499])
    with torch.no_grad():
        return float((denoiser(sample, timestep) - unet(sample, timestep).sample).abs().max())


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _refusal(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        load_checkpoint(str(path))
    assert caught.value.remedy
    return caught.value


def test_pipeline_folder_gives_net_and_schedule(folder: Path, unet: UNet2DModel) -> None:
    denoiser = load_checkpoint(str(folder))
    assert _error(denoiser, unet) == 0
    assert denoiser.schedule.scheduler == "DDPMScheduler"
    plain = replace(denoiser.schedule, scheduler="", settings={})
    assert plain == NoiseSchedule(num_train_timesteps=500, beta_schedule="squaredcos_cap_v2")
    assert denoiser.sample_shape == (1, 8, 8)
    assert denoiser.source.format == "diffusers UNet2DModel"
    assert denoiser.source.sha256 == sha256_file(folder / "unet" / WEIGHTS)
    assert json.loads(json.dumps(denoiser.source.architecture))["block_out_channels"] == [32, 32]


def test_unet_folder_finds_the_scheduler_next_door(folder: Path) -> None:
    assert load_checkpoint(str(folder / "unet")).schedule.num_train_timesteps == 500


def test_flat_folder_finds_the_scheduler_beside_the_net(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "unet", tmp_path / "flat")
    shutil.copy(folder / "scheduler" / "scheduler_config.json", tmp_path / "flat")
    assert load_checkpoint(str(tmp_path / "flat")).schedule.num_train_timesteps == 500


def test_class_conditional_net_with_learned_variance_is_loaded(unet_config: dict[str, Any], tmp_path: Path) -> None:
    unet = UNet2DModel(**{**unet_config, "num_class_embeds": 7, "out_channels": 2}).eval()
    unet.save_pretrained(tmp_path / "unet")
    denoiser = load_checkpoint(str(tmp_path))
    assert (denoiser.classes, denoiser.schedule.variance_type) == (7, "learned_range")
    inputs, labels = (torch.ones(2, 1, 8, 8), torch.tensor([0, 499])), torch.tensor([0, 6])
    with torch.no_grad():
        assert torch.equal(denoiser(*inputs, label=labels), unet(*inputs, labels).sample)


@pytest.mark.parametrize(
    ("channels", "told", "note"),
    [
        ((1, 2), "fixed_small", "fixed_small, and the net makes twice its channels: learned_range"),
        ((1, 1), "learned_range", "learned_range, and the net makes no variance: fixed_small"),
    ],
)
def test_a_variance_that_the_net_cannot_have_is_named(
    unet_config: dict[str, Any], folder: Path, channels: tuple[int, int], told: str, note: str
) -> None:
    inputs, outputs = channels
    UNet2DModel(**{**unet_config, "in_channels": inputs, "out_channels": outputs}).save_pretrained(folder / "unet")
    _edit(folder / "scheduler" / "scheduler_config.json", variance_type=told)
    denoiser = load_checkpoint(str(folder))
    assert f"the scheduler's configuration says variance_type {note}" in denoiser.source.notes
    assert denoiser.schedule.variance_type == note.rpartition(" ")[2]


def test_a_learned_variance_that_leaves_room_for_a_condition_is_refused(
    unet_config: dict[str, Any], folder: Path
) -> None:
    """Eight channels of eight: a sample of four, a condition of four, and the variance of four."""
    UNet2DModel(**{**unet_config, "in_channels": 8, "out_channels": 8}).save_pretrained(folder / "unet")
    assert load_checkpoint(str(folder)).sample_shape == (8, 8, 8)
    _edit(folder / "scheduler" / "scheduler_config.json", variance_type="learned_range")
    assert "4 channels of a sample, and a condition of 4 beside it" in _refusal(folder).cause


def test_image_beside_the_sample_is_a_condition(unet_config: dict[str, Any], folder: Path) -> None:
    """Super-resolution as in SR3: the image has the size of the sample."""
    unet = UNet2DModel(**{**unet_config, "in_channels": 4, "num_class_embeds": 3}).eval()
    unet.save_pretrained(folder / "unet")
    denoiser = load_checkpoint(str(folder))
    assert denoiser.sample_shape == (1, 8, 8)
    assert [str(each) for each in denoiser.conditions] == ["label [N] int64", "image [N, 3, 8, 8] float32"]
    assert any("its examples are drawn" in note for note in denoiser.source.notes)
    given = denoiser.draw(2, seed=0)
    sample, timestep = torch.randn(2, 1, 8, 8), torch.tensor([0, 499])
    with torch.no_grad():
        wanted = unet(torch.cat([sample, given["image"]], dim=1), timestep, given["label"]).sample
    assert torch.equal(denoiser(sample, timestep, **given), wanted)
    assert load_checkpoint(str(folder), resolution=16).draw(1, seed=0)["image"].shape == (1, 3, 16, 16)


def test_folder_without_scheduler_says_what_it_assumes(folder: Path) -> None:
    shutil.rmtree(folder / "scheduler")
    denoiser = load_checkpoint(str(folder))
    assert denoiser.schedule == NoiseSchedule()
    assert any("noise schedule assumed" in note for note in denoiser.source.notes)


def test_torch_weights_of_a_folder_are_loaded(folder: Path, unet: UNet2DModel) -> None:
    state = load_file(folder / "unet" / WEIGHTS)
    (folder / "unet" / WEIGHTS).unlink()
    torch.save(state, folder / "unet" / "diffusion_pytorch_model.bin")
    assert _error(load_checkpoint(str(folder)), unet) == 0


def test_attention_names_of_early_diffusers_are_understood(folder: Path, unet: UNet2DModel) -> None:
    state = load_file(folder / "unet" / WEIGHTS)
    for new, old in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
        state = {name.replace(new, old): tensor for name, tensor in state.items()}
    save_file(state, folder / "unet" / WEIGHTS)
    assert _error(load_checkpoint(str(folder)), unet) == 0


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"num_class_embeds": 10}, "lacks the tensors class_embedding.weight"),
        ({"class_embed_type": "timestep"}, "class embeddings of type timestep are not supported yet"),
        ({"out_channels": 2}, "has the shape [1, 32, 3, 3], the net needs [2, 32, 3, 3]"),
        ({"out_channels": 3}, "3 output channels for 1 input"),
        ({"time_embedding_type": "fourier"}, "fourier time embedding"),
        ({"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel without its text encoder"),
        ({"down_block_types": ["DownBlock2D", "NoSuchBlock"]}, "NoSuchBlock"),
        ({"block_out_channels": [32]}, "does not describe a UNet2DModel"),
        ({"block_out_channels": [64, 64]}, "has the shape"),
        ({"sample_size": [8, 9]}, "samples of size [8, 9]"),
        ({"sample_size": "large"}, "samples of size large"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_configuration_that_does_not_suit_is_refused(changes: dict[str, Any], cause: str, folder: Path) -> None:
    _edit(folder / "unet" / "config.json", **changes)
    assert cause in _refusal(folder).cause


@pytest.mark.parametrize(
    "changes",
    [
        {"beta_schedule": "cubic"},
        {"beta_start": 0.5, "beta_end": 0.1},
        {"num_train_timesteps": "many"},
        {"prediction_type": "flow"},
        {"trained_betas": [0.1]},
        {"trained_betas": []},
        {"trained_betas": True},
        {"_class_name": []},
        {"timestep_spacing": "even"},
    ],
    ids=lambda value: next(iter(value)),
)
def test_schedule_that_cannot_be_expressed_is_refused(changes: dict[str, Any], folder: Path) -> None:
    _edit(folder / "scheduler" / "scheduler_config.json", **changes)
    assert next(iter(changes)) in _refusal(folder).cause


def test_scheduler_of_another_family_is_refused_by_name(folder: Path) -> None:
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 1.0}))
    assert "a net of FlowMatchEulerDiscreteScheduler predicts the velocity of a flow" in _refusal(folder).cause


def test_missing_sample_size_becomes_an_assumption_that_resolution_replaces(folder: Path) -> None:
    _edit(folder / "unet" / "config.json", sample_size=None)
    assumed = load_checkpoint(str(folder))
    assert assumed.sample_shape == (1, 32, 32)
    assert any("resolution 32 assumed" in note for note in assumed.source.notes)
    assert load_checkpoint(str(folder), resolution=16).sample_shape == (1, 16, 16)


def test_damaged_configuration_is_refused(folder: Path) -> None:
    (folder / "unet" / "config.json").write_text("{")
    assert "config.json cannot be read" in _refusal(folder).cause


def test_keys_of_other_versions_are_ignored_with_a_note(folder: Path, unet: UNet2DModel) -> None:
    _edit(folder / "unet" / "config.json", resnet_eps=1e-6, use_new_attention=True)
    denoiser = load_checkpoint(str(folder))
    assert _error(denoiser, unet) == 0
    assert any(
        note.endswith("ignored as in diffusers: resnet_eps, use_new_attention") for note in denoiser.source.notes
    )
    assert "resnet_eps" not in denoiser.source.architecture


@pytest.mark.parametrize(
    "changes",
    [
        {"time_embedding_type": "learned", "num_train_timesteps": 1000},
        {"add_attention": False, "down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2},
        {"mid_block_type": None, "mid_block_scale_factor": 2**0.5},
        {"resnet_time_scale_shift": "scale_shift", "downsample_type": "resnet", "upsample_type": "resnet"},
        {"center_input_sample": True, "freq_shift": 1, "flip_sin_to_cos": False},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_shape_of_net_answers_as_diffusers_loads_it(
    changes: dict[str, Any], unet_config: dict[str, Any], tmp_path: Path
) -> None:
    UNet2DModel(**{**unet_config, **changes}).save_pretrained(tmp_path / "unet")
    assert _error(load_checkpoint(str(tmp_path)), UNet2DModel.from_pretrained(tmp_path / "unet").eval()) == 0


def test_learned_times_that_are_fewer_than_the_schedules_are_refused(unet_config: dict[str, Any], folder: Path) -> None:
    learned = {"time_embedding_type": "learned", "num_train_timesteps": 499}
    UNet2DModel(**{**unet_config, **learned}).save_pretrained(folder / "unet")
    assert "has learned 499 time-steps, its noise schedule has 500" in _refusal(folder).cause


def test_folder_without_weights_says_so(folder: Path) -> None:
    (folder / "unet" / WEIGHTS).unlink()
    assert "holds no weights" in _refusal(folder).cause


def test_weights_file_is_loaded_with_what_stands_beside_it(folder: Path, unet: UNet2DModel) -> None:
    denoiser = load_checkpoint(str(folder / "unet" / WEIGHTS))
    assert _error(denoiser, unet) == 0
    assert denoiser.schedule.num_train_timesteps == 500


@pytest.fixture
def bare(folder: Path, unet: UNet2DModel, tmp_path: Path) -> Path:
    """A state dict of `unet`, as a trainer's script saves it."""
    (tmp_path / "bare").mkdir()
    torch.save(
        {"model": {f"module.{name}": value for name, value in unet.state_dict().items()}}, tmp_path / "bare/a.pt"
    )
    return tmp_path / "bare" / "a.pt"


def test_state_dict_alone_asks_for_its_configuration(bare: Path) -> None:
    error = _refusal(bare)
    assert "without its config.json" in error.cause
    assert "--config FILE" in error.remedy


@pytest.mark.parametrize("given", [True, False], ids=["given", "beside"])
def test_state_dict_alone_is_loaded_with_a_configuration(
    given: bool, bare: Path, folder: Path, unet: UNet2DModel
) -> None:
    config = folder / "unet" / "config.json"
    if not given:
        shutil.copy(config, bare.parent)
    denoiser = load_denoiser(Options(ckpt=str(bare), config=config if given else None))
    assert _error(denoiser, unet) == 0
    assert denoiser.schedule.num_train_timesteps == (500 if given else 1000)


def test_configuration_for_what_needs_none_is_refused(golden: Path, folder: Path, bare: Path) -> None:
    config = folder / "unet" / "config.json"
    for spec in ("embedded:digits", str(folder), str(golden / "ddim_tiny.pt")):
        with pytest.raises(InputError, match="--config"):
            load_checkpoint(spec, config=config)
    with pytest.raises(InputError, match="does not exist"):
        load_checkpoint(str(bare), config=folder / "absent.json")


def test_whole_pickled_net_gets_one_remedy_that_works(unet: UNet2DModel, tmp_path: Path) -> None:
    torch.save(unet, tmp_path / "whole.pth")
    assert "model.save_pretrained('folder')" in _refusal(tmp_path / "whole.pth").remedy
    torch.load(tmp_path / "whole.pth", weights_only=False).save_pretrained(tmp_path / "folder")
    assert _error(load_checkpoint(str(tmp_path / "folder")), unet) == 0
