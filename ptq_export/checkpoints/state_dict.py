"""Finding the state dict in what a trainer saved: bare, in a trainer's list, or one key down; EMA weights first."""

from collections.abc import Mapping
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor

from ptq_export.errors import InputError

__all__ = ["StateDict", "unwrap"]

_EMA_KEYS = ("ema", "ema_state_dict")
_MODEL_KEYS = ("state_dict", "model", "model_state_dict")
_PARALLEL = "module."
_NO_EMA = "the file holds no EMA weights: the weights of the last training step are used"


class StateDict(NamedTuple):
    """Tensors by name; `ema` is None where the file does not tell."""

    tensors: Mapping[str, Tensor]
    ema: bool | None
    notes: tuple[str, ...]


def unwrap(content: object, path: str) -> StateDict:
    """The state dict in `content`, without the `module.` prefix of DataParallel.

    Raises:
        InputError: there is no dict of tensors where one is expected.
    """
    state = _find(content)
    if state is None:
        raise InputError(f"{path} holds {_describe(content)}, not a state dict", "save model.state_dict() on its own")
    tensors = state.tensors
    if all(name.startswith(_PARALLEL) for name in tensors):
        tensors = {name.removeprefix(_PARALLEL): tensor for name, tensor in tensors.items()}
    return state._replace(tensors=tensors)


def _find(content: object) -> StateDict | None:
    if _is_state(content):
        return StateDict(content, None, ())
    if isinstance(content, list | tuple) and content:
        return _from_trainer(content)
    if isinstance(content, Mapping):
        for key in _EMA_KEYS:
            if _is_state(state := content.get(key)):
                return StateDict(state, True, (f"EMA weights, from the entry {key!r}",))
        for key in _MODEL_KEYS:
            if _is_state(state := content.get(key)):
                return StateDict(state, False, (_NO_EMA,))
    return None


def _from_trainer(content: list[object] | tuple[object, ...]) -> StateDict | None:
    """ermongroup/ddim's list [model, optimizer, epoch, step] or [model, optimizer, epoch, step, ema]."""
    step = f" of training step {content[3]}" if len(content) > 3 and isinstance(content[3], int) else ""
    if len(content) > 4 and _is_state(ema := content[4]):
        return StateDict(ema, True, (f"EMA weights{step}",))
    if _is_state(model := content[0]):
        return StateDict(model, False, (_NO_EMA + step,))
    return None


def _is_state(value: object) -> TypeGuard[Mapping[str, Tensor]]:
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items())


def _describe(content: object) -> str:
    if isinstance(content, Mapping):
        return f"a dict with the entries {', '.join(map(repr, list(content)[:5]))}" if content else "an empty dict"
    return f"an object of type {type(content).__name__}"
