"""Finding the net in what a trainer saved: a bare state dict, a trainer's list or dict; averaged weights (EMA) first.

What is what is told from the names that trainers give. So a file can be read in several ways, and `unwrap` lists them,
the best first: who knows the formats takes the first that is one of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ptq_export.checkpoints.averages import complete, is_average, pair
from ptq_export.checkpoints.wrappers import StateDict, bare, readings
from ptq_export.errors import InputError

__all__ = ["StateDict", "unwrap"]

_MODEL_KEYS = ("state_dict", "model", "model_state_dict", "net_model", "net", "unet", "params")
_NESTED = ("state_dict", "model_state_dict", "model", "ema_model", "module", "shadow", "params", "ema")
_TRAINING = ("opt", "sched", "lr", "scaler", "loss", "rng", "hyper", "callbacks", "loops")
_AVERAGED_BY_LIGHTNING = "averaging_state"
_DEPTH = 4


def unwrap(content: object, path: str) -> tuple[StateDict, ...]:
    """Every way to read `content` as a state dict, the likeliest first: averages, then the last step's weights.

    Raises:
        InputError: there is no dict of tensors anywhere that one is expected.
    """
    flat = _tensors(content)
    found = tuple(readings(flat, None, ()) if flat is not None else _from_trainer(*_entries(content)))
    if not found:
        raise InputError(f"{path} holds {_describe(content)}, not a state dict", "save model.state_dict() on its own")
    return found


def _entries(content: object) -> tuple[dict[str, Any], str]:
    """What a trainer saved, by name, and a remark on its step.

    ermongroup/ddim's list is [model, optimizer, epoch, step] or [model, optimizer, epoch, step, ema]. Lightning's
    callbacks have entries of their own: `StochasticWeightAveraging` keeps an average there, and `WeightAveraging` puts
    it in place of the weights.
    """
    if isinstance(content, list | tuple):
        step = f" of training step {content[3]}" if len(content) > 3 and isinstance(content[3], int) else ""
        return dict(zip(("model", "optimizer", "epoch", "step", "ema"), content, strict=False)), step
    if not isinstance(content, Mapping):
        return {}, ""
    entries = {str(name): value for name, value in content.items()}
    if entries.pop(_AVERAGED_BY_LIGHTNING, None) and "state_dict" in entries:
        entries["state_dict (averages)"] = entries.pop("state_dict")
    callbacks = entries.get("callbacks")
    for owner, state in callbacks.items() if isinstance(callbacks, Mapping) else ():
        if isinstance(state, Mapping):
            entries.update({f"callbacks.{owner}.{name}": value for name, value in state.items()})
    return entries, ""


def _from_trainer(entries: Mapping[str, Any], step: str) -> Iterator[StateDict]:
    averages = {name: value for name, value in entries.items() if is_average(name) and _holds_tensors(value)}
    live = {}
    for name in (*(name for name in _MODEL_KEYS if name in entries), *entries):
        if name not in averages and not _is_of_training(name) and (state := _inner(entries[name])) is not None:
            live[name] = state
    unnamed = []
    for name, value in averages.items():
        found, remark = _average(value, live)
        if found:
            yield from readings(found, True, (f"EMA weights{step or f', from the entry {name!r}'}{remark}",))
        else:
            unnamed.append(name)
    for name, state in live.items():
        others = [other for other in entries if other not in {*averages, name} and _may_be_weights(other, entries)]
        yield from readings(state, *_said(name, averages, unnamed, others, step))


def _average(value: object, live: Mapping[str, Mapping[str, Tensor]]) -> tuple[Mapping[str, Tensor], str]:
    """The tensors by name of an entry of averages, with a remark; none where they cannot be told apart."""
    state, listed = _inner(value), _listed(value)
    for name, tensors in live.items():
        named = pair(listed, bare(tensors)) if state is None else bare(state)
        if named:
            average, others = complete(named, bare(tensors))
            paired = "" if state is not None else f", paired with the parameters of {name!r} in their order"
            rest = f"; {others} tensors that it leaves out are those of {name!r}" if others else ""
            if paired or rest:
                return average, paired + rest
    return state or {}, ""


def _said(
    name: str, averages: Mapping[str, Any], unnamed: Sequence[str], others: Sequence[str], step: str
) -> tuple[bool | None, tuple[str, ...]]:
    """Whether the weights of the entry `name` are averages, and what is known about averages in this file."""
    used = f"those{step or ' of the last training step'} are used, from the entry {name!r}"
    if unnamed:
        return False, (f"the EMA weights in {unnamed[0]!r} have no names and fit no entry in one way only: {used}",)
    if averages:
        return False, (f"the EMA weights in {', '.join(map(repr, averages))} belong to no known net: {used}",)
    if others:
        return None, (f"no entry is called EMA; {', '.join(map(repr, others))} may hold weights too: {used}",)
    return False, (f"the file holds no EMA weights: {used}",)


def _inner(value: object, depth: int = _DEPTH) -> Mapping[str, Tensor] | None:
    """The state dict that an entry is, or that it holds some keys down."""
    if (state := _tensors(value)) is not None:
        return state
    if not isinstance(value, Mapping) or not depth:
        return None
    inner = (_inner(value[key], depth - 1) for key in _NESTED if key in value)
    return next((state for state in inner if state is not None), None)


def _tensors(value: object) -> dict[str, Tensor] | None:
    """The tensors of a dict that holds nothing else but single numbers and texts; None for any other value."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        return None
    plain = (bool, int, float, str, type(None))
    found = {name: item for name, item in value.items() if _is_tensor(item)}
    return found if found and all(_is_tensor(item) or isinstance(item, plain) for item in value.values()) else None


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor) and not value.is_nested  # which has no shape


def _listed(value: object, depth: int = _DEPTH) -> Sequence[Tensor]:
    """The tensors of an entry that is a list of them, or has one: `shadow_params` of torch_ema and of diffusers."""
    if isinstance(value, list | tuple) and value and all(map(_is_tensor, value)):
        return value
    if not isinstance(value, Mapping) or not depth:
        return ()
    return next((found for key in ("shadow_params", *_NESTED) if (found := _listed(value.get(key), depth - 1))), ())


def _holds_tensors(value: object, depth: int = _DEPTH) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list | tuple) or not depth:
        return False
    return any(isinstance(item, torch.Tensor) or _holds_tensors(item, depth - 1) for item in value)


def _is_of_training(name: str) -> bool:
    return name.lower().startswith(_TRAINING) or "optim" in name.lower()


def _may_be_weights(name: str, entries: Mapping[str, Any]) -> bool:
    return not _is_of_training(name) and _holds_tensors(entries[name])


def _describe(content: object) -> str:
    if isinstance(content, Mapping):
        return f"a dict with the entries {', '.join(map(repr, list(content)[:5]))}" if content else "an empty dict"
    return f"an object of type {type(content).__name__}"
