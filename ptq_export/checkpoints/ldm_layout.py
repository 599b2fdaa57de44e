"""Latent diffusion's U-Net with cross-attention as a `UNet2DConditionModel`: its configuration as keys and shapes tell
it, and its tensors under diffusers' names.

`input_blocks.N.1` and `middle_block.1` are `SpatialTransformer`s (`ldm/modules/attention.py`), which project by 1x1
convolutions, and by linear layers since Stable Diffusion 2.
"""

from collections.abc import Callable, Mapping
from typing import Any

from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from torch import Tensor

from ptq_export.checkpoints.keys import count, shape_of
from ptq_export.checkpoints.ldm_parts import NET
from ptq_export.checkpoints.openai_layout import read_levels
from ptq_export.errors import InputError

__all__ = ["conditional_config", "in_words_of_diffusers", "projects_linearly"]

_INCOMPLETE = "the file is incomplete, or belongs to another net"
_KEYS = ".transformer_blocks.0.attn2.to_k.weight"
_SIZE_WIDTH = 256  # of SDXL's embedding of each size


def conditional_config(tensors: Mapping[str, Tensor], heads: Callable[[int], int], path: str) -> dict[str, Any]:
    """The keyword arguments of `UNet2DConditionModel`; `heads` tells those of an attention over so many channels.

    Raises:
        InputError: tensors are missing that tell, or diffusers has no such net.
    """
    levels, blocks, resblock_updown = read_levels(tensors, path)
    starts = [1 + level * (blocks + 1) for level in range(levels)]
    widths = [_width(tensors, f"input_blocks.{start}.0.in_layers.2.weight", path) for start in starts]
    depths = [_depth(tensors, f"input_blocks.{start}.1", path) for start in starts]
    middle = _depth(tensors, "middle_block.1", path)
    stem = shape_of(tensors, "input_blocks.0.0.weight", "convolution", path)
    if resblock_updown or stem[0] != widths[0] or not middle or depths[-1] not in (0, middle):
        cause = f"levels of {widths} channels with {depths} transformer blocks each, and {middle} in the middle"
        raise InputError(f"{path}: {cause}, which UNet2DConditionModel cannot express", _INCOMPLETE)
    reached = [*depths[:-1], middle]
    kind, emb = ("CrossAttn{}Block2D", "{}Block2D"), "input_blocks.1.0.emb_layers.1.weight"
    scales = shape_of(tensors, emb, "linear layer", path)[0] == 2 * widths[0]
    return {
        "in_channels": stem[1],
        "out_channels": _width(tensors, "out.2.weight", path),
        "block_out_channels": widths,
        "layers_per_block": blocks,
        "down_block_types": [kind[not depth].format("Down") for depth in depths],
        "up_block_types": [kind[not depth].format("Up") for depth in reversed(depths)],
        "transformer_layers_per_block": [max(depth, 1) for depth in reached],
        "cross_attention_dim": shape_of(tensors, f"middle_block.1{_KEYS}", "linear layer", path)[1],
        "use_linear_projection": projects_linearly(tensors),
        "attention_head_dim": [heads(width) if depth else 1 for width, depth in zip(widths, reached, strict=True)],
        "resnet_time_scale_shift": "scale_shift" if scales else "default",
        **_labels(tensors, path),
    }


def projects_linearly(tensors: Mapping[str, Tensor]) -> bool:
    """Whether transformers project by linear layers, as in Stable Diffusion 2 and SDXL."""
    found = tensors.get("middle_block.1.proj_in.weight")
    return found is not None and found.dim() == 2


def in_words_of_diffusers(tensors: Mapping[str, Tensor], config: Mapping[str, Any], path: str) -> dict[str, Tensor]:
    """The tensors of the net under the names of `UNet2DConditionModel`.

    Raises:
        InputError: some are missing, or there are others.
    """
    try:
        found = convert_ldm_unet_checkpoint({NET[0] + name: value for name, value in tensors.items()}, config)
    except Exception as error:  # diffusers answers KeyError, IndexError or worse where tensors are missing
        raise InputError(f"{path}: its tensors are not those of the net: {error!r:.200}", _INCOMPLETE) from error
    taken = {id(value) for value in found.values()}
    if left := [name for name, value in tensors.items() if id(value) not in taken]:
        raise InputError(f"{path} has the unexpected tensors {', '.join(left[:5])}, {len(left)} in all", _INCOMPLETE)
    return {name: value for name, value in found.items() if value is not None}


def _width(tensors: Mapping[str, Tensor], name: str, path: str) -> int:
    return shape_of(tensors, name, "convolution", path)[0]


def _depth(tensors: Mapping[str, Tensor], name: str, path: str) -> int:
    """How many transformer blocks stand one behind the other; 0 where there is no attention."""
    prefix = f"{name}.transformer_blocks."
    return count(tensors, prefix, path) if any(key.startswith(prefix) for key in tensors) else 0


def _labels(tensors: Mapping[str, Tensor], path: str) -> dict[str, Any]:
    """A table of labels, or SDXL's embedding of the prompt as a whole and of sizes."""
    if "label_emb.weight" in tensors:
        return {"num_class_embeds": shape_of(tensors, "label_emb.weight", "table", path)[0]}
    if "label_emb.0.0.weight" not in tensors:
        return {}
    width = shape_of(tensors, "label_emb.0.0.weight", "linear layer", path)[1]
    sizes = {"addition_embed_type": "text_time", "addition_time_embed_dim": _SIZE_WIDTH}
    return {**sizes, "projection_class_embeddings_input_dim": width}
