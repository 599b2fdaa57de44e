"""Two graphs of a run as one that the peers can take: what the prompt graph makes becomes conditions like all others.

Keys and values of a prompt stay float in every row of the tables, and are computed once: all quantise the same step.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptq_export.engines.base import EngineOptions
from ptq_export.engines.prompt import open_prompt
from ptq_export.engines.signature import read_signature
from ptq_export.errors import InputError
from ptq_export.graph.model_file import load_model, save_model
from ptq_export.interface import INPUTS, PROMPT, inputs_to_json

__all__ = ["step_feeds", "step_graph", "value_gains"]

CLOSE = 1e-4


def step_graph(source: Path, folder: Path) -> Path:
    """The step graph `source` in `folder`, without a word of the prompt graph beside it."""
    signature = read_signature(source)
    assert signature.prompt is not None, "asked for of such graphs alone"
    model = load_model(source)
    del model.metadata_props[PROMPT]
    model.metadata_props[INPUTS] = json.dumps(inputs_to_json(signature.prompt.step_inputs(signature.inputs)))
    folder.mkdir(parents=True, exist_ok=True)
    return save_model(model, folder / source.name)


def step_feeds(source: Path, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What the step graph `source` takes for `feeds` of the denoiser."""
    prompt = open_prompt(source, read_signature(source), EngineOptions())
    assert prompt is not None, "asked for of such graphs alone"
    return dict(prompt.step_feeds(feeds))


def value_gains(exact: dict[str, NDArray[Any]], ours: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """By what the values `[N, ...]` of our prompt graph are multiples of those of the FP32 one: where channels are
    balanced, the prompt graph has a part in it. One row `[1, ...]` per value.

    Raises:
        InputError: they are something else.
    """
    gains = {}
    for name, value in exact.items():
        loudest = np.abs(value).argmax(0)[None]
        theirs, found = (np.take_along_axis(each, loudest, 0) for each in (value, ours[name]))
        gain = np.divide(found, theirs, out=np.ones_like(theirs), where=theirs != 0)
        if np.abs(value * gain - ours[name]).max() > CLOSE * np.abs(ours[name]).max():
            raise InputError(f"our prompt graph makes another {name} than FP32's", "make the run again in a new folder")
        gains[name] = gain
    return gains
