"""An exported net of integer layers: a convolution in a block that reads t, two linears on one input, a gate."""

from functools import lru_cache

import onnx_ir as ir
import torch
from exported_net import exported
from torch import Tensor, nn
from torch.nn import functional

from ptq_export.graph.passes.name_layers import NameLayers
from ptq_export.nn.layers import Grid, LayerCodes, QuantisedLayer, layer_state, quantised_layer

CHANNELS = 4


def integer(layer: nn.Conv2d | nn.Linear, input_scale: float, output_scale: float | None) -> QuantisedLayer:
    """A quantised layer with random codes, and an output grid where `output_scale` is given."""
    outputs = layer.weight.shape[0]
    zero_point = torch.tensor(128, dtype=torch.uint8)
    output = Grid(torch.full((outputs,), output_scale), torch.full((outputs,), 120).byte()) if output_scale else None
    codes = LayerCodes(
        torch.randint(-60, 60, layer.weight.shape).to(torch.int8),
        torch.linspace(0.005, 0.01, outputs),
        torch.randn(outputs),
        Grid(torch.tensor(input_scale), zero_point),
        output,
    )
    return quantised_layer(layer_state(codes), layer)


class Block(nn.Module):
    """x + silu(conv(x)) + shift(t)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = integer(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), 0.03, 0.02)
        self.shift = nn.Linear(1, CHANNELS)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x + functional.silu(self.conv(x)) + self.shift(t[:, None].float() / 1000)[:, :, None, None]


class Mix(nn.Module):
    """q(x) * sigmoid(k(x)) on tokens; q and k read one input, on grids that are equal or not."""

    def __init__(self, k_scale: float) -> None:
        super().__init__()
        self.q = integer(nn.Linear(CHANNELS, CHANNELS), 0.04, None)
        self.k = integer(nn.Linear(CHANNELS, CHANNELS), k_scale, None)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return (self.q(tokens) * torch.sigmoid(self.k(tokens))).transpose(1, 2).unflatten(2, x.shape[2:])


class Gate(nn.Module):
    """x * sigmoid(y): reads two activations."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x * torch.sigmoid(y)


class IntegerNet(nn.Module):
    """`[N, 1, 8, 8]` -> `[N, 1, 8, 8]`; first and last convolution are float."""

    def __init__(self, k_scale: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(1, CHANNELS, 3, padding=1), nn.Conv2d(CHANNELS, 1, 1)
        self.block, self.mix, self.gate = Block(), Mix(k_scale), Gate()

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        x = self.block(self.stem(sample), timestep)
        return self.head(self.gate(x, self.mix(x)))


@lru_cache
def _exported(k_scale: float) -> tuple[IntegerNet, ir.Model]:
    net = IntegerNet(k_scale).eval().requires_grad_(False)
    graph = exported(net, (1, 8, 8))
    NameLayers()(graph)
    return net, graph


def integer_net(k_scale: float = 0.04) -> tuple[IntegerNet, ir.Model]:
    """The net and a copy of its graph (exported once per test run); linear q has an input step of 0.04."""
    net, graph = _exported(k_scale)
    return net, graph.clone()


def layers(net: IntegerNet) -> dict[str, QuantisedLayer]:
    """The integer layers by module path."""
    return {name: module for name, module in net.named_modules() if isinstance(module, QuantisedLayer)}
