"""How often pictures of `embedded:emoji` show what their prompts name: the group that a classifier sees in them.

    python -m ptq_export.benchmarks.emoji_groups RUN [--count 256]

The classifier never saw the real pictures of these prompts. The engine and its FP32 baseline draw the same noise.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ptq_export.benchmarks.emoji import EmojiGroups, load_emoji_groups
from ptq_export.benchmarks.program import parser_of, run_program
from ptq_export.benchmarks.same_noise import final_samples, psnr_db
from ptq_export.engines.load import load_engine
from ptq_export.engines.text_to_image import LatentDecoder, PromptEncoder, load_latent_decoder, load_prompt_encoder
from ptq_export.errors import InputError
from ptq_export.guidance import Guidance, under
from ptq_export.pipeline.commands.reopened import finished_manifest, read_schedule
from ptq_export.sampling import EpsModel, initial_noise
from ptq_export.targets import find_target

__all__ = ["main"]

STEPS = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns the exit code."""
    parser = parser_of("emoji_groups", __doc__)
    parser.add_argument("--count", type=int, default=256, help="pictures of each engine; default: 256")
    options = parser.parse_args(arguments)
    return run_program(lambda: _measure(options.run, options.count))


def _measure(run: Path, count: int) -> list[str]:
    groups, encoder, decoder = load_emoji_groups(), load_prompt_encoder(run), load_latent_decoder(run)
    target = find_target(str(finished_manifest(run)["target"]))
    if encoder is None or decoder is None:
        raise InputError(f"{run} draws no pictures from prompts", "give a run of --ckpt embedded:emoji")
    order = torch.randperm(len(groups.prompts), generator=torch.Generator().manual_seed(0)).tolist()
    known = list(groups.prompts)
    prompts = [known[order[index % len(order)]] for index in range(count)]
    images = {name: _draw(run, name, prompts, encoder, decoder) for name in (target.baselines[0], target.name)}
    wanted = torch.tensor([groups.prompts[prompt] for prompt in prompts])
    exact, found = images.values()
    told = [
        f"{name}: {_share(groups, each, wanted)} of {count} pictures show their prompt's group"
        for name, each in images.items()
    ]
    same = (groups.group_of(exact) == groups.group_of(found)).float().mean().item()
    psnr = psnr_db(exact, found)
    return [
        f"real pictures of {len(known)} unseen prompts: {groups.accuracy:.1%}, which is what the classifier can tell",
        *told,
        f"both are seen as one group in {same:.1%}; same-noise PSNR {sum(psnr) / len(psnr):.1f} dB",
    ]


def _draw(run: Path, target: str, prompts: list[str], encoder: PromptEncoder, decoder: LatentDecoder) -> Tensor:
    engine = load_engine(run, target)
    rows = {name: torch.from_numpy(value) for name, value in encoder(prompts).items()}
    empty = {name: torch.from_numpy(value) for name, value in encoder([""]).items()}
    model: EpsModel = under(Guidance(encoder.parts.scale, empty), engine)
    schedule = read_schedule(finished_manifest(run), run)
    latents = final_samples(model, schedule, initial_noise((len(prompts), *engine.sample_shape), 0), STEPS, rows)
    return torch.from_numpy(decoder(latents.numpy()))


def _share(groups: EmojiGroups, images: Tensor, wanted: Tensor) -> str:
    return f"{(groups.group_of(images) == wanted).float().mean().item():.1%}"
