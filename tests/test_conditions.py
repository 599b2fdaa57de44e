"""Conditions as values: what is drawn, and what is refused by its name before anything is calibrated."""

import pytest
import torch
from torch import Tensor, nn

from ptq_export.conditions import batched, draw
from ptq_export.denoiser import Denoiser, NoiseSchedule, Source
from ptq_export.errors import InputError
from ptq_export.interface import Input, inputs_from_json, inputs_to_json, label

PROMPT, MASK = Input("prompt", "float32", ("tokens", 4)), Input("mask", "int64", ("tokens",), 2)
EXAMPLES = {"prompt": torch.arange(3.0)[:, None, None].expand(3, 5, 4), "mask": torch.ones(3, 5, dtype=torch.int64)}


def denoiser(*conditions: Input, **examples: Tensor) -> Denoiser:
    return Denoiser(nn.Identity(), NoiseSchedule(), (1, 4, 4), Source("here", "", ""), conditions, examples)


def test_rows_of_examples_stay_together_and_all_come_before_one_comes_again() -> None:
    found = draw((PROMPT, label(7)), {**EXAMPLES, "label": torch.tensor([10, 11, 12])}, 7, seed=3)
    first = found["prompt"][:, 0, 0]
    assert torch.equal(first + 10, found["label"].float()) and sorted(first[:3].tolist()) == [0, 1, 2]
    assert sorted(first[3:6].tolist()) == [0, 1, 2]


def test_labels_need_no_examples_and_depend_on_the_seed_alone() -> None:
    first, second, other = (draw((label(1000),), {}, 50, seed)["label"] for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other) and int(first.max()) < 1000


def test_batches_cover_all_rows_in_order() -> None:
    parts = batched({"label": torch.arange(7)}, 3, 7)
    assert [part["label"].tolist() for part in parts] == [[0, 1, 2], [3, 4, 5], [6]]
    assert batched({}, 3, 7) == [{}, {}, {}]


def test_inputs_survive_json() -> None:
    inputs = denoiser(PROMPT, MASK, **EXAMPLES).inputs
    assert inputs_from_json(inputs_to_json(inputs), "here") == inputs


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ({}, r"no examples of the condition prompt \[N, tokens, 4\] float32"),
        ({**EXAMPLES, "extra": torch.zeros(3)}, "there is no condition extra"),
        ({**EXAMPLES, "mask": torch.ones(2, 5, dtype=torch.int64)}, "different numbers of rows"),
        ({**EXAMPLES, "mask": torch.ones(3, 4, dtype=torch.int64)}, r"examples of mask .* are \[3, 4\]"),
        ({**EXAMPLES, "mask": torch.ones(3, 5)}, r"examples of mask .* torch\.float32"),
        ({**EXAMPLES, "mask": EXAMPLES["mask"] + 1}, r"out of range\nknown: 0\.\.1"),
        ({**EXAMPLES, "prompt": EXAMPLES["prompt"] * torch.nan}, "NaN or infinite"),
        ({**EXAMPLES, "prompt": EXAMPLES["prompt"].double()}, r"torch\.float64"),
    ],
)
def test_unfit_examples_are_refused_by_name(examples: dict[str, Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        denoiser(PROMPT, MASK, **examples)


def test_an_unknown_prediction_and_a_taken_name_are_refused() -> None:
    with pytest.raises(InputError, match="predicts 'score', which nothing here can sample\nknown: epsilon"):
        Denoiser(nn.Identity(), NoiseSchedule(prediction_type="score"), (1, 4, 4), Source("", "", ""))
    with pytest.raises(InputError, match="two inputs of the network have one name"):
        denoiser(Input("sample", "float32", (1,)), sample=torch.zeros(1, 1))
