"""Weights that are computed from constants, as the numbers that they are.

Nets compute weights in many ways: reparametrised (weight and spectral norm), standardised or scaled in a subclass's
own `forward`, or as the sum of a base layer and a low-rank one (LoRA). Of each of these layers the map x -> y is all
that matters. Where it is one convolution or product, its weights are its derivative at zero and its bias its value
there; that it is one is proved on what the layer reads in the network itself. What is not stays as it is.
"""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ptq_export.denoiser import Denoiser
from ptq_export.nn.calls import the_input
from ptq_export.nn.convolution import PaddedConv2d
from ptq_export.nn.probe import EQUAL, difference, probe

__all__ = ["BakedConv2d", "BakedLinear", "bake_weights", "is_plain"]

Layer = nn.Conv2d | nn.Linear
Form = TypeVar("Form", nn.Conv2d, nn.Linear)
ROWS = 64  # output channels whose weights are read in one pass: bounds the memory
_NEUTRAL = (nn.Identity, nn.Dropout, nn.ModuleDict, nn.ModuleList, nn.Sequential, nn.ParameterDict, nn.ParameterList)


class BakedConv2d(nn.Conv2d):
    """A plain convolution in the place of one that computed its weights; called as that one was."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The convolution of the call's tensor."""
        return super().forward(the_input(args, kwargs))


class BakedLinear(nn.Linear):
    """A plain linear layer in the place of one that computed its weights; called as that one was."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The product of the call's tensor."""
        return super().forward(the_input(args, kwargs))


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is what its class and its weight say: no `forward` of its own and no hooks."""
    if isinstance(layer, BakedConv2d | BakedLinear | PaddedConv2d):
        return True
    kind = type(layer)
    hooks = (layer._forward_pre_hooks, layer._forward_hooks)
    own = kind.forward not in (nn.Conv2d.forward, nn.Linear.forward) or "forward" in vars(layer)
    own = own or getattr(kind, "_conv_forward", None) not in (None, nn.Conv2d._conv_forward)
    return not own and not any(hooks) and isinstance(layer.weight, nn.Parameter)


def bake_weights(denoiser: Denoiser) -> Denoiser:
    """`denoiser` with every such weight as a constant; itself if it computes none."""
    if not any(_computes(module) for module in denoiser.module.modules()):
        return denoiser
    baked = replace(denoiser, module=copy.deepcopy(denoiser.module))
    for module in list(baked.module.modules()):
        _materialise(module)
    for name, layer in _proved(baked, dict(_plain_forms(baked.module))).items():
        original = baked.module.get_submodule(name)
        places = [path for path, other in baked.module.named_modules(remove_duplicate=False) if other is original]
        for path in places:
            baked.module.set_submodule(path, layer)
    return baked


def _computes(module: nn.Module) -> bool:
    if parametrize.is_parametrized(module) or any(map(_materialises, module._forward_pre_hooks.values())):
        return True
    return not is_plain(module) if isinstance(module, Layer) else _base_of(module) is not None


def _materialises(hook: object) -> bool:
    return isinstance(hook, WeightNorm | SpectralNorm | prune.BasePruningMethod)


@torch.no_grad()
def _materialise(module: nn.Module) -> None:
    """Torch's own reparametrisations, old and new, by torch's own way back."""
    if parametrize.is_parametrized(module):
        for name in list(module.parametrizations):  # type: ignore[arg-type, union-attr]
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
        elif isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]
    for parameter in module.parameters(recurse=False):
        parameter.requires_grad_(False)


def _plain_forms(net: nn.Module) -> Iterator[tuple[str, Layer]]:
    """The layers that compute their weights still, the outermost of nested ones, as what they may be."""
    done = ""
    for name, module in net.named_modules():
        base = module if isinstance(module, Layer) else _base_of(module)
        if base is None or is_plain(module) or (done and name.startswith(f"{done}.")):
            continue
        form = _plain_form(module, base)
        if form is not None:
            done = name
            yield name, form


def _base_of(module: nn.Module) -> Layer | None:
    """The layer that a low-rank sum stands around: beside it the module has layers of fewer channels, and no more."""
    parts = [part for part in module.modules() if part is not module]
    layers = [part for part in parts if isinstance(part, Layer)]
    if len(layers) < 2 or any(not isinstance(part, (*_NEUTRAL, nn.Conv2d, nn.Linear)) for part in parts):
        return None
    rank = [min(_channels(layer)) for layer in layers]
    base = layers[max(range(len(layers)), key=rank.__getitem__)]
    inputs, outputs = _channels(base)
    thin = [layer for layer in layers if layer is not base]
    adds = all(min(_channels(layer)) < min(inputs, outputs) for layer in thin)
    ends = any(_channels(layer)[0] == inputs for layer in thin) and any(
        _channels(layer)[1] == outputs for layer in thin
    )
    return base if adds and ends else None


def _channels(layer: Layer) -> tuple[int, int]:
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels, layer.out_channels
    return layer.in_features, layer.out_features


def _plain_form(module: nn.Module, like: Layer) -> Layer | None:
    """The plain layer of the geometry of `like` that does what `module` does to noise, if there is one."""
    try:
        form = _read_conv(module, like) if isinstance(like, nn.Conv2d) else _read_linear(module, like)
        shape = (like.in_channels, *_small(like)) if isinstance(like, nn.Conv2d) else (like.in_features,)
        noise = 3 * torch.randn((2, *shape), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return form if difference(module(noise), form(noise)) <= EQUAL else None
    except Exception:  # the module's own code runs on sizes that it may not be made for: then it is no plain layer
        return None


def _small(conv: nn.Conv2d) -> tuple[int, ...]:
    """The size of an input on which a convolution has outputs that no padding touches."""
    reach = [(k - 1) * d + 1 for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
    return tuple(3 * size + 2 * step for size, step in zip(reach, conv.stride, strict=True))


def _read_conv(module: nn.Module, like: nn.Conv2d) -> nn.Conv2d:
    size = _small(like)
    before = like._reversed_padding_repeated_twice[::2][::-1] if isinstance(like.padding, str) else like.padding
    place = [-(-pad // step) for pad, step in zip(before, like.stride, strict=True)]
    first = [at * step - pad for at, step, pad in zip(place, like.stride, before, strict=True)]
    rows, columns = (
        slice(start, start + (k - 1) * d + 1, d)
        for start, k, d in zip(first, like.kernel_size, like.dilation, strict=True)
    )
    bias, gradient = _derivative(module, (like.in_channels, *size), like.out_channels, (place[0], place[1]))
    weight = gradient[:, :, rows, columns]
    if like.groups > 1:
        group = torch.arange(like.groups).repeat_interleave(like.out_channels // like.groups)
        weight = torch.stack([own.chunk(like.groups)[int(index)] for own, index in zip(weight, group, strict=True)])
    form = BakedConv2d(
        like.in_channels,
        like.out_channels,
        like.kernel_size,  # type: ignore[arg-type]
        like.stride,  # type: ignore[arg-type]
        like.padding,  # type: ignore[arg-type]
        like.dilation,  # type: ignore[arg-type]
        like.groups,
        padding_mode=like.padding_mode,
        device="meta",
    )
    return _filled(form, weight, bias)


def _read_linear(module: nn.Module, like: nn.Linear) -> nn.Linear:
    bias, weight = _derivative(module, (like.in_features,), like.out_features, ())
    return _filled(BakedLinear(like.in_features, like.out_features, device="meta"), weight, bias)


def _derivative(
    module: nn.Module, shape: tuple[int, ...], outputs: int, place: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """The value `[O]` of `module` at zero, at one place of its output, and its derivative there `[O, *shape]`."""
    values, rows = [], []
    with torch.enable_grad():
        for channels in torch.split(torch.arange(outputs), ROWS):
            x = torch.zeros((len(channels), *shape), requires_grad=True)
            y = module(x)[(torch.arange(len(channels)), channels, *place)]
            (gradient,) = torch.autograd.grad(y.sum(), x)
            values.append(y.detach())
            rows.append(gradient)
    return torch.cat(values), torch.cat(rows)


def _filled(form: Form, weight: Tensor, bias: Tensor) -> Form:
    form.weight = nn.Parameter(weight.contiguous().clone(), requires_grad=False)
    form.register_parameter("bias", nn.Parameter(bias.clone(), requires_grad=False) if bias.any() else None)
    return form.eval()


def _proved(denoiser: Denoiser, forms: dict[str, Layer]) -> dict[str, Layer]:
    """Those of `forms` that are equal on everything that the layer reads in the network, and were read at all."""
    worst: dict[str, float] = {}

    def compare(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], made: Any) -> None:
        found = forms[name](the_input(args, kwargs))
        worst[name] = max(worst.get(name, 0.0), difference(made, found))

    handles = [
        denoiser.module.get_submodule(name).register_forward_hook(
            lambda _, args, kwargs, made, name=name: compare(name, args, kwargs, made), with_kwargs=True
        )
        for name in forms
    ]
    try:
        if forms:
            probe(denoiser).through(denoiser)
    finally:
        for handle in handles:
            handle.remove()
    return {name: form for name, form in forms.items() if worst.get(name, 1.0) <= EQUAL}
