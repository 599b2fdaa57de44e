"""What the tensors of OpenAI's nets do not tell: heads, order of qkv, prediction, betas, T, the time's scale."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ptq_export.checkpoints.assume import NUMBER, Assumable
from ptq_export.checkpoints.conventions import OPENAI
from ptq_export.checkpoints.openai_layout import Layout
from ptq_export.checkpoints.told import SCHEDULE_KEYS, with_schedule_of
from ptq_export.denoiser import NoiseSchedule
from ptq_export.errors import InputError

__all__ = ["ASSUMABLE", "Flags", "with_assumptions"]

ASSUMABLE: Assumable = {
    "heads": NUMBER,
    "head-width": NUMBER,
    "qkv": ("legacy", "new"),
    **SCHEDULE_KEYS,
    "rescale": ("yes", "no"),
    "condition": ("none",),
}


@dataclass(frozen=True)
class Flags:
    """As the training scripts take them: a count of `heads` for every attention, or the `head_width` of each head.

    `legacy` qkv rows are ordered by head, each with its q, k and v; `new` ones are all q, all k, all v. With `rescale`
    the net sees t * 1000 / T for the training step t of T = `timesteps`.
    """

    heads: int | None = None
    head_width: int | None = None
    qkv: str = "legacy"
    predict: str = "eps"
    betas: str = "linear"
    timesteps: int = 1000
    rescale: bool = False

    def heads_over(self, width: int) -> int:
        """The heads of an attention over `width` channels; 0 if they cannot be split so."""
        if self.heads is not None:
            return self.heads if width % self.heads == 0 else 0
        return width // self.head_width if self.head_width and width % self.head_width == 0 else 0

    def schedule(self, learned_variance: bool) -> NoiseSchedule:
        """Linear betas are given for T = 1000; for another T they are scaled, so that x_T is as noisy."""
        variance = "learned_range" if learned_variance else "fixed_large"
        return with_schedule_of(self.as_assumptions(), NoiseSchedule(variance_type=variance, conventions=OPENAI))

    @property
    def time_scale(self) -> float:
        """What the net sees for a training step of 1."""
        return 1000 / self.timesteps if self.rescale else 1.0

    def as_assumptions(self) -> dict[str, str]:
        """The flags in the words of `--assume`."""
        heads = {"heads": str(self.heads)} if self.heads is not None else {"head-width": str(self.head_width)}
        times = {"timesteps": str(self.timesteps), "rescale": "yes" if self.rescale else "no"}
        return {**heads, "qkv": self.qkv, "predict": self.predict, "betas": self.betas, **times}


def with_assumptions(flags: Flags, assume: Mapping[str, str], layout: Layout, path: str) -> Flags:
    """`flags` with what the user sets; `assume` holds keys and values of `ASSUMABLE`.

    Raises:
        InputError: values that contradict one another, or do not suit the widths of `layout`.
    """
    if "heads" in assume and "head-width" in assume:
        raise InputError("--assume heads and head-width contradict each other", "give one of them")
    if "heads" in assume:
        flags = replace(flags, heads=int(assume["heads"]), head_width=None)
    if "head-width" in assume:
        flags = replace(flags, heads=None, head_width=int(assume["head-width"]))
    flags = replace(
        flags,
        qkv=assume.get("qkv", flags.qkv),
        predict=assume.get("predict", flags.predict),
        betas=assume.get("betas", flags.betas),
        timesteps=int(assume.get("timesteps", flags.timesteps)),
        rescale=assume["rescale"] == "yes" if "rescale" in assume else flags.rescale,
    )
    _require_sound(flags, layout, path)
    return flags


def _require_sound(flags: Flags, layout: Layout, path: str) -> None:
    for width in layout.attention_widths:
        if not flags.heads_over(width):
            asked = f"{flags.heads} heads" if flags.heads is not None else f"heads of {flags.head_width} channels"
            cause = f"attention over {width} channels cannot be split into {asked}"
            raise InputError(f"{path}: {cause}", "give --assume heads=N or --assume head-width=N, as in training")
