"""From prompts to conditions and from latents to images, by the float graphs of a run folder.

ONNX Runtime computes both, whatever runs the steps: on a GPU where the steps run on one and its package for CUDA is
there, else on the CPU. torch is not imported.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ptq_export.artifacts import data_beside, inside, sha256_file
from ptq_export.engines.ort.gpu.providers import CUDA, missing_cuda
from ptq_export.engines.ort.session import CPU, Level, Provider, open_session, session_settings
from ptq_export.engines.registry import find_runtime
from ptq_export.errors import InputError
from ptq_export.machine import physical_cores
from ptq_export.schemas import MANIFEST, read_part
from ptq_export.targets import find_target
from ptq_export.text_to_image import DECODER, IMAGE, TEXT_ENCODER, TextParts, token_input, tokenizer_file
from ptq_export.tokens import Tokens

__all__ = ["LatentDecoder", "PromptEncoder", "load_latent_decoder", "load_prompt_encoder", "open_part", "part_provider"]

ENCODED_AT_ONCE, DECODED_AT_ONCE = 8, 4


class PromptEncoder:
    """The tokenizers and the text encoder of a run."""

    def __init__(self, parts: TextParts, tokens: Sequence[Tokens], session: onnxruntime.InferenceSession) -> None:
        self.parts, self.tokens = parts, tuple(tokens)
        self._session = session

    def __call__(self, prompts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The conditions of `prompts`, one row each; an empty one takes the conditions away."""
        found = [self._encode(prompts[at : at + ENCODED_AT_ONCE]) for at in range(0, len(prompts), ENCODED_AT_ONCE)]
        return {name: np.concatenate([rows[name] for rows in found]) for name in self.parts.conditions}

    @property
    def length(self) -> int:
        """How many tokens a prompt may have before it is cut."""
        return min(each.length for each in self.tokens)

    def cut(self, prompts: Sequence[str]) -> list[str]:
        """Those of `prompts` of which one of the tokenizers reads a part only."""
        return list(dict.fromkeys(prompt for tokens in self.tokens for prompt in tokens.cut(prompts)))

    def _encode(self, prompts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        ids = {token_input(index): tokens.ids(prompts) for index, tokens in enumerate(self.tokens)}
        names = list(self.parts.conditions)
        return dict(zip(names, self._session.run(names, ids), strict=True))


class LatentDecoder:
    """The decoder of a run."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session

    def __call__(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Images `[N, C, H, W]` in [-1, 1] of `latents` `[N, ...]`, a few at a time."""
        name = self._session.get_inputs()[0].name
        parts = np.split(latents, range(DECODED_AT_ONCE, len(latents), DECODED_AT_ONCE))
        images = [self._session.run([IMAGE], {name: part})[0] for part in parts]
        return np.concatenate(images).clip(-1, 1)


def load_prompt_encoder(run: Path | str) -> PromptEncoder | None:
    """The prompt encoder of a finished run; None where it takes no prompts.

    Raises:
        InputError: one of its files is absent or damaged.
        EnvironmentMissing: the extra `text` was not installed.
    """
    folder = Path(run)
    parts = TextParts.from_json(read_part(folder, MANIFEST))
    if parts is None:
        return None
    files = [tokenizer_file(index) for index in range(parts.tokenizers)]
    tokens = [Tokens(_whole(folder, name).read_text(encoding="utf-8")) for name in files]
    return PromptEncoder(parts, tokens, open_part(_whole(folder, TEXT_ENCODER), _provider(folder)))


def load_latent_decoder(run: Path | str) -> LatentDecoder | None:
    """The decoder of a finished run; None where samples are images themselves, or the model had no decoder to write.

    Raises:
        InputError: its file is absent or damaged.
    """
    folder = Path(run)
    if DECODER not in read_part(folder, MANIFEST)["artefacts"]:
        return None
    return LatentDecoder(open_part(_whole(folder, DECODER), _provider(folder)))


def open_part(path: Path, provider: Provider = CPU) -> onnxruntime.InferenceSession:
    """One of these graphs, whose digest was checked."""
    providers = [provider] if provider == CPU else [provider, CPU]
    return open_session(path, session_settings(physical_cores(), Level.ORT_ENABLE_ALL), providers)


def part_provider(device: Literal["cpu", "gpu"]) -> Provider:
    """What computes the parts around steps that run on `device`: the same, if ONNX Runtime can."""
    return (CUDA, {}) if device == "gpu" and missing_cuda() is None else CPU


def _provider(folder: Path) -> Provider:
    return part_provider(find_runtime(find_target(str(read_part(folder, MANIFEST)["target"])).engine).device)


def _whole(folder: Path, name: str) -> Path:
    """A file of the run, whose digest is the manifest's, and so is that of the data that lie beside it."""
    artefacts = read_part(folder, MANIFEST)["artefacts"]
    path, entry, data = inside(folder, name), artefacts.get(name), data_beside(Path(name)).name
    if data in artefacts:
        _whole(folder, data)
    if entry is None:
        raise InputError(f"{folder} has no {name} in its manifest", "make the run again, in a new folder")
    if not path.is_file() or sha256_file(path) != entry["sha256"]:
        raise InputError(f"{path} is damaged or gone", "copy the run folder again")
    return path
