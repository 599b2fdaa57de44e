"""CLIP's text encoders as one module: from token ids to the hidden states, and the pooled prompt, of a net.

Stable Diffusion 1 and 2 take the last layer's states behind the final norm (of 2 the last layer was left out before).
SDXL takes the states before the last layer, of two encoders side by side, and the second one's projection of the prompt
as a whole (arXiv:2307.01952, section 2.1).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ptq_export.checkpoints.bounds import require_enough_layers
from ptq_export.checkpoints.fit import fit
from ptq_export.checkpoints.unet import lay_out
from ptq_export.errors import EnvironmentMissing, InputError
from ptq_export.text import Text
from ptq_export.text_to_image import POOLED, STATES
from ptq_export.tokens import Tokens

__all__ = [
    "Clip",
    "TextEncoder",
    "build_clip",
    "quiet_transformers",
    "require_text_packages",
    "require_width",
    "text_of",
]

_KIND = "clip_text_model"
_PROJECTION = "text_projection.weight"
_BUFFER = "embeddings.position_ids"  # which transformers before 4.31 saved


class TextEncoder(nn.Module):
    """One or two of CLIP's text encoders.

    `empty` `[1, length]` are the first ids of an empty prompt, where that is all zeros: diffusers' pipeline of SDXL
    takes zeros in the place of a negative prompt that is not given (`force_zeros_for_empty_prompt`).
    """

    empty: Tensor | None

    def __init__(self, models: Sequence[nn.Module], pooled: bool, empty: Tensor | None = None) -> None:
        super().__init__()
        self.models, self.pooled = nn.ModuleList(models), pooled
        self.register_buffer("empty", empty, persistent=False)

    def forward(self, input_ids: Tensor, input_ids_2: Tensor | None = None) -> tuple[Tensor, ...]:
        """Hidden states `[N, length, width]` of ids `[N, length]`; if `pooled`, the prompt as a whole `[N, width]`."""
        ids = [each for each in (input_ids, input_ids_2) if each is not None]
        if not self.pooled:
            return (self.models[0](input_ids)[0],)
        answers = [model(each, output_hidden_states=True) for model, each in zip(self.models, ids, strict=True)]
        states = torch.cat([answer.hidden_states[-2] for answer in answers], dim=-1)
        whole = answers[-1].text_embeds
        if self.empty is None:
            return states, whole
        said = (input_ids != self.empty).any(dim=1)
        return torch.where(said[:, None, None], states, 0.0), torch.where(said[:, None], whole, 0.0)


class Clip(NamedTuple):
    """A text encoder: the `width` of its hidden states, how many tokens it takes out of which vocabulary, and how many
    numbers its projection makes of a prompt as a whole."""

    model: nn.Module
    width: int
    tokens: int
    vocabulary: int
    pooled: int | None


def build_clip(config: Mapping[str, Any], tensors: Mapping[str, Tensor], path: str, projected: bool) -> Clip:
    """transformers' `CLIPTextModel`, or with `projected` its `CLIPTextModelWithProjection`, with the tensors of `path`,
    whether or not their names begin with `text_model.`.

    Raises:
        EnvironmentMissing: the extra `text` was not installed.
        InputError: `config` is of another encoder, or the tensors do not fit it.
    """
    require_text_packages()
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    if (kind := config.get("model_type", _KIND)) != _KIND or config.get("use_attention_mask"):
        told = f"a text encoder of type {kind!r:.40}" if kind != _KIND else "a text encoder that takes a mask"
        raise InputError(f"{path} is {told}, which is not supported", "known: CLIP's text encoder")
    layers = config.get("num_hidden_layers", 12)
    if not isinstance(layers, int) or layers < 1:
        raise InputError(f"{path} has {layers!r:.40} layers in its configuration", "copy its config.json again")
    if not isinstance(config.get("eos_token_id", 2), int):
        raise InputError(f"{path} has several tokens that end a prompt", "give CLIP's text encoder")
    require_enough_layers(layers, tensors, path)
    known = {each.name for each in fields(CLIPTextConfig)} & CLIPTextConfig.__annotations__.keys()
    plain = {key: value for key, value in config.items() if key in known}
    make = CLIPTextModelWithProjection if projected else CLIPTextModel
    with quiet_transformers():
        model: Any = lay_out(make.__name__, lambda: make(CLIPTextConfig(**plain)), path)

    def in_file(name: str) -> str:
        bare = name.removeprefix("text_model.")
        return bare if bare in tensors or bare == _PROJECTION else f"text_model.{bare}"

    unread = {in_file(_BUFFER), *([] if projected else [_PROJECTION])}
    fit(model, {name: value for name, value in tensors.items() if name not in unread}, path, in_file)
    inner, sizes = model.text_model if projected else model, model.config
    inner.embeddings.position_ids = torch.arange(sizes.max_position_embeddings)[None]
    pooled = sizes.projection_dim if projected else None
    frozen = model.eval().requires_grad_(False)
    return Clip(frozen, sizes.hidden_size, sizes.max_position_embeddings, sizes.vocab_size, pooled)


def text_of(encoders: Sequence[Clip], tokens: Sequence[Tokens], zeros: bool = False) -> Text:
    """From prompts to conditions, by encoders with a tokenizer each; with `zeros` an empty prompt becomes zeros. The
    prompt as a whole is a condition where the last encoder makes it.

    Raises:
        InputError: the tokenizers make different numbers of tokens.
    """
    if len(lengths := {each.length for each in tokens}) > 1:
        told = " and ".join(map(str, sorted(lengths)))
        raise InputError(f"the tokenizers make {told} tokens of a prompt", "copy or download the folder again")
    empty = torch.from_numpy(tokens[0].ids([""])) if zeros else None
    pooled = encoders[-1].pooled is not None
    encoder = TextEncoder([each.model for each in encoders], pooled, empty).eval().requires_grad_(False)
    return Text(encoder, tuple(tokens), (STATES, POOLED) if pooled else (STATES,))


def require_text_packages() -> None:
    """Refuse to go on without the packages that prompts want.

    Raises:
        EnvironmentMissing: naming the one that is absent.
    """
    for name in ("transformers", "tokenizers"):
        if find_spec(name) is None:
            raise EnvironmentMissing(f"prompts want the package {name}", "pip install 'ptq-export[text]'")


def require_width(encoders: Sequence[Clip], wanted: int, path: str) -> None:
    """Refuse text encoders that together make other hidden states than the net takes.

    Raises:
        InputError: with both widths.
    """
    width = sum(each.width for each in encoders)
    if width != wanted:
        cause = f"{path}: the text encoder makes {width} numbers per token, and the U-Net takes {wanted}"
        raise InputError(cause, "give the text encoder that the U-Net was trained with")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """transformers warns of ids and settings that are of no concern here."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
