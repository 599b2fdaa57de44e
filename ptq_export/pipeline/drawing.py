"""Pictures from the engine of a finished run: its prompts, classes and conditions, its sampler, its decoder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ptq_export.conditions import draw
from ptq_export.denoiser import NoiseSchedule
from ptq_export.engines.base import Engine
from ptq_export.engines.load import load_engine
from ptq_export.engines.text_to_image import LatentDecoder, PromptEncoder, load_latent_decoder, load_prompt_encoder
from ptq_export.errors import InputError
from ptq_export.guidance import Guidance, under
from ptq_export.interface import LABEL
from ptq_export.pipeline.commands.reopened import examples_of, finished_manifest, read_schedule
from ptq_export.pipeline.proofs import any_batch
from ptq_export.sampling import Step, initial_noise, sample_loop
from ptq_export.schedulers import make_scheduler

__all__ = ["Drawing", "load_pipeline"]


@dataclass(frozen=True)
class Drawing:
    """An engine with what stands around it; called with prompts, it answers pictures."""

    run: Path
    engine: Engine
    schedule: NoiseSchedule
    encoder: PromptEncoder | None
    decoder: LatentDecoder | None

    def __call__(
        self,
        prompts: str | Sequence[str],
        negative: str = "",
        guidance: float | None = None,
        steps: int = 20,
        sampler: str | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Images `[N, 3, H, W]` in [-1, 1] of N prompts, guided by the run's own scale where `guidance` is None.

        Raises:
            InputError: no prompts, or a run that takes none; no such sampler, or not in so many steps.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not texts:
            raise InputError("there are no prompts to draw", "give one or more")
        noise = initial_noise((len(texts), *self.engine.sample_shape), seed)
        conditions = self.conditions(texts, len(texts), seed)
        return self.draw(noise, conditions, self.guidance(negative, guidance), steps, sampler, seed)

    def guidance(self, negative: str, scale: float | None) -> Guidance | None:
        """Away from the `negative` prompt; none of a run without text, or by a scale of 1.

        Raises:
            InputError: a negative prompt, or a scale, where there is no text; or one without guidance.
        """
        if self.encoder is None:
            if negative or scale is not None:
                raise InputError("this engine takes no prompts", "leave out --prompt, --negative and --guidance")
            return None
        scale = self.encoder.parts.scale if scale is None else scale
        if scale == 1 and negative:
            raise InputError("a negative prompt says nothing without guidance", "give --guidance, more than 1")
        return None if scale == 1 else Guidance(scale, _tensors(self.encoder, [negative]))

    def conditions(self, prompts: Sequence[str], count: int, seed: int, label: int | None = None) -> dict[str, Tensor]:
        """Of `count` samples: those of the prompts, the class that was asked for, and of all else what the run was
        calibrated with.

        Raises:
            InputError: prompts for a run that takes none; no such class.
        """
        if prompts and self.encoder is None:
            raise InputError("this engine takes no prompts", "leave out --prompt, --negative and --guidance")
        encoded = _tensors(self.encoder, prompts) if self.encoder is not None else {}
        rest = [each for each in self.engine.signature.conditions if each.name not in encoded]
        found = encoded | draw(rest, examples_of(self.run, rest), count, seed)
        return found if label is None else found | {LABEL: torch.full((count,), self._class(label))}

    def draw(
        self,
        noise: Tensor,
        conditions: dict[str, Tensor],
        guidance: Guidance | None,
        steps: int,
        sampler: str | None = None,
        seed: int = 0,
        callback: Callable[[Step], None] | None = None,
    ) -> Tensor:
        """Samples `[N, ...]` of `noise` `[N, *sample_shape]`: images, where there is a decoder or none is wanted."""
        scheduler = make_scheduler(self.schedule, sampler or self.schedule.sampler)
        model = under(guidance, any_batch(self.engine))
        samples = sample_loop(model, scheduler, noise, steps, conditions, callback=callback, seed=seed)
        return samples if self.decoder is None else torch.from_numpy(self.decoder(samples.numpy()))

    @property
    def range(self) -> tuple[float, float] | None:
        """The range of its pictures, if it is known."""
        return (-1.0, 1.0) if self.decoder is not None else self.schedule.sample_range

    def _class(self, label: int) -> int:
        classes = next((each.limit for each in self.engine.signature.conditions if each.name == LABEL), None)
        if classes is None:
            raise InputError("this engine has no classes", "leave out --class")
        if label >= classes:
            raise InputError(f"class {label} is out of range", f"this engine knows the classes 0..{classes - 1}")
        return label


def load_pipeline(run: Path | str, which: str | None = None) -> Drawing:
    """The engine of a finished run, or its baseline (`which="ort-fp32"`), from prompts to pictures.

    Raises:
        EnvironmentMissing: this machine cannot run the engine; it takes prompts, and the extra `text` is not installed.
        InputError: `run` is not a finished run, has no such engine, or a file of it is damaged.
    """
    folder = Path(run)
    schedule = read_schedule(finished_manifest(folder), folder)
    engine = load_engine(folder, which)
    return Drawing(folder, engine, schedule, load_prompt_encoder(folder), load_latent_decoder(folder))


def _tensors(encoder: PromptEncoder, prompts: Sequence[str]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(rows) for name, rows in encoder(prompts).items()}
