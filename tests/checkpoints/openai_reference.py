"""The U-Net of Dhariwal & Nichol (2021) written as a function of its state dict, to check the loader against.

It walks the state dict's own names block by block, so it shares neither the loader's counting nor its renaming.
`test_openai.py` checks it against the golden outputs first.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ptq_export.checkpoints.openai_layout import Layout

State = dict[str, Tensor]


def tensor_shapes(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a state dict of this architecture, in the order in which a sample passes them."""
    shapes: dict[str, tuple[int, ...]] = {}
    temb = 4 * layout.time_width

    def add(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    def add_resblock(name: str, inputs: int, outputs: int) -> None:
        add(f"{name}.in_layers.0", inputs)
        add(f"{name}.in_layers.2", outputs, inputs, 3, 3)
        add(f"{name}.emb_layers.1", outputs * (2 if layout.scale_shift else 1), temb)
        add(f"{name}.out_layers.0", outputs)
        add(f"{name}.out_layers.3", outputs, outputs, 3, 3)
        if inputs != outputs:
            add(f"{name}.skip_connection", outputs, inputs, 1, 1)

    def add_attention(name: str, width: int) -> None:
        add(f"{name}.norm", width)
        add(f"{name}.qkv", 3 * width, width, 1)
        add(f"{name}.proj_out", width, width, 1)

    add("time_embed.0", temb, layout.time_width)
    add("time_embed.2", temb, temb)
    if layout.classes is not None:
        shapes["label_emb.weight"] = (layout.classes, temb)
    width, last, index = layout.widths[0], len(layout.widths) - 1, 1
    add("input_blocks.0.0", width, layout.in_channels, 3, 3)
    skips = [width]
    for level, outputs in enumerate(layout.widths):
        for _ in range(layout.blocks):
            add_resblock(f"input_blocks.{index}.0", width, outputs)
            if level in layout.attention:
                add_attention(f"input_blocks.{index}.1", outputs)
            width, index = outputs, index + 1
            skips.append(width)
        if level < last:
            if layout.resblock_updown:
                add_resblock(f"input_blocks.{index}.0", width, width)
            else:
                add(f"input_blocks.{index}.0.op", width, width, 3, 3)
            index += 1
            skips.append(width)
    add_resblock("middle_block.0", width, width)
    add_attention("middle_block.1", width)
    add_resblock("middle_block.2", width, width)
    index = 0
    for level, outputs in reversed(list(enumerate(layout.widths))):
        for block in range(layout.blocks + 1):
            add_resblock(f"output_blocks.{index}.0", width + skips.pop(), outputs)
            width, behind = outputs, 1
            if level in layout.attention:
                add_attention(f"output_blocks.{index}.1", width)
                behind = 2
            if level > 0 and block == layout.blocks:
                if layout.resblock_updown:
                    add_resblock(f"output_blocks.{index}.{behind}", width, width)
                else:
                    add(f"output_blocks.{index}.{behind}.conv", width, width, 3, 3)
            index += 1
    add("out.0", width)
    add("out.2", layout.out_channels, width, 3, 3)
    return shapes


def random_state(layout: Layout, dtype: torch.dtype = torch.float32) -> State:
    """A state dict of normal numbers: norms around one, no layer at zero."""
    generator = torch.Generator().manual_seed(0)
    state: State = {}
    for name, shape in tensor_shapes(layout).items():
        is_norm = len(shape) == 1 and name.endswith("weight")
        spread = 0.7 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.1
        state[name] = (spread * torch.randn(shape, generator=generator) + is_norm).to(dtype)
    return state


def reference(
    state: State,
    x: Tensor,
    t: Tensor,
    y: Tensor | None = None,
    heads: int = 0,
    head_width: int = 0,
    qkv: str = "legacy",
) -> Tensor:
    """The output `[N, C or 2C, H, W]` for `x` `[N, C, H, W]` at `t` `[N]` with labels `y` `[N]`."""

    def conv(name: str, h: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(h, weight, state[f"{name}.bias"], stride, padding=weight.shape[-1] // 2)

    def linear(name: str, h: Tensor) -> Tensor:
        return F.linear(h, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name: str, h: Tensor) -> Tensor:
        return F.group_norm(h, 32, state[f"{name}.weight"], state[f"{name}.bias"])

    def resblock(name: str, h: Tensor, factor: float = 1) -> Tensor:
        def resample(inner: Tensor) -> Tensor:
            return F.avg_pool2d(inner, 2) if factor < 1 else F.interpolate(inner, scale_factor=factor, mode="nearest")

        inner = conv(f"{name}.in_layers.2", resample(F.silu(norm(f"{name}.in_layers.0", h))))
        added = linear(f"{name}.emb_layers.1", F.silu(temb))[:, :, None, None]
        if added.shape[1] == inner.shape[1]:
            inner = norm(f"{name}.out_layers.0", inner + added)
        else:
            scale, shift = added.chunk(2, dim=1)
            inner = norm(f"{name}.out_layers.0", inner) * (1 + scale) + shift
        inner = conv(f"{name}.out_layers.3", F.silu(inner))
        shortcut = resample(h)
        return inner + (
            conv(f"{name}.skip_connection", shortcut) if f"{name}.skip_connection.weight" in state else shortcut
        )

    def attend(name: str, h: Tensor) -> Tensor:
        weight, bias, width = state[f"{name}.qkv.weight"], state[f"{name}.qkv.bias"], h.shape[1]
        rows = F.conv1d(norm(f"{name}.norm", h).flatten(2), weight, bias)
        count = heads or width // head_width
        shares = []
        for head in range(count):
            size = width // count
            starts = [(3 * head + part) * size if qkv == "legacy" else part * width + head * size for part in range(3)]
            q, k, v = (rows[:, start : start + size] for start in starts)
            shares.append(v @ torch.softmax(q.transpose(1, 2) @ k / math.sqrt(size), dim=-1).transpose(1, 2))
        out = F.conv1d(torch.cat(shares, dim=1), state[f"{name}.proj_out.weight"], state[f"{name}.proj_out.bias"])
        return h + out.view_as(h)

    def block(name: str, h: Tensor, factor: float) -> Tensor:
        """All layers of one block in turn; its last residual block resamples by `factor`."""
        layers = sorted({key.split(".")[2] for key in state if key.startswith(f"{name}.")})
        for layer in (f"{name}.{number}" for number in layers):
            if f"{layer}.qkv.weight" in state:
                h = attend(layer, h)
            elif f"{layer}.op.weight" in state:
                h = conv(f"{layer}.op", h, stride=2)
            elif f"{layer}.conv.weight" in state:
                h = conv(f"{layer}.conv", F.interpolate(h, scale_factor=2.0, mode="nearest"))
            elif f"{layer}.in_layers.2.weight" in state:
                resamples = factor < 1 or (factor > 1 and layer[-1] != "0")
                h = resblock(layer, h, factor if resamples else 1)
            else:
                h = conv(layer, h)
        return h

    def upsamples(index: int) -> bool:
        names = [f"output_blocks.{index}.{layer}" for layer in (1, 2)]
        return any(f"{name}.{kind}.weight" in state for name in names for kind in ("conv", "in_layers.2"))

    count = len({key.split(".")[1] for key in state if key.startswith("input_blocks.")})
    half = state["time_embed.0.weight"].shape[1] // 2
    angles = t[:, None] * torch.exp(-math.log(10000) / half * torch.arange(half))
    temb = linear("time_embed.2", F.silu(linear("time_embed.0", torch.cat([angles.cos(), angles.sin()], dim=1))))
    if y is not None:
        temb = temb + state["label_emb.weight"][y]
    h, skips = x, []
    for index in range(count):
        # resampling recurs every `blocks + 1`: in input blocks of its own, behind the last of output blocks
        h = block(f"input_blocks.{index}", h, 0.5 if upsamples(index - 1) else 1)
        skips.append(h)
    for layer in ("middle_block.0", "middle_block.1", "middle_block.2"):
        h = attend(layer, h) if layer.endswith("1") else resblock(layer, h)
    for index in range(count):
        h = block(f"output_blocks.{index}", torch.cat([h, skips.pop()], dim=1), 2 if upsamples(index) else 1)
    return conv("out.2", F.silu(norm("out.0", h)))
