"""ermongroup/ddim state dicts: the golden output, the architecture from shapes, EMA, and every way not to fit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ddim_reference import State, random_state, reference
from diffusers import UNet2DModel

from ptq_export.artifacts import sha256_file
from ptq_export.checkpoints import load_checkpoint
from ptq_export.checkpoints.conventions import ERMONGROUP
from ptq_export.checkpoints.ddim import ddim_config, ddim_name
from ptq_export.checkpoints.untrained import DDIM_CIFAR10
from ptq_export.denoiser import NoiseSchedule
from ptq_export.errors import InputError


def _saved(content: object, folder: Path) -> str:
    path = folder / "weights.bin"
    torch.save(content, path)
    return str(path)


def _inputs(colours: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, colours, size, size, generator=generator), torch.tensor([3, 950])


def _refusal(content: object, folder: Path, resolution: int | None = None) -> InputError:
    with pytest.raises(InputError) as caught:
        load_checkpoint(_saved(content, folder), resolution)
    assert caught.value.remedy
    return caught.value


def test_golden_checkpoint_reproduces_the_original_output(golden: Path) -> None:
    arrays = np.load(golden / "ddim_tiny.npz")
    denoiser = load_checkpoint(str(golden / "ddim_tiny.pt"))
    eps = denoiser(torch.tensor(arrays["sample"]), torch.tensor(arrays["timestep"]))
    assert np.abs(eps.numpy() - arrays["output"]).max() < 1e-5


def test_reference_of_these_tests_reproduces_the_original_output(golden: Path) -> None:
    arrays = np.load(golden / "ddim_tiny.npz")
    state = torch.load(golden / "ddim_tiny.pt", weights_only=True)
    eps = reference(state, torch.tensor(arrays["sample"]), torch.tensor(arrays["timestep"]))
    assert np.abs(eps.numpy() - arrays["output"]).max() < 1e-5


@pytest.mark.parametrize(
    ("widths", "blocks", "attention"),
    [
        ([32, 64, 64], 2, {0, 2}),
        ([32, 32, 64, 96], 1, set()),
        ([64, 32], 3, {0, 1}),
        ([32], 1, {0}),
    ],
    ids=["attention at both ends", "no attention but mid", "narrowing, three blocks", "one level"],
)
def test_other_architectures_equal_the_reference(
    widths: list[int], blocks: int, attention: set[int], tmp_path: Path
) -> None:
    state = random_state(widths, blocks, attention)
    sample, timestep = _inputs(3, 8)
    expected = reference(state, sample, timestep)
    eps = load_checkpoint(_saved(state, tmp_path))(sample, timestep)
    assert expected.std() > 0.1
    assert (eps - expected).abs().max() < 1e-5


def test_cifar10_architecture_is_inferred_from_shapes() -> None:
    with torch.device("meta"):
        unet = UNet2DModel(**DDIM_CIFAR10)
    state = {ddim_name(name, levels=4): tensor for name, tensor in unet.state_dict().items()}
    assert {"sample_size": 32, **ddim_config(state, "cifar10")} == DDIM_CIFAR10
    assert "up.3.block.2.nin_shortcut.weight" in state
    assert "up.1.attn.2.proj_out.bias" in state


@pytest.mark.parametrize(
    ("levels", "attention", "size"), [(4, {1}, 32), (5, {2}, 64), (6, {4}, 256), (4, set(), 32)],
    ids=["cifar10", "celeba", "lsun", "no attention"],
)  # fmt: skip
def test_default_resolution_is_that_of_the_published_nets(
    levels: int, attention: set[int], size: int, tmp_path: Path
) -> None:
    path = _saved(random_state([32] * levels, 1, attention), tmp_path)
    denoiser = load_checkpoint(path)
    assert denoiser.sample_shape == (3, size, size)
    assert any(note.startswith(f"resolution {size} assumed") for note in denoiser.source.notes)


def test_given_resolution_is_used_and_not_called_an_assumption(ddim_state: State, tmp_path: Path) -> None:
    denoiser = load_checkpoint(_saved(ddim_state, tmp_path), resolution=10)
    assert denoiser.sample_shape == (1, 10, 10)
    assert denoiser.source.architecture["sample_size"] == 10
    assert not any("resolution" in note for note in denoiser.source.notes)


def test_resolution_that_cannot_be_halved_is_refused(ddim_state: State, tmp_path: Path) -> None:
    error = _refusal(ddim_state, tmp_path, resolution=9)
    assert "size 9" in error.cause
    assert "multiple of 2" in error.remedy


def test_source_tells_file_format_and_assumptions(ddim_state: State, tmp_path: Path) -> None:
    path = _saved(ddim_state, tmp_path)
    denoiser = load_checkpoint(path)
    source = denoiser.source
    assert denoiser.schedule == NoiseSchedule(variance_type="fixed_large", conventions=ERMONGROUP)
    assert (source.spec, source.format, source.ema) == (path, "ermongroup/ddim", None)
    assert source.sha256 == sha256_file(Path(path))
    assert any("noise schedule assumed" in note for note in source.notes)
    assert any("EMA" in note for note in source.notes)


def test_module_is_float32_in_evaluation_mode_without_gradients(ddim_state: State, tmp_path: Path) -> None:
    half = {name: tensor.half() for name, tensor in ddim_state.items()}
    before = torch.random.get_rng_state()
    module = load_checkpoint(_saved(half, tmp_path)).module
    assert not any(part.training for part in module.modules())
    assert {(p.dtype, p.requires_grad, p.device.type) for p in module.parameters()} == {(torch.float32, False, "cpu")}
    assert torch.equal(torch.random.get_rng_state(), before)


def test_trainers_list_gives_its_ema_weights(ddim_state: State, tmp_path: Path) -> None:
    model = {f"module.{name}": torch.zeros_like(tensor) for name, tensor in ddim_state.items()}
    denoiser = load_checkpoint(_saved([model, {"state": {}}, 12, 790000, ddim_state], tmp_path))
    sample, timestep = _inputs(1, 8)
    assert (denoiser(sample, timestep) - reference(ddim_state, sample, timestep)).abs().max() < 1e-5
    assert denoiser.source.ema is True
    assert "EMA weights of training step 790000" in denoiser.source.notes


def test_trainers_list_without_ema_says_so(ddim_state: State, tmp_path: Path) -> None:
    source = load_checkpoint(_saved([ddim_state, {"state": {}}, 12, 790000], tmp_path)).source
    assert source.ema is False
    assert any("no EMA weights" in note and "790000" in note for note in source.notes)


@pytest.mark.parametrize("key", ["state_dict", "model", "ema"])
def test_state_dict_one_key_down_is_found(key: str, ddim_state: State, tmp_path: Path) -> None:
    source = load_checkpoint(_saved({"epoch": 3, key: ddim_state}, tmp_path)).source
    assert source.ema is (key == "ema")


def test_prefix_of_data_parallel_is_dropped(ddim_state: State, tmp_path: Path) -> None:
    parallel = {f"module.{name}": tensor for name, tensor in ddim_state.items()}
    sample, timestep = _inputs(1, 8)
    eps = load_checkpoint(_saved(parallel, tmp_path))(sample, timestep)
    assert (eps - reference(ddim_state, sample, timestep)).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["down.1.block.0.conv2.weight", "conv_in.weight", "mid.attn_1.q.bias"])
def test_missing_tensor_is_named(name: str, ddim_state: State, tmp_path: Path) -> None:
    del ddim_state[name]
    assert f"lacks the tensors {name}" in _refusal(ddim_state, tmp_path).cause


def test_missing_level_is_named(ddim_state: State, tmp_path: Path) -> None:
    state = {name.replace("down.1.", "down.2."): tensor for name, tensor in ddim_state.items()}
    assert "lacks the tensors down.1.*" in _refusal(state, tmp_path).cause


def test_unexpected_tensor_is_named(ddim_state: State, tmp_path: Path) -> None:
    ddim_state["down.0.block.0.conv3.weight"] = torch.zeros(32)
    assert "unexpected tensors down.0.block.0.conv3.weight" in _refusal(ddim_state, tmp_path).cause


def test_other_shape_is_named_with_both_shapes(ddim_state: State, tmp_path: Path) -> None:
    ddim_state["mid.block_1.conv1.weight"] = torch.zeros(32, 16, 3, 3)
    cause = _refusal(ddim_state, tmp_path).cause
    assert "mid.block_1.conv1.weight has the shape [32, 16, 3, 3], the net needs [32, 32, 3, 3]" in cause


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weight_that_is_not_finite_is_named(value: float, ddim_state: State, tmp_path: Path) -> None:
    ddim_state["up.1.attn.0.q.weight"][0, 0] = value
    assert "up.1.attn.0.q.weight holds NaN or infinite" in _refusal(ddim_state, tmp_path).cause


@pytest.mark.parametrize(
    "tensor", [torch.zeros(32, dtype=torch.int8), torch.zeros(32).to_sparse(), torch.zeros(32, device="meta")],
    ids=["int8", "sparse", "meta"],
)  # fmt: skip
def test_tensor_that_is_no_plain_float_is_named(tensor: torch.Tensor, ddim_state: State, tmp_path: Path) -> None:
    ddim_state["conv_in.bias"] = tensor
    assert "conv_in.bias is not a plain float tensor" in _refusal(ddim_state, tmp_path).cause


def test_attention_in_some_blocks_of_a_level_is_refused(tmp_path: Path) -> None:
    state = random_state([32, 32], 2, {1}, colours=1)
    partial = {name: tensor for name, tensor in state.items() if not name.startswith("up.1.attn.2")}
    assert "up.1 has 3 residual blocks but 2 with attention" in _refusal(partial, tmp_path).cause


def test_first_level_wider_than_the_stem_is_refused(ddim_state: State, tmp_path: Path) -> None:
    ddim_state["down.0.block.0.conv1.weight"] = torch.zeros(64, 32, 3, 3)
    assert "conv_in has 32 channels and the first level 64" in _refusal(ddim_state, tmp_path).cause


def test_twice_the_channels_are_a_learned_variance(ddim_state: State, tmp_path: Path) -> None:
    ddim_state["conv_out.weight"], ddim_state["conv_out.bias"] = torch.zeros(2, 32, 3, 3), torch.zeros(2)
    denoiser = load_checkpoint(_saved(ddim_state, tmp_path))
    assert denoiser.schedule.variance_type == "learned_range"
    assert denoiser(*_inputs(1, 8)).shape == (2, 2, 8, 8)


def test_only_the_schedule_can_be_assumed(ddim_state: State, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="heads=4: ermongroup/ddim has no 'heads'"):
        load_checkpoint(_saved(ddim_state, tmp_path), assume={"heads": "4"})


def test_width_that_group_norm_cannot_divide_is_refused(tmp_path: Path) -> None:
    assert "UNet2DModel" in _refusal(random_state([48, 48], 1, set()), tmp_path).cause
