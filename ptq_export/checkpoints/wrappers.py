"""Names as wrappers leave them: the prefixes of `torch.compile`, DDP, Lightning, ema-pytorch, `AveragedModel`."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from ptq_export.checkpoints.averages import complete, is_average

__all__ = ["StateDict", "bare", "readings"]

_PREFIXES = (
    *("module.", "_orig_mod.", "_forward_module.", "_fsdp_wrapped_module."),
    *("model.", "net.", "network.", "unet.", "denoiser.", "denoise_fn.", "eps_model.", "diffusion."),
    *("diffusion_model.", "noise_estimator.", "backbone."),
)
_COUNTERS = {"n_averaged", "initted", "step", "num_updates", "decay", "optimization_step"}
_LATENT_DIFFUSION = "model.diffusion_model."


class StateDict(NamedTuple):
    """Tensors by name; `ema` is None where the file does not tell."""

    tensors: Mapping[str, Tensor]
    ema: bool | None
    notes: tuple[str, ...]


def bare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` without the prefixes that all of them share, and without what a wrapper counts."""
    found = {name: tensor for name, tensor in tensors.items() if name not in _COUNTERS}
    while shared := [prefix for prefix in _PREFIXES if found and all(name.startswith(prefix) for name in found)]:
        found = _under(shared[0], found)
    return found


def readings(tensors: Mapping[str, Tensor], ema: bool | None, notes: tuple[str, ...]) -> Iterator[StateDict]:
    """The nets that `tensors` may be, averages first; `ema` and `notes` are what the file says of all of them.

    CompVis' latent diffusion keeps an average of its own under names without dots: its tensors are left as they are.
    """
    if any(name.startswith(_LATENT_DIFFUSION) for name in tensors):
        yield StateDict(tensors, None, ())
        return
    heads = dict.fromkeys(name.partition(".")[0] for name in tensors if "." in name)
    averages = [head for head in heads if is_average(head)]
    live = bare({name: tensor for name, tensor in tensors.items() if name.partition(".")[0] not in averages})
    begun = not averages or _count("initted", tensors) != 0
    for head in averages if begun else ():
        average, others = complete(bare(_under(f"{head}.", tensors)), live)
        note = f"EMA weights, from the tensors {head}.*" + (f"; {others} others are not averaged" if others else "")
        yield from _parts(average, True, (*notes, note) if ema else (note,))
    if averages:
        why = "they belong to no known net" if begun else "ema-pytorch had not begun to average"
        ema, notes = False, (f"the EMA weights {', '.join(averages)} are not used: {why}",)
    elif (averaged := _count("n_averaged", tensors)) is not None:
        ema = averaged > 0
        notes = (*notes, f"weights of torch's AveragedModel, averaged {averaged} times")
    yield from _parts(live, ema, notes)


def _parts(tensors: Mapping[str, Tensor], ema: bool | None, notes: tuple[str, ...]) -> Iterator[StateDict]:
    """All of `tensors`; then what stands under one prefix, where a trainer's module holds more than the net."""
    if not tensors:
        return
    yield StateDict(tensors, ema, notes)
    for prefix in _PREFIXES:
        if part := _under(prefix, tensors):
            yield StateDict(bare(part), ema, (*notes, f"the tensors {prefix}* are read, {len(part)} of {len(tensors)}"))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _count(name: str, tensors: Mapping[str, Tensor]) -> int | None:
    value = tensors.get(name)
    return int(value) if value is not None and value.numel() == 1 and not value.is_meta else None
