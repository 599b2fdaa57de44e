"""The DDPM U-Net (Ho et al. 2020, appendix B) written as a function of a ddim state dict, to check the loader against.

It walks the state dict's own names, so it shares nothing with the loader's renaming. `test_ddim.py` checks it against
the golden output first.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


def random_state(widths: list[int], blocks: int, attention: set[int], colours: int = 3) -> State:
    """A ddim state dict of normal numbers for a net of these widths, with attention on some levels."""
    state: State = {}
    generator = torch.Generator().manual_seed(0)

    def add(name: str, *shape: int, offset: float = 0.0) -> None:
        spread = 0.7 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.1
        state[f"{name}.weight"] = offset + spread * torch.randn(shape, generator=generator)
        state[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)

    def add_block(name: str, inputs: int, outputs: int) -> None:
        add(f"{name}.norm1", inputs, offset=1.0)
        add(f"{name}.conv1", outputs, inputs, 3, 3)
        add(f"{name}.temb_proj", outputs, 4 * widths[0])
        add(f"{name}.norm2", outputs, offset=1.0)
        add(f"{name}.conv2", outputs, outputs, 3, 3)
        if inputs != outputs:
            add(f"{name}.nin_shortcut", outputs, inputs, 1, 1)

    def add_attention(name: str, width: int) -> None:
        add(f"{name}.norm", width, offset=1.0)
        for part in ("q", "k", "v", "proj_out"):
            add(f"{name}.{part}", width, width, 1, 1)

    add("temb.dense.0", 4 * widths[0], widths[0])
    add("temb.dense.1", 4 * widths[0], 4 * widths[0])
    add("conv_in", widths[0], colours, 3, 3)
    skips, width = [widths[0]], widths[0]
    for level, outputs in enumerate(widths):
        for index in range(blocks):
            add_block(f"down.{level}.block.{index}", width, outputs)
            if level in attention:
                add_attention(f"down.{level}.attn.{index}", outputs)
            width = outputs
            skips.append(width)
        if level + 1 < len(widths):
            add(f"down.{level}.downsample.conv", width, width, 3, 3)
            skips.append(width)
    add_block("mid.block_1", width, width)
    add_attention("mid.attn_1", width)
    add_block("mid.block_2", width, width)
    for level, outputs in reversed(list(enumerate(widths))):
        for index in range(blocks + 1):
            add_block(f"up.{level}.block.{index}", width + skips.pop(), outputs)
            if level in attention:
                add_attention(f"up.{level}.attn.{index}", outputs)
            width = outputs
        if level > 0:
            add(f"up.{level}.upsample.conv", width, width, 3, 3)
    add("norm_out", width, offset=1.0)
    add("conv_out", colours, width, 3, 3)
    return state


def reference(state: State, x: Tensor, t: Tensor) -> Tensor:
    """eps of `x` `[N, C, H, W]` at `t` `[N]`."""

    def conv(name: str, h: Tensor, padding: int = 0, stride: int = 1) -> Tensor:
        return F.conv2d(h, state[f"{name}.weight"], state[f"{name}.bias"], stride, padding)

    def linear(name: str, h: Tensor) -> Tensor:
        return F.linear(h, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name: str, h: Tensor) -> Tensor:
        return F.group_norm(h, 32, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)

    def block(name: str, h: Tensor) -> Tensor:
        inner = conv(f"{name}.conv1", F.silu(norm(f"{name}.norm1", h)), 1)
        inner = inner + linear(f"{name}.temb_proj", F.silu(temb))[:, :, None, None]
        inner = conv(f"{name}.conv2", F.silu(norm(f"{name}.norm2", inner)), 1)
        return inner + (conv(f"{name}.nin_shortcut", h) if f"{name}.nin_shortcut.weight" in state else h)

    def attend(name: str, h: Tensor) -> Tensor:
        if f"{name}.q.weight" not in state:
            return h
        normed = norm(f"{name}.norm", h)
        q, k, v = (conv(f"{name}.{part}", normed).flatten(2) for part in "qkv")
        share = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(h.shape[1]), dim=-1)
        return h + conv(f"{name}.proj_out", (v @ share.transpose(1, 2)).view_as(h))

    levels = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("down."))
    blocks = sum(name.startswith("down.0.block.") and name.endswith("conv1.weight") for name in state)
    half = state["temb.dense.0.weight"].shape[1] // 2
    angles = t[:, None] * torch.exp(-math.log(10000) / (half - 1) * torch.arange(half))
    temb = linear("temb.dense.1", F.silu(linear("temb.dense.0", torch.cat([angles.sin(), angles.cos()], dim=1))))
    h = conv("conv_in", x, 1)
    skips = [h]
    for level in range(levels):
        for index in range(blocks):
            h = attend(f"down.{level}.attn.{index}", block(f"down.{level}.block.{index}", h))
            skips.append(h)
        if level + 1 < levels:
            h = conv(f"down.{level}.downsample.conv", F.pad(h, (0, 1, 0, 1)), stride=2)
            skips.append(h)
    h = block("mid.block_2", attend("mid.attn_1", block("mid.block_1", h)))
    for level in reversed(range(levels)):
        for index in range(blocks + 1):
            h = attend(f"up.{level}.attn.{index}", block(f"up.{level}.block.{index}", torch.cat([h, skips.pop()], 1)))
        if level > 0:
            h = conv(f"up.{level}.upsample.conv", F.interpolate(h, scale_factor=2.0, mode="nearest"), 1)
    return conv("conv_out", F.silu(norm("norm_out", h)), 1)
