"""Guidance by its formula, against the network called twice."""

import pytest
import torch
from torch import Tensor

from ptq_export.errors import InputError
from ptq_export.guidance import Guided

X, T = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 2, 3])
PROMPT, NONE = torch.randn(3, 5), torch.zeros(1, 5)


def net(sample: Tensor, timestep: Tensor, prompt: Tensor, vector: Tensor | None = None) -> Tensor:
    """eps that depends on everything, and a variance behind it."""
    shift = prompt.sum(1) + timestep + (0 if vector is None else vector.sum(1))
    return torch.cat([sample * shift[:, None, None, None], sample + 1], dim=1)


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_guidance_is_its_formula_and_keeps_the_conditional_variance(scale: float) -> None:
    found = Guided(net, scale, {"prompt": NONE})(X, T, prompt=PROMPT)
    with_prompt, without = (net(X, T, each)[:, :2] for each in (PROMPT, NONE.expand(3, 5)))
    torch.testing.assert_close(found[:, :2], without + scale * (with_prompt - without))
    assert torch.equal(found[:, 2:], net(X, T, PROMPT)[:, 2:])


def test_the_model_is_called_once_for_both() -> None:
    calls: list[int] = []
    Guided(lambda sample, *_, **__: calls.append(len(sample)) or sample, 2.0, {"prompt": NONE})(X, T, prompt=PROMPT)
    assert calls == [6]


def test_a_condition_that_is_not_taken_away_stays_on_both_sides() -> None:
    vector = torch.randn(3, 2)
    found = Guided(net, 3.0, {"prompt": NONE})(X, T, prompt=PROMPT, vector=vector)
    with_prompt, without = (net(X, T, each, vector)[:, :2] for each in (PROMPT, NONE.expand(3, 5)))
    torch.testing.assert_close(found[:, :2], without + 3.0 * (with_prompt - without))


def test_what_cannot_be_guided_is_refused() -> None:
    with pytest.raises(InputError, match="prompt is missing"):
        Guided(net, 2.0, {"prompt": NONE})(X, T)
    with pytest.raises(InputError, match=r"prompt is \[3, 5\], its unconditional row \[1, 4\]"):
        Guided(net, 2.0, {"prompt": NONE[:, :4]})(X, T, prompt=PROMPT)
    with pytest.raises(InputError, match="one row of every condition"):
        Guided(net, 2.0, {})
