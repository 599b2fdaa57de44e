"""A class-conditional denoiser with a learned variance, through the whole job and what follows it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import tiny
import torch
from safetensors.torch import load_file
from watcher import Watcher

from ptq_export.command_options import Sampling
from ptq_export.denoiser import Denoiser
from ptq_export.engines import load_engine
from ptq_export.engines.base import Signature
from ptq_export.errors import InputError
from ptq_export.pipeline import run, sample, verify
from ptq_export.sampling import initial_noise

NOISE, TIMES, LABELS = initial_noise((3, 1, 8, 8), 5), torch.tensor([0, 1700, 3999]), torch.tensor([0, 1, 2])


@pytest.fixture(scope="module")
def dropped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that makes eps alone."""
    return run(tiny.options(tmp_path_factory.mktemp("runs") / "dropped", tiny.CONDITIONAL))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that keeps the variance."""
    options = tiny.options(tmp_path_factory.mktemp("runs") / "kept", tiny.ONE_LEVEL)
    return run(replace(options, variance="keep", rounding="nearest"))


def test_proofs_hold_and_the_pairs_have_labels_of_all_classes(dropped: Path) -> None:
    manifest = json.loads((dropped / "manifest.json").read_text())
    assert manifest["verdict"]["ok"] is True
    denoiser = manifest["denoiser"]
    assert (denoiser["inputs"][2]["limit"], denoiser["schedule"]["variance_type"]) == (3, "fixed_small")
    label = load_file(dropped / "pairs.safetensors")["label"]
    assert label.dtype == torch.int64 and label.min() >= 0 and label.max() < tiny.CLASSES


@pytest.mark.parametrize(
    ("fixture", "network", "channels"), [("dropped", tiny.conditional, 1), ("kept", tiny.one_level, 2)]
)
def test_float_engine_answers_as_the_network(
    request: pytest.FixtureRequest, fixture: str, network: Callable[[], Denoiser], channels: int
) -> None:
    engine = load_engine(request.getfixturevalue(fixture), "ort-fp32")
    assert engine.signature == Signature(network().inputs, channels, None, 4000)
    expected = network()(NOISE, TIMES, label=LABELS)[:, :channels]
    torch.testing.assert_close(engine(NOISE, TIMES, label=LABELS), expected, rtol=0, atol=2e-5)


def test_int8_engine_hears_its_labels(dropped: Path) -> None:
    engine = load_engine(dropped)
    answers = [engine(NOISE, 1700, label=label) for label in range(tiny.CLASSES)]
    assert not torch.equal(answers[0], answers[1]) and not torch.equal(answers[1], answers[2])
    with pytest.raises(InputError, match=r"label \[N\] int64 is missing"):
        engine(NOISE, 1700)


def test_label_is_added_after_the_table_and_the_projections_are_one_gemm(dropped: Path) -> None:
    graph = onnx.load(dropped / "denoiser.fp32.onnx").graph
    operators = [node.op_type for node in graph.node]
    assert (operators.count("Gather"), operators.count("Gemm")) == (2, 1)
    assert [value.name for value in graph.input] == ["sample", "timestep", "label"]


@pytest.mark.parametrize(("fixture", "sampler"), [("dropped", "ddim"), ("kept", "ddpm"), ("kept", "dpm-solver++")])
def test_a_class_is_drawn(
    request: pytest.FixtureRequest, tmp_path: Path, watcher: Watcher, fixture: str, sampler: str
) -> None:
    folder = request.getfixturevalue(fixture)
    facts = sample(folder, Sampling(tmp_path / "a.png", 4, 2, sampler, label=2), watcher)
    sample(folder, Sampling(tmp_path / "b.png", 4, 2, sampler, label=0), watcher)
    assert facts["label"] == [2, 2, 2, 2]
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_ddpm_without_the_variance_that_the_net_learned_is_told(
    dropped: Path, kept: Path, tmp_path: Path, watcher: Watcher
) -> None:
    sample(kept, Sampling(tmp_path / "a.png", 4, 2, "ddpm"), watcher)
    sample(dropped, Sampling(tmp_path / "b.png", 4, 2, "ddim"), watcher)
    assert watcher.messages == []
    facts = sample(dropped, Sampling(tmp_path / "c.png", 4, 2, "ddpm"), watcher)
    assert "--variance keep" in facts["notes"][0] and watcher.messages == facts["notes"]


def test_class_out_of_range_is_refused(dropped: Path, tmp_path: Path, watcher: Watcher) -> None:
    with pytest.raises(InputError, match=r"class 3 is out of range\nthis engine knows the classes 0\.\.2"):
        sample(dropped, Sampling(tmp_path / "a.png", label=3), watcher)
    assert list(tmp_path.iterdir()) == []


def test_run_is_verified(kept: Path, watcher: Watcher) -> None:
    assert verify(kept, watcher, tiny.ONE_LEVEL)["parity"] > 0
