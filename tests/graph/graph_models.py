"""Small models for the graph tests: exported U-Nets, hand-written graphs, and ONNX Runtime to run them."""

import warnings
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
from diffusers import UNet2DModel
from torch import nn

from ptq_export.denoiser import UNetEps

Array = npt.NDArray[Any]

TIME_NET = """
<ir_version: 10, opset_import: ["": 18]>
net (float[N,3,2,2] sample, int64[N] timestep) => (float[N,3,2,2] eps)
<int64[1] one = {1}, int64[2] hw = {2, 3}, float[2,1] w = {0.3, -0.2}, float[2] b = {0.1, 0.4},
 float[3,2] w1 = {1, 2, 3, 4, 5, 6}, float[3] b1 = {1, 0, -1}, float[3,2] w2 = {-1, 1, 2, -2, 3, 0.5}>
{
    column = Unsqueeze(timestep, one)
    t = Cast<to = 1>(column)
    h = Gemm<transB = 1>(t, w, b)
    temb = Sigmoid(h)
    p1 = Gemm<transB = 1>(temb, w1, b1)
    p2 = Gemm<transB = 1>(temb, w2)
    shift1 = Unsqueeze(p1, hw)
    shift2 = Unsqueeze(p2, hw)
    x = Add(sample, shift1)
    y = Sigmoid(x)
    eps = Add(y, shift2)
}
"""
"""A denoiser with two blocks: eps = sigmoid(x + p1(t)) + p2(t); one table row takes 24 bytes, temb 8."""


def parse(text: str) -> ir.Model:
    """A model written in ONNX's text form; its nodes get names, as the exporter's have."""
    model = ir.from_onnx_text(text)
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
    return model


def shaped(text: str) -> ir.Model:
    """The same with the shapes that ONNX infers, as the exporter's graphs have them."""
    return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(parse(text))))


class TinyNet(nn.Module):
    """A convolution whose output is shifted by a linear layer of t."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.shift = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(1, 1)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return self.conv(sample) + self.shift(timestep[:, None].float())[:, :, None, None]


def tiny_unet() -> nn.Module:
    """Two levels, 8x8 pixels, six residual blocks."""
    torch.manual_seed(0)
    shape = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "add_attention": False}
    blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    return UNetEps(UNet2DModel(block_out_channels=(32, 64), **shape, **blocks))


def export(module: nn.Module, batch: int | None) -> ir.Model:
    """The exporter's graph of a net for `[N, 1, 8, 8]`; `batch` None is dynamic."""
    rows = batch or 2
    dynamic = None if batch else {name: {0: torch.export.Dim("batch")} for name in ("sample", "timestep")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            (torch.zeros(rows, 1, 8, 8), torch.arange(rows)),
            dynamo=True,
            opset_version=18,
            input_names=["sample", "timestep"],
            output_names=["eps"],
            dynamic_shapes=dynamic,
            verbose=False,
        )
    return program.model


@lru_cache
def _exported(batch: int | None) -> ir.Model:
    return export(tiny_unet(), batch)


def unet(batch: int | None = None) -> ir.Model:
    """A copy of the exported U-Net (exported once per test run)."""
    return _exported(batch).clone()


def run(model: ir.Model, sample: Array, timestep: Array) -> Array:
    """eps of one call of ONNX Runtime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model_bytes(model), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"sample": sample, "timestep": timestep})[0]


def model_bytes(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def noise(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def ops(model: ir.Model) -> list[str]:
    """Operators in the order of the graph."""
    return [node.op_type for node in model.graph]
