"""An engine in the place of diffusers' U-Net: a pipeline samples with it and knows no difference."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from ptq_export.engines.base import Engine
from ptq_export.text_to_image import POOLED, SCALE, SIZES, STATES

__all__ = ["EngineUNet"]


TIME_WIDTH = 256
"""Of one embedded size of SDXL; its pipeline adds them up to check that encoder and net belong together."""


class EngineUNet(nn.Module):
    """The `unet` of a `DDIMPipeline` or `StableDiffusionPipeline`, computed by `engine`; it has no parameters to cast.

    Where it is moved to, the pipeline makes its tensors: on `cuda` those of an engine on a GPU stay there.
    """

    dtype = torch.float32

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine
        self.register_buffer("_place", torch.empty(0), persistent=False)
        channels, *sides = engine.sample_shape
        sizes = {each.name: each.shape[-1] for each in engine.signature.conditions if each.shape}
        images = [each for each in engine.signature.conditions if each.shape[1:] == engine.sample_shape[1:]]
        self._images = {each.name: int(each.shape[0]) for each in images if len(each.shape) == 3}
        self.config = FrozenDict(
            sample_size=sides[0] if len({*sides}) == 1 else tuple(sides),
            in_channels=channels + sum(self._images.values()),
            out_channels=engine.signature.channels,
            time_cond_proj_dim=sizes.get(SCALE),
            addition_time_embed_dim=TIME_WIDTH if SIZES in sizes else None,
        )
        if SIZES in sizes and POOLED in sizes:
            width = TIME_WIDTH * int(sizes[SIZES]) + int(sizes[POOLED])
            self.add_embedding = SimpleNamespace(linear_1=SimpleNamespace(in_features=width))

    @property
    def device(self) -> torch.device:
        """Where its samples are."""
        place: Tensor = self.get_buffer("_place")
        return place.device

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | int,
        encoder_hidden_states: Tensor | None = None,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
        added_cond_kwargs: Mapping[str, Tensor] | None = None,
        **conditions: Tensor | None,
    ) -> UNet2DOutput | tuple[Tensor]:
        """eps `[N, C, H, W]` as the `.sample` of a `UNet2DOutput`, or in a tuple.

        Other conditions go to the engine by their names, and so do images that stand behind the sample. One that knows
        whole time-steps has fractional ones rounded: Euler's, where it spaces them evenly.
        """
        whole = self.engine.signature.inputs[1].dtype == "int64"
        if whole and isinstance(timestep, Tensor) and timestep.is_floating_point():
            timestep = timestep.round().long()
        given: dict[str, Any] = {"label": class_labels, STATES: encoder_hidden_states, **conditions}
        given |= added_cond_kwargs or {}
        if self._images and sample.shape[1] == self.config.in_channels:
            sample, *images = torch.split(sample, [self.engine.sample_shape[0], *self._images.values()], dim=1)
            given |= dict(zip(self._images, images, strict=True))
        eps = self.engine(sample, timestep, **given)
        return UNet2DOutput(sample=eps) if return_dict else (eps,)
