"""`model-N.pt` of lucidrains/denoising-diffusion-pytorch: its U-Net by that package's own code, its EMA and its betas.

Widths, attention and heads are read from the tensors and the noise schedule from the file's `betas`. What is predicted
(`objective`, pred_v by default) and the image size leave no trace. Images are in [-1, 1] for the net
(`auto_normalize`), and both of its samplers clip x_0.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ptq_export.checkpoints.assume import Assumable
from ptq_export.checkpoints.betas import schedule_of_betas
from ptq_export.checkpoints.conventions import LUCIDRAINS as LUCIDRAINS_SAMPLERS
from ptq_export.checkpoints.factory import ModuleEps
from ptq_export.checkpoints.fit import fit
from ptq_export.checkpoints.keys import count, shape_of
from ptq_export.checkpoints.told import SCHEDULE_KEYS, assumption_notes, with_schedule_of
from ptq_export.checkpoints.weights import Format, Weights
from ptq_export.denoiser import Denoiser, NoiseSchedule
from ptq_export.errors import EnvironmentMissing, InputError

__all__ = ["LUCIDRAINS", "unet_arguments"]

_NAME = "lucidrains/denoising-diffusion-pytorch"
_PACKAGE = "denoising_diffusion_pytorch"
_FIRST = "downs.0.0.block1.proj.weight"
_AVERAGE = "ema_model."
_PREDICT: Assumable = {"predict": SCHEDULE_KEYS["predict"]}
_OTHER_VERSION = "give it as package.module:factory, with the version that wrote it"


def _matches(weights: Weights) -> bool:
    return any(f"{prefix}model.{_FIRST}" in weights.tensors for prefix in (_AVERAGE, ""))


def _load(weights: Weights, resolution: int | None, assume: Mapping[str, str]) -> Denoiser:
    path, saved = str(weights.path), _saved(weights)
    net = {name.removeprefix("model."): value for name, value in saved.items() if name.startswith("model.")}
    arguments = unet_arguments(net, path)
    variance = "learned_range" if arguments["learned_variance"] else "fixed_small"
    schedule = NoiseSchedule(variance_type=variance, conventions=LUCIDRAINS_SAMPLERS)
    if "betas" not in saved:
        raise InputError(f"{path} lacks the tensor betas", "give the file that the package's Trainer saved")
    schedule = schedule_of_betas(saved["betas"], schedule, path)
    predict = assume.get("predict", "v")
    reason = "objective='pred_v' is the package's default"
    notes = [] if weights.scheduler else assumption_notes({"predict": predict}, assume, reason)
    levels = len(arguments["dim_mults"])
    size = resolution or 16 << (levels - 1)
    if resolution is None:
        notes.append(f"resolution {size} assumed, as in the README's example of four levels; --resolution sets another")
    _require_divisible(size, levels, path)
    module = ModuleEps(_unet(arguments, net, path)).eval().requires_grad_(False)
    source = weights.source(_NAME, arguments, *notes)
    shape = (arguments["channels"], size, size)
    return Denoiser(module, with_schedule_of({"predict": predict}, schedule), shape, source)


LUCIDRAINS = Format(_NAME, _matches, _load, _PREDICT)


def unet_arguments(net: Mapping[str, Tensor], path: str) -> dict[str, Any]:
    """The keyword arguments of the package's `Unet` that has these tensors.

    Raises:
        InputError: tensors that tell are missing, or the net is of a kind or version that cannot be read.
    """
    if "time_mlp.0.weights" in net:
        raise InputError(f"{path} has a net of continuous time (Fourier features), not supported", _OTHER_VERSION)
    stem, head = (shape_of(net, f"{name}.weight", "convolution", path) for name in ("init_conv", "final_conv"))
    if stem[1] not in (head[0], head[0] / 2):
        cause = f"{path} has {head[0]} output channels for {stem[1]} input channels: it is self-conditioned"
        raise InputError(f"{cause}, which is not supported", "give a net trained with self_condition=False")
    width = shape_of(net, "time_mlp.1.weight", "linear layer", path)[1]
    levels = range(count(net, "downs.", path))
    kinds = [_attention(net, f"downs.{level}.2", path) for level in levels]
    return {
        "dim": width,
        "init_dim": stem[0],
        "dim_mults": tuple(_width_behind(net, level, path) // width for level in levels),
        "channels": stem[1],
        "learned_variance": head[0] == 2 * stem[1],
        "full_attn": tuple(full for full, _, _ in kinds),
        "attn_heads": tuple(heads for _, heads, _ in kinds),
        "attn_dim_head": tuple(size for _, _, size in kinds),
    }


def _attention(net: Mapping[str, Tensor], name: str, path: str) -> tuple[bool, int, int]:
    """(full or linear, heads, width of a head): its memory is [2, heads, N, width] or [2, heads, width, N]."""
    memory = net.get(f"{name}.mem_kv")
    if memory is None or memory.dim() != 4:
        cause = f"{path} has no {name}.mem_kv: another version of {_NAME} wrote it"
        raise InputError(cause, _OTHER_VERSION)
    full = f"{name}.to_out.weight" in net
    return full, memory.shape[1], memory.shape[3 if full else 2]


def _width_behind(net: Mapping[str, Tensor], level: int, path: str) -> int:
    """The width that a level hands on: by its downsampling or, on the last, by its 3x3 convolution."""
    name = f"downs.{level}.3.1.weight"
    return shape_of(net, name if name in net else f"downs.{level}.3.weight", "convolution", path)[0]


def _saved(weights: Weights) -> Mapping[str, Tensor]:
    """The diffusion's tensors: those of the average where ema-pytorch's names still stand before them."""
    if f"{_AVERAGE}model.{_FIRST}" not in weights.tensors:
        return weights.tensors
    return {name.removeprefix(_AVERAGE): value for name, value in weights.tensors.items() if name.startswith(_AVERAGE)}


def _require_divisible(size: int, levels: int, path: str) -> None:
    step = 1 << (levels - 1)
    if size % step:
        cause = f"{path}: the net halves its samples down to 1/{step}, which samples of size {size} do not allow"
        raise InputError(cause, f"give --resolution, a multiple of {step}")


def _unet(arguments: Mapping[str, Any], net: Mapping[str, Tensor], path: str) -> nn.Module:
    try:
        package = importlib.import_module(_PACKAGE)
    except Exception as error:  # a torchvision that does not suit torch answers RuntimeError
        cause = f"{path} is read by the code of denoising-diffusion-pytorch, which cannot be imported: {error}"
        raise EnvironmentMissing(cause, "pip install 'ptq-export[lucidrains]', with torch's own torchvision") from error
    try:
        with torch.device("meta"):
            unet: nn.Module = package.Unet(**arguments)
    except Exception as error:  # the package's own code runs here
        raise InputError(f"{path} describes no Unet of {_NAME}: {error!r}", _OTHER_VERSION) from error
    fit(unet, net, path)
    return unet
