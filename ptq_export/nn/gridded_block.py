"""diffusers' residual blocks with places for grids: on the operand of their sum, and behind their first convolution.

No module of a `ResnetBlock2D` stands at either place, so the block's operations are written down again here, around its
own layers under their own names. That they are the block's is proved in every run that asks for such a grid
(`pipeline.start.require_equal`), before anything is calibrated.
"""

import copy
from dataclasses import replace
from typing import Any

from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from ptq_export.denoiser import Denoiser
from ptq_export.nn.grid_point import CONV1_OUTPUT, RESIDUAL, GridPoint, Place
from ptq_export.nn.scheme import Scheme

__all__ = ["GriddedResnetBlock2D", "place_grids"]


class GriddedResnetBlock2D(ResnetBlock2D):  # type: ignore[misc]
    """A `ResnetBlock2D` `[N, C, H, W]` -> `[N, O, H', W']` with its layers and two more modules at these places."""

    def __init__(self, block: ResnetBlock2D, places: tuple[Place, ...]) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(vars(block))
        self.conv1_grid = GridPoint(CONV1_OUTPUT) if CONV1_OUTPUT in places else nn.Identity()
        self.residual_grid = GridPoint(RESIDUAL) if RESIDUAL in places else nn.Identity()

    def forward(self, input_tensor: Tensor, temb: Tensor | None, *args: Any, **kwargs: Any) -> Tensor:
        """The block's result for the embedded time-steps `temb` `[N, E]`."""
        x, h = input_tensor, self.nonlinearity(self.norm1(input_tensor))
        resample = self.downsample if self.upsample is None else self.upsample
        if resample is not None:
            x, h = resample(x), resample(h)
        h = self._conditioned(self.conv1_grid(self.conv1(h)), temb)
        h = self.conv2(self.dropout(self.nonlinearity(h)))
        x = x if self.conv_shortcut is None else self.conv_shortcut(x)
        result: Tensor = (self.residual_grid(x) + h) / self.output_scale_factor
        return result

    def _conditioned(self, h: Tensor, temb: Tensor | None) -> Tensor:
        """`h` behind the second norm, moved by the projection of `temb` before the norm or after it."""
        if self.time_emb_proj is not None:
            temb = self.time_emb_proj(temb if self.skip_time_act else self.nonlinearity(temb))[:, :, None, None]
        if temb is None:
            return self.norm2(h)  # type: ignore[no-any-return]
        if self.time_embedding_norm != "scale_shift":
            return self.norm2(h + temb)  # type: ignore[no-any-return]
        scale, shift = temb.chunk(2, dim=1)
        return self.norm2(h) * (1 + scale) + shift  # type: ignore[no-any-return]


def place_grids(denoiser: Denoiser, scheme: Scheme) -> Denoiser:
    """`denoiser` with the places for grids that `scheme` has in residual blocks; itself if it has none."""
    places = (*[RESIDUAL] * scheme.residual, *[CONV1_OUTPUT] * scheme.conv1_output)
    if not places or not _blocks(denoiser.module):
        return denoiser
    module = copy.deepcopy(denoiser.module)
    for name, block in _blocks(module).items():
        module.set_submodule(name, GriddedResnetBlock2D(block, places))
    return replace(denoiser, module=module)


def _blocks(module: nn.Module) -> dict[str, ResnetBlock2D]:
    """Those with the `forward` of diffusers' own class: of another's nothing is known here."""
    return {
        name: child
        for name, child in module.named_modules()
        if type(child) is ResnetBlock2D and "forward" not in vars(child)
    }
