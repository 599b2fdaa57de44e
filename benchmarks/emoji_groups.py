"""How often pictures of `embedded:emoji` show what their prompts name: the group that a classifier sees in them.

    python -m ptq_export.benchmarks.emoji_groups RUN [--count 256]

The classifier never saw the real pictures of these prompts. The engine and its FP32 baseline draw the same noise.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ptq_export.benchmarks.emoji import EmojiGroups, load_emoji_groups
from ptq_export.benchmarks.program import parser_of, run_program
from ptq_export.benchmarks.same_noise import psnr_db
from ptq_export.pipeline.commands.reopened import finished_manifest
from ptq_export.pipeline.drawing import load_pipeline
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
    groups, target = load_emoji_groups(), find_target(str(finished_manifest(run)["target"]))
    order = torch.randperm(len(groups.prompts), generator=torch.Generator().manual_seed(0)).tolist()
    known = list(groups.prompts)
    prompts = [known[order[index % len(order)]] for index in range(count)]
    names = (target.baselines[0], target.name)
    exact, found = (load_pipeline(run, name)(prompts, steps=STEPS) for name in names)
    wanted = torch.tensor([groups.prompts[prompt] for prompt in prompts])
    same = (groups.group_of(exact) == groups.group_of(found)).float().mean().item()
    psnr = psnr_db(exact, found)
    return [
        f"real pictures of {len(known)} unseen prompts: {groups.accuracy:.1%}, which is what the classifier can tell",
        *(
            f"{name}: {_share(groups, images, wanted)} of {count} pictures show their prompt's group"
            for name, images in zip(names, (exact, found), strict=True)
        ),
        f"both are seen as one group in {same:.1%}; same-noise PSNR {sum(psnr) / len(psnr):.1f} dB",
    ]


def _share(groups: EmojiGroups, images: Tensor, wanted: Tensor) -> str:
    return f"{(groups.group_of(images) == wanted).float().mean().item():.1%}"


if __name__ == "__main__":
    sys.exit(main())
