"""Block reconstruction: each unit is quantised behind the quantised units before it, against the float unit's output.

BRECQ (arXiv:2102.05426) with AdaRound's regulariser (arXiv:2004.10568, eq. 21-25): minimise
mean_n sum_c (y - y_fp)^2 + lambda sum (1 - |2 h(alpha) - 1|^b), b annealed 20 -> 2 after a warm-up of 20 %.
The bias is learned too; the mean error that is left when the weights are hard is corrected in closed form, as it is
where they are rounded to nearest: a few steps of learning do not find it. Input steps move at the rate of PTQ4DM's
released code.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ptq_export.calibrators.capture import BATCH, UnitData
from ptq_export.calibrators.histogram import channels_first
from ptq_export.calibrators.rounding import SoftLayer

__all__ = ["Recipe", "correct_bias", "reconstruct"]


@dataclass(frozen=True)
class Recipe:
    """How rounding is learned: steps of `batch` samples per unit, learning rates, weight of the regulariser."""

    iterations: int
    batch: int = 16
    rounding_rate: float = 1e-2
    scale_rate: float = 4e-5
    bias_rate: float = 1e-3
    regulariser: float = 1e-2
    warm_up: float = 0.2


def reconstruct(module: nn.Module, soft: list[SoftLayer], data: UnitData, recipe: Recipe, seed: int) -> None:
    """Learn the rounding, input steps and biases of the layers `soft`, which stand inside the unit `module`.

    `data.call` comes from the quantised network so far, `data.output` from the float one.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = _optimizer(soft, recipe)
    for iteration in range(recipe.iterations):
        rows = torch.randint(len(data.output), (recipe.batch,), generator=generator).to(data.output.device)
        output = data.call.rows(rows).again(module)
        error = channels_first(output - data.output[rows]).square().sum(0).mean()
        loss = error + recipe.regulariser * _regulariser(soft, iteration / recipe.iterations, recipe.warm_up)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@torch.no_grad()
def correct_bias(
    reference: nn.Module, module: nn.Module, soft: dict[str, SoftLayer], wanted: UnitData, data: UnitData
) -> None:
    """Shift each layer's bias by the mean error of its output channels, one layer after the other.

    `reference` and `module` are the float and the quantised unit, `wanted` and `data` what each of them reads; `soft`
    names the layers by their path inside the unit.
    """
    for path, layer in soft.items():
        axis = 1 if isinstance(layer.layer, nn.Conv2d) else -1
        target = _channel_means(reference, path, wanted, axis)
        layer.bias.add_(target - _channel_means(module, path, data, axis))


def _channel_means(module: nn.Module, path: str, data: UnitData, axis: int) -> Tensor:
    sums: list[Tensor] = []
    counts: list[int] = []

    def hook(_: nn.Module, __: Any, output: Tensor) -> None:
        values = output.movedim(axis, 0).flatten(1)
        sums.append(values.sum(1))
        counts.append(values.shape[1])

    handle = module.get_submodule(path).register_forward_hook(hook)
    try:
        for rows in torch.split(torch.arange(len(data.output), device=data.output.device), BATCH):
            data.call.rows(rows).again(module)
    finally:
        handle.remove()
    return torch.stack(sums).sum(0) / sum(counts)


def _optimizer(layers: list[SoftLayer], recipe: Recipe) -> torch.optim.Optimizer:
    groups = [
        {"params": [layer.alpha for layer in layers], "lr": recipe.rounding_rate},
        {"params": [layer.log_input_scale for layer in layers], "lr": recipe.scale_rate},
        {"params": [layer.bias for layer in layers], "lr": recipe.bias_rate},
    ]
    return torch.optim.Adam(groups)


def _regulariser(soft: list[SoftLayer], progress: float, warm_up: float) -> Tensor:
    if progress < warm_up:
        return soft[0].alpha.new_zeros(())
    b = 20 + (2 - 20) * (progress - warm_up) / (1 - warm_up)
    terms = [(1 - (2 * layer.rounding() - 1).abs().pow(b)).sum() for layer in soft]
    return torch.stack(terms).sum()
