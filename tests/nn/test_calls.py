"""A call that can be made again, whichever way it was spelt."""

import torch
from torch import Tensor, nn

from ptq_export.nn.calls import Call


class Block(nn.Module):
    """(x, temb) with an option behind them."""

    def forward(self, x: Tensor, temb: Tensor | None = None, scale: float = 1.0, **rest: Tensor | None) -> Tensor:
        return (x if temb is None else x + scale * temb) + sum(value for value in rest.values() if value is not None)


X, TEMB = torch.zeros(2), torch.tensor([1.0, 3.0])
SPELLINGS = (((X, TEMB, 2.0), {}), ((X,), {"temb": TEMB, "scale": 2.0}), ((), {"scale": 2.0, "temb": TEMB, "x": X}))


def test_tensors_come_in_the_order_of_the_parameters_not_of_the_call() -> None:
    for args, kwargs in SPELLINGS:
        found = Call.of(Block(), args, kwargs, X).tensors
        assert found[0] is X and found[1] is TEMB and len(found) == 2


def test_every_spelling_is_made_again_with_its_options() -> None:
    for args, kwargs in SPELLINGS:
        assert torch.equal(Call.of(Block(), args, kwargs, X).again(Block()), 2 * TEMB)


def test_none_is_handed_on_and_what_has_no_position_keeps_its_name() -> None:
    call = Call.of(Block(), (X, None), {"mask": TEMB, "other": None}, X)
    assert torch.equal(call.again(Block()), TEMB) and call.kwargs["other"] is None


def test_rows_are_those_of_tensors_with_a_row_per_sample() -> None:
    shared = torch.full((1,), 5.0)
    call = Call.of(Block(), (X,), {"mask": TEMB, "bias": shared}, X).rows(torch.tensor([1, 1, 0]))
    assert call.again(Block()).tolist() == [8.0, 8.0, 6.0]


def test_calls_are_joined_row_by_row() -> None:
    calls = [Call.of(Block(), (X,), {"temb": value * TEMB, "scale": 2.0}, X) for value in (1, 10)]
    assert Call.join(calls).again(Block()).tolist() == [2.0, 6.0, 20.0, 60.0]
