"""A pipeline's `tokenizer/` as one `tokenizer.json` that cuts and pads prompts as diffusers' pipeline does."""

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ptq_export.checkpoints.clip_text import quiet_transformers, require_text_packages
from ptq_export.errors import InputError
from ptq_export.tokens import Tokens

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

__all__ = ["find_tokens", "read_tokens"]

_COPY_AGAIN = "copy or download the folder again"
_FILES = ("tokenizer.json", "vocab.json")
_BESIDE = "tokenizer"
_PACKAGES = ("open_clip", "clip")
_MERGES = "bpe_simple_vocab_16e6.txt.gz"
_TOKENS, _LETTERS, _SPECIAL = 49408, 256, 2  # of CLIP's vocabulary
_MOST_BYTES = 1 << 24
_UNSET = 1 << 20  # transformers has a very large number where the folder says nothing


def read_tokens(folder: Path, length: int, vocabulary: int, pad: str | None = None) -> Tokens:
    """CLIP's tokenizer in `folder`, `vocab.json` with `merges.txt` or `tokenizer.json`, for a text encoder of at most
    `length` tokens out of `vocabulary`. Prompts have the tokenizer's `model_max_length`, and are filled up with its own
    token for that, or `pad`.

    Raises:
        EnvironmentMissing: the extra `text` was not installed.
        InputError: the folder holds no tokenizer of CLIP, or that of another encoder.
    """
    require_text_packages()
    if not any((folder / name).is_file() for name in _FILES):
        raise InputError(f"{folder} holds no tokenizer: no {' and no '.join(_FILES)}", _COPY_AGAIN)
    from transformers import CLIPTokenizer

    try:
        with quiet_transformers():
            made = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            return _fixed(made, folder, length, vocabulary, pad)
    except InputError:
        raise
    except Exception as error:  # transformers and tokenizers raise of all kinds, Exception itself among them
        raise InputError(f"{folder}: its tokenizer cannot be read: {error!r:.200}", _COPY_AGAIN) from error


def find_tokens(path: Path, length: int, vocabulary: int, pad: str) -> Tokens:
    """CLIP's tokenizer for the checkpoint `path`, which holds none: that of a folder `tokenizer/` beside it, else the
    vocabulary that OpenAI's `clip` and `open_clip` bring.

    Raises:
        EnvironmentMissing: the extra `text` was not installed.
        InputError: there is neither.
    """
    beside = path.parent / _BESIDE
    if beside.is_dir():
        return read_tokens(beside, length, vocabulary, pad)
    require_text_packages()
    specs = filter(None, map(find_spec, _PACKAGES))
    files = [Path(place) / _MERGES for spec in specs for place in spec.submodule_search_locations or ()]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        remedy = (
            "pip install --no-deps open_clip_torch, which has it; or put a pipeline's folder tokenizer/ beside the file"
        )
        raise InputError(f"{path} holds no tokenizer, and CLIP's vocabulary is not installed", remedy)
    with quiet_transformers():
        return _fixed(_of_merges(found), found, length, vocabulary, pad)


def _fixed(made: "CLIPTokenizer", where: Path, length: int, vocabulary: int, pad: str | None) -> Tokens:
    """The tokenizer with a fixed number of tokens."""
    asked = made.model_max_length
    tokens = min(asked, length) if asked > _UNSET else asked
    tokenizer = made.backend_tokenizer
    ids = tokenizer.get_vocab(with_added_tokens=True)
    filling = made.pad_token if pad is None else pad
    if not 2 < tokens <= length or max(ids.values()) >= vocabulary or filling not in ids:
        told = (
            f"makes {tokens} tokens out of {max(ids.values()) + 1}, its text encoder takes {length} out of {vocabulary}"
        )
        raise InputError(f"{where}: the tokenizer {told}", "give the tokenizer that the text encoder came with")
    tokenizer.enable_truncation(tokens)
    tokenizer.enable_padding(length=tokens, pad_id=ids[filling], pad_token=filling)
    return Tokens(tokenizer.to_str())


def _of_merges(path: Path) -> "CLIPTokenizer":
    """The tokenizer of OpenAI's list of merges (`clip/simple_tokenizer.py`): letters, letters at a word's end, what is
    merged in the order of the list, and the two tokens around a prompt."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read(_MOST_BYTES).split("\n")[1 : _TOKENS - 2 * _LETTERS - _SPECIAL + 1]
    merges = [(first, second) for first, _, second in (line.partition(" ") for line in lines) if second]
    letters = sorted(ByteLevel.alphabet())  # those of bytes that are none stand last, as in the authors' order
    words = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    ends = ("<|startoftext|>", "<|endoftext|>")
    return CLIPTokenizer({word: at for at, word in enumerate([*words, *ends])}, merges)
