"""The registry of checkpoint formats: the first whose keys match reads the file; no match is refused with all names."""

from ptq_export.checkpoints.ddim import DDIM
from ptq_export.checkpoints.diffusers_folder import DIFFUSERS
from ptq_export.checkpoints.embedded import SELF_DESCRIBING
from ptq_export.checkpoints.ldm import LDM
from ptq_export.checkpoints.lucidrains import LUCIDRAINS
from ptq_export.checkpoints.openai import OPENAI
from ptq_export.checkpoints.pipeline_folder import PIPELINE
from ptq_export.checkpoints.strangers import refuse_strangers
from ptq_export.checkpoints.weights import Format, Weights
from ptq_export.errors import InputError

__all__ = ["FORMATS", "identify"]

# a header that names the format outranks the look of the keys
_ENTRIES = (SELF_DESCRIBING, PIPELINE, DIFFUSERS, DDIM, LDM, LUCIDRAINS, OPENAI)
FORMATS: dict[str, Format] = {}
for _entry in _ENTRIES:
    if _entry.name in FORMATS:
        raise ValueError(f"format {_entry.name} is registered twice")
    FORMATS[_entry.name] = _entry


def identify(weights: Weights) -> Format:
    """The format of `weights`, told from the keys alone.

    Raises:
        InputError: the net is unknown, and the message shows its first keys and lists the formats known; or it is
            known and not supported.
    """
    refuse_strangers(weights)
    for entry in FORMATS.values():
        if entry.matches(weights):
            return entry
    keys = ", ".join(list(weights.tensors)[:5]) or "none at all"
    remedy = f"known formats: {', '.join(FORMATS)}; any other net can be given as package.module:factory"
    raise InputError(f"{weights.path} holds an unknown net; its first tensors are {keys}", remedy)
