"""What is served: an engine under a name, with its thread, and what lies around it for prompts and pictures."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ptq_export.clean_estimate import CleanEstimate
from ptq_export.command_options import Serving
from ptq_export.engines.load import load_engine
from ptq_export.engines.text_to_image import load_latent_decoder, load_prompt_encoder
from ptq_export.interface import LABEL, Input
from ptq_export.pipeline.commands.reopened import examples_known, finished_manifest, read_schedule
from ptq_export.serving.batcher import Batcher, measured_times
from ptq_export.serving.decoding import Decoding
from ptq_export.serving.encoding import Encoding
from ptq_export.serving.metrics import Metrics
from ptq_export.serving.pictures import Range
from ptq_export.serving.request import Subject

__all__ = ["Model", "Models", "load_models"]

MOST_ROWS = 32
DECODED: Range = (-1.0, 1.0)


@dataclass(frozen=True)
class Model:
    """One engine of a run; `range` is what its pictures lie in, where that is known. With `decoding` its samples are
    latents."""

    name: str
    target: str
    subject: Subject
    batcher: Batcher
    range: Range
    clean_estimate: CleanEstimate
    decoding: Decoding | None = None

    @property
    def elsewhere(self) -> int:
        """Pictures that are not in the batcher's hands: prompts to be encoded, latents to be decoded."""
        return sum(each.waiting for each in (self.subject.encoding, self.decoding) if each is not None)

    async def images(self, samples: Sequence[Tensor]) -> list[Tensor]:
        """The pictures `[1, C, ...]` of final samples, or of what is expected to become of them."""
        if self.decoding is None:
            return list(samples)
        return list(await asyncio.gather(*map(self.decoding, samples)))

    def close(self) -> None:
        """Finish what was accepted, and let go of the threads."""
        self.batcher.close()
        for each in (self.subject.encoding, self.decoding):
            if each is not None:
                each.close()


Models = Mapping[str, Model]
"""By name; the first serves whoever names none."""


def load_models(run: Path, serving: Serving, metrics: Metrics) -> dict[str, Model]:
    """The run's engine under the folder's name, and with `also` another of its engines as NAME:TARGET.

    Raises:
        EnvironmentMissing: this machine cannot run an engine.
        InputError: no finished run, or no such engine.
    """
    manifest = finished_manifest(run)
    name = run.resolve().name
    targets = {name: str(manifest["target"])}
    if serving.also is not None:
        targets[f"{name}:{serving.also}"] = serving.also
    around = _around(run, metrics)
    return {name: _load(run, name, target, serving, metrics, around) for name, target in targets.items()}


class _Around(NamedTuple):
    encoding: Encoding | None
    decoding: Decoding | None


def _around(run: Path, metrics: Metrics) -> _Around:
    """What all engines of a run share."""
    encoder, decoder = load_prompt_encoder(run), load_latent_decoder(run)
    shape = tuple(finished_manifest(run)["denoiser"]["sample_shape"])
    return _Around(
        None if encoder is None else Encoding(encoder, metrics.encoded),
        None if decoder is None else Decoding(decoder, shape, metrics.decoded),
    )


def _load(run: Path, name: str, target: str, serving: Serving, metrics: Metrics, around: _Around) -> Model:
    schedule = read_schedule(finished_manifest(run), run)
    engine = load_engine(run, target)
    examples = examples_known(run, _drawn(engine.signature.conditions, around.encoding))
    image_shape = None if around.decoding is None else around.decoding.image_shape
    subject = Subject(engine.signature, schedule, examples, around.encoding, image_shape)
    times = measured_times(engine, serving.max_batch or MOST_ROWS)
    fixed = engine.signature.batch or serving.max_batch
    batcher = Batcher(engine, schedule, times, fixed or MOST_ROWS, serving.queue, adapts=fixed is None)
    batcher.observer = metrics.watch(name, lambda: batcher.waiting, lambda: batcher.running)
    range_ = schedule.sample_range if around.decoding is None else DECODED
    return Model(name, target, subject, batcher, range_, CleanEstimate(schedule), around.decoding)


def _drawn(conditions: Sequence[Input], encoding: Encoding | None) -> list[Input]:
    """What need not be given: the class, and beside a prompt all that it does not decide."""
    made = None if encoding is None else encoding.parts.conditions
    return [each for each in conditions if each.name == LABEL or (made is not None and each.name not in made)]
