"""`ptq-export sample`: samples of a finished run as one picture."""

from dataclasses import asdict
from math import prod
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from ptq_export.command_options import Sampling
from ptq_export.engines.text_to_image import PromptEncoder
from ptq_export.errors import InputError
from ptq_export.interface import LABEL
from ptq_export.machine import require_memory, total_memory_bytes
from ptq_export.pipeline.commands.reopened import finished_manifest, read_schedule
from ptq_export.pipeline.drawing import load_pipeline
from ptq_export.pipeline.progress import Progress
from ptq_export.report.images import sample_grid
from ptq_export.sampling import initial_noise
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
    count, seed, steps, sampler = sampling.count, sampling.seed, sampling.steps, sampling.sampler
    schedule = read_schedule(finished_manifest(run), run)
    make_scheduler(schedule, sampler)
    times = visited_timesteps(schedule, steps, sampler)
    drawing = load_pipeline(run)
    each = BYTES_PER_DRAWN * prod(drawing.engine.sample_shape)
    require_memory(each * count, f"--count {count}", f"give fewer: --count {total_memory_bytes() // each} at most")
    prompts = _prompts(drawing.encoder, sampling)
    notes = [*sampler_notes(schedule, steps, sampler), *_cut(drawing.encoder, prompts)]
    guidance = drawing.guidance(sampling.negative, sampling.guidance)
    conditions = drawing.conditions(prompts, count, seed, sampling.label)
    for note in notes:
        progress.message(note)
    progress.stage(f"{count} samples, {steps} {sampler} steps", len(times))
    noise = initial_noise((count, *drawing.engine.sample_shape), seed)
    images = drawing.draw(noise, conditions, guidance, steps, sampler, seed, lambda _: progress.advance())
    low, high = drawing.range or (images.min().item(), images.max().item())
    sample_grid(images.double().numpy(), sampling.picture, low, high)
    facts = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(sampling).items()}
    told = {
        "label": conditions[LABEL].tolist() if LABEL in conditions else None,
        "prompts": [*dict.fromkeys(prompts)] or None,
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
    """One per sample: the prompt that was asked for, or those of the run in their order; none of a run without text."""
    if sampling.prompt is not None:
        return [sampling.prompt] * sampling.count
    if encoder is None:
        return []
    known = encoder.parts.prompts
    return [known[index % len(known)] for index in range(sampling.count)]


def _cut(encoder: PromptEncoder | None, prompts: list[str]) -> list[str]:
    """What to say of prompts that are too long."""
    cut = [] if encoder is None else encoder.cut(prompts)
    return [f"cut to {encoder.length} tokens: {cut[0]!r:.80}"] if encoder is not None and cut else []
