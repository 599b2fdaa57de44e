"""A classifier of the emoji's groups: whether a picture shows something of the kind that its prompt names."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from emoji.pictures import GROUPS, Pictures
from emoji.training import train
from ptq_export.benchmarks.emoji import emoji_classifier

__all__ = ["HELD_OUT", "held_out", "train_classifier"]

HELD_OUT, BATCH, SHIFT = 0.15, 64, 6


def held_out(prompts: Sequence[str]) -> Tensor:
    """Which prompts the classifier never sees, in either style: every name that a seeded draw leaves out."""
    names = sorted({_name(prompt) for prompt in prompts})
    drawn = torch.randperm(len(names), generator=torch.Generator().manual_seed(0))[: int(HELD_OUT * len(names))]
    left_out = {names[index] for index in drawn.tolist()}
    return torch.tensor([_name(prompt) in left_out for prompt in prompts])


def train_classifier(path: Path, pictures: Pictures, steps: int) -> tuple[nn.Sequential, float]:
    """The classifier, and how often it is right on real pictures of names that it has not seen."""
    net, out = emoji_classifier(len(GROUPS)), held_out(pictures.prompts)
    known = torch.nonzero(~out)[:, 0]

    def loss_of(generator: torch.Generator) -> Tensor:
        index = known[torch.randint(len(known), (BATCH,), generator=generator)]
        real = pictures.floats(index)
        down, right = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator).tolist()
        real = torch.roll(real, (down, right), (2, 3))
        real = real.flip(3) if torch.rand((), generator=generator) < 0.5 else real
        real = real + 0.1 * torch.randn(real.shape, generator=generator)
        return nn.functional.cross_entropy(net(real), pictures.groups[index], label_smoothing=0.1)

    train(path, {"net": net.train()}, loss_of, steps, 2e-3)
    net.eval()
    unseen = torch.nonzero(out)[:, 0]
    with torch.no_grad():
        right = net(pictures.floats(unseen)).argmax(1) == pictures.groups[unseen]
    return net, right.float().mean().item()


def _name(prompt: str) -> str:
    return prompt.partition(" ")[2]
