"""Adaptive group norm in one pass over the activation instead of two: the norm's own affine moves into the projection.

    (n g + b) (1 + s) + t  =  n (1 + s') + t'     with  s' = g (1 + s) - 1,  t' = b (1 + s) + t

s and t are rows of one linear layer of the time embedding (Dhariwal & Nichol, arXiv:2105.05233, section 3.1), so s' and
t' are rows of another. Equal in float, up to rounding.
"""

from dataclasses import replace

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from ptq_export.denoiser import Denoiser
from ptq_export.nn.share import share

__all__ = ["fold_scale_shift"]


def fold_scale_shift(denoiser: Denoiser) -> Denoiser:
    """`denoiser` with that affine folded in every residual block that has one; itself if none has."""
    names = [name for name, block in denoiser.module.named_modules() if _is_adaptive(block)]
    if not names:
        return denoiser
    module = share(denoiser.module)
    for name in names:
        block = module.get_submodule(name)
        assert isinstance(block, ResnetBlock2D) and isinstance(block.time_emb_proj, nn.Linear)
        gain, offset = block.norm2.weight, block.norm2.bias
        projection = block.time_emb_proj
        projection.weight = _frozen(_folded(projection.weight, gain, offset))
        bias = _folded(projection.bias[:, None], gain, offset)[:, 0]
        projection.bias = _frozen(bias + torch.cat([gain - 1, offset]))
        block.norm2 = nn.GroupNorm(block.norm2.num_groups, block.norm2.num_channels, block.norm2.eps, affine=False)
    return replace(denoiser, module=module.eval())


def _is_adaptive(block: nn.Module) -> bool:
    return isinstance(block, ResnetBlock2D) and block.time_embedding_norm == "scale_shift" and block.norm2.affine


def _folded(rows: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """Rows `[2 C, K]` of s and t as those of g s and b s + t."""
    scale, shift = rows.chunk(2)
    return torch.cat([gain[:, None] * scale, offset[:, None] * scale + shift])


def _frozen(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.contiguous(), requires_grad=False)
