"""Prompts as token ids: a `tokenizer.json`, which says itself how long a prompt may be and how it is padded.

torch is never imported here: services tokenise without it.
"""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptq_export.errors import EnvironmentMissing, InputError

__all__ = ["Tokens"]


class Tokens:
    """A tokenizer of prompts of a fixed number of tokens."""

    def __init__(self, text: str) -> None:
        """Read `text`, a `tokenizer.json`.

        Raises:
            EnvironmentMissing: the extra `text` was not installed.
            InputError: it is no such file, or does not say how long a prompt is.
        """
        if find_spec("tokenizers") is None:
            raise EnvironmentMissing("prompts want the package tokenizers", "pip install 'ptq-export[text]'")
        from tokenizers import Tokenizer

        self.text = text
        try:
            self._tokenizer = Tokenizer.from_str(text)
            padding: dict[str, Any] = json.loads(text)["padding"]
            self.length = int(padding["strategy"]["Fixed"])
        except Exception as error:  # the package raises Exception itself
            raise InputError(f"the tokenizer cannot be read: {error!r:.200}", "save it again") from error

    def ids(self, prompts: Sequence[str]) -> NDArray[np.int64]:
        """`[N, length]`: prompts that are too long are cut, as in diffusers."""
        found = [each.ids for each in self._tokenizer.encode_batch(list(prompts))]
        return np.array(found, np.int64).reshape(len(found), self.length)

    def cut(self, prompts: Sequence[str]) -> list[str]:
        """Those of `prompts` that are too long."""
        return [
            each
            for each, found in zip(prompts, self._tokenizer.encode_batch(list(prompts)), strict=True)
            if found.overflowing
        ]
