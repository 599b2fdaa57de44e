"""The nets that openai/improved-diffusion and openai/guided-diffusion published, with the flags of their READMEs, and
the one of DPS2022/diffusion-posterior-sampling (configs/model_config.yaml), from which many codes start.

An architecture is known again by its `Layout`; the flags of a file that has it are then those of its training run.
The upsamplers are absent: they need a low-resolution image.
"""

from dataclasses import dataclass, replace

from ptq_export.checkpoints.openai_flags import Flags
from ptq_export.checkpoints.openai_layout import Layout

__all__ = ["PUBLISHED", "Published", "find_published", "size_of_widths", "usual"]

_IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Published:
    """Checkpoint `files` of one architecture, trained with one set of flags."""

    files: str
    layout: Layout
    flags: Flags
    resolution: int


def _widths(channels: int, factors: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(int(channels * factor) for factor in factors)


def _layout(channels: int, mult: tuple[float, ...], blocks: int, attention: tuple[int, ...]) -> Layout:
    """What all published nets share: colour images, learned variance, scale-shift norms."""
    widths = _widths(channels, mult)
    return Layout(3, 6, channels, widths, blocks, attention, resblock_updown=False, scale_shift=True, classes=None)


def _adm(channels: int, mult: tuple[float, ...], blocks: int, attention: tuple[int, ...]) -> Layout:
    return replace(_layout(channels, mult, blocks, attention), resblock_updown=True, classes=_IMAGENET_CLASSES)


_IDDPM_FLAGS = Flags(heads=4, betas="cosine", timesteps=4000, rescale=True)
_ADM_FLAGS = Flags(head_width=64)
_SCRIPT_DEFAULTS = Flags(heads=4)
_IMAGENET_64 = (1, 2, 3, 4)
_SIZE_256 = (1, 1, 2, 2, 4, 4)
_SIZE_512 = (0.5, 1, 1, 2, 2, 4, 4)
_SIZES: dict[tuple[float, ...], int] = {
    (1, 2, 2, 2): 32,
    _IMAGENET_64: 64,
    (1, 1, 2, 3, 4): 128,
    _SIZE_256: 256,
    _SIZE_512: 512,
}
_ADM_256 = _adm(256, _SIZE_256, 2, (3, 4, 5))

PUBLISHED = {
    "iddpm-cifar10": Published(
        "cifar10_uncond_50M_500K.pt, cifar10_uncond_vlb_50M_500K.pt",
        _layout(128, (1, 2, 2, 2), 3, (1, 2)),
        _IDDPM_FLAGS,
        32,
    ),
    "iddpm-imagenet64": Published(
        "imagenet64_uncond_100M_1500K.pt, imagenet64_uncond_vlb_100M_1500K.pt",
        _layout(128, _IMAGENET_64, 3, (2, 3)),
        _IDDPM_FLAGS,
        64,
    ),
    "iddpm-imagenet64-cond": Published(
        "imagenet64_cond_270M_250K.pt",
        replace(_layout(192, _IMAGENET_64, 3, (2, 3)), classes=_IMAGENET_CLASSES),
        replace(_IDDPM_FLAGS, rescale=False),
        64,
    ),
    "iddpm-lsun256": Published(
        "lsun_uncond_100M_1200K_bs128.pt, lsun_uncond_100M_2400K_bs64.pt",
        replace(_layout(128, _SIZE_256, 2, (4,)), scale_shift=False),
        Flags(heads=1),
        256,
    ),
    "adm-imagenet64": Published(
        "64x64_diffusion.pt",
        _adm(192, _IMAGENET_64, 3, (1, 2, 3)),
        replace(_ADM_FLAGS, qkv="new", betas="cosine"),
        64,
    ),
    "adm-imagenet128": Published("128x128_diffusion.pt", _adm(256, (1, 1, 2, 3, 4), 2, (2, 3, 4)), Flags(heads=4), 128),
    "adm-imagenet256": Published("256x256_diffusion.pt", _ADM_256, _ADM_FLAGS, 256),
    "adm-256-uncond": Published(
        "256x256_diffusion_uncond.pt, lsun_bedroom.pt, lsun_cat.pt, lsun_horse.pt, lsun_horse_nodropout.pt",
        replace(_ADM_256, classes=None),
        _ADM_FLAGS,
        256,
    ),
    "dps-ffhq256": Published(
        "ffhq_10m.pt",
        replace(_layout(128, _SIZE_256, 1, (4,)), resblock_updown=True),
        _ADM_FLAGS,
        256,
    ),
    "adm-imagenet512": Published("512x512_diffusion.pt", _adm(256, _SIZE_512, 2, (4, 5, 6)), _ADM_FLAGS, 512),
}


def find_published(layout: Layout) -> Published | None:
    """The published checkpoints of this architecture."""
    return next((entry for entry in PUBLISHED.values() if entry.layout == layout), None)


def usual(layout: Layout) -> tuple[Flags, str]:
    """The flags that go with what the tensors show, and whose they are.

    Both repositories' training scripts learn no variance unless told so (`--learn_sigma`), as every published net was:
    a net without one was trained with the scripts' other defaults too.
    """
    if not layout.learned_variance:
        return _SCRIPT_DEFAULTS, "the training scripts' defaults, for the net learns no variance"
    if layout.resblock_updown:
        return _ADM_FLAGS, "most published nets of openai/guided-diffusion"
    return _IDDPM_FLAGS, "most published nets of openai/improved-diffusion"


def size_of_widths(layout: Layout) -> int | None:
    """The `--image_size` for which both repositories' scripts make levels of these widths (`create_model`)."""
    return next(
        (size for factors, size in _SIZES.items() if _widths(layout.time_width, factors) == layout.widths), None
    )
