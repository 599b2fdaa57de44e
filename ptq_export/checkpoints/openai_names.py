"""Tensor names of `UNet2DModel` in OpenAI's words, and their qkv matrices as the three that `UNet2DModel` has."""

import re
from collections.abc import Mapping

from torch import Tensor

from ptq_export.checkpoints.fit import require_plain
from ptq_export.checkpoints.openai_flags import Flags
from ptq_export.checkpoints.openai_layout import Layout
from ptq_export.errors import InputError

__all__ = ["openai_name", "split_qkv"]

_PARTS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
    "group_norm": "norm",
    "to_out.0": "proj_out",
}
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding": "label_emb",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)")

_ATTENTION = re.compile(r"((?:input_blocks\.\d+|middle_block|output_blocks\.\d+)\.1)\.(?:norm|qkv|proj_out)\.")


def openai_name(unet_name: str, layout: Layout) -> str:
    """How OpenAI's code calls a tensor of `UNet2DModel`; a third of a qkv matrix is `....qkv.weight[q]`."""
    module, _, kind = unet_name.rpartition(".")
    found = _BLOCK.match(module)
    if found:
        rest = module[found.end() + 1 :]
        module = _block(found, layout)
    else:
        place = next(place for place in _OUTSIDE if module == place or module.startswith(f"{place}."))
        rest = module[len(place) + 1 :]
        module = _OUTSIDE[place]
    if rest in ("to_q", "to_k", "to_v"):
        return f"{module}.qkv.{kind}[{rest[-1]}]"
    if rest == "conv":
        rest = "op" if unet_name.startswith("down_blocks") else "conv"
    return ".".join(filter(None, (module, _PARTS.get(rest, rest), kind)))


def split_qkv(tensors: Mapping[str, Tensor], flags: Flags, path: str) -> dict[str, Tensor]:
    """`tensors` with `....qkv.weight[q]`, `[k]`, `[v]` in place of each `....qkv.weight`, and so for the biases.

    Raises:
        InputError: a qkv tensor is missing, of a wrong shape, or no plain float tensor.
    """
    blocks = {found[1] for name in tensors if (found := _ATTENTION.match(name))}
    names = [f"{block}.qkv.{kind}" for block in sorted(blocks) for kind in ("weight", "bias")]
    if absent := [name for name in names if name not in tensors]:
        raise InputError(f"{path} lacks the tensors {', '.join(absent[:5])}", "the file is incomplete")
    split = {name: tensor for name, tensor in tensors.items() if name not in names}
    for name in names:
        split |= _thirds(name, tensors[name], flags, path)
    return split


def _thirds(name: str, tensor: Tensor, flags: Flags, path: str) -> dict[str, Tensor]:
    require_plain(name, tensor, path)
    rows, *columns = tensor.shape or (0,)
    heads = flags.heads_over(rows // 3)
    if rows == 0 or rows % 3 or not heads:
        found = f"has the shape {list(tensor.shape)}, not that of q, k and v"
        raise InputError(f"{path}: the tensor {name} {found}", "the file belongs to another net")
    # legacy rows are [heads, 3, head width], new ones [3, heads, head width]
    by_part = tensor.reshape(heads, 3, -1, *columns).transpose(0, 1) if flags.qkv == "legacy" else tensor
    thirds = by_part.reshape(3, rows // 3, *columns)
    return {f"{name}[{part}]": third for part, third in zip("qkv", thirds, strict=True)}


def _block(found: re.Match[str], layout: Layout) -> str:
    way, level, kind, index = found[1], int(found[2]), found[3], int(found[4])
    level = level if way == "down" else layout.levels - 1 - level
    if kind == "downsamplers":
        return f"input_blocks.{layout.input_block(level, layout.blocks)}.0"
    if kind == "upsamplers":
        return f"output_blocks.{layout.output_block(level, layout.blocks)}.{2 if level in layout.attention else 1}"
    side, number = ("input", layout.input_block) if way == "down" else ("output", layout.output_block)
    return f"{side}_blocks.{number(level, index)}.{0 if kind == 'resnets' else 1}"
