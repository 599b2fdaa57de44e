"""Pipelines whose parts are missing, damaged or of another kind: each named, with the remedy."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny_pipelines import save_vocabulary, saved, unet_config

from ptq_export.checkpoints import load_checkpoint
from ptq_export.errors import EnvironmentMissing, InputError


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Whole pipelines, which no test changes."""
    return {kind: saved(kind, tmp_path_factory.mktemp(kind)) for kind in ("sd1", "sdxl")}


@pytest.fixture
def pipeline(originals: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals["sd1"], tmp_path / "pipeline"))


@pytest.fixture
def large(originals: dict[str, Path], tmp_path: Path) -> Path:
    """One of SDXL's kind."""
    return Path(shutil.copytree(originals["sdxl"], tmp_path / "large"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change(path: Path, how: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(path)
    how(tensors)
    save_file(tensors, path)


def refusal(path: Path, **asked: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        load_checkpoint(str(path), **asked)
    assert caught.value.exit_code == 2
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize("part", ["text_encoder", "tokenizer", "vae", "scheduler"])
def test_missing_part_is_named(part: str, pipeline: Path) -> None:
    shutil.rmtree(pipeline / part)
    assert f"lacks {part}/, a part of the pipeline" in refusal(pipeline).cause


def test_second_text_encoder_that_is_missing_is_named(large: Path) -> None:
    shutil.rmtree(large / "text_encoder_2")
    assert "lacks text_encoder_2/" in refusal(large).cause


def test_net_alone_asks_for_its_pipeline(pipeline: Path, tmp_path: Path) -> None:
    shutil.copytree(pipeline / "unet", tmp_path / "alone" / "unet")
    error = refusal(tmp_path / "alone" / "unet")
    assert "is a UNet2DConditionModel without its text encoder" in error.cause
    assert "give the pipeline's folder" in error.remedy


def test_net_in_its_pipeline_finds_the_other_parts(pipeline: Path) -> None:
    whole = load_checkpoint(str(pipeline))
    for spec in (pipeline / "unet", pipeline / "unet" / "diffusion_pytorch_model.safetensors"):
        assert load_checkpoint(str(spec)).source.sha256 == whole.source.sha256


def test_averages_beside_the_net_are_taken(pipeline: Path) -> None:
    shutil.copytree(pipeline / "unet", pipeline / "unet_ema")
    assert load_checkpoint(str(pipeline)).source.ema is True


def test_schedule_may_come_from_elsewhere(pipeline: Path) -> None:
    told = json.loads((pipeline / "scheduler" / "scheduler_config.json").read_text())
    shutil.rmtree(pipeline / "scheduler")
    assert load_checkpoint(str(pipeline), scheduler=told).schedule.beta_end == 0.012
    clipped = {**told, "_class_name": "DDIMScheduler", "clip_sample": True}
    assert load_checkpoint(str(pipeline), scheduler=clipped).schedule.clip_sample is False


@pytest.mark.parametrize("file", ["vae/config.json", "text_encoder/config.json"])
def test_configuration_of_a_part_belongs_to_the_checkpoints_digest(file: str, pipeline: Path) -> None:
    before = load_checkpoint(str(pipeline)).source.sha256
    edit(pipeline / file, **{"scaling_factor": 0.3, "layer_norm_eps": 1e-4})
    assert load_checkpoint(str(pipeline)).source.sha256 != before


def test_text_encoder_of_another_width_is_named(pipeline: Path, large: Path) -> None:
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(pipeline / part)
        shutil.copytree(large / f"{part}_2", pipeline / part)
    assert "makes 16 numbers per token, and the U-Net takes 32" in refusal(pipeline).cause


def test_pooled_prompt_of_another_width_is_named(large: Path) -> None:
    edit(large / "text_encoder_2" / "config.json", projection_dim=23)
    change(
        large / "text_encoder_2" / "model.safetensors",
        lambda tensors: tensors.update({"text_projection.weight": tensors["text_projection.weight"][:23].clone()}),
    )
    assert "the text encoder makes 23" in refusal(large).cause


@pytest.mark.parametrize(
    ("part", "file", "name"),
    [
        ("text_encoder_2", "model", "text_projection.weight"),
        ("text_encoder", "model", "encoder.layers.0.self_attn.k_proj.weight"),
        ("unet", "diffusion_pytorch_model", "add_embedding.linear_1.weight"),
        ("vae", "diffusion_pytorch_model", "decoder.conv_out.bias"),
    ],
)
def test_one_nan_is_named_with_its_file(part: str, file: str, name: str, large: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].view(-1)[1] = torch.nan

    change(large / part / f"{file}.safetensors", spoil)
    cause = refusal(large).cause
    assert f"{part}/{file}.safetensors" in cause
    assert f"{name} holds NaN" in cause


@pytest.mark.parametrize("resolution", [1, 20, 31])
def test_resolution_that_cannot_be_halved_is_refused(resolution: int, pipeline: Path) -> None:
    error = refusal(pipeline, resolution=resolution)
    assert "1/4 of an image's size, and the net halves them down to 1/2" in error.cause
    assert "a multiple of 8" in error.remedy


def test_resolution_counts_pixels(pipeline: Path) -> None:
    denoiser = load_checkpoint(str(pipeline), resolution=48)
    assert denoiser.sample_shape == (4, 12, 12)
    assert any("--resolution sets another size, in pixels" in note for note in denoiser.source.notes)


@pytest.mark.parametrize("package", ["transformers", "tokenizers"])
def test_absent_package_is_an_environment_that_lacks_it(
    package: str, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = "ptq_export.checkpoints.clip_text.find_spec"
    monkeypatch.setattr(found, lambda name: None if name == package else object())
    with pytest.raises(EnvironmentMissing, match=package) as caught:
        load_checkpoint(str(pipeline))
    assert caught.value.exit_code == 3
    assert "ptq-export[text]" in caught.value.remedy


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"addition_embed_type": "text", "addition_embed_type_num_heads": 4}, "additional embeddings of type text"),
        ({"class_embed_type": "projection", "projection_class_embeddings_input_dim": 8}, "class embeddings of type"),
        ({"encoder_hid_dim": 8}, "a projection text_proj of hidden states"),
        ({"attention_type": "gated"}, "gated attention"),
        ({"time_embedding_type": "fourier"}, "a fourier time embedding"),
        ({"cross_attention_dim": (32, 16)}, r"cross-attention over \[32, 16\]"),
        ({"in_channels": 7}, "a net of 7 channels to 4, for latents of 4"),
        ({"out_channels": 8}, "a net of 4 channels to 8, for latents of 4"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_net_of_another_kind_is_refused_by_name(changes: dict[str, Any], cause: str, pipeline: Path) -> None:
    UNet2DConditionModel(**unet_config(**changes)).save_pretrained(pipeline / "unet")
    with pytest.raises(InputError, match=cause):
        load_checkpoint(str(pipeline))


@pytest.mark.parametrize(
    ("file", "changes", "cause"),
    [
        ("text_encoder/config.json", {"model_type": "t5"}, "a text encoder of type 't5'"),
        ("text_encoder/config.json", {"num_hidden_layers": 10**9}, "asks for 1000000000 layers"),
        ("text_encoder/config.json", {"num_hidden_layers": 0}, "has 0 layers"),
        ("text_encoder/config.json", {"hidden_act": "os.system"}, "does not describe a CLIPTextModel"),
        ("text_encoder/config.json", {"num_attention_heads": 5}, "does not describe a CLIPTextModel"),
        ("text_encoder/config.json", {"max_position_embeddings": 20}, "position_embedding"),
        ("text_encoder/config.json", {"eos_token_id": [1, 2]}, "several tokens that end a prompt"),
        ("unet/config.json", {"transformer_layers_per_block": [10**8, 1]}, "asks for 200000000 layers"),
        ("unet/config.json", {"layers_per_block": 10**9}, "asks for 2000000000 layers"),
        ("unet/config.json", {"quantization_config": {"quant_method": "bitsandbytes"}}, "already (bitsandbytes)"),
        ("vae/config.json", {"_class_name": "AutoencoderKLWan"}, "a decoder of latents 'AutoencoderKLWan'"),
        ("vae/config.json", {"_class_name": []}, "a decoder of latents []"),
        ("scheduler/scheduler_config.json", {"_class_name": []}, "not the name of a scheduler"),
        ("vae/config.json", {"layers_per_block": 10**9}, "layers"),
        ("vae/config.json", {"scaling_factor": 0}, "how latents are scaled"),
        ("vae/config.json", {"latent_channels": 8}, "has the shape"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 30}, "makes 30 tokens"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": "many"}, "tokenizer cannot be read"),
        ("model_index.json", {"text_encoder": [None, None]}, "without the text encoder of its kind"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_configuration_of_a_part_is_checked(file: str, changes: dict[str, Any], cause: str, pipeline: Path) -> None:
    edit(pipeline / file, **changes)
    assert cause in refusal(pipeline).cause


def test_damaged_tokenizer_is_named(pipeline: Path) -> None:
    shutil.rmtree(pipeline / "tokenizer")
    save_vocabulary(pipeline / "tokenizer")
    (pipeline / "tokenizer" / "merges.txt").write_text("#version: 0.2\nno such\n")
    assert "its tokenizer cannot be read" in refusal(pipeline).cause


def test_half_precision_and_torch_files_are_widened(pipeline: Path) -> None:
    whole = load_checkpoint(str(pipeline))
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        file = pipeline / part / f"{stem}.safetensors"
        half = {name: value.half() for name, value in load_file(file).items()}
        file.unlink()
        if part == "unet":
            save_file(half, pipeline / part / f"{stem}.fp16.safetensors")
        else:
            torch.save(
                {f"text_model.{name}": value for name, value in half.items()}, pipeline / part / "pytorch_model.bin"
            )
    found = load_checkpoint(str(pipeline))
    assert {value.dtype for value in found.module.state_dict().values()} == {torch.float32}
    assert any("the variant fp16" in note for note in found.source.notes)
    near = found.text.encode(["apple"])["encoder_hidden_states"] - whole.text.encode(["apple"])["encoder_hidden_states"]
    assert near.abs().max() < 1e-2
