"""Where every U-Net format lands: diffusers' `UNet2DModel`, from its keyword arguments and a file's tensors."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar, cast

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from ptq_export.checkpoints.bounds import require_enough_tensors, require_memory
from ptq_export.checkpoints.fit import fit
from ptq_export.denoiser import NoiseSchedule, UNetEps
from ptq_export.errors import InputError
from ptq_export.interface import Input, label

__all__ = [
    "IMAGE",
    "HasUNet",
    "build_unet",
    "image_of",
    "known_keys",
    "label_of",
    "lay_out",
    "names_in",
    "sample_shape",
    "with_variance",
]

IMAGE = "image"
Module = TypeVar("Module", bound=nn.Module)


class HasUNet(Protocol):
    """A wrapper of one of diffusers' U-Nets."""

    unet: nn.Module


_BEFORE_0_11 = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


def build_unet(
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    path: str,
    file_name: Callable[[str], str] = str,
    time_scale: float = 1.0,
    images: bool = False,
) -> UNetEps:
    """The net of `config` with the tensors of `path`: float32, in evaluation mode, without gradients.

    It is laid out on the meta device: nothing is drawn from the global random generator, and no memory is taken
    before the tensors are known to fit. `file_name` tells how the file calls a tensor of the net; with `images` it may
    take more channels than it makes, an image beside the sample.

    Raises:
        InputError: `config` is no `UNet2DModel` or one that is not supported yet, or the tensors do not fit it.
    """
    require_enough_tensors(config, tensors, path)
    unet = lay_out("UNet2DModel", lambda: UNet2DModel(**config), path)
    _require_supported(unet, images, path)
    fit(unet, tensors, path, file_name)
    return UNetEps(unet, time_scale).eval().requires_grad_(False)


def known_keys(config: Mapping[str, Any], kind: type) -> tuple[dict[str, Any], list[str]]:
    """The keys of a config.json that the class `kind` of diffusers knows, and a note on the others, which diffusers
    ignores too."""
    public = {name: value for name, value in config.items() if not name.startswith("_")}
    known = inspect.signature(kind.__init__).parameters  # type: ignore[misc]
    ignored = [name for name in public if name not in known]
    notes = [f"config.json has keys that {kind.__name__} does not know, ignored as in diffusers: {', '.join(ignored)}"]
    return {name: value for name, value in public.items() if name in known}, notes if ignored else []


def lay_out(name: str, make: Callable[[], Module], path: str) -> Module:
    """What `make` makes of the configuration of `path`, on the meta device; `name` is what that should describe.

    Raises:
        InputError: it describes none.
    """
    try:
        with torch.device("meta"):
            return make()
    except Exception as error:  # diffusers answers TypeError, ValueError, KeyError, ZeroDivisionError or worse
        cause = f"{path} does not describe a {name}: {error}"
        remedy = "its configuration is damaged, or of another version of the library"
        raise InputError(cause, remedy) from error


def names_in(tensors: Mapping[str, Tensor]) -> Callable[[str], str]:
    """How a file of these tensors calls those of the net: attention blocks had other names in diffusers' first
    versions, as google/ddpm-cifar10-32 and the decoders of Stable Diffusion 1 still do."""
    if not any(re.search(r"attentions\.\d+\.query\.", name) for name in tensors):
        return str

    def before_0_11(name: str) -> str:
        for new, old in _BEFORE_0_11.items():
            name = name.replace(new, old)
        return name

    return before_0_11


def sample_shape(module: HasUNet, resolution: int | None, path: str) -> tuple[int, int, int]:
    """(C, H, W): `resolution` if given, else the `sample_size` (a number or a pair) of the net's configuration.

    Raises:
        InputError: the size is absent, cannot be halved as often as the net has levels, or is beyond this machine.
    """
    config = cast(Mapping[str, Any], module.unet.config)
    size = resolution or config["sample_size"]
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    step = 2 ** (len(config["block_out_channels"]) - 1)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 and side % step == 0 for side in sides):
        cause = f"{path}: the net halves its samples down to 1/{step}, which samples of size {size} do not allow"
        raise InputError(cause, f"give --resolution, a multiple of {step}")
    require_memory(config["block_out_channels"][0] * sides[0] * sides[1], path)
    return min(int(config["in_channels"]), int(config["out_channels"])), sides[0], sides[1]


def label_of(config: Mapping[str, Any]) -> tuple[Input, ...]:
    """The conditions of the net of `config`: a label, if it has classes."""
    classes = config.get("num_class_embeds")
    return () if classes is None else (label(classes),)


def image_of(module: HasUNet, shape: tuple[int, int, int]) -> tuple[Input, ...]:
    """The image beside samples of `shape` that the net sees, if it takes more channels than it makes."""
    channels, *size = shape
    beside = int(cast(Mapping[str, Any], module.unet.config)["in_channels"]) - channels
    return (Input(IMAGE, "float32", (beside, *size)),) if beside else ()


def with_variance(schedule: NoiseSchedule, module: UNetEps) -> NoiseSchedule:
    """`schedule` with a variance that the net's outputs allow: learned if there are twice as many as inputs."""
    config = cast(Mapping[str, Any], module.unet.config)
    learned = config["out_channels"] == 2 * config["in_channels"]
    if learned == schedule.learns_variance:
        return schedule
    return replace(schedule, variance_type="learned_range" if learned else "fixed_small")


def _require_supported(unet: UNet2DModel, images: bool, path: str) -> None:
    config = unet.config
    inputs, outputs = config["in_channels"], config["out_channels"]
    reason = ""
    if config["class_embed_type"] is not None:
        reason = f"nets with class embeddings of type {config['class_embed_type']}"
    elif outputs not in (inputs, 2 * inputs) and not (images and 0 < outputs < inputs):
        reason = f"nets with {outputs} output channels for {inputs} input channels"
    elif config["time_embedding_type"] not in ("positional", "learned"):
        reason = f"nets with a {config['time_embedding_type']} time embedding"
    elif {name for name, _ in unet.named_buffers()} - set(unet.state_dict()):
        reason = "nets with blocks of fixed kernels (KDownBlock2D and kin)"
    if reason:
        raise InputError(
            f"{path}: {reason} are not supported yet", "give a net that predicts eps, alone or with its variance"
        )
