"""`package.module:factory`: modules and denoisers of the user's own code, and every way that it can fail."""

import sys
from pathlib import Path

import pytest
import torch

from ptq_export.checkpoints import load_checkpoint
from ptq_export.errors import InputError

CODE = """
import threading
import torch
from torch import nn
from collections import namedtuple
from types import SimpleNamespace
from ptq_export.denoiser import Denoiser, NoiseSchedule, Source
from ptq_export.interface import label

Answer = namedtuple("Answer", "logits eps")

class Net(nn.Module):
    sample_shape = (1, 4, 4)

    def __init__(self, answer="tensor", weight=0.5):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(weight, dtype=torch.float64))
        self.answer = answer

    def forward(self, sample, timestep, label=None):
        eps = self.scale * sample + timestep.view(-1, 1, 1, 1).float()
        answers = {
            "tensor": eps, "output": SimpleNamespace(sample=eps), "wide": torch.cat([eps, eps], 1),
            "tuple": (eps, None), "dict": {"noise": eps, "step": 3}, "named": Answer(None, eps),
            "two": {"eps": eps, "variance": eps}, "none": {"eps": 3},
        }
        return answers[self.answer]

plain = Net
def output(): return Net("output")
def tuple_(): return Net("tuple")
def dict_(): return Net("dict")
def named(): return Net("named")
def two(): return Net("two")
def none(): return Net("none")
def locked():
    net = Net()
    net.lock = threading.Lock()
    return net
def by_dict():
    net = Net()
    net.forward = lambda batch: batch["sample"]
    return net
def wide(): return Net("wide")
def nan(): return Net(weight=float("nan"))
def denoiser():
    return Denoiser(Net(), NoiseSchedule(num_train_timesteps=7), (1, 4, 4), Source("", "", "", True, ("mine",)))
def conditional():
    schedule = NoiseSchedule(variance_type="learned_range")
    return Denoiser(Net("wide"), schedule, (1, 4, 4), Source("", "", ""), (label(3),))
def narrow(): return Denoiser(Net(), NoiseSchedule(variance_type="learned"), (1, 4, 4), Source("", "", ""))
class Pair(nn.Module):
    def forward(self, x): return x, x
class Paired(nn.Module):
    def __init__(self):
        super().__init__()
        self.pair, self.last = Pair(), nn.Conv2d(1, 1, 1)
    def forward(self, sample, timestep): return self.last(self.pair(sample)[0])
def blocks(): return Denoiser(Paired(), NoiseSchedule(), (1, 4, 4), Source("", "", ""), blocks=(nn.Conv2d,))
def named_blocks(): return Denoiser(Paired(), NoiseSchedule(), (1, 4, 4), Source("", "", ""), blocks=("Pair",))
def pairs(): return Denoiser(Paired(), NoiseSchedule(), (1, 4, 4), Source("", "", ""), blocks=(Pair,))
def shapeless(): return nn.Conv2d(1, 1, 1)
def number(): return 3
def broken(): raise ValueError("no weights here")
def unlike():
    net = nn.Conv2d(1, 1, 1)
    net.sample_shape = (1, 4, 4)
    return net
constant = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_net.py").write_text(CODE)
    (tmp_path / "own_broken.py").write_text("raise RuntimeError('not today')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("own_net", "own_broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize("factory", ["plain", "output", "tuple_", "dict_", "named"])
def test_module_is_called_as_sample_timestep(factory: str) -> None:
    denoiser = load_checkpoint(f"own_net:{factory}")
    sample = torch.ones(2, 1, 4, 4)
    eps = denoiser(sample, torch.tensor([1, 2]))
    assert torch.equal(eps, torch.tensor([1.5, 2.5]).view(2, 1, 1, 1).expand_as(sample))
    assert denoiser.sample_shape == (1, 4, 4)
    assert not denoiser.module.training
    assert {(p.dtype, p.requires_grad) for p in denoiser.module.parameters()} == {(torch.float32, False)}


@pytest.mark.parametrize(
    ("factory", "part"),
    [("output", "SimpleNamespace: its .sample"), ("tuple_", "tuple: its [0]"), ("dict_", "dict: its ['noise']")],
)
def test_the_part_of_an_answer_that_is_taken_is_told(factory: str, part: str) -> None:
    assert f"the net answers a {part} is taken for its prediction" in load_checkpoint(f"own_net:{factory}").source.notes


def test_source_of_a_module_tells_its_class_and_digest() -> None:
    source = load_checkpoint("own_net:plain").source
    assert (source.spec, source.format, source.ema) == ("own_net:plain", "python factory", None)
    assert source.architecture == {"class": "own_net.Net"}
    assert len(source.sha256) == 64
    assert any("noise schedule assumed" in note for note in source.notes)


def test_denoiser_keeps_its_schedule_and_notes() -> None:
    denoiser = load_checkpoint("own_net:denoiser")
    assert denoiser.schedule.num_train_timesteps == 7
    assert (denoiser.source.ema, denoiser.source.notes) == (True, ("mine",))
    assert denoiser.source.sha256 == load_checkpoint("own_net:denoiser").source.sha256 != ""


def test_denoiser_keeps_its_blocks() -> None:
    denoiser = load_checkpoint("own_net:blocks")
    assert denoiser.blocks == (torch.nn.Conv2d,)
    assert not any(module._forward_hooks for module in denoiser.module.modules())


def test_resolution_replaces_height_and_width() -> None:
    assert load_checkpoint("own_net:plain", resolution=6).sample_shape == (1, 6, 6)


def test_denoiser_may_take_labels_and_learn_its_variance() -> None:
    denoiser = load_checkpoint("own_net:conditional")
    assert (denoiser.classes, denoiser.schedule.learns_variance) == (3, True)


def test_only_the_schedule_can_be_assumed() -> None:
    with pytest.raises(InputError, match="own_net:plain has no 'heads'"):
        load_checkpoint("own_net:plain", assume={"heads": "4"})


@pytest.mark.parametrize(
    ("spec", "cause"),
    [
        ("no_such_package.module:make", "there is no module 'no_such_package'"),
        ("own_net:absent", "absent"),
        ("own_net:constant", "constant is not callable"),
        ("own_net:number", "returned an object of type int"),
        ("own_net:shapeless", "no sample_shape"),
        ("own_net:broken", "no weights here"),
        ("own_net:unlike", "the net fails on a sample [2, 1, 4, 4]"),
        ("own_net:wide", "answers [2, 2, 4, 4] to a sample [2, 1, 4, 4]"),
        ("own_net:narrow", "answers [2, 1, 4, 4] to a sample [2, 1, 4, 4]"),
        ("own_net:two", "answers a dict of 2 tensors (['eps'], ['variance'])"),
        ("own_net:none", "answers a dict of no tensor"),
        ("own_net:named_blocks", "blocks = ('Pair',) are no classes"),
        ("own_net:pairs", "Pair answers a tuple, not a tensor"),
        ("own_net:by_dict", "the net fails on a sample [2, 1, 4, 4]"),
        ("own_net:locked", "the net cannot be copied"),
        ("own_net:nan", "holds NaN"),
        ("own_broken:make", "not today"),
    ],
)
def test_failure_of_the_users_code_is_told_with_a_remedy(spec: str, cause: str) -> None:
    with pytest.raises(InputError) as caught:
        load_checkpoint(spec)
    assert cause in caught.value.cause
    assert caught.value.remedy
