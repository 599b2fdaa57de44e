"""Channels of unequal size evened out before they meet one step, in float and for nothing at run time.

    y = x W^T = (x / s) (W s)^T        s > 0, one gain per channel

x / s is made by what stands before: the affine of a norm, or the rows of the layer whose values x is made of (the value
half of a gated unit, the values of an attention). SmoothQuant, arXiv:2211.10438, section 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from ptq_export.denoiser import Denoiser
from ptq_export.nn.share import share

__all__ = ["Reading", "balance", "channels_of", "divided"]


@dataclass(frozen=True)
class Reading:
    """Layers that read one and the same tensor of C channels, in execution order, by module path.

    `source` is the norm or the layer of which the channels `first` to `first + C` of the result, each times something
    else or averaged over tokens, are that tensor; empty where nothing before it can be divided.
    """

    readers: tuple[str, ...]
    source: str = ""
    first: int = 0

    @property
    def name(self) -> str:
        """The first of the readers: no other tensor is read by it."""
        return self.readers[0]


def balance(denoiser: Denoiser, gains: Mapping[Reading, Tensor]) -> Denoiser:
    """`denoiser` with the gains `[C]` of each reading moved from its source into its readers; itself if there are
    none."""
    if not gains:
        return denoiser
    module = share(denoiser.module)
    for reading, gain in gains.items():
        for key, value in divided(module.get_submodule(reading.source), reading.first, gain).items():
            setattr(module.get_submodule(reading.source), key, _frozen(value))
        for reader in map(module.get_submodule, reading.readers):
            weight = reader.get_parameter("weight")
            reader.weight = _frozen(weight.detach() * _shaped(gain, weight, 1))
    return replace(denoiser, module=module.eval())


def divided(source: nn.Module, first: int, gain: Tensor) -> dict[str, Tensor]:
    """Weight and bias of a source with the rows from `first` on divided by the gains `[C]`."""
    rows, changed = slice(first, first + len(gain)), {}
    for key, value in source.named_parameters(recurse=False):
        changed[key] = value.detach().clone()
        changed[key][rows] /= _shaped(gain, value, 0)
    return changed


def channels_of(module: nn.Module) -> int:
    """How many channels a norm or a layer makes, one per row of its weight and its bias; 0 of anything else."""
    own = dict(module.named_parameters(recurse=False))
    sizes = {value.shape[:1] for value in own.values()}
    if any(module.children()) or "weight" not in own or not {*own} <= {"weight", "bias"} or len(sizes) > 1:
        return 0
    (size,) = sizes
    return size.numel() if size else 0


def _shaped(gain: Tensor, like: Tensor, axis: int) -> Tensor:
    return gain.to(like).reshape([-1 if place == axis else 1 for place in range(like.ndim)])


def _frozen(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.contiguous(), requires_grad=False)
