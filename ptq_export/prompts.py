"""The prompts that a denoiser is calibrated and measured with."""

from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

import torch

from ptq_export.denoiser import Denoiser
from ptq_export.errors import InputError
from ptq_export.guidance import Guidance

__all__ = ["prompted", "read_prompts"]

MOST_BYTES = 1 << 20
OWN = "prompts.txt"


def read_prompts(path: Path | None) -> tuple[str, ...]:
    """One prompt per line of a text file in UTF-8; empty lines are none, and so is no file.

    Raises:
        InputError: there is no such file, it is too large, no text, or has no line.
    """
    if path is None:
        return ()
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"--prompts {path} has more than {MOST_BYTES} bytes", "give fewer prompts, one per line")
        found = _lines(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        told = f"--prompts {path} cannot be read: {error}"
        raise InputError(told, "give a text file, one prompt per line") from error
    if not found:
        raise InputError(f"--prompts {path} has no prompts", "give one per line")
    return found


def prompted(denoiser: Denoiser, prompts: Sequence[str], scale: float | None) -> Denoiser:
    """`denoiser` with these prompts as examples, guided by `scale`; without them its own or ours, without a scale the
    one that nets of its kind are sampled with.

    Raises:
        InputError: prompts or guidance for a denoiser that takes none.
    """
    text = denoiser.text
    if text is None:
        if prompts:
            raise InputError("--prompts: this denoiser takes no prompts", "leave it out")
        if scale is not None:
            raise InputError("--guidance: this denoiser has no prompts to guide by", "leave it out")
        return denoiser
    chosen = tuple(prompts) or text.prompts or _own_prompts()
    rows = text.encode(chosen)
    others = {
        name: value[torch.arange(len(chosen)) % len(value)]
        for name, value in denoiser.examples.items()
        if name not in rows
    }
    whose = "of the model's own" if text.prompts else "of our own"
    notes = [] if prompts else [f"calibrated with {len(chosen)} prompts {whose}; --prompts FILE sets others"]
    longest = text.tokens[0]
    if cut := longest.cut(chosen):
        notes.append(f"{len(cut)} prompts have more than {longest.length} tokens and were cut, e.g. {cut[0]!r:.80}")
    if scale is None:
        stated = "is the model's own" if text.prompts else "assumed"
        notes.append(f"guidance {text.scale:g} {stated}; --guidance sets another, 1 none")
    scale = text.scale if scale is None else scale
    guidance = Guidance(scale, text.encode([""])) if scale != 1 else None
    source = replace(denoiser.source, notes=(*denoiser.source.notes, *notes))
    return replace(
        denoiser,
        text=replace(text, scale=scale, prompts=chosen),
        examples=others | rows,
        guidance=guidance,
        source=source,
    )


def _own_prompts() -> tuple[str, ...]:
    return _lines((resources.files("ptq_export") / "assets" / OWN).read_text(encoding="utf-8"))


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())
