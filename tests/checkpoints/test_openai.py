"""OpenAI state dicts: the golden outputs, every architecture and flag against the reference, and what is assumed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from openai_reference import State, random_state, reference
from torch import Tensor

from ptq_export.artifacts import sha256_file
from ptq_export.checkpoints import load_checkpoint
from ptq_export.checkpoints.conventions import OPENAI
from ptq_export.checkpoints.openai_layout import Layout
from ptq_export.denoiser import Denoiser, NoiseSchedule
from ptq_export.errors import InputError

TINY = Layout(3, 3, 32, (32, 64), 1, (1,), resblock_updown=False, scale_shift=True, classes=None)
IDDPM = replace(TINY, out_channels=6)
FLAGS = {"adm_tiny": {"head-width": "32", "qkv": "new", "betas": "cosine"}, "iddpm_tiny": {}}


def _saved(state: State, folder: Path) -> str:
    torch.save(state, folder / "model.pt")
    return str(folder / "model.pt")


def _inputs(layout: Layout, size: int = 16) -> tuple[Tensor, Tensor, Tensor | None]:
    sample = torch.randn(2, layout.in_channels, size, size, generator=torch.Generator().manual_seed(1))
    label = None if layout.classes is None else torch.tensor([0, layout.classes - 1])
    return sample, torch.tensor([3, 950]), label


@torch.no_grad()
def _seen(denoiser: Denoiser, sample: Tensor, timestep: Tensor, label: Tensor | None) -> Tensor:
    """What the network itself answers to its own time-step, in [0, 1000)."""
    output: Tensor = denoiser.module.unet(sample, timestep, class_labels=label).sample
    return output


def _notes(denoiser: Denoiser, part: str) -> list[str]:
    return [note for note in denoiser.source.notes if part in note]


@pytest.mark.parametrize("name", FLAGS)
def test_golden_checkpoint_reproduces_the_original_output(name: str, golden: Path) -> None:
    arrays = {key: torch.tensor(value) for key, value in np.load(golden / f"{name}.npz").items()}
    denoiser = load_checkpoint(str(golden / f"{name}.pt"), assume=FLAGS[name])
    output = _seen(denoiser, arrays["sample"], arrays["timestep"], arrays.get("y"))
    assert (output - arrays["output"]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("name", "heads"), [("adm_tiny", {"head_width": 32, "qkv": "new"}), ("iddpm_tiny", {"heads": 4})]
)
def test_reference_of_these_tests_reproduces_the_original_output(name: str, heads: dict, golden: Path) -> None:
    arrays = {key: torch.tensor(value) for key, value in np.load(golden / f"{name}.npz").items()}
    state = torch.load(golden / f"{name}.pt", weights_only=True)
    output = reference(state, arrays["sample"], arrays["timestep"], arrays.get("y"), **heads)
    assert (output - arrays["output"]).abs().max() < 1e-5


def test_golden_checkpoint_is_described_as_it_was_trained(golden: Path) -> None:
    denoiser = load_checkpoint(str(golden / "iddpm_tiny.pt"))
    assert denoiser.sample_shape == (3, 32, 32)
    assert denoiser.classes is None
    assert denoiser.schedule == NoiseSchedule(
        4000, "squaredcos_cap_v2", variance_type="learned_range", conventions=OPENAI
    )
    adm = load_checkpoint(str(golden / "adm_tiny.pt"), assume=FLAGS["adm_tiny"])
    assert (adm.sample_shape, adm.classes) == ((3, 64, 64), 1000)
    assert adm.schedule == NoiseSchedule(1000, "squaredcos_cap_v2", variance_type="learned_range", conventions=OPENAI)


@pytest.mark.parametrize("conditional", [False, True], ids=["eps", "class and variance"])
@pytest.mark.parametrize("qkv", ["legacy", "new"])
@pytest.mark.parametrize("heads", [{"heads": 4}, {"head_width": 16}], ids=["heads", "width"])
@pytest.mark.parametrize("resblock_updown", [False, True], ids=["conv", "resblock"])
@pytest.mark.parametrize("scale_shift", [False, True], ids=["shift", "scale-shift"])
def test_every_flag_equals_the_reference(
    scale_shift: bool, resblock_updown: bool, heads: dict[str, int], qkv: str, conditional: bool, tmp_path: Path
) -> None:
    layout = replace(TINY, scale_shift=scale_shift, resblock_updown=resblock_updown)
    layout = replace(layout, classes=5, out_channels=6) if conditional else layout
    state, inputs = random_state(layout), _inputs(layout)
    expected = reference(state, *inputs, **heads, qkv=qkv)
    assume = {key.replace("_", "-"): str(value) for key, value in heads.items()}
    denoiser = load_checkpoint(_saved(state, tmp_path), assume={**assume, "qkv": qkv})
    assert expected.std() > 0.1
    assert (_seen(denoiser, *inputs) - expected).abs().max() < 1e-5
    assert (denoiser.classes, denoiser.schedule.learns_variance) == (layout.classes, conditional)


@pytest.mark.parametrize("resblock_updown", [False, True], ids=["conv", "resblock"])
@pytest.mark.parametrize(
    "changes",
    [
        {"widths": (32, 64, 64), "attention": (0, 2), "blocks": 2},
        {"widths": (32, 32, 64, 96), "attention": ()},
        {"widths": (64, 32), "attention": (0, 1), "blocks": 3, "time_width": 64},
        {"widths": (32,), "attention": (0,), "in_channels": 1, "out_channels": 2},
        {"widths": (32,), "attention": ()},
        {"widths": (32, 64), "time_width": 64},
    ],
    ids=[
        "attention at both ends",
        "no attention but mid",
        "narrowing",
        "one level",
        "one level, mid",
        "half-width stem",
    ],
)
def test_other_architectures_equal_the_reference(
    changes: dict[str, tuple[int, ...]], resblock_updown: bool, tmp_path: Path
) -> None:
    layout = replace(TINY, resblock_updown=resblock_updown, **changes)
    state, inputs = random_state(layout), _inputs(layout)
    denoiser = load_checkpoint(_saved(state, tmp_path), assume={"heads": "2"})
    assert (_seen(denoiser, *inputs) - reference(state, *inputs, heads=2)).abs().max() < 1e-5


def test_wrong_flags_give_another_output(golden: Path) -> None:
    arrays = {key: torch.tensor(value) for key, value in np.load(golden / "iddpm_tiny.npz").items()}
    for key, value in (("heads", "2"), ("heads", "1"), ("qkv", "new")):
        denoiser = load_checkpoint(str(golden / "iddpm_tiny.pt"), assume={key: value})
        assert (_seen(denoiser, arrays["sample"], arrays["timestep"], None) - arrays["output"]).abs().max() > 1e-3


def test_every_attention_processor_sees_the_heads(tmp_path: Path) -> None:
    layout = replace(TINY, attention=(0, 1))
    state, inputs = random_state(layout), _inputs(layout)
    denoiser = load_checkpoint(_saved(state, tmp_path), assume={"heads": "8"})
    attentions = [module for module in denoiser.module.modules() if isinstance(module, Attention)]
    for attention in attentions:
        attention.set_processor(AttnProcessor())
    assert len(attentions) == 7
    assert {attention.heads for attention in attentions} == {8}
    assert (_seen(denoiser, *inputs) - reference(state, *inputs, heads=8)).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("assume", "seen"), [({}, 0.25), ({"rescale": "no"}, 1), ({"timesteps": "2000"}, 0.5), ({"timesteps": "1000"}, 1)]
)
def test_net_sees_the_rescaled_time(assume: dict[str, str], seen: float, tmp_path: Path) -> None:
    state, sample = random_state(IDDPM), _inputs(TINY)[0]
    denoiser = load_checkpoint(_saved(state, tmp_path), assume=assume)
    timestep = torch.tensor([1, 999])
    expected = reference(state, sample, timestep * seen, heads=4)
    assert (denoiser(sample, timestep) - expected).abs().max() < 1e-5
    assert denoiser.schedule.num_train_timesteps == int(assume.get("timesteps", 4000))


def test_linear_betas_end_as_noisy_for_every_length(tmp_path: Path) -> None:
    path = _saved(random_state(TINY), tmp_path)
    schedule = load_checkpoint(path, assume={"betas": "linear", "timesteps": "4000"}).schedule
    assert schedule.beta_schedule == "linear"
    assert (schedule.beta_start, schedule.beta_end) == pytest.approx((2.5e-5, 0.005))


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"widths": (32, 64, 64, 64), "attention": (1, 2, 3)}, 32),
        ({"widths": (32, 32, 64, 64, 128, 128), "attention": (4,), "resblock_updown": True}, 256),
        ({"widths": (32,) * 4, "attention": (1, 2)}, 32),
        ({"widths": (32,) * 4, "attention": (2, 3)}, 64),
        ({"widths": (32,) * 6, "attention": (4,)}, 256),
        ({"widths": (64,) * 4, "attention": (1, 2, 3), "resblock_updown": True, "time_width": 64}, 64),
        ({"widths": (32,) * 4, "attention": ()}, 64),
    ],
    ids=["widths of 32", "widths of 256", "cifar10", "imagenet64", "lsun", "adm", "no attention"],
)
def test_default_resolution_is_that_of_the_published_nets(
    changes: dict[str, tuple[int, ...]], size: int, tmp_path: Path
) -> None:
    denoiser = load_checkpoint(_saved(random_state(replace(TINY, **changes)), tmp_path))
    assert denoiser.sample_shape == (3, size, size)
    assert len(_notes(denoiser, f"resolution {size} assumed")) == 1


def test_given_resolution_is_used_and_not_called_an_assumption(tmp_path: Path) -> None:
    denoiser = load_checkpoint(_saved(random_state(TINY), tmp_path), resolution=10)
    assert denoiser.sample_shape == (3, 10, 10)
    assert not _notes(denoiser, "resolution")


def test_all_assumptions_are_reported_and_given_ones_apart(tmp_path: Path) -> None:
    path = _saved(random_state(IDDPM), tmp_path)
    (note,) = _notes(load_checkpoint(path), "do not tell")
    assert note.startswith("heads=4, qkv=legacy, predict=eps, betas=cosine, timesteps=4000, rescale=yes assumed")
    assert "--assume" in note
    denoiser = load_checkpoint(path, assume={"head-width": "8", "betas": "linear"})
    assert _notes(denoiser, "do not tell")[0].startswith("qkv=legacy, predict=eps, timesteps=4000, rescale=yes assumed")
    assert "head-width=8, betas=linear given by --assume" in denoiser.source.notes
    assert denoiser.source.architecture["head-width"] == "8"


def test_nothing_is_called_assumed_when_all_is_given(tmp_path: Path) -> None:
    given = {"heads": "2", "qkv": "new", "predict": "v", "betas": "linear", "timesteps": "1000", "rescale": "no"}
    denoiser = load_checkpoint(_saved(random_state(TINY), tmp_path), resolution=16, assume=given)
    assert not _notes(denoiser, "assumed")


def test_residual_resampling_takes_the_flags_of_guided_diffusion(tmp_path: Path) -> None:
    layout = replace(IDDPM, resblock_updown=True, widths=(64, 128), time_width=64)
    denoiser = load_checkpoint(_saved(random_state(layout), tmp_path))
    (note,) = _notes(denoiser, "guided-diffusion")
    assert note.startswith("head-width=64, qkv=legacy, predict=eps, betas=linear, timesteps=1000, rescale=no assumed")
    assert denoiser.schedule == NoiseSchedule(variance_type="learned_range", conventions=OPENAI)


@pytest.mark.parametrize("resblock_updown", [False, True], ids=["conv", "resblock"])
def test_net_without_learned_variance_takes_the_defaults_of_the_training_scripts(
    resblock_updown: bool, tmp_path: Path
) -> None:
    """script_util.py of both repositories: learn_sigma=False, diffusion_steps=1000, noise_schedule="linear"."""
    layout = replace(TINY, resblock_updown=resblock_updown)
    denoiser = load_checkpoint(_saved(random_state(layout), tmp_path))
    (note,) = _notes(denoiser, "the training scripts' defaults, for")
    assert note.startswith("heads=4, qkv=legacy, predict=eps, betas=linear, timesteps=1000, rescale=no assumed")
    assert denoiser.schedule == NoiseSchedule(variance_type="fixed_large", conventions=OPENAI)
    assert denoiser.module.time_scale == 1
    assert _notes(denoiser, "DDPM sampling assumes the variance fixed_large")


@pytest.mark.parametrize(("word", "prediction"), [("x0", "sample"), ("xstart", "sample"), ("v", "v_prediction")])
def test_prediction_is_told(word: str, prediction: str, tmp_path: Path) -> None:
    denoiser = load_checkpoint(_saved(random_state(IDDPM), tmp_path), assume={"predict": word})
    assert denoiser.schedule == NoiseSchedule(
        4000,
        "squaredcos_cap_v2",
        prediction_type=prediction,
        variance_type="learned_range",
        conventions=OPENAI,
    )


@pytest.mark.parametrize("channels", [2, 6, 8])
def test_channels_of_two_readings_are_refused_until_told(channels: int, tmp_path: Path) -> None:
    path = _saved(random_state(replace(TINY, in_channels=channels, out_channels=channels)), tmp_path)
    with pytest.raises(InputError, match=f"{channels // 2} and a condition of {channels // 2}") as caught:
        load_checkpoint(path)
    assert "--assume condition=none" in caught.value.remedy
    denoiser = load_checkpoint(path, assume={"condition": "none"})
    assert denoiser.sample_shape[0] == channels
    assert _notes(denoiser, "condition=none given by --assume")


def test_even_channels_are_noted_and_odd_ones_not(tmp_path: Path) -> None:
    latent = random_state(replace(TINY, in_channels=4, out_channels=4))
    assert _notes(load_checkpoint(_saved(latent, tmp_path)), "condition=none assumed: all 4 channels")
    assert not _notes(load_checkpoint(_saved(random_state(TINY), tmp_path)), "condition")


def test_scheduler_configuration_tells_the_betas_and_scales_the_time(tmp_path: Path) -> None:
    config = {"num_train_timesteps": 2000, "beta_schedule": "linear", "prediction_type": "sample"}
    denoiser = load_checkpoint(_saved(random_state(IDDPM), tmp_path), scheduler=config)
    schedule = denoiser.schedule
    assert (schedule.num_train_timesteps, schedule.beta_end, schedule.prediction_type) == (2000, 0.02, "sample")
    assert schedule.variance_type == "learned_range"
    assert denoiser.module.time_scale == 0.5
    assert _notes(denoiser, "noise schedule given by --scheduler-config: predict=x0, betas=linear, timesteps=2000")
    assert _notes(denoiser, "do not tell")[0].startswith("heads=4, qkv=legacy, rescale=yes assumed")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_file_becomes_float32_and_says_so(dtype: torch.dtype, tmp_path: Path) -> None:
    state = random_state(TINY, dtype)
    before = torch.random.get_rng_state()
    denoiser = load_checkpoint(_saved(state, tmp_path))
    inputs = _inputs(TINY)
    expected = reference({name: tensor.float() for name, tensor in state.items()}, *inputs, heads=4)
    assert (_seen(denoiser, *inputs) - expected).abs().max() < 1e-5
    assert {(p.dtype, p.requires_grad, p.device.type) for p in denoiser.module.parameters()} == {
        (torch.float32, False, "cpu")
    }
    assert not any(part.training for part in denoiser.module.modules())
    assert _notes(denoiser, f"{len(state)} of the file's {len(state)} tensors are 16-bit")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_source_tells_file_format_and_architecture(tmp_path: Path) -> None:
    path = _saved(random_state(TINY), tmp_path)
    source = load_checkpoint(path).source
    assert (source.spec, source.format, source.ema) == (path, "openai/improved-diffusion or guided-diffusion", None)
    assert source.sha256 == sha256_file(Path(path))
    assert source.architecture["block_out_channels"] == [32, 64]
    assert not any("16-bit" in note for note in source.notes)


@pytest.mark.slow
@pytest.mark.parametrize("name", FLAGS)
def test_exported_onnx_reproduces_the_original_output(name: str, golden: Path, tmp_path: Path) -> None:
    arrays = dict(np.load(golden / f"{name}.npz"))
    output = arrays.pop("output")
    denoiser = load_checkpoint(str(golden / f"{name}.pt"), assume={**FLAGS[name], "rescale": "no"})
    arguments = tuple(torch.tensor(array) for array in arrays.values())
    path, names = tmp_path / "net.onnx", list(arrays)
    torch.onnx.export(denoiser.module, arguments, path, dynamo=True, opset_version=18, verbose=False, input_names=names)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert np.abs(session.run(None, arrays)[0] - output).max() < 1e-4
