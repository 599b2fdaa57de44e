"""Prompts as a value: the tokenizers and text encoders that make a denoiser's conditions of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ptq_export.text_to_image import TextParts
from ptq_export.tokens import Tokens

__all__ = ["Text"]

ENCODED_AT_ONCE = 8


@dataclass(frozen=True)
class Text:
    """From prompts to conditions.

    Attributes:
        encoder: Called with token ids `[N, length]` int64, one tensor per tokenizer; answers a tuple of tensors
            `[N, ...]` float32, one per condition. It exports to ONNX.
        tokens: The tokenizers.
        conditions: What of the denoiser's conditions the encoder makes.
        scale: Of the guidance, where the user gives none; 1 for nets that are sampled without.
        prompts: Some of the kind that the net was trained with.
    """

    encoder: nn.Module
    tokens: tuple[Tokens, ...]
    conditions: tuple[str, ...]
    scale: float = 7.5
    prompts: tuple[str, ...] = ()

    @property
    def parts(self) -> TextParts:
        """What is known of it where its engine takes its place."""
        return TextParts(self.conditions, len(self.tokens), self.scale, self.prompts)

    def without_network(self) -> "Text":
        """The same without the encoder's weights."""
        return replace(self, encoder=nn.Identity())

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """The conditions of `prompts`, one row each; a few are encoded at a time."""
        groups = [prompts[at : at + ENCODED_AT_ONCE] for at in range(0, len(prompts), ENCODED_AT_ONCE)]
        found = [self.encoder(*(torch.from_numpy(each.ids(group)) for each in self.tokens)) for group in groups]
        return {name: torch.cat(rows) for name, *rows in zip(self.conditions, *found, strict=True)}
