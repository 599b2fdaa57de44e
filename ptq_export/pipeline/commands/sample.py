"""Pictures from the engine of a finished run, under a class or a prompt."""

from dataclasses import asdict
from math import prod
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch
from torch import Tensor

from ptq_export.command_options import Sampling
from ptq_export.conditions import draw
from ptq_export.engines.base import Engine
from ptq_export.engines.load import load_engine
from ptq_export.engines.text_to_image import PromptEncoder, load_latent_decoder, load_prompt_encoder
from ptq_export.errors import InputError
from ptq_export.guidance import Guidance, under
from ptq_export.interface import LABEL, Input
from ptq_export.machine import require_memory, total_memory_bytes
from ptq_export.pipeline.commands.reopened import examples_of, finished_manifest, read_schedule
from ptq_export.pipeline.progress import Progress
from ptq_export.pipeline.proofs import any_batch
from ptq_export.report.images import sample_grid
from ptq_export.sampling import initial_noise, sample_loop
from ptq_export.schedulers import make_scheduler, sampler_notes, visited_timesteps

__all__ = ["sample"]

BYTES_PER_DRAWN = 32  # per number of a sample: float32 before, after and behind a step, float64 for the picture


def sample(run: Path, sampling: Sampling, progress: Progress) -> dict[str, Any]:
    """Draw samples from the engine and write them as one grid picture (PNG).

    Raises:
        InputError: no finished run, no such sampler, a number of steps that it does not allow, no such class, or a
            prompt for a run that takes none.
        EnvironmentMissing: it takes prompts, and the extra `text` was not installed.
    """
    _require_picture(sampling.picture)
    schedule = read_schedule(finished_manifest(run), run)
    scheduler = make_scheduler(schedule, sampling.sampler)
    times = visited_timesteps(schedule, sampling.steps, sampling.sampler)
    notes = sampler_notes(schedule, sampling.steps, sampling.sampler)
    engine, encoder, decoder = load_engine(run), load_prompt_encoder(run), load_latent_decoder(run)
    each = BYTES_PER_DRAWN * prod(engine.sample_shape)
    fewer = f"give fewer: --count {total_memory_bytes() // each} at most"
    require_memory(each * sampling.count, f"--count {sampling.count}", fewer)
    noise = initial_noise((sampling.count, *engine.sample_shape), sampling.seed)
    prompts, guidance = _prompts(encoder, sampling), _guidance(encoder, sampling)
    if encoder is not None and (cut := encoder.tokens[0].cut(prompts)):
        notes = [*notes, f"cut to {encoder.tokens[0].length} tokens: {cut[0]!r:.80}"]
    conditions = _conditions(run, engine, encoder, prompts, sampling)
    for note in notes:
        progress.message(note)
    progress.stage(f"{sampling.count} samples, {sampling.steps} {sampling.sampler} steps", len(times))
    samples = sample_loop(
        under(guidance, any_batch(engine)),
        scheduler,
        noise,
        sampling.steps,
        conditions,
        callback=lambda _: progress.advance(),
        seed=sampling.seed,
    )
    if decoder is None:
        images, range_ = samples, schedule.sample_range
    else:
        images, range_ = torch.from_numpy(decoder(samples.numpy())), (-1.0, 1.0)
    low, high = range_ or (images.min().item(), images.max().item())
    sample_grid(images.double().numpy(), sampling.picture, low, high)
    facts = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(sampling).items()}
    told = {
        "label": conditions[LABEL].tolist() if LABEL in conditions else None,
        "prompts": prompts or None,
        "guidance": guidance and guidance.scale,
        "timesteps": times,
        "range": [low, high],
        "notes": notes,
    }
    return {"run": str(run), **facts, **told}


def _require_picture(path: Path) -> None:
    """Refuse at once what samples cannot be written to in the end: a device, say, would be replaced by a file."""
    if path.suffix.lower() not in ("", ".png"):
        raise InputError(f"{path} would hold a PNG picture under another name", "give -o a name that ends in .png")
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is not a regular file", "give -o another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}", "give -o a file in another folder") from error


def _prompts(encoder: PromptEncoder | None, sampling: Sampling) -> list[str]:
    """The prompt that was asked for, or those of the run, in their order, one per sample; none of a run without text.

    Raises:
        InputError: a prompt, or guidance, where there is no text.
    """
    if encoder is None:
        if sampling.prompt is not None or sampling.negative or sampling.guidance is not None:
            raise InputError("this engine takes no prompts", "leave out --prompt, --negative and --guidance")
        return []
    if sampling.prompt is not None:
        return [sampling.prompt] * sampling.count
    known = encoder.parts.prompts
    return [known[index % len(known)] for index in range(sampling.count)]


def _guidance(encoder: PromptEncoder | None, sampling: Sampling) -> Guidance | None:
    if encoder is None:
        return None
    scale = encoder.parts.scale if sampling.guidance is None else sampling.guidance
    return None if scale == 1 else Guidance(scale, _tensors(encoder, [sampling.negative]))


def _conditions(
    run: Path, engine: Engine, encoder: PromptEncoder | None, prompts: list[str], sampling: Sampling
) -> dict[str, Tensor]:
    """Those of the prompts, and the class that was asked for; others are those that the run was calibrated with."""
    encoded = {} if encoder is None else _tensors(encoder, prompts)
    rest = [each for each in engine.signature.conditions if each.name not in encoded]
    found = draw(rest, examples_of(run, rest), sampling.count, sampling.seed)
    label = {} if sampling.label is None else {LABEL: torch.full((sampling.count,), _class(rest, sampling.label))}
    return {**encoded, **found, **label}


def _tensors(encoder: PromptEncoder, prompts: list[str]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(rows) for name, rows in encoder(prompts).items()}


def _class(conditions: list[Input], label: int) -> int:
    classes = next((each.limit for each in conditions if each.name == LABEL), None)
    if classes is None:
        raise InputError("this engine has no classes", "leave out --class")
    if label >= classes:
        raise InputError(f"class {label} is out of range", f"this engine knows the classes 0..{classes - 1}")
    return label
