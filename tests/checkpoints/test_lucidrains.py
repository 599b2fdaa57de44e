"""lucidrains' `model-N.pt`: arguments and betas are read from the file, and the package's own code makes the net."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ptq_export.checkpoints import load_checkpoint, lucidrains
from ptq_export.checkpoints.lucidrains import unet_arguments
from ptq_export.errors import EnvironmentMissing, InputError
from ptq_export.schedulers import make_scheduler

ARGUMENTS = {
    "dim": 16,
    "init_dim": 16,
    "dim_mults": (1, 2),
    "channels": 3,
    "learned_variance": False,
    "full_attn": (False, True),
    "attn_heads": (2, 4),
    "attn_dim_head": (16, 8),
}
SHAPES = {  # what tells, of the names and shapes that version 2.3.4 gives to Unet(**ARGUMENTS)
    "init_conv.weight": (16, 3, 7, 7),
    "time_mlp.1.weight": (64, 16),
    "downs.0.0.block1.proj.weight": (16, 16, 3, 3),
    "downs.0.2.mem_kv": (2, 2, 16, 4),
    "downs.0.2.to_out.0.weight": (16, 32, 1, 1),
    "downs.0.3.1.weight": (16, 64, 1, 1),
    "downs.1.2.mem_kv": (2, 4, 4, 8),
    "downs.1.2.to_out.weight": (16, 32, 1, 1),
    "downs.1.3.weight": (32, 16, 3, 3),
    "final_conv.weight": (3, 16, 1, 1),
}


def sigmoid_betas(steps: int) -> Any:
    """Jabri et al. (2022), figure 8: alpha_bar is a sigmoid over [-3, 3], scaled to run from 1 to 0."""
    at = 1 / (1 + np.exp(-(6 * np.arange(steps + 1) / steps - 3)))
    alpha_bar = (at[-1] - at) / (at[-1] - at[0])
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


def net(**changes: tuple[int, ...] | None) -> dict[str, Tensor]:
    shapes = SHAPES | changes
    return {name: torch.zeros(shape) for name, shape in shapes.items() if shape is not None}


def saved(tensors: dict[str, Tensor], folder: Path, betas: Any = None) -> str:
    """As the package's Trainer saves it."""
    model = {f"model.{name}": tensor for name, tensor in tensors.items()}
    model["betas"] = torch.tensor(sigmoid_betas(1000) if betas is None else betas, dtype=torch.float32)
    average = {f"ema_model.{name}": value for name, value in model.items()}
    average |= {f"online_model.{name}": value + 1 for name, value in model.items()}
    ema = {"initted": torch.tensor(True), "step": torch.tensor(20), **average}
    torch.save({"step": 20, "model": model, "opt": {}, "ema": ema, "scaler": None}, folder / "model-1.pt")
    return str(folder / "model-1.pt")


def test_arguments_are_read_from_the_tensors() -> None:
    assert unet_arguments(net(), "model-1.pt") == ARGUMENTS


def test_learned_variance_is_told_by_the_outputs() -> None:
    assert unet_arguments(net(**{"final_conv.weight": (6, 16, 1, 1)}), "")["learned_variance"] is True


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"time_mlp.0.weights": (8,)}, "continuous time"),
        ({"init_conv.weight": (16, 6, 7, 7)}, "self-conditioned"),
        ({"downs.1.2.mem_kv": None}, "no downs.1.2.mem_kv: another version"),
        ({"final_conv.weight": None}, "lacks the tensors final_conv.weight"),
    ],
)
def test_nets_of_another_kind_or_version_are_refused(changes: dict[str, Any], cause: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=cause):
        load_checkpoint(saved(net(**changes), tmp_path))


def test_package_that_is_absent_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lucidrains, "_PACKAGE", "no_such_package")
    with pytest.raises(EnvironmentMissing) as caught:
        load_checkpoint(saved(net(), tmp_path))
    assert "pip install 'ptq-export[lucidrains]'" in caught.value.remedy
    assert caught.value.exit_code == 3


class Unet(torch.nn.Module):
    """Has the tensors of SHAPES, and answers with one of them: what is loaded is what is called."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        assert arguments == ARGUMENTS
        for name, shape in SHAPES.items():
            *path, last = name.split(".")
            module: torch.nn.Module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, torch.nn.Module())
                module = getattr(module, part)
            module.register_parameter(last, torch.nn.Parameter(torch.empty(shape)))

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return sample * self.final_conv.weight.mean() + timestep[:, None, None, None]


def test_average_betas_and_prediction_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lucidrains, "_PACKAGE", __name__)
    path = saved({name: tensor + 2 for name, tensor in net().items()}, tmp_path)
    denoiser = load_checkpoint(path)
    assert denoiser.sample_shape == (3, 32, 32)
    assert denoiser.schedule.prediction_type == "v_prediction"
    assert np.allclose(make_scheduler(denoiser.schedule).betas.numpy(), sigmoid_betas(1000), rtol=1e-6, atol=0)
    sample = torch.ones(1, 3, 32, 32)
    assert denoiser(sample, torch.tensor([3])).mean() == 5  # the average's weights are 2, the live ones 3
    assert denoiser.source.ema is True
    assert load_checkpoint(path, 16, {"predict": "eps"}).schedule.prediction_type == "epsilon"
    with pytest.raises(InputError, match="multiple of 2"):
        load_checkpoint(path, 17)


@pytest.mark.slow
def test_net_of_the_package_itself_gives_the_same_output(tmp_path: Path) -> None:
    package = pytest.importorskip("denoising_diffusion_pytorch", reason="needs 'ptq-export[lucidrains]'")
    arguments = {name: value for name, value in ARGUMENTS.items() if name != "learned_variance"}
    unet = package.Unet(**arguments).eval()
    denoiser = load_checkpoint(saved(dict(unet.state_dict()), tmp_path), 16)
    sample, timestep = torch.randn(2, 3, 16, 16), torch.tensor([3, 950])
    with torch.no_grad():
        expected = unet(sample, timestep)
    assert (denoiser(sample, timestep) - expected).abs().max() < 1e-5
    assert math.isfinite(expected.std())
