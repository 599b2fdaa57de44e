"""What an engine can execute in int8: the grids, and where quantisers sit.

A scheme is a property of the target and is chosen before calibration: the simulation carries exactly its quantisers.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = ["ORT_CPU", "Scheme"]

Granularity = Literal["tensor", "channel"]


@dataclass(frozen=True)
class Scheme:
    """The quantisation rules of one kind of engine. Inputs of conv / linear are always quantised.

    Attributes:
        conv_input: One step per tensor, or one per channel: then the input is multiplied by a gain per channel that is
            undone in the weights before they are quantised, so that the engine still sees one scalar grid.
        conv_output: Granularity of the grid on convolution outputs. `channel` costs nothing at run time: scale and
            offset are folded into the weight scales and the bias. (Linears: one step per input, no output grid.)
        pair_limit: Bound on |c_2j| + |c_2j+1| over adjacent weight codes of the [kh, kw, cin] order. x86 without VNNI
            adds two uint8 x int8 products in 16 bits (vpmaddubsw); 255 x 128 = 32640 cannot saturate there, so that
            one graph is exact on every x86 CPU.
    """

    name: str
    conv_input: Granularity
    conv_output: Granularity
    pair_limit: int


ORT_CPU = Scheme(name="ort-cpu", conv_input="channel", conv_output="channel", pair_limit=128)
