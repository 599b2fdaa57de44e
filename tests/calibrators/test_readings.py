"""Who reads which tensor and what can be divided before it: found by trying, the same function proved."""

import torch
from calibrators_toys import denoiser_of, unet_denoiser
from torch import Tensor, nn
from transformer import WIDTH, Around, transformer, uncompensated

from ptq_export.calibrators.readings import find_readings
from ptq_export.denoiser import Denoiser
from ptq_export.nn.balance import Reading


def linears(denoiser: Denoiser) -> set[str]:
    return {name for name, layer in denoiser.module.named_modules() if isinstance(layer, nn.Linear) and name != "time"}


def test_the_readings_of_a_transformer_block() -> None:
    denoiser = transformer()
    projections = tuple(f"block.attn1.to_{name}" for name in "qkv")
    assert find_readings(denoiser, linears(denoiser)) == (
        Reading(projections, "block.norm1"),
        Reading(("block.attn1.to_out.0",), "block.attn1.to_v"),
        Reading(("block.ff.net.0.proj",), "block.norm3"),
        Reading(("block.ff.net.2",), "block.ff.net.0.proj"),  # the value half: its first rows
    )


def test_attention_behind_a_group_norm() -> None:
    denoiser = unet_denoiser()
    found = {it.name: it.source for it in find_readings(denoiser, linears(denoiser)) if "attentions" in it.name}
    assert len(found) == 2 * sum("to_out" in name for name in found) > 0
    assert all(
        source == name.replace("to_q", "group_norm").replace("to_out.0", "to_v") for name, source in found.items()
    )


def test_what_is_read_by_others_too_or_behind_a_function_is_left_alone() -> None:
    denoiser = uncompensated()
    found = find_readings(denoiser, linears(denoiser))
    assert found == tuple(Reading((f"block.{name}",)) for name in ("first", "second", "third"))


class GateFirst(nn.Module):
    """A unit whose gate is the first half, and whose second linear is called with a keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(self.norm(x)).chunk(2, -1)
        return x + self.down(input=nn.functional.silu(gate) * value)


def test_modules_that_are_nobody_s_are_tried_alike() -> None:
    torch.manual_seed(0)
    found = find_readings(denoiser_of(Around(GateFirst()), (2, 6, 6)), {"block.up", "block.down"})
    assert found == (Reading(("block.up",), "block.norm"), Reading(("block.down",), "block.up", 2 * WIDTH))
