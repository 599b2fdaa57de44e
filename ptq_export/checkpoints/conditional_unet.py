"""diffusers' `UNet2DConditionModel` as a function of a sample, a time-step and named conditions.

Beside the hidden states of a prompt it may see a label, a pooled prompt and sizes (SDXL), a guidance scale (LCM), and
images that stand behind the sample (inpainting, InstructPix2Pix, depth).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ptq_export.checkpoints.bounds import require_enough_layers
from ptq_export.checkpoints.fit import fit
from ptq_export.checkpoints.unet import label_of, lay_out
from ptq_export.errors import InputError
from ptq_export.interface import Input
from ptq_export.text_to_image import MASK, POOLED, SCALE, SIZES, STATES

__all__ = [
    "CLASS",
    "ConditionalEps",
    "build_conditional_unet",
    "conditions_of",
    "images_of",
    "require_supported",
]

CLASS = "UNet2DConditionModel"
_DEPTHS = ("transformer_layers_per_block", "reverse_transformer_layers_per_block")
_COUNTS_OF_SIZES = (5, 6)  # SDXL's refiner and its base net
_PLAIN: Mapping[str, tuple[object, str]] = {  # the one value of a key that is supported, and what others are
    "class_embed_type": (None, "class embeddings of type {}"),
    "encoder_hid_dim_type": (None, "a projection {} of hidden states (IP-Adapter, Kandinsky, IF, Kolors)"),
    "encoder_hid_dim": (None, "a projection of hidden states of {} numbers (Kandinsky, IF, Kolors)"),
    "attention_type": ("default", "{} attention (GLIGEN)"),
    "dual_cross_attention": (False, "dual cross-attention (Versatile Diffusion)"),
    "time_embedding_type": ("positional", "a {} time embedding"),
}


class ConditionalEps(nn.Module):
    """A `UNet2DConditionModel` whose conditions have the names that diffusers' pipelines give them."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        label: Tensor | None = None,
        text_embeds: Tensor | None = None,
        time_ids: Tensor | None = None,
        timestep_cond: Tensor | None = None,
        mask: Tensor | None = None,
        masked_image_latents: Tensor | None = None,
        image_latents: Tensor | None = None,
        depth: Tensor | None = None,
    ) -> Tensor:
        """The prediction `[N, C, h, w]` for `sample` `[N, C, h, w]` at `timestep` `[N]`, given the hidden states
        `[N, tokens, width]` of a prompt; images `[N, ?, h, w]` stand behind the sample in the order of diffusers."""
        images = [image for image in (mask, masked_image_latents, image_latents, depth) if image is not None]
        output: Tensor = self.unet(
            torch.cat([sample, *images], dim=1) if images else sample,
            timestep,
            encoder_hidden_states,
            class_labels=label,
            timestep_cond=timestep_cond,
            added_cond_kwargs={POOLED: text_embeds, SIZES: time_ids},
            return_dict=False,
        )[0]
        return output


def build_conditional_unet(config: Mapping[str, Any], tensors: Mapping[str, Tensor], path: str) -> ConditionalEps:
    """The net of `config` with the tensors of `path`: float32, in evaluation mode, without gradients.

    Raises:
        InputError: `config` is no `UNet2DConditionModel`, or one that is not supported, or the tensors do not fit it.
    """
    require_enough_layers(_layers(config), tensors, path)
    unet = lay_out(CLASS, lambda: UNet2DConditionModel(**config), path)
    require_supported(unet, path)
    fit(unet, tensors, path)
    return ConditionalEps(unet).eval().requires_grad_(False)


def require_supported(unet: UNet2DConditionModel, path: str) -> None:
    """Refuse by name what a `UNet2DConditionModel` can be and no pipeline here feeds.

    Raises:
        InputError: naming it.
    """
    config = unet.config
    told = [what.format(config[key]) for key, (plain, what) in _PLAIN.items() if config[key] != plain]
    if config["addition_embed_type"] not in (None, "text_time"):
        told.append(f"additional embeddings of type {config['addition_embed_type']} (Kandinsky, IF)")
    if not isinstance(config["cross_attention_dim"], int):
        told.append(f"cross-attention over {config['cross_attention_dim']} numbers")
    if {name for name, _ in unet.named_buffers()} - set(unet.state_dict()):
        told.append("blocks of fixed kernels (KDownBlock2D and kin)")
    if told:
        remedy = "give a net of the kind of Stable Diffusion 1 or 2, SDXL, LCM or an inpainting one"
        raise InputError(f"{path}: nets with {told[0]} are not supported", remedy)


def conditions_of(config: Mapping[str, Any], tokens: int, pooled: int | None, path: str) -> tuple[Input, ...]:
    """What the net of `config` takes beside images; prompts have `tokens` tokens, and `pooled` numbers as a whole.

    Raises:
        InputError: prompts as a whole have another width than the net takes.
    """
    found = [Input(STATES, "float32", (tokens, config["cross_attention_dim"])), *label_of(config)]
    if config["addition_embed_type"] == "text_time":
        width, each = config["projection_class_embeddings_input_dim"], config["addition_time_embed_dim"]
        plain = pooled is not None and isinstance(each, int)
        sizes = next((count for count in _COUNTS_OF_SIZES if plain and width == pooled + count * each), None)
        if pooled is None or sizes is None:
            takes = f"the net takes {width} numbers of a prompt as a whole and of sizes, each {each}"
            raise InputError(f"{path}: {takes}, and the text encoder makes {pooled}", "give the encoder it came with")
        found += [Input(POOLED, "float32", (pooled,)), Input(SIZES, "float32", (sizes,))]
    if (scale := config["time_cond_proj_dim"]) is not None:
        found.append(Input(SCALE, "float32", (scale,)))
    return tuple(found)


def images_of(config: Mapping[str, Any], channels: int, size: tuple[int, int], path: str) -> tuple[Input, ...]:
    """The images `[?, h, w]` that the net sees behind latents of `channels` channels.

    Raises:
        InputError: it sees others than these, or makes other channels than those of the latents.
    """
    kinds = {
        0: {},
        1 + channels: {MASK: 1, "masked_image_latents": channels},
        channels: {"image_latents": channels},
        1: {"depth": 1},
    }
    inputs, outputs = config["in_channels"], config["out_channels"]
    if outputs != channels or inputs - channels not in kinds:
        cause = f"{path}: a net of {inputs} channels to {outputs}, for latents of {channels} channels"
        known = "the latents alone; with a mask and a masked image, with an image's latents, with a depth map"
        raise InputError(f"{cause}, is not supported", f"known: {known}")
    return tuple(Input(name, "float32", (count, *size)) for name, count in kinds[inputs - channels].items())


def _layers(config: Mapping[str, Any]) -> int:
    """No fewer than the layers that a configuration asks for, and no more than the tensors of such a net."""
    per_level, widths = config.get("layers_per_block", 2), config.get("block_out_channels", ())
    levels = len(widths) if isinstance(per_level, int) and isinstance(widths, list | tuple) else 1
    deepest = max((1, *_numbers(config.get(key) for key in _DEPTHS)))
    return levels * sum(_numbers([per_level])) * deepest


def _numbers(values: Iterable[object]) -> Iterator[int]:
    """The whole numbers in lists at any depth; what else there is the net's own code refuses."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from _numbers(value)
        elif isinstance(value, int):
            yield value
