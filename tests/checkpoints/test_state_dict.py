"""Where trainers keep averaged weights: they are found and taken, and nothing is said that is not so."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from ddim_reference import State

from ptq_export.checkpoints import load_checkpoint
from ptq_export.checkpoints.state_dict import unwrap
from ptq_export.denoiser import Source

BUFFER = {"num_batches_tracked": torch.tensor(3)}


def _under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def _shadow(ema: State) -> dict[str, Any]:
    return {"decay": 0.999, "num_updates": 9, "shadow_params": list(ema.values())}


def _ema_pytorch(live: State, ema: State, begun: bool) -> dict[str, Any]:
    counters = {"initted": torch.tensor(begun), "step": torch.tensor(10)}
    return {**counters, **_under("online_model.model.", live), **_under("ema_model.model.", ema)}


def _content(kind: str, live: State, ema: State) -> Any:
    """What the trainer `kind` saves; each is named by who writes it."""
    return {
        "WeatherDiffusion": {
            "state_dict": _under("module.", live),
            "ema_helper": ema,
            "params": argparse.Namespace(a=1),
        },
        "k-diffusion": {"model": live, "model_ema": ema, "opt": {"state": {0: {"exp_avg": torch.ones(3)}}}},
        "torch_ema": {"optimizer": {}, "model": _under("module.", live), "ema": _shadow(ema), "step": 10},
        "torch_ema with buffers": {"model": {"sigmas": torch.ones(10), **live, **BUFFER}, "ema": _shadow(ema)},
        "diffusers EMAModel": {"unet": live, "ema_model": {**_shadow(ema), "optimization_step": 3}},
        "pytorch-ddpm": {"net_model": live, "ema_model": ema, "sched": {}, "optim": {}},
        "lucidrains": {"step": 10, "model": _under("model.", live), "ema": _ema_pytorch(live, ema, True)},
        "ema-pytorch alone": _ema_pytorch(live, ema, True),
        "Lightning module": {"state_dict": {**_under("model.", live), **_under("ema_model.", ema)}, "epoch": 1},
        "Lightning WeightAveraging": {
            "state_dict": _under("model.", ema),
            "averaging_state": {"n_averaged": torch.tensor(4)},
            "current_model_state": _under("model.", live),
        },
        "Lightning SWA": {
            "state_dict": _under("net.", live),
            "callbacks": {"StochasticWeightAveraging": {"average_model_state": _under("net.", ema)}},
        },
        "BasicSR": {"params": live, "params_ema": ema},
        "AveragedModel": {"n_averaged": torch.tensor(7), **_under("module.", ema)},
        "ermongroup": [_under("module.", live), {"state": {}}, 3, 500, _under("module.", ema)],
    }[kind]


TRAINERS = (
    *("WeatherDiffusion", "k-diffusion", "torch_ema", "diffusers EMAModel", "pytorch-ddpm", "lucidrains"),
    *("ema-pytorch alone", "Lightning module", "Lightning WeightAveraging", "Lightning SWA", "BasicSR"),
    *("AveragedModel", "ermongroup"),
)


@pytest.fixture
def ema(ddim_state: State) -> State:
    return {name: tensor + 0.5 for name, tensor in ddim_state.items()}


def _load(content: Any, folder: Path) -> tuple[dict[str, torch.Tensor], Source]:
    torch.save(content, folder / "model.pt")
    denoiser = load_checkpoint(str(folder / "model.pt"))
    return dict(denoiser.module.named_parameters()), denoiser.source


@pytest.mark.parametrize("kind", TRAINERS)
def test_averages_are_taken_from_where_the_trainer_keeps_them(
    kind: str, ddim_state: State, ema: State, tmp_path: Path
) -> None:
    tensors, source = _load(_content(kind, ddim_state, ema), tmp_path)
    assert torch.equal(tensors["unet.conv_in.weight"], ema["conv_in.weight"])
    assert torch.equal(tensors["unet.mid_block.resnets.1.norm2.bias"], ema["mid.block_2.norm2.bias"])
    assert source.ema is True
    assert not any("no EMA" in note or "not used" in note or "not stated" in note for note in source.notes)


def test_a_list_of_averages_is_paired_around_buffers(ddim_state: State, ema: State) -> None:
    first = unwrap(_content("torch_ema with buffers", ddim_state, ema), "model.pt")[0]
    assert first.ema is True
    assert all(torch.equal(first.tensors[name], tensor) for name, tensor in ema.items())
    assert torch.equal(first.tensors["sigmas"], torch.ones(10))
    assert "2 tensors that it leaves out are those of 'model'" in first.notes[0]


def _lists(ema: State) -> dict[str, list[torch.Tensor]]:
    values = list(ema.values())
    gain = next(index for index, name in enumerate(ema) if name.endswith("norm1.weight"))
    return {
        "too many": [*values, torch.ones(3)],
        "another order": values[::-1],
        "one of two alike": values[:gain] + values[gain + 1 :],
        "few": values[-2:],
    }


@pytest.mark.parametrize("kind", ["too many", "another order", "one of two alike", "few"])
def test_a_list_that_fits_in_no_or_in_two_ways_is_not_used(
    kind: str, ddim_state: State, ema: State, tmp_path: Path
) -> None:
    content = {"model": ddim_state, "ema": {"shadow_params": _lists(ema)[kind]}}
    tensors, source = _load(content, tmp_path)
    assert torch.equal(tensors["unet.conv_in.weight"], ddim_state["conv_in.weight"])
    assert source.ema is False
    assert "the EMA weights in 'ema' have no names and fit no entry in one way only" in source.notes[0]


def test_averages_that_had_not_begun_are_not_used(ddim_state: State, ema: State, tmp_path: Path) -> None:
    tensors, source = _load(_ema_pytorch(ddim_state, ema, begun=False), tmp_path)
    assert torch.equal(tensors["unet.conv_in.weight"], ddim_state["conv_in.weight"])
    assert (source.ema, source.notes[0]) == (
        False,
        "the EMA weights ema_model are not used: ema-pytorch had not begun to average",
    )


def test_averages_of_an_unknown_net_leave_the_known_one(ddim_state: State, tmp_path: Path) -> None:
    tensors, source = _load({"model": ddim_state, "ema": {"layer.weight": torch.ones(2)}}, tmp_path)
    assert torch.equal(tensors["unet.conv_in.weight"], ddim_state["conv_in.weight"])
    assert source.ema is False
    assert "the EMA weights in 'ema' belong to no known net" in source.notes[0]


def test_no_averages_is_said_only_where_nothing_else_could_be_them(ddim_state: State, tmp_path: Path) -> None:
    optimiser = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}
    _, source = _load({"model": ddim_state, "optimizer": optimiser, "epoch": 3}, tmp_path)
    assert source.ema is False
    assert "the file holds no EMA weights" in source.notes[0]
    _, source = _load({"model": ddim_state, "slow": {"conv_in.weight": torch.ones(2)}}, tmp_path)
    assert source.ema is None
    assert "no entry is called EMA; 'slow' may hold weights too" in source.notes[0]


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "model.", "net.", "denoise_fn.", "model.unet."]
)
def test_prefixes_of_wrappers_are_dropped(prefix: str, ddim_state: State, tmp_path: Path) -> None:
    tensors, source = _load(_under(prefix, ddim_state), tmp_path)
    assert torch.equal(tensors["unet.conv_in.weight"], ddim_state["conv_in.weight"])
    assert source.ema is None


def test_a_net_beside_other_tensors_is_found_by_its_prefix(ddim_state: State, tmp_path: Path) -> None:
    content = {"betas": torch.ones(1000), "fid.weight": torch.ones(3), **_under("model.", ddim_state)}
    tensors, source = _load({"state_dict": content}, tmp_path)
    assert torch.equal(tensors["unet.conv_in.weight"], ddim_state["conv_in.weight"])
    assert any(note.startswith("the tensors model.* are read") for note in source.notes)


def test_latent_diffusion_keeps_its_names_for_its_own_reader(ddim_state: State) -> None:
    state = {**_under("model.diffusion_model.", ddim_state), "model_ema.diffusion_modelx": torch.ones(1)}
    (reading,) = unwrap({"state_dict": state, "epoch": 1}, "model.ckpt")
    assert (set(reading.tensors), reading.ema, reading.notes) == (set(state), None, ())
