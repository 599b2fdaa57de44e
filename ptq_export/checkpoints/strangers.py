"""Nets that are known by name and cannot be run: of continuous noise levels, of a flow, or seeing more than a class.

A denoiser here answers to a sample of a variance-preserving process at one of T time-steps. Nets that scale their input
by a function of the noise level, or know the time as a real number, share tensors' names and shapes with those that do
not; run as such they answer wrongly without a word. So each is told by what its authors' code alone has, and refused.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ptq_export.checkpoints.weights import Weights
from ptq_export.errors import InputError

__all__ = ["SCHEDULERS", "STRANGERS", "Stranger", "refuse_scheduler", "refuse_strangers"]

_CONTINUOUS = "is conditioned on a continuous noise level and scales its input and output by it (preconditioning)"
_FLOW = "predicts the velocity of a flow, not the noise of a diffusion of T steps"
_VE = "belongs to a variance-exploding process, whose noise grows without the signal shrinking"
_TRANSFORMER = "is a transformer; only U-Nets are read from files so far"
_TEXT = "sees a text beside the sample"
_FLOATS = "give the float weights that it was quantised from"
_REMEDY = "give a net of the variance-preserving kind with T time-steps (DDPM, DDIM, IDDPM, ADM, LDM)"


@dataclass(frozen=True)
class Stranger:
    """A kind of net, how its file is told, and why it is refused.

    `told` sees the tensors' names and shapes, without the prefixes of wrappers.
    """

    name: str
    reason: str
    told: Callable[[Mapping[str, tuple[int, ...]]], bool]
    remedy: str = _REMEDY


def _has(*patterns: str) -> Callable[[Mapping[str, tuple[int, ...]]], bool]:
    """Whether every pattern is found in some name."""
    compiled = [re.compile(pattern) for pattern in patterns]
    return lambda shapes: all(any(pattern.search(name) for name in shapes) for pattern in compiled)


def _qkv_over_two_dimensions(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """openai/consistency_models makes qkv by a convolution over images (`cm/unet.py`), their other codes over rows."""
    qkv = re.compile(r"(^|\.)input_blocks\.\d+\.1\.qkv\.weight$|(^|\.)middle_block\.1\.qkv\.weight$")
    return any(qkv.search(name) and len(shape) == 4 for name, shape in shapes.items())


def _fourier_weights(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """k-diffusion's `FourierFeatures(1, width)`: half as many frequencies of one number, the noise level."""
    names = re.compile(r"(^|\.)(timestep_embed|time_emb)\.weight$")
    return any(names.search(name) and shape[1:] == (1,) for name, shape in shapes.items())


STRANGERS = (
    Stranger(
        "a net of openai/consistency_models (cd_*, ct_*, edm_*)",
        _CONTINUOUS,
        _qkv_over_two_dimensions,
    ),
    Stranger(
        "a net of yang-song/score_sde (NCSN++ or DDPM++)",
        "is conditioned on a continuous time or noise level, and scales its output by it",
        _has(r"(^|\.)all_modules\.\d+\."),
    ),
    Stranger("the score net NCSN or NCSNv2", _VE, _has(r"(^|\.)sigmas$", r"(^|\.)begin_conv\.weight$")),
    Stranger("a net of NVlabs/edm or edm2", _CONTINUOUS, _has(r"(^|\.)enc\.\d+x\d+_(conv|down|block)")),
    Stranger("a k-diffusion net (inner_model)", _CONTINUOUS, _has(r"^inner_model\.")),
    Stranger("a k-diffusion net (Fourier features of the noise level)", _CONTINUOUS, _fourier_weights),
    Stranger("the Flux transformer", _FLOW, _has(r"(^|\.)double_blocks\.0\.")),
    Stranger("the Stable Diffusion 3 transformer", _FLOW, _has(r"(^|\.)joint_blocks\.0\.")),
    Stranger(
        "a diffusion transformer (DiT or SiT, whose tensors have the same names)",
        _TRANSFORMER,
        _has(r"(^|\.)x_embedder\.proj\.weight$", r"(^|\.)blocks\.0\.adaLN_modulation\."),
        "give a U-Net",
    ),
    Stranger("a GLIDE net", _TEXT, _has(r"(^|\.)encoder_kv\.weight$")),
    Stranger(
        "a LoRA",
        "holds small changes to a net, not the net",
        _has(r"(\.|_)lora(_|\.)(up|down|A|B|a|b)\b"),
        "merge it into its model: pipeline.load_lora_weights(FILE), .fuse_lora(), .unload_lora_weights(), and give the "
        "folder that .save_pretrained writes",
    ),
    Stranger(
        "a net quantised by bitsandbytes (NF4, FP4, int8)",
        "holds codes in place of weights",
        _has(r"\.(quant_state\.bitsandbytes__\w+|absmax|SCB)$"),
        _FLOATS,
    ),
)
"""In order: the first that is told names the net."""

SCHEDULERS: Mapping[str, str] = {
    **dict.fromkeys(("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", "KarrasVeScheduler"), _CONTINUOUS),
    "CMStochasticIterativeScheduler": f"belongs to a consistency model, which {_CONTINUOUS}",
    "ConsistencyDecoderScheduler": "belongs to a consistency decoder, which sees latents beside the sample",
    "ScoreSdeVeScheduler": _VE,
    "ScoreSdeVpScheduler": "belongs to a process in continuous time",
    **dict.fromkeys(
        (
            "FlowMatchEulerDiscreteScheduler",
            "FlowMatchHeunDiscreteScheduler",
            "FlowMatchLCMScheduler",
            "SCMScheduler",
        ),
        _FLOW,
    ),
    "CosineDPMSolverMultistepScheduler": _CONTINUOUS,
    "VQDiffusionScheduler": "belongs to a process over discrete tokens",
    "AmusedScheduler": "belongs to a process over discrete tokens",
}
"""diffusers' scheduler classes of nets that are no denoisers of a variance-preserving process with T time-steps."""


_SETTINGS: Mapping[tuple[str, object], str] = {
    ("prediction_type", "flow_prediction"): _FLOW,
    ("use_flow_sigmas", True): _FLOW,
    ("timestep_type", "continuous"): _CONTINUOUS,
}


def refuse_strangers(weights: Weights) -> None:
    """Refuse a net that is known and not supported.

    Raises:
        InputError: naming the net and the reason.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.tensors.items()}
    for stranger in STRANGERS:
        if stranger.told(shapes):
            cause = f"{weights.path} is known, {stranger.name}: it {stranger.reason}, which is not supported"
            raise InputError(cause, stranger.remedy)
    if (quantised := weights.config.get("quantization_config")) is not None:
        how = quantised.get("quant_method", "") if isinstance(quantised, dict) else ""
        cause = f"{weights.path} belongs to a net that is quantised already ({how or quantised!s:.80})"
        raise InputError(cause, _FLOATS)


def refuse_scheduler(config: Mapping[str, object], path: str) -> None:
    """Refuse the configuration of a scheduler whose nets are no denoisers here.

    Raises:
        InputError: naming the scheduler's class and the reason.
    """
    kind = str(config.get("_class_name", ""))
    reason, shown = SCHEDULERS.get(kind, _FLOW if kind.startswith("Flow") else ""), kind or "this scheduler"
    for (name, value), why in _SETTINGS.items():
        if config.get(name) == value:
            reason, shown = why, f"{shown} with {name} = {value}"
    if reason:
        raise InputError(f"{path}: a net of {shown} {reason}, which is not supported", _REMEDY)
