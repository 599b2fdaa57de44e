"""Observation: the layers' own inputs and outputs over all pairs, at the granularity of the scheme."""

from dataclasses import replace

import pytest
import torch
from calibrators_toys import plain_denoiser, random_pairs
from torch import Tensor, nn

from ptq_export.calibrators.observe import BATCH, observe
from ptq_export.nn.scheme import ORT_CPU

NAMES = ("body.0", "mix")


def test_limits_and_counts_are_those_of_all_pairs_at_once() -> None:
    denoiser = plain_denoiser()
    pairs = random_pairs(denoiser, 2 * BATCH + 3)
    seen: list[tuple[Tensor, Tensor]] = []
    handle = denoiser.module.get_submodule("body.0").register_forward_hook(lambda _, x, y: seen.append((x[0], y)))
    denoiser(pairs.sample, pairs.timestep)
    handle.remove()
    found = observe(denoiser, pairs, NAMES, ORT_CPU)["body.0"]
    assert found.output is not None
    for histogram, wanted in ((found.input, seen[0][0]), (found.output, seen[0][1])):
        torch.testing.assert_close(histogram.limits.low, wanted.amin((0, 2, 3)).clamp(max=0))
        torch.testing.assert_close(histogram.limits.high, wanted.amax((0, 2, 3)).clamp(min=0))
        assert histogram.counts.sum(1).tolist() == [len(pairs) * 25] * wanted.shape[1]


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_convolutions_follow_the_scheme_and_linears_have_one_input_range(granularity: str) -> None:
    denoiser = plain_denoiser()
    scheme = replace(ORT_CPU, conv_input=granularity, conv_output=granularity)
    found = observe(denoiser, random_pairs(denoiser, 3), NAMES, scheme)
    rows = 6 if granularity == "channel" else 1
    assert found["body.0"].output is not None
    assert (len(found["body.0"].input.counts), len(found["body.0"].output.counts)) == (rows, rows)
    assert len(found["mix"].input.counts) == 1 and found["mix"].output is None


def test_observing_changes_nothing_in_the_network() -> None:
    denoiser = plain_denoiser()
    before = {name: value.clone() for name, value in denoiser.module.state_dict().items()}
    observe(denoiser, random_pairs(denoiser, 3), NAMES, ORT_CPU)
    assert all(torch.equal(value, before[name]) for name, value in denoiser.module.state_dict().items())
    assert not any(module._forward_hooks for module in denoiser.module.modules() if isinstance(module, nn.Module))
