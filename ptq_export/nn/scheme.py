"""What an engine can execute in int8: the grids, and where quantisers sit.

A scheme is a property of the target and is chosen before calibration: the simulation carries exactly its quantisers.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from ptq_export.nn.code_type import INT8, UINT8, CodeType

__all__ = [
    "GRID_PLACEMENTS",
    "OPENVINO",
    "ORT_CPU",
    "PLACEMENTS",
    "TENSORRT",
    "FloatDtype",
    "LinearGranularity",
    "Scheme",
    "placed",
]

Granularity = Literal["tensor", "channel"]
LinearGranularity = Literal["tensor", "token"]
FloatDtype = Literal["float32", "float16"]


@dataclass(frozen=True)
class Scheme:
    """The quantisation rules of one kind of engine. Inputs of conv / linear are always quantised.

    Attributes:
        activations: Codes of activations: signed ones have the zero point 0, others one of their own.
        conv_input: One step per tensor, or one per channel: then the input is multiplied by a gain per channel that is
            undone in the weights before they are quantised, so that the engine still sees one scalar grid.
        conv_output: Granularity of the grid on convolution outputs. `channel` costs nothing at run time: scale and
            offset are folded into the weight scales and the bias. (Linears: one step per input, no output grid.)
            None: no grid there.
        pointwise_rows: A 1 x 1 convolution is a linear over pixels: the engine computes it as one product of rows, and
            like a linear's its result has no grid.
        linear_input: One step for the whole input of a linear, or one per token (the last axis being the channels):
            x / m is quantised, m the token's largest magnitude, and the product multiplied by m. Outliers of one token
            then cost the others nothing, and nothing is quantised dynamically: the step is always 1 / 127.
        weights: Codes of weights, symmetric, one step per output channel.
        pair_limit: Bound on |c_2j| + |c_2j+1| over adjacent weight codes of the [kh, kw, cin] order. x86 without VNNI
            adds two uint8 x int8 products in 16 bits (vpmaddubsw); 255 x 128 = 32640 cannot saturate there, so that
            one graph is exact on every x86 CPU. None: the engine adds in 32 bits.
        even_pairs: Pairs begin at even places of that order, always. Else only for convolutions with an even number of
            channels and one group: oneDNN pads an odd number at every tap, and cuts the long rows of grouped
            convolutions and of linears into blocks of equal, perhaps odd, lengths; then any two neighbours may meet.
        integer_bias: Biases are int32 codes on the accumulator's grid; else floats.
        weight_zero_point: A zero point, which is 0, stands on weight dequantisers. ONNX Runtime's integer Gemm asks for
            one; OpenVINO computes layers of different kinds that share one in float.
        float_dtype: The type of all that is not int8, also of the scales: rounded to it before codes are learned.
        min_channels: Layers with fewer inputs or outputs stay float: integer kernels do not pay there.
        float_shortcuts: The shortcut convolutions of residual blocks stay float: their quantiser is a pass over the
            widest tensor of the block, for the smallest of its products.
        before_resize: What a nearest-neighbour upsampling repeats is quantised before it, too, on the grid of the
            convolution behind it: a quarter of the numbers, and the same codes.
        residual: The operand of a residual block's sum that its second convolution does not make is on an int8 grid:
            that convolution's kernel adds it, and may then write int8 itself.
        conv1_output: What a residual block's first convolution makes is on an int8 grid: its kernel writes bytes.
    """

    name: str
    activations: CodeType
    conv_input: Granularity
    conv_output: Granularity | None
    pair_limit: int | None
    even_pairs: bool
    integer_bias: bool
    weight_zero_point: bool
    float_dtype: FloatDtype
    min_channels: int
    weights: CodeType = INT8
    linear_input: LinearGranularity = "tensor"
    pointwise_rows: bool = False
    float_shortcuts: bool = False
    before_resize: bool = False
    residual: bool = False
    conv1_output: bool = False


GRID_PLACEMENTS = ("residual", "conv1-output")
"""Those of `PLACEMENTS` that are grids of their own, which have to be calibrated."""
PLACEMENTS = ("float-shortcuts", "before-resize", *GRID_PLACEMENTS)
"""Choices of a scheme that only the device itself can judge, by the name that a user gives them."""


def placed(scheme: Scheme, placements: Collection[str]) -> Scheme:
    """`scheme` with these of `PLACEMENTS`."""
    return replace(
        scheme,
        float_shortcuts="float-shortcuts" in placements,
        before_resize="before-resize" in placements,
        residual="residual" in placements,
        conv1_output="conv1-output" in placements,
    )


ORT_CPU = Scheme(
    name="ort-cpu",
    activations=UINT8,
    conv_input="channel",
    conv_output="channel",
    pair_limit=128,
    even_pairs=True,
    integer_bias=True,
    weight_zero_point=True,
    float_dtype="float32",
    min_channels=1,
    pointwise_rows=True,
)
OPENVINO = Scheme(
    name="openvino",
    activations=UINT8,
    conv_input="tensor",
    conv_output=None,
    pair_limit=128,
    even_pairs=False,
    integer_bias=False,
    weight_zero_point=False,
    float_dtype="float32",
    min_channels=1,
)
TENSORRT = Scheme(
    name="tensorrt",
    activations=INT8,
    conv_input="tensor",
    conv_output=None,
    pair_limit=None,
    even_pairs=True,
    integer_bias=False,
    weight_zero_point=True,
    float_dtype="float16",
    min_channels=16,
)
