"""The classifier of emoji groups that the package carries, and the prompts whose pictures it has never seen.

`examples/train_emoji_groups.py` trains it on real pictures, and leaves some names out.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

import torch
from safetensors import safe_open
from torch import Tensor, nn

__all__ = ["GROUPS_FILE", "EmojiGroups", "emoji_classifier", "load_emoji_groups"]

GROUPS_FILE = "emoji_groups.safetensors"
WIDTHS = (24, 48, 96, 128)


@dataclass(frozen=True)
class EmojiGroups:
    """The classifier and what was kept from it.

    Attributes:
        net: `[N, 3, 64, 64]` in [-1, 1] to scores `[N, len(names)]`.
        names: Of the groups.
        prompts: Unseen prompts and the place of their group.
        accuracy: On the real pictures of these prompts, 0 to 1.
    """

    net: nn.Module
    names: tuple[str, ...]
    prompts: Mapping[str, int]
    accuracy: float

    @torch.no_grad()
    def group_of(self, images: Tensor) -> Tensor:
        """The place of the group that each of `images` `[N, 3, 64, 64]` in [-1, 1] seems to belong to."""
        return self.net(images).argmax(1)  # type: ignore[no-any-return]


def emoji_classifier(groups: int) -> nn.Sequential:
    """The network, its weights drawn."""
    layers: list[nn.Module] = []
    for before, width in zip((3, *WIDTHS), WIDTHS, strict=False):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.GroupNorm(8, width), nn.SiLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(WIDTHS[-1], groups))


def load_emoji_groups() -> EmojiGroups:
    """The classifier that the package carries."""
    with safe_open(str(files("ptq_export") / "assets" / GROUPS_FILE), "pt") as stored:
        stated = stored.metadata()
        tensors = {name: stored.get_tensor(name).float() for name in stored.keys()}  # noqa: SIM118, it is no mapping
    names = tuple(json.loads(stated["groups"]))
    net = emoji_classifier(len(names)).eval().requires_grad_(False)
    net.load_state_dict(tensors)
    return EmojiGroups(net, names, json.loads(stated["prompts"]), float(stated["accuracy_on_unseen_pictures"]))
