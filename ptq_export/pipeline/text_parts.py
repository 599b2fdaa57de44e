"""The float graphs around the denoiser of a text-to-image model, written beside it: prompts in, pictures out."""

from collections.abc import Callable, Mapping

import onnx_ir as ir
import torch
from torch import Tensor, nn

from ptq_export.artifacts import atomic_path
from ptq_export.engines.text_to_image import LatentDecoder, PromptEncoder, open_part
from ptq_export.errors import GateFailed
from ptq_export.graph.export import export_part
from ptq_export.graph.model_file import save_model
from ptq_export.graph.passes.half_precision import HalfPrecision
from ptq_export.nn.probe import difference
from ptq_export.pipeline.job import Job
from ptq_export.text import Text
from ptq_export.text_to_image import DECODER, IMAGE, LATENTS, TEXT_ENCODER, token_input, tokenizer_file

__all__ = ["export_around"]

CLOSE, HALF_CLOSE = 1e-3, 2e-2
"""Of the largest value: float32 in another order of summation through a deep text encoder, and float16."""
PROVED = 2
Parts = Mapping[str, Tensor]


def export_around(job: Job) -> None:
    """Write the text encoder, its tokenizers and the decoder, each proved to compute what the torch module does.

    For targets on a GPU in float16, where that holds in float16.

    Raises:
        InputError: one of them cannot be exported.
        GateFailed: its graph computes something else.
    """
    denoiser, folder = job.denoiser, job.folder
    if denoiser.text is not None and not folder.has(TEXT_ENCODER):
        with job.stage("text encoder"):
            _export_text(job, denoiser.text)
    if isinstance(denoiser.decoder, nn.Module) and not folder.has(DECODER):
        with job.stage("decoder of latents"):
            _export_decoder(job, denoiser.decoder)


def _export_text(job: Job, text: Text) -> None:
    for index, tokens in enumerate(text.tokens):
        name = tokenizer_file(index)
        with atomic_path(job.folder.path / name) as path:
            path.write_text(tokens.text, encoding="utf-8")
        job.folder.keep(name)
    prompts = text.prompts[:PROVED]
    ids = {token_input(index): torch.from_numpy(each.ids(prompts)) for index, each in enumerate(text.tokens)}

    def encoded() -> Parts:
        found = PromptEncoder(text.parts, text.tokens, open_part(job.folder.path / TEXT_ENCODER))(prompts)
        return {name: torch.from_numpy(value) for name, value in found.items()}

    _write(job, TEXT_ENCODER, export_part(text.encoder, ids, text.conditions), text.encode(prompts), encoded)


def _export_decoder(job: Job, decoder: nn.Module) -> None:
    latents = torch.randn((PROVED, *job.denoiser.sample_shape), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = {IMAGE: decoder(latents).clamp(-1, 1)}

    def decoded() -> Parts:
        return {IMAGE: torch.from_numpy(LatentDecoder(open_part(job.folder.path / DECODER))(latents.numpy()))}

    _write(job, DECODER, export_part(decoder, {LATENTS: latents}, [IMAGE]), wanted, decoded)


def _write(job: Job, name: str, graph: ir.Model, wanted: Parts, computed: Callable[[], Parts]) -> None:
    """Save `graph` as `name`, whose file makes what is `computed`: that is as good as `wanted`, or this is refused."""
    path = job.folder.path / name
    if job.runtime.device == "gpu":
        save_model(HalfPrecision()(graph).model, path)
        off = _furthest(wanted, computed())
        if off <= HALF_CLOSE:
            job.folder.keep(name)
            return
        job.progress.message(f"{name} stays float32: float16 moves it by {off:.1e} of the largest value")
    save_model(graph, path)
    if (off := _furthest(wanted, computed())) > CLOSE:
        raise GateFailed(
            f"{name} differs from the model's own by {off:.1e} of the largest value, and {CLOSE:.0e} is the bound"
        )
    job.folder.keep(name)


def _furthest(wanted: Parts, found: Parts) -> float:
    return max(difference(value, found[name]) for name, value in wanted.items())
