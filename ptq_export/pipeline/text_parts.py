"""The float graphs around the denoiser of a text-to-image model, written beside it: prompts in, pictures out."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

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
LARGEST_HALF = torch.finfo(torch.float16).max / 2
"""What other prompts and latents may double."""
PROVED = 2
Parts = Mapping[str, Tensor]


def export_around(job: Job) -> None:
    """Write the text encoder, its tokenizers and the decoder, each proved to compute what the torch module does.

    For targets on a GPU in float16, where all that they compute is a float16.

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
    with _largest_made(text.encoder) as largest:
        wanted = text.encode(prompts)

    def encoded() -> Parts:
        found = PromptEncoder(text.parts, text.tokens, open_part(job.folder.path / TEXT_ENCODER))(prompts)
        return {name: torch.from_numpy(value) for name, value in found.items()}

    _write(job, TEXT_ENCODER, export_part(text.encoder, ids, text.conditions), _Proof(wanted, encoded, largest()))


def _export_decoder(job: Job, decoder: nn.Module) -> None:
    latents = torch.randn((PROVED, *job.denoiser.sample_shape), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), _largest_made(decoder) as largest:
        wanted = {IMAGE: decoder(latents).clamp(-1, 1)}

    def decoded() -> Parts:
        return {IMAGE: torch.from_numpy(LatentDecoder(open_part(job.folder.path / DECODER))(latents.numpy()))}

    _write(job, DECODER, export_part(decoder, {LATENTS: latents}, [IMAGE]), _Proof(wanted, decoded, largest()))


@dataclass(frozen=True)
class _Proof:
    """What the torch module makes, what makes the same of the file, and the largest number on the way."""

    wanted: Parts
    computed: Callable[[], Parts]
    largest: float

    def off(self) -> float:
        """By how much of the largest value the file's answer is another."""
        found = self.computed()
        return max(difference(value, found[name]) for name, value in self.wanted.items())


def _write(job: Job, name: str, graph: ir.Model, proof: _Proof) -> None:
    """Save `graph` as `name`, in float16 where the target wants it and that holds.

    ONNX Runtime computes float16 in float32 on a CPU: it would not show what is too large for it.
    """
    path = job.folder.path / name
    if job.runtime.device == "gpu":
        why = f"its numbers, up to {proof.largest:.0f}, are not float16's"
        if proof.largest < LARGEST_HALF:
            save_model(HalfPrecision()(graph).model, path)
            if (off := proof.off()) <= HALF_CLOSE:
                job.folder.keep(name)
                return
            why = f"float16 moves it by {off:.1e} of the largest value"
        job.progress.message(f"{name} stays float32: {why}")
    save_model(graph, path)
    if (off := proof.off()) > CLOSE:
        raise GateFailed(
            f"{name} differs from the model's own by {off:.1e} of the largest value, and {CLOSE:.0e} is the bound"
        )
    job.folder.keep(name)


@contextmanager
def _largest_made(module: nn.Module) -> Iterator[Callable[[], float]]:
    """Watches what the parts of `module` make; called, it answers the largest magnitude so far."""
    seen = [0.0]

    def watch(_: nn.Module, __: object, made: object) -> None:
        if isinstance(made, Tensor) and made.is_floating_point():
            seen.append(made.abs().max().item())

    handles = [part.register_forward_hook(watch) for part in module.modules()]
    try:
        yield lambda: max(seen)
    finally:
        for handle in handles:
            handle.remove()
