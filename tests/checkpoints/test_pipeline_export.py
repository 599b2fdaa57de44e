"""What stands around the net of a pipeline, and the net itself, become ONNX graphs that compute the same."""

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir
import onnxruntime
import pytest
import torch
from tiny_pipelines import PROMPTS, saved
from torch import Tensor, nn

from ptq_export.checkpoints import load_checkpoint
from ptq_export.denoiser import Denoiser
from ptq_export.graph.export import export_module
from ptq_export.pairs import Pairs

CLOSE = 1e-5
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> Denoiser:
    return load_checkpoint(str(saved("sdxl", tmp_path_factory.mktemp("sdxl"))))


def answers(graph: Path | bytes, feeds: Mapping[str, Tensor]) -> list[Tensor]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(value) for value in session.run(None, {name: it.numpy() for name, it in feeds.items()})]


def exported(module: nn.Module, names: list[str], example: list[Tensor], path: Path) -> Path:
    """The graph of `module` for any number of rows."""
    open_batch = tuple({0: "batch"} for _ in example)
    program = torch.onnx.export(
        module,
        tuple(example),
        dynamo=True,
        opset_version=18,
        input_names=names,
        dynamic_shapes=open_batch,
        verbose=False,
    )
    program.save(path)
    return path


def close(found: list[Tensor], wanted: list[Tensor]) -> bool:
    pairs = zip(found, wanted, strict=True)
    return all((a - b).abs().max() < CLOSE * b.abs().max() for a, b in pairs)


def test_text_encoder_becomes_a_graph(denoiser: Denoiser, tmp_path: Path) -> None:
    """With the zeros of an empty prompt."""
    text = denoiser.text
    ids = [torch.from_numpy(tokens.ids(PROMPTS)) for tokens in text.tokens]
    names = ["input_ids", "input_ids_2"]
    graph = exported(text.encoder, names, [each[:2] for each in ids], tmp_path / "text.onnx")
    found = answers(graph, dict(zip(names, ids, strict=True)))
    assert close(found, list(text.encode(PROMPTS).values()))
    assert found[0][1].abs().max() == found[1][1].abs().max() == 0 < found[1][0].abs().max()


def test_decoder_becomes_a_graph(denoiser: Denoiser, tmp_path: Path) -> None:
    latents = torch.randn(3, *denoiser.sample_shape)
    graph = exported(denoiser.decoder, ["latents"], [latents[:2]], tmp_path / "decoder.onnx")
    with torch.no_grad():
        assert close(answers(graph, {"latents": latents}), [denoiser.decoder(latents)])


@pytest.mark.parametrize("kind", ["sdxl", "inpaint", "lcm"])
def test_net_becomes_a_graph(kind: str, tmp_path: Path) -> None:
    net = load_checkpoint(str(saved(kind, tmp_path)))
    rows = [Pairs(torch.randn(n, *net.sample_shape), torch.arange(n) * 300, net.draw(n, seed=0)) for n in (2, 3)]
    model = export_module(net.module, rows[0], net.inputs)
    found = answers(ir.to_proto(model).SerializeToString(), rows[1].feeds)
    assert close(found, [rows[1].through(net)])
