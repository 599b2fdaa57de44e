"""What the ablation compares: one factor at a time around a middle, which is what ships but for nearest rounding.

Nearest rounding in the middle: it is cheap and deterministic, and at 8 bits nearly as good as learned rounding.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["FACTORS", "FID_SETTINGS", "MIDDLE", "Setting", "every_setting"]


@dataclass(frozen=True)
class Setting:
    """One way to calibrate.

    Attributes:
        source: Where x_t comes from: `denoising` (the sampler's own), `noise` (x_T, whatever t), `training-mimic`
            (x_0 diffused forward to t) or `images` (x_0, whatever t).
        skip: `joint` or `split` input scales of the shortcut convolution over a skip concat.
    """

    source: str = "denoising"
    policy: str = "ndtc:0.4:0.4"
    metric: str = "l2.4"
    rounding: str = "nearest"
    skip: str = "joint"
    pairs: int = 128


MIDDLE = Setting()
METRICS = ("min-max", "percentile", "l1", "l2", "l2.4", "cosine", "kl")
FACTORS: Mapping[str, Mapping[str, Setting]] = {
    "calibration source": {
        "denoising": MIDDLE,
        **{source: Setting(source=source) for source in ("training-mimic", "noise", "images")},
    },
    "time-steps": {
        "NDTC": MIDDLE,
        "uniform": Setting(policy="uniform"),
        "single t": Setting(policy="single:0.4"),
        "as released": Setting(policy="as-released"),
    },
    "NDTC mean, std": {
        f"{mean}, {std}": Setting(policy=f"ndtc:{mean}:{std}") for mean in (0.4, 0.5) for std in (0.2, 0.3, 0.4)
    },
    "range metric": {metric: Setting(metric=metric) for metric in METRICS},
    "rounding": {rounding: Setting(rounding=rounding) for rounding in ("nearest", "learned")},
    "skip scales": {skip: Setting(skip=skip) for skip in ("joint", "split")},
    "calibration pairs": {str(pairs): Setting(pairs=pairs) for pairs in (32, 64, 128, 256)},
}
# The middle, learned rounding, and what the paper found worst in each of its three tables.
FID_SETTINGS = (
    MIDDLE,
    Setting(rounding="learned"),
    Setting(source="images"),
    Setting(policy="single:0.4"),
    Setting(metric="l1"),
)


def every_setting() -> list[Setting]:
    """All settings once, the middle first."""
    return list(dict.fromkeys([MIDDLE, *(setting for entries in FACTORS.values() for setting in entries.values())]))
