"""OpenAI state dicts that do not fit: relatives, incomplete files and contradictions, named as the file calls them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from openai_reference import State, random_state

from ptq_export.checkpoints import load_checkpoint
from ptq_export.checkpoints.assume import NOTHING
from ptq_export.checkpoints.openai_layout import Layout
from ptq_export.errors import InputError

CONV = Layout(3, 6, 32, (32, 64), 2, (1,), resblock_updown=False, scale_shift=True, classes=5)
RESBLOCK = replace(CONV, resblock_updown=True)
QKV = "middle_block.1.qkv.weight"


def _refusal(state: State, folder: Path, assume: dict[str, str] | None = None) -> InputError:
    torch.save(state, folder / "model.pt")
    with pytest.raises(InputError) as caught:
        load_checkpoint(str(folder / "model.pt"), assume={"heads": "4"} if assume is None else assume)
    assert caught.value.exit_code == 2
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize("layout", [CONV, RESBLOCK], ids=["conv", "resblock"])
@pytest.mark.parametrize(
    "name",
    [
        "time_embed.0.bias",
        "time_embed.2.weight",
        "input_blocks.0.0.bias",
        "input_blocks.1.0.in_layers.2.weight",
        "input_blocks.1.0.emb_layers.1.weight",
        "input_blocks.4.0.in_layers.2.weight",
        "input_blocks.5.0.out_layers.3.bias",
        "input_blocks.5.1.qkv.weight",
        "middle_block.1.qkv.bias",
        "middle_block.1.norm.weight",
        "output_blocks.2.1.proj_out.weight",
        "output_blocks.5.0.skip_connection.weight",
        "out.0.weight",
        "out.2.weight",
    ],
)
def test_missing_tensor_is_named(name: str, layout: Layout, tmp_path: Path) -> None:
    state = random_state(layout)
    del state[name]
    assert f"lacks the tensors {name}" in _refusal(state, tmp_path).cause


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        (CONV, "input_blocks.3.0.op.weight"),
        (CONV, "output_blocks.2.2.conv.bias"),
        (RESBLOCK, "input_blocks.3.0.in_layers.2.weight"),
        (RESBLOCK, "output_blocks.2.2.emb_layers.1.weight"),
    ],
)
def test_missing_tensor_of_a_resampling_is_named(layout: Layout, name: str, tmp_path: Path) -> None:
    state = random_state(layout)
    del state[name]
    assert f"lacks the tensors {name}" in _refusal(state, tmp_path).cause


@pytest.mark.parametrize(
    ("layout", "block", "cause"),
    [
        (CONV, "input_blocks.3.", "lacks the tensors input_blocks.3.*"),
        (CONV, "input_blocks.5.", "has 5 input_blocks but 6 output_blocks"),
        (CONV, "output_blocks.2.", "lacks the tensors output_blocks.2.*"),
        (CONV, "output_blocks.2.2.", "its 6 output_blocks resample at none"),
        (replace(RESBLOCK, widths=(32, 64, 64)), "output_blocks.2.1.", "its 9 output_blocks resample at 5, which"),
        (CONV, "middle_block.", "lacks the tensors middle_block.0.emb_layers.1.bias"),
    ],
)
def test_missing_block_is_named(layout: Layout, block: str, cause: str, tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in random_state(layout).items() if not name.startswith(block)}
    assert cause in _refusal(state, tmp_path).cause


@pytest.mark.parametrize("name", ["input_blocks.1.0.in_layers.3.weight", "middle_block.3.qkv.weight", "extra.bias"])
def test_unexpected_tensor_is_named(name: str, tmp_path: Path) -> None:
    assert f"unexpected tensors {name}" in _refusal({**random_state(CONV), name: torch.zeros(32)}, tmp_path).cause


def test_resampling_at_the_wrong_place_is_told(tmp_path: Path) -> None:
    moved = {"input_blocks.2.": "input_blocks.3.", "input_blocks.3.": "input_blocks.2."}
    state = {moved.get(name[:15], name[:15]) + name[15:]: tensor for name, tensor in random_state(CONV).items()}
    assert "its 6 input_blocks resample at 2, which makes no levels" in _refusal(state, tmp_path).cause


@pytest.mark.parametrize(
    ("name", "shape", "cause"),
    [
        ("middle_block.0.in_layers.2.weight", (64, 32, 3, 3), "[64, 32, 3, 3], the net needs [64, 64, 3, 3]"),
        (QKV, (190, 64, 1), f"{QKV} has the shape [190, 64, 1], not that of q, k and v"),
        (QKV, (96, 64, 1), f"{QKV}[q] has the shape [32, 64, 1], the net needs [64, 64]"),
        (QKV, (0,), f"{QKV} has the shape [0], not that of q, k and v"),
        (QKV, (), f"{QKV} has the shape [], not that of q, k and v"),
        ("time_embed.0.weight", (128,), "[128], not that of a linear layer"),
        ("label_emb.weight", (5,), "[5], not that of a table"),
        ("out.2.weight", (6, 32), "[6, 32], not that of a convolution"),
        ("input_blocks.1.0.emb_layers.1.weight", (32, 128), "the net needs"),
    ],
)
def test_other_shape_is_named(name: str, shape: tuple[int, ...], cause: str, tmp_path: Path) -> None:
    assert cause in _refusal({**random_state(CONV), name: torch.zeros(shape)}, tmp_path).cause


@pytest.mark.parametrize("name", [QKV, "out.0.bias", "time_embed.0.weight"])
@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda tensor: tensor.fill_(float("nan")), "holds NaN or infinite"),
        (lambda tensor: tensor.to(torch.int8), "is not a plain float tensor"),
        (lambda tensor: tensor.to_sparse(), "is not a plain float tensor"),
        (lambda tensor: tensor.to("meta"), "is not a plain float tensor"),
    ],
    ids=["nan", "int8", "sparse", "meta"],
)
def test_bad_values_are_named(
    name: str, spoil: Callable[[torch.Tensor], torch.Tensor], cause: str, tmp_path: Path
) -> None:
    for layout in (CONV, replace(CONV, time_width=64)):
        state = random_state(layout)
        state[name] = spoil(state[name])
        refused = _refusal(state, tmp_path).cause
        assert name in refused
        assert cause in refused


@pytest.mark.parametrize("channels", [(6, 3), (2, 1)])
def test_upsampler_is_called_one(channels: tuple[int, int], tmp_path: Path) -> None:
    inputs, outputs = channels
    cause = _refusal(random_state(replace(CONV, in_channels=inputs, out_channels=outputs)), tmp_path).cause
    assert f"is an upsampler: half of its {inputs} input channels are a low-resolution image" in cause


def test_classifier_is_called_one(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in random_state(CONV).items() if not name.startswith("output_blocks")}
    assert "is an openai/guided-diffusion classifier" in _refusal(state, tmp_path).cause


def test_latent_diffusion_net_is_called_one(tmp_path: Path) -> None:
    state = {**random_state(CONV), "input_blocks.1.1.transformer_blocks.0.attn2.to_q.weight": torch.zeros(32, 32)}
    assert "latent-diffusion" in _refusal(state, tmp_path).cause


def test_first_level_wider_than_the_stem_is_refused(tmp_path: Path) -> None:
    state = {**random_state(CONV), "input_blocks.1.0.in_layers.2.weight": torch.zeros(64, 32, 3, 3)}
    assert "input_blocks.0.0 has 32 channels and the first level 64" in _refusal(state, tmp_path).cause


def test_shortcut_of_3x3_is_refused(tmp_path: Path) -> None:
    name = "input_blocks.4.0.skip_connection.weight"
    cause = _refusal({**random_state(CONV), name: torch.zeros(64, 32, 3, 3)}, tmp_path).cause
    assert f"the shortcut {name} is a convolution of shape [64, 32, 3, 3], not a 1x1" in cause


@pytest.mark.parametrize("block", ["input_blocks.5", "output_blocks.0"])
def test_attention_in_some_blocks_of_a_level_is_refused(block: str, tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in random_state(CONV).items() if not name.startswith(f"{block}.1.")}
    assert f"level 1 has attention, but not in {block}" in _refusal(state, tmp_path).cause


def test_width_that_group_norm_cannot_divide_is_refused(tmp_path: Path) -> None:
    assert "UNet2DModel" in _refusal(random_state(replace(CONV, widths=(48, 48))), tmp_path).cause


def test_other_channels_are_refused(tmp_path: Path) -> None:
    cause = _refusal(random_state(replace(CONV, in_channels=4, out_channels=3)), tmp_path).cause
    assert "3 output channels for 4 input channels: it sees a condition" in cause


@pytest.mark.parametrize(
    ("assume", "cause"),
    [
        ({"heads": "4", "head-width": "16"}, "contradict"),
        ({"heads": "3"}, "attention over 64 channels cannot be split into 3 heads"),
        ({"head-width": "48"}, "attention over 64 channels cannot be split into heads of 48 channels"),
        ({"betas": "linear", "timesteps": "20"}, "not below 1 for T = 20"),
        ({"head": "4"}, "has no 'head'"),
    ],
)
def test_assumptions_that_do_not_suit_are_refused(assume: dict[str, str], cause: str, tmp_path: Path) -> None:
    assert cause in _refusal(random_state(CONV), tmp_path, assume).cause


def test_default_heads_that_do_not_suit_ask_for_others(tmp_path: Path) -> None:
    error = _refusal(random_state(replace(RESBLOCK, widths=(32, 32))), tmp_path, dict(NOTHING))
    assert "attention over 32 channels cannot be split into heads of 64 channels" in error.cause
    assert "--assume heads=N" in error.remedy
