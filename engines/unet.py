"""An engine in the place of a `UNet2DModel`: a diffusers pipeline samples with it and knows no difference."""

from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from ptq_export.engines.base import Engine

__all__ = ["EngineUNet"]


class EngineUNet(nn.Module):
    """The `unet` of a `DDIMPipeline` or `DDPMPipeline`, computed by `engine`; it has no parameters to cast.

    Where it is moved to, the pipeline makes its tensors: on `cuda` those of an engine on a GPU stay there.
    """

    dtype = torch.float32

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine
        self.register_buffer("_place", torch.empty(0), persistent=False)
        channels, *sides = engine.sample_shape
        self.config = FrozenDict(
            sample_size=sides[0] if len({*sides}) == 1 else tuple(sides),
            in_channels=channels,
            out_channels=engine.signature.channels,
        )

    @property
    def device(self) -> torch.device:
        """Where its samples are."""
        place: Tensor = self.get_buffer("_place")
        return place.device

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | int,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
        **conditions: Tensor | None,
    ) -> UNet2DOutput | tuple[Tensor]:
        """eps `[N, C, H, W]` as the `.sample` of a `UNet2DOutput`, or in a tuple.

        Other conditions go to the engine by their names. One that knows whole time-steps has fractional ones rounded:
        Euler's, where it spaces them evenly.
        """
        whole = self.engine.signature.inputs[1].dtype == "int64"
        if whole and isinstance(timestep, Tensor) and timestep.is_floating_point():
            timestep = timestep.round().long()
        given: dict[str, Any] = {"label": class_labels, **conditions}
        eps = self.engine(sample, timestep, **given)
        return UNet2DOutput(sample=eps) if return_dict else (eps,)
