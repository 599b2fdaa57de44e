"""The affine of an adaptive group norm in the projection of the time embedding: the same function, fewer nodes."""

from collections import Counter
from pathlib import Path

import torch
from diffusers.models.resnet import ResnetBlock2D
from exported_net import exported

from ptq_export.checkpoints import load_checkpoint
from ptq_export.denoiser import Denoiser, NoiseSchedule, Source
from ptq_export.graph.passes.constant_shapes import ConstantShapes
from ptq_export.graph.passes.drop_neutral import DropNeutral
from ptq_export.nn.fold_scale_shift import fold_scale_shift
from ptq_export.sampling import initial_noise

DATA = Path(__file__).parents[1] / "data"


class Block(torch.nn.Module):
    """One residual block between sample and eps, its norms with affines of their own."""

    def __init__(self, time_embedding_norm: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block = ResnetBlock2D(in_channels=8, temb_channels=6, groups=4, time_embedding_norm=time_embedding_norm)
        torch.nn.init.normal_(self.block.norm2.weight)
        torch.nn.init.normal_(self.block.norm2.bias)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        temb = torch.sin(timestep[:, None] * torch.arange(6))
        output: torch.Tensor = self.block(sample, temb)
        return output


def denoiser(time_embedding_norm: str) -> Denoiser:
    module = Block(time_embedding_norm).eval().requires_grad_(False)
    return Denoiser(module, NoiseSchedule(), (8, 4, 4), Source("toy", "toy", ""))


def operators(net: Denoiser) -> Counter[str]:
    graph = exported(net.module, net.sample_shape)
    ConstantShapes()(graph)
    DropNeutral()(graph)
    return Counter(node.op_type for node in graph.graph)


def test_output_stays_and_a_mul_and_an_add_go() -> None:
    before = denoiser("scale_shift")
    after = fold_scale_shift(before)
    inputs = initial_noise((3, 8, 4, 4), 0), torch.tensor([0, 17, 999])
    torch.testing.assert_close(after(*inputs), before(*inputs), rtol=0, atol=2e-6)
    gone = operators(before) - operators(after)
    assert (gone["Mul"], gone["Add"]) == (1, 1)
    assert before.module.block.norm2.affine, "the original is untouched"


def test_a_net_without_adaptive_norms_is_returned_as_it_is() -> None:
    plain = denoiser("default")
    assert fold_scale_shift(plain) is plain


def test_openai_s_network_answers_the_same() -> None:
    before = load_checkpoint(str(DATA / "iddpm_tiny.pt"))
    inputs = initial_noise((2, 3, 32, 32), 0), torch.tensor([3, 3999])
    torch.testing.assert_close(fold_scale_shift(before)(*inputs), before(*inputs), rtol=0, atol=1e-5)
