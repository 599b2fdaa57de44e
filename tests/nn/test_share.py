"""Copies that cost no memory, and change nothing of what they were made from."""

import torch
from torch import nn

from ptq_export.nn.share import share


def test_a_copy_lies_in_the_memory_of_its_network_and_layers_of_it_can_be_replaced() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    copy = share(net).requires_grad_(False)
    pairs = zip((*net.parameters(), *net.buffers()), (*copy.parameters(), *copy.buffers()), strict=True)
    assert all(one.data_ptr() == other.data_ptr() for one, other in pairs)
    copy[0] = nn.Linear(2, 2)
    copy[1].weight = nn.Parameter(torch.zeros(2))
    assert copy[0] is not net[0] and bool(net[1].weight.all())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_tied_weights_stay_tied() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    copy = share(net)
    assert copy[1].weight is copy[0].weight
