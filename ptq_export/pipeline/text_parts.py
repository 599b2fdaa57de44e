"""The float graphs around the denoiser of a text-to-image model, written beside it: prompts in, pictures out."""

from collections.abc import Mapping

import onnx_ir as ir
import torch
from torch import Tensor, nn

from ptq_export.artifacts import atomic_path
from ptq_export.engines.text_to_image import LatentDecoder, PromptEncoder, open_part
from ptq_export.errors import GateFailed
from ptq_export.graph.export import export_part
from ptq_export.graph.model_file import save_model
from ptq_export.nn.probe import difference
from ptq_export.pipeline.job import Job
from ptq_export.text import Text
from ptq_export.text_to_image import DECODER, IMAGE, LATENTS, TEXT_ENCODER, token_input, tokenizer_file

__all__ = ["export_around"]

CLOSE = 1e-3
"""Of the largest value: float32 in another order of summation through a deep text encoder."""
PROVED = 2


def export_around(job: Job) -> None:
    """Write the text encoder, its tokenizers and the decoder, each proved to compute what the torch module does.

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
    _save(job, TEXT_ENCODER, export_part(text.encoder, ids, text.conditions))
    found = PromptEncoder(text.parts, text.tokens, open_part(job.folder.path / TEXT_ENCODER))(prompts)
    _require_close(TEXT_ENCODER, text.encode(prompts), {name: torch.from_numpy(it) for name, it in found.items()})


def _export_decoder(job: Job, decoder: nn.Module) -> None:
    latents = torch.randn((PROVED, *job.denoiser.sample_shape), generator=torch.Generator().manual_seed(0))
    _save(job, DECODER, export_part(decoder, {LATENTS: latents}, [IMAGE]))
    found = LatentDecoder(open_part(job.folder.path / DECODER))(latents.numpy())
    with torch.no_grad():
        _require_close(DECODER, {IMAGE: decoder(latents).clamp(-1, 1)}, {IMAGE: torch.from_numpy(found)})


def _save(job: Job, name: str, graph: ir.Model) -> None:
    save_model(graph, job.folder.path / name)
    job.folder.keep(name)


def _require_close(name: str, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    off = {key: difference(value, found[key]) for key, value in wanted.items()}
    if wrong := {key: value for key, value in off.items() if not value <= CLOSE}:
        told = ", ".join(f"{key} by {value:.1e}" for key, value in wrong.items())
        raise GateFailed(f"{name} differs from the model's own: {told} of the largest value (bound {CLOSE:.0e})")
