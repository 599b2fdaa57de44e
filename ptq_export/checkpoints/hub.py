"""Names of the Hugging Face hub: nothing is downloaded here, but how to do it is said."""

import re
from pathlib import Path

from ptq_export.errors import InputError

__all__ = ["refuse_hub_id"]

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_FILE = re.compile(r"\.(pt|pth|ckpt|bin|pkl|npz|onnx|safetensors|tar|json)$", re.IGNORECASE)


def refuse_hub_id(spec: str) -> None:
    """Refuse `owner/name` where no such file or folder is, nor a folder `owner` that it could be missing from.

    Raises:
        InputError: with the command that downloads it.
    """
    path = Path(spec)
    if not _ID.fullmatch(spec) or _FILE.search(spec) or path.exists() or path.parent.exists():
        return
    cause = f"{spec} is no file or folder here; it has the form of a Hugging Face hub id, and nothing is downloaded"
    raise InputError(cause, f"hf download {spec} --local-dir {path.name}, and then --ckpt {path.name}")
