"""What lies around the denoiser of a text-to-image model in a run folder: text encoder, tokenizers, decoder of latents.

torch is never imported here: services read it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ptq_export.errors import InputError

__all__ = [
    "DECODER",
    "IMAGE",
    "LATENTS",
    "MASK",
    "PARTS",
    "POOLED",
    "SCALE",
    "SIZES",
    "STATES",
    "TEXT_ENCODER",
    "TextParts",
    "token_input",
    "tokenizer_file",
]

TEXT_ENCODER = "text_encoder.onnx"
DECODER = "decoder.onnx"
LATENTS = "latents"
IMAGE = "image"
MOST_TOKENIZERS = 4
STATES = "encoder_hidden_states"
POOLED = "text_embeds"
SIZES = "time_ids"
SCALE = "timestep_cond"
MASK = "mask"
"""Conditions, by the names that diffusers' pipelines have for them."""


def tokenizer_file(index: int) -> str:
    """The file of the tokenizer with that place among the encoder's inputs."""
    return f"tokenizer.{index + 1}.json" if index else "tokenizer.json"


def token_input(index: int) -> str:
    """The text encoder's input with the ids of that tokenizer, `[N, length]` int64."""
    return f"input_ids_{index + 1}" if index else "input_ids"


PARTS = (TEXT_ENCODER, DECODER, *(tokenizer_file(index) for index in range(MOST_TOKENIZERS)))
"""Every file of these that a run may have."""


@dataclass(frozen=True)
class TextParts:
    """How prompts become conditions, as the manifest tells it.

    Attributes:
        conditions: What of the denoiser's conditions the text encoder makes; its outputs have their names.
        tokenizers: How many there are.
        scale: Of the guidance under which it was calibrated; 1 for none.
        prompts: Those that it was calibrated with.
    """

    conditions: tuple[str, ...]
    tokenizers: int
    scale: float
    prompts: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """`denoiser.text` of the manifest."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, manifest: Mapping[str, Any]) -> "TextParts | None":
        """What a manifest tells, whose schema was checked; None of a run that takes no prompts.

        Raises:
            InputError: it names more tokenizers than any model has.
        """
        found = manifest["denoiser"].get("text")
        if found is None:
            return None
        if not 1 <= found["tokenizers"] <= MOST_TOKENIZERS:
            raise InputError(f"the manifest tells {found['tokenizers']} tokenizers", "copy the run folder again")
        return cls(tuple(found["conditions"]), found["tokenizers"], found["scale"], tuple(found["prompts"]))
