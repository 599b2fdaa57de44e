"""NaN and infinite values, found where they first appear and said with the layer and the time-step."""

import torch
from torch import Tensor, nn

from ptq_export.denoiser import Denoiser
from ptq_export.errors import InputError
from ptq_export.pairs import Pairs

__all__ = ["LARGEST", "require_finite_output", "require_usable"]

LARGEST = 1e15
"""Range metrics raise differences to the power 2.4: beyond it those leave float32."""

_REMEDY = "use an earlier checkpoint, or mend that layer: what is not a number cannot be calibrated"


def require_finite_output(denoiser: Denoiser, sample: Tensor, timestep: Tensor, **conditions: Tensor) -> Tensor:
    """The network's output, all of it finite.

    Raises:
        InputError: with the first layer that made a NaN or an infinite value, and the time-step.
    """
    pairs = Pairs(sample, timestep, conditions)
    output = pairs.through(denoiser)
    if output.isfinite().all():
        return output
    row = int((~output.isfinite().flatten(1).all(1)).nonzero()[0])
    layer = _first_broken(denoiser, pairs.rows(slice(row, row + 1)))
    raise InputError(f"{layer} makes NaN or infinite values at time-step {timestep[row].item():g}", _REMEDY)


def require_usable(name: str, x: Tensor, timestep: Tensor) -> None:
    """Refuse an activation `[N, ...]` of the layer `name` that no range can be found for, at time-steps `[N]`.

    Raises:
        InputError: NaN, infinite, or too large for the sums of float32; with the time-step.
    """
    largest = x.abs().amax()
    if largest <= LARGEST:
        return
    broken = ~(x.abs().flatten(1).amax(1) <= LARGEST) if len(x) == len(timestep) else torch.zeros(0)
    when = f" at time-step {timestep[int(broken.nonzero()[0])].item():g}" if len(broken) else ""
    if not largest.isfinite():
        raise InputError(f"{name} reads or makes NaN or infinite values{when}", _REMEDY)
    cause = (
        f"{name} reads or makes values up to {largest.item():.1e}{when}: float32 cannot hold the square of their sum"
    )
    raise InputError(cause, "the weights of the layer, or of the norm before it, are out of all proportion")


def _first_broken(denoiser: Denoiser, pairs: Pairs) -> str:
    """The first module, the innermost of nested ones, that makes such a value in this evaluation."""
    found: list[str] = []

    def check(name: str, made: object) -> None:
        if not found and isinstance(made, Tensor) and made.is_floating_point() and not made.isfinite().all():
            found.append(name)

    handles = [
        module.register_forward_hook(lambda _, __, made, name=name: check(name, made))
        for name, module in denoiser.module.named_modules()
        if name and not isinstance(module, nn.Identity)
    ]
    try:
        pairs.through(denoiser)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "the network itself"
