"""The tensors of a call, whichever way it was spelt."""

import torch
from torch import Tensor, nn

from ptq_export.nn.calls import tensor_arguments


class Block(nn.Module):
    """(x, temb) with an option behind them."""

    def forward(self, x: Tensor, temb: Tensor | None = None, scale: float = 1.0) -> Tensor:
        return x if temb is None else x + scale * temb


X, TEMB = torch.zeros(1), torch.ones(1)


def test_tensors_come_in_the_order_of_the_parameters_not_of_the_call() -> None:
    for args, kwargs in (((X, TEMB), {}), ((X,), {"temb": TEMB}), ((), {"scale": 2.0, "temb": TEMB, "x": X})):
        found = tensor_arguments(Block(), args, kwargs)
        assert found[0] is X and found[1] is TEMB and len(found) == 2


def test_what_is_no_tensor_is_left_out() -> None:
    assert tensor_arguments(Block(), (X, None), {"scale": 3.0}) == (X,)
