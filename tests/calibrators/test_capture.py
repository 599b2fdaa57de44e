"""Units' data come from forwards that are suspended between them: as a forward of their own would give, at its cost."""

import pytest
import torch
from calibrators_toys import denoiser_of, random_pairs, unet_denoiser
from torch import Tensor, nn

from ptq_export.calibrators.capture import BATCH, Frontier
from ptq_export.calibrators.live_bytes import bytes_to_suspend
from ptq_export.denoiser import Denoiser
from ptq_export.pairs import Pairs

COUNT = 2 * BATCH + 3


class Chain(nn.Module):
    """Linear layers, called from a list that was made before the first one."""

    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(depth))

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        x = sample
        for layer in list(self.layers):
            x = torch.relu(layer(x)) + x
        return x


class Forgetful(Chain):
    """Keeps its skip on itself, where another forward overwrites it."""

    skip: Tensor

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        self.skip = sample
        return super().forward(sample, timestep) + self.skip


def chain(kind: type[Chain] = Chain) -> Denoiser:
    return denoiser_of(kind(), (1, 5, 5))


def own_forward(model: nn.Module, unit: str, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """What a unit reads and makes in whole forwards of the network."""
    read: list[Tensor] = []
    made: list[Tensor] = []

    def record(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        read.append(inputs[0])
        made.append(output)

    with model.get_submodule(unit).register_forward_hook(record), torch.no_grad():
        for batch in pairs.batches(BATCH):
            batch.through(model)
    return torch.cat(read), torch.cat(made)


@pytest.mark.parametrize(
    ("kind", "max_bytes", "held"), [(Chain, 1, 0), (Chain, 2 * BATCH * 200, 1), (Chain, None, 3), (Forgetful, None, 0)]
)
def test_data_are_those_of_a_forward_of_their_own_behind_replaced_layers(
    kind: type[Chain], max_bytes: int | None, held: int
) -> None:
    denoiser, model = chain(kind), chain(kind).module
    pairs, units = random_pairs(denoiser, COUNT), [f"layers.{index}" for index in range(4)]
    with Frontier(denoiser.module, model, units, units, pairs, max_bytes) as frontier:
        for unit in units:
            wanted, found = frontier.take(unit)
            read, made = own_forward(denoiser.module, unit, pairs)
            assert torch.equal(wanted.call.args[0], read) and torch.equal(wanted.output, made)
            assert torch.equal(found.call.args[0], own_forward(model, unit, pairs)[0])
            assert torch.equal(found.output, made)
            model.set_submodule(unit, nn.Sequential(nn.Hardtanh(-0.5, 0.5), nn.Linear(5, 5)))
    assert frontier.held == held


def test_every_batch_goes_through_each_network_once() -> None:
    """Quadratic before: a forward for each unit, 4 of them in a chain of 4."""
    denoiser, model = chain(), chain().module
    pairs, units = random_pairs(denoiser, COUNT), [f"layers.{index}" for index in range(4)]
    calls = dict.fromkeys((denoiser.module, model), 0)

    def count(layer: nn.Module, _: object, __: object) -> None:
        calls[model if layer is model.get_submodule("layers.0") else denoiser.module] += 1

    for network in calls:
        network.get_submodule("layers.0").register_forward_hook(count)
    with Frontier(denoiser.module, model, units, units, pairs) as frontier:
        for unit in units:
            frontier.take(unit)
    assert calls == {denoiser.module: 3 + 4, model: 3}, "two more of the first, suspended and straight, say what fits"


def test_a_unit_that_was_passed_is_reached_from_the_start() -> None:
    denoiser, model = chain(), chain().module
    pairs, units = random_pairs(denoiser, COUNT), [f"layers.{index}" for index in range(4)]
    with Frontier(denoiser.module, model, units, units, pairs) as frontier:
        late, early = (frontier.take(unit)[0] for unit in ("layers.2", "layers.0"))
    assert torch.equal(late.output, own_forward(denoiser.module, "layers.2", pairs)[1])
    assert torch.equal(early.output, own_forward(denoiser.module, "layers.0", pairs)[1])


def test_a_block_s_call_is_bound_and_its_layers_are_quantised_when_it_goes_on() -> None:
    denoiser, model = unet_denoiser(), unet_denoiser().module
    pairs = random_pairs(denoiser, BATCH + 2)
    units = ["unet.mid_block.resnets.0", "unet.mid_block.attentions.0"]
    with Frontier(denoiser.module, model, [f"{units[0]}.conv1"], units, pairs) as frontier:
        wanted, _ = frontier.take(units[0])
        assert len(wanted.call.tensors) == 2 and all(len(value) == len(pairs) for value in wanted.call.tensors)
        model.set_submodule(f"{units[0]}.conv1", nn.Conv2d(64, 64, 3, padding=1))
        wanted, found = frontier.take(units[1])
    assert torch.equal(found.call.args[0], own_forward(model, units[1], pairs)[0])
    assert not torch.equal(found.call.args[0], wanted.call.args[0])


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_a_forward_raises_comes_out_and_the_suspended_ones_are_unwound(error: type[BaseException]) -> None:
    unwound: list[int] = []

    class Raises(Chain):
        def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
            try:
                return super().forward(sample, timestep)
            finally:
                unwound.append(len(sample))

    denoiser, model = chain(Raises), chain(Raises).module
    units = [f"layers.{index}" for index in range(4)]
    before = {name: set(vars(module)) for name, module in denoiser.module.named_modules()}
    with (
        pytest.raises(error),
        Frontier(denoiser.module, model, units, units, random_pairs(denoiser, COUNT)) as frontier,
    ):
        frontier.take("layers.1")
        assert (frontier.held, unwound) == (3, 4 * [1])

        def stop(*_: object) -> None:
            raise error

        model.get_submodule("layers.2").register_forward_pre_hook(stop)
        frontier.take("layers.3")
    assert sorted(unwound[4:]) == sorted(2 * [3, BATCH, BATCH])
    assert {name: set(vars(module)) for name, module in denoiser.module.named_modules()} == before
    assert torch.is_grad_enabled()


def test_what_is_alive_between_units_is_counted_in_bytes() -> None:
    """What a layer reads and makes, 25 numbers each; a network with a memory cannot be suspended."""
    denoiser = chain()
    units, pairs = [f"layers.{index}" for index in range(4)], random_pairs(denoiser, 2)
    assert bytes_to_suspend(denoiser.module, units, pairs) == 2 * 25 * 4
    assert bytes_to_suspend(chain(Forgetful).module, units, pairs) == float("inf")
    assert bytes_to_suspend(denoiser.module, [*units, units[0]], pairs) == float("inf")
