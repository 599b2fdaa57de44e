"""One picture per request, drawn by whatever computes a step: what Triton's sampler does, without Triton.

The loop, the schedules, the guidance and the prompts are this package's own, so a picture is the one that
`ptq-export sample` draws.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptq_export.clean_estimate import CleanEstimate
from ptq_export.denoiser import NoiseSchedule
from ptq_export.engines.text_to_image import LatentDecoder, finite_images, load_prompt_encoder
from ptq_export.guidance import Guided
from ptq_export.interface import inputs_from_json, prompt_from_json
from ptq_export.packaging.triton.served import Arrays, Models, ServedDenoiser, ServedGraph
from ptq_export.packaging.triton.wish import Wish, Wishes
from ptq_export.pipeline.commands.reopened import examples_known, read_schedule
from ptq_export.sampling import Step, initial_noise, sample_loop
from ptq_export.schedulers import make_scheduler
from ptq_export.schemas import MANIFEST, read_part

__all__ = ["Drawer", "Frame", "shows_images"]


@dataclass(frozen=True)
class Frame:
    """The sample `[C, H, W]` after `step` of `steps` calls of the network: x_0 as it is expected then, and in the end
    x_0 itself. `image` is `[H, W, C]` in 0..255, where samples are images or there is a decoder of them."""

    sample: NDArray[np.float32]
    image: NDArray[np.uint8] | None
    step: int
    steps: int


class Drawer:
    """Pictures of the denoiser whose manifest, and whose tokenizers, lie in `folder`."""

    def __init__(self, folder: Path, models: Models) -> None:
        """`models` are the server's; none is asked yet.

        Raises:
            InputError: a file of the folder cannot be used.
            EnvironmentMissing: it takes prompts, and the extra `text` was not installed.
        """
        manifest = read_part(folder, MANIFEST)
        where = str(folder / MANIFEST)
        told = manifest.get("package", {})
        prompt = told.get("prompt")
        self.models, self.schedule = models, read_schedule(manifest, folder)
        self.inputs = inputs_from_json(manifest["denoiser"]["inputs"], where)
        self.clean_estimate = CleanEstimate(self.schedule)
        self.sample_shape = tuple(int(size) for size in self.inputs[0].shape)
        self.prompt = None if prompt is None else prompt_from_json(prompt, where)
        self.prompt_reads = tuple(told.get("prompt_reads", ()))
        self.decoder = LatentDecoder(ServedGraph(models.decoder)) if told.get("decodes") else None
        shown = self.schedule.sample_range if shows_images(self.sample_shape, self.schedule) else None
        self.range = shown if self.decoder is None else (-1.0, 1.0)
        encoder = load_prompt_encoder(folder, ServedGraph(models.text))
        self.takes_text = encoder is not None
        examples = examples_known(folder, self.inputs[2:]) if "examples" in told else {}
        known = {name: rows.numpy() for name, rows in examples.items()}
        alone = {name: rows[0] if rows.ndim > 1 else rows for name, rows in known.items()}
        self._wishes = Wishes(self.schedule, self.inputs, encoder, alone)

    def wish(self, given: Arrays, told: Mapping[str, Any] | None = None) -> Wish:
        """What a request asks for in its tensors and in its parameters.

        Raises:
            InputError: a setting, a text or a condition cannot be used; the message names it.
        """
        return self._wishes(given, told or {})

    def draw(self, wish: Wish, after: Callable[[Frame | None], None]) -> Frame:
        """The picture.

        `after` is called after every step but the last, with a preview where one is due; what it raises ends the work.
        """
        scheduler = make_scheduler(self.schedule, wish.sampler)
        scheduler.set_timesteps(wish.steps)
        steps = len(scheduler.timesteps)
        model: Callable[..., Tensor] = ServedDenoiser(self.inputs, self.prompt, self.prompt_reads, self.models)
        if wish.unconditional:
            model = Guided(model, wish.guidance, _tensors(wish.unconditional))

        def done(now: Step) -> None:
            number = now.index + 1
            due = wish.preview and number % wish.preview == 0
            if number < steps:
                after(self._frame(self.clean_estimate(now), number, steps) if due else None)

        noise = initial_noise((1, *self.sample_shape), wish.seed)
        sample = sample_loop(model, scheduler, noise, wish.steps, _tensors(wish.conditions), done, wish.seed)
        return self._frame(sample, steps, steps)

    def _frame(self, sample: Tensor, step: int, steps: int) -> Frame:
        values: NDArray[np.float32] = sample.numpy()
        shown = values if self.decoder is None else finite_images(self.decoder, values)
        return Frame(values[0], None if self.range is None else _image(shown[0], *self.range), step, steps)


def shows_images(shape: tuple[int, ...], schedule: NoiseSchedule) -> bool:
    """Whether samples are images: `[1, H, W]` or `[3, H, W]`, in a range that the schedule knows."""
    return len(shape) == 3 and shape[0] in (1, 3) and schedule.sample_range is not None


def _image(sample: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    levels = np.clip(np.rint(255 * (sample.astype(np.float64) - low) / (high - low)), 0, 255)
    return np.ascontiguousarray(np.moveaxis(levels.astype(np.uint8), 0, -1))


def _tensors(rows: Arrays) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in rows.items()}
