"""Any net by `package.module:factory`: an `nn.Module` called as `(sample, timestep)`, or a whole `Denoiser`."""

import copy
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ptq_export.checkpoints.fit import require_finite, tensors_sha256
from ptq_export.checkpoints.told import ASSUMED
from ptq_export.denoiser import Denoiser, NoiseSchedule, Source
from ptq_export.errors import InputError

__all__ = ["ModuleEps", "load_factory", "tensors_of"]

_NAME = "python factory"
_ASSUMED = (
    f"{ASSUMED}: predict=eps, betas=linear, timesteps=1000; --assume KEY=VALUE or --scheduler-config sets another, and "
    "a factory that returns a Denoiser brings its own"
)


class ModuleEps(nn.Module):
    """A module that answers with eps, or with one tensor in a tuple, a dict or an object, as one that answers with eps.

    diffusers' nets answer with an object whose `.sample` it is; others with a dict, or with `(eps, None)`.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """eps `[N, C, H, W]` of a sample `[N, C, H, W]` at time-steps `[N]`."""
        answer = self.net(sample, timestep)
        if isinstance(answer, Tensor):
            return answer
        (eps,) = tensors_of(answer).values()
        return eps


def tensors_of(answer: object) -> dict[str, Tensor]:
    """The tensors of a tuple, a dict or an object with attributes, by place, key or name."""
    if isinstance(answer, Mapping):
        parts = {f"[{key!r}]": value for key, value in answer.items()}
    elif isinstance(answer, tuple | list):
        named = getattr(answer, "_fields", None)
        keys = [f".{name}" for name in named] if named else [f"[{index}]" for index in range(len(answer))]
        parts = dict(zip(keys, answer, strict=True))
    else:
        parts = {f".{key}": value for key, value in getattr(answer, "__dict__", {}).items()}
    return {key: value for key, value in parts.items() if isinstance(value, Tensor)}


def load_factory(spec: str, resolution: int | None) -> Denoiser:
    """Import `package.module` and call its `factory` without arguments.

    A plain module has an attribute `sample_shape`, (C, H, W).

    Raises:
        InputError: it cannot be imported or called, or what it returns is no denoiser.
    """
    made = _call(_import(spec), spec)
    denoiser = made if isinstance(made, Denoiser) else _wrap(made, spec)
    module = denoiser.module.cpu().float().eval().requires_grad_(False)
    state = module.state_dict()
    require_finite(state, spec)
    architecture = {**denoiser.source.architecture, "class": _class_name(made)}
    source = replace(denoiser.source, spec=spec, format=_NAME, sha256=tensors_sha256(state), architecture=architecture)
    channels, *sides = denoiser.sample_shape
    shape = (channels, *(resolution or side for side in sides))
    denoiser = replace(denoiser, module=module, sample_shape=shape, source=source)
    note = _taken(denoiser, spec)
    with _blocks_checked(denoiser, spec):
        _try(denoiser, spec)
    return replace(denoiser, source=replace(source, notes=(*source.notes, note))) if note else denoiser


def _import(spec: str) -> Callable[[], object]:
    name, _, attribute = spec.partition(":")
    try:
        factory: object = getattr(importlib.import_module(name), attribute)
    except ModuleNotFoundError as error:
        remedy = "install the package, or put its folder on PYTHONPATH (PYTHONPATH=. for the present folder)"
        raise InputError(f"{spec}: there is no module {error.name!r}", remedy) from error
    except AttributeError as error:
        raise InputError(f"{spec}: {error}", "give the name of a function in that module") from error
    except Exception as error:  # the user's own code runs here
        raise InputError(f"{spec}: importing {name} failed: {error!r}", "mend the module") from error
    if not callable(factory):
        raise InputError(f"{spec}: {attribute} is not callable", "give the name of a function or class")
    return factory


def _call(factory: Callable[[], object], spec: str) -> object:
    try:
        return factory()
    except Exception as error:  # the user's own code runs here
        raise InputError(f"{spec}: the factory failed: {error!r}", "it is called without arguments") from error


def _wrap(made: object, spec: str) -> Denoiser:
    remedy = "return a Denoiser, or an nn.Module with sample_shape = (C, H, W)"
    if not isinstance(made, nn.Module):
        raise InputError(f"{spec} returned an object of type {type(made).__name__}", remedy)
    shape = tuple(getattr(made, "sample_shape", ()))
    if len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
        raise InputError(f"{spec}: the module has no sample_shape of three sizes", remedy)
    return Denoiser(ModuleEps(made), NoiseSchedule(), shape, Source(spec, _NAME, "", None, (_ASSUMED,)))


def _class_name(made: object) -> str:
    net = made.module if isinstance(made, Denoiser) else made
    return f"{type(net).__module__}.{type(net).__qualname__}"


def _taken(denoiser: Denoiser, spec: str) -> str:
    """Which part of a plain module's answer is eps, in words; empty where the answer is eps itself.

    Raises:
        InputError: the answer holds no tensor, or several.
    """
    if not isinstance(denoiser.module, ModuleEps):
        return ""
    answer = _called(denoiser.module.net, denoiser, spec)
    if isinstance(answer, Tensor):
        return ""
    found, kind = tensors_of(answer), type(answer).__name__
    if len(found) != 1:
        told = f"{len(found)} tensors ({', '.join(found)})" if found else "no tensor"
        raise InputError(
            f"{spec}: the net answers a {kind} of {told}", "wrap it in an nn.Module whose forward returns eps alone"
        )
    return f"the net answers a {kind}: its {next(iter(found))} is taken for its prediction"


@torch.no_grad()
def _called(net: nn.Module, denoiser: Denoiser, spec: str) -> Any:
    """What `net` answers to two samples."""
    sample = torch.zeros(2, *denoiser.sample_shape)
    try:
        return net(sample, denoiser.schedule.timesteps([0, 1]), **denoiser.draw(2, seed=0))
    except Exception as error:  # the user's own code runs here
        cause = f"{spec}: the net fails on a sample {list(sample.shape)} at time-steps [2]: {error!r}"
        remedy = (
            "it is called as (sample, timestep, **conditions) and must suit sample_shape: wrap a net that takes its "
        )
        raise InputError(cause, f"{remedy}arguments otherwise (a dict, say) in an nn.Module that does") from error


def _try(denoiser: Denoiser, spec: str) -> None:
    """One call on two samples: a net of another signature or output is refused here, not in mid-calibration."""
    sample = torch.zeros(2, *denoiser.sample_shape)
    output = _called(denoiser.module, denoiser, spec)
    _require_copy(denoiser.module, spec)
    channels, *size = denoiser.sample_shape
    expected = [2, channels * (2 if denoiser.schedule.learns_variance else 1), *size]
    found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if found != expected:
        remedy = "it must return eps alone, or with as many channels again where its schedule learns the variance"
        raise InputError(f"{spec}: the net answers {found} to a sample {list(sample.shape)}", remedy)


@contextmanager
def _blocks_checked(denoiser: Denoiser, spec: str) -> Iterator[None]:
    """Refuse blocks that answer anything but one tensor: their output is what rounding is learned by."""
    answers: dict[str, str] = {}

    def look(block: nn.Module, _: object, answer: object) -> None:
        if not isinstance(answer, Tensor):
            answers[type(block).__name__] = type(answer).__name__

    blocks = [block for block in denoiser.module.modules() if isinstance(block, denoiser.blocks)]
    handles = [block.register_forward_hook(look) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if answers:
        told = ", ".join(f"{kind} answers a {found}" for kind, found in answers.items())
        raise InputError(f"{spec}: {told}, not a tensor", "leave it out of the Denoiser's blocks")


def _require_copy(module: nn.Module, spec: str) -> None:
    """Refuse a module that cannot be copied: its quantised form is a copy. Tensors are shared in this trial."""
    memo = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    try:
        copy.deepcopy(module, memo)
    except Exception as error:  # the user's own code runs here
        remedy = "make its tensors parameters or buffers, and keep open files, locks and the like out of it"
        raise InputError(f"{spec}: the net cannot be copied: {error}", remedy) from error
