"""The U-Net of Dhariwal & Nichol (2021) and of Nichol & Dhariwal (2021) before it, as keys and shapes tell it.

`input_blocks.N` count through stem, residual blocks and downsamplings of all levels; `output_blocks.N` through the
residual blocks of the way up, each level's last with the upsampling behind it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ptq_export.checkpoints.keys import count, shape_of
from ptq_export.errors import InputError
from ptq_export.interface import Input, label

__all__ = ["Layout", "read_layout", "read_levels"]

_INCOMPLETE = "the file is incomplete, or belongs to another net"
_ATTENTION = ("norm", "qkv", "proj_out")


@dataclass(frozen=True)
class Layout:
    """An architecture: `attention` are the levels that have it, counted from 0 at full resolution.

    `time_width` is the number of sines and cosines that the time-step becomes: the stem's width, except in the
    published 512x512 net. The middle block always has attention. `classes` is None for unconditional nets.
    """

    in_channels: int
    out_channels: int
    time_width: int
    widths: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    resblock_updown: bool
    scale_shift: bool
    classes: int | None

    @property
    def levels(self) -> int:
        return len(self.widths)

    @property
    def attention_widths(self) -> tuple[int, ...]:
        """The widths over which there is attention, the middle block's last."""
        return (*(self.widths[level] for level in self.attention), self.widths[-1])

    @property
    def conditions(self) -> tuple[Input, ...]:
        """A label, if the net has classes."""
        return () if self.classes is None else (label(self.classes),)

    @property
    def learned_variance(self) -> bool:
        """Whether the outputs are eps and, in as many channels again, what the variance is made of."""
        return self.out_channels == 2 * self.in_channels

    def input_block(self, level: int, block: int) -> int:
        """The number of an input block; `block` = `blocks` is the downsampling behind the level."""
        return 1 + level * (self.blocks + 1) + block

    def output_block(self, level: int, block: int) -> int:
        """The number of an output block; the last of a level, `block` = `blocks`, has the upsampling."""
        return (self.levels - 1 - level) * (self.blocks + 1) + block


def read_layout(tensors: Mapping[str, Tensor], path: str) -> Layout:
    """The architecture of a state dict that has `input_blocks`.

    Raises:
        InputError: another kind of net, a net that UNet2DModel cannot express, or tensors missing that tell.
    """
    modules = _modules(tensors)
    _refuse_relatives(tensors, modules, path)
    levels, blocks, resblock_updown = read_levels(tensors, path)
    stem = shape_of(tensors, "input_blocks.0.0.weight", "convolution", path)
    first = "input_blocks.{}.0.in_layers.2.weight"
    widths = [
        shape_of(tensors, first.format(1 + level * (blocks + 1)), "convolution", path)[0] for level in range(levels)
    ]
    layout = Layout(
        in_channels=stem[1],
        out_channels=shape_of(tensors, "out.2.weight", "convolution", path)[0],
        time_width=shape_of(tensors, "time_embed.0.weight", "linear layer", path)[1],
        widths=tuple(widths),
        blocks=blocks,
        attention=(),
        resblock_updown=resblock_updown,
        scale_shift=shape_of(tensors, "input_blocks.1.0.emb_layers.1.weight", "linear layer", path)[0] == 2 * widths[0],
        classes=_classes(tensors, path),
    )
    _require_expressible(layout, stem[0], tensors, path)
    return replace(layout, attention=_attention(layout, modules, path))


def _modules(tensors: Mapping[str, Tensor]) -> set[str]:
    """Everything that has tensors below it: `a` and `a.b` for a tensor `a.b.weight`."""
    parts = [name.split(".") for name in tensors]
    return {".".join(name[:length]) for name in parts for length in range(1, len(name))}


def _refuse_relatives(tensors: Mapping[str, Tensor], modules: set[str], path: str) -> None:
    """Nets with the same keys that are no denoisers of an image alone."""
    if any(".transformer_blocks." in name for name in tensors):
        cause = f"{path} is a latent-diffusion net with cross-attention (transformer_blocks), which is not supported"
        raise InputError(cause, "give a net that sees the sample, the time-step and at most a class label")
    if "output_blocks" not in modules:
        cause = f"{path} has no output_blocks: it is an openai/guided-diffusion classifier, or incomplete"
        raise InputError(cause, "give the diffusion checkpoint, which goes with a classifier: *_diffusion.pt")
    inputs = shape_of(tensors, "input_blocks.0.0.weight", "convolution", path)[1]
    outputs = shape_of(tensors, "out.2.weight", "convolution", path)[0]
    if inputs == 2 * outputs:
        cause = f"{path} is an upsampler: half of its {inputs} input channels are a low-resolution image"
        raise InputError(f"{cause}, which is not supported", "give the net that makes the low-resolution images")
    if inputs not in (outputs, outputs / 2):
        cause = (
            f"{path} has {outputs} output channels for {inputs} input channels: it sees a condition beside the sample"
        )
        remedy = "give a net that sees the sample, the time-step and at most a class label"
        raise InputError(f"{cause}, which is not supported", remedy)


def read_levels(tensors: Mapping[str, Tensor], path: str) -> tuple[int, int, bool]:
    """(levels, residual blocks per level, whether residual blocks resample) of a state dict that has `input_blocks`.

    Raises:
        InputError: its blocks make no levels of equally many residual blocks.
    """
    modules = _modules(tensors)
    inputs, outputs = (count(tensors, prefix, path) for prefix in ("input_blocks.", "output_blocks."))
    if inputs != outputs:
        raise InputError(f"{path} has {inputs} input_blocks but {outputs} output_blocks", _INCOMPLETE)
    downs = [index for index in range(inputs) if f"input_blocks.{index}.0.op" in modules]
    ups = [index for index in range(outputs) if _resamples(f"output_blocks.{index}", modules)]
    levels = 1 + len(downs or ups)
    blocks = inputs // levels - 1
    starts = [level * (blocks + 1) for level in range(1, levels)]
    sides = {"output_blocks": (ups, [start - 1 for start in starts])}
    if downs:  # residual blocks that halve have the same tensors as others
        sides = {"input_blocks": (downs, starts), **sides}
    for side, (found, expected) in sides.items():
        if inputs % levels or blocks < 1 or found != expected:
            shown = ", ".join(map(str, found)) or "none"
            cause = f"its {inputs} {side} resample at {shown}, which makes no levels of equally many residual blocks"
            raise InputError(f"{path}: {cause}", _INCOMPLETE)
    return levels, blocks, bool(ups) and not downs


def _resamples(block: str, modules: set[str]) -> bool:
    return any(f"{block}.{index}.{part}" in modules for index in (1, 2) for part in ("conv", "in_layers"))


def _attention(layout: Layout, modules: set[str], path: str) -> tuple[int, ...]:
    found = []
    for level in range(layout.levels):
        names = [f"input_blocks.{layout.input_block(level, block)}" for block in range(layout.blocks)]
        names += [f"output_blocks.{layout.output_block(level, block)}" for block in range(layout.blocks + 1)]
        without = [name for name in names if not any(f"{name}.1.{part}" in modules for part in _ATTENTION)]
        if without and len(without) < len(names):
            cause = f"level {level} has attention, but not in {', '.join(without)}"
            raise InputError(f"{path}: {cause}", "all blocks of a level must have it, down and up, or none")
        if not without:
            found.append(level)
    return tuple(found)


def _classes(tensors: Mapping[str, Tensor], path: str) -> int | None:
    name = "label_emb.weight"
    return shape_of(tensors, name, "table", path)[0] if name in tensors else None


def _require_expressible(layout: Layout, stem: int, tensors: Mapping[str, Tensor], path: str) -> None:
    if stem != layout.widths[0]:
        cause = f"the stem input_blocks.0.0 has {stem} channels and the first level {layout.widths[0]}"
        raise InputError(f"{path}: {cause}, which UNet2DModel cannot express", "only channel_mult = 1, ... can be read")
    for name, tensor in tensors.items():
        if name.endswith(".skip_connection.weight") and tuple(tensor.shape[2:]) != (1, 1):
            cause = f"the shortcut {name} is a convolution of shape {list(tensor.shape)}, not a 1x1"
            raise InputError(f"{path}: {cause}, which UNet2DModel cannot express", "only 1x1 shortcuts can be read")
