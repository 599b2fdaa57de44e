"""A pipeline's `tokenizer/` as one `tokenizer.json` that cuts and pads prompts as diffusers' pipeline does."""

from pathlib import Path

from ptq_export.checkpoints.clip_text import quiet_transformers, require_text_packages
from ptq_export.errors import InputError
from ptq_export.tokens import Tokens

__all__ = ["read_tokens"]

_COPY_AGAIN = "copy or download the folder again"
_FILES = ("tokenizer.json", "vocab.json")


def read_tokens(folder: Path, length: int, vocabulary: int) -> Tokens:
    """CLIP's tokenizer in `folder`, `vocab.json` with `merges.txt` or `tokenizer.json`, for a text encoder of at most
    `length` tokens out of `vocabulary`. Prompts have the tokenizer's `model_max_length`.

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
            asked = made.model_max_length
            tokens = min(asked, length) if asked > _UNSET else asked
            tokenizer = made.backend_tokenizer
            tokenizer.enable_truncation(tokens)
            tokenizer.enable_padding(length=tokens, pad_id=made.pad_token_id, pad_token=made.pad_token)
            text, largest = tokenizer.to_str(), max(tokenizer.get_vocab(with_added_tokens=True).values())
    except Exception as error:  # transformers and tokenizers raise of all kinds, Exception itself among them
        raise InputError(f"{folder}: its tokenizer cannot be read: {error!r:.200}", _COPY_AGAIN) from error
    if not 2 < tokens <= length or largest >= vocabulary:
        told = f"makes {tokens} tokens out of {largest + 1}, its text encoder takes {length} out of {vocabulary}"
        raise InputError(f"{folder}: the tokenizer {told}", "give the tokenizer that the text encoder came with")
    return Tokens(text)


_UNSET = 1 << 20  # transformers has a very large number where the folder says nothing
