"""The contract of every engine: what it takes, what it refuses, and that it returns the kind that it was given."""

import subprocess
import sys
from collections.abc import Mapping

import numpy as np
import pytest
import torch

from ptq_export.engines.base import Engine, EngineOptions, Signature
from ptq_export.engines.exported_layers import LayerRecord
from ptq_export.errors import InputError
from ptq_export.interface import Input, label


class Shift(Engine):
    """eps = sample + t + label."""

    def run(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        sample, *rest = (feeds[each.name] for each in self.signature.inputs)
        assert sample.flags.c_contiguous
        assert all(values.dtype == np.int64 and values.shape == (len(sample),) for values in rest)
        return sample + sum(rest).astype(np.float32)[:, None, None, None]

    def executed_layers(self, expected: object) -> list[LayerRecord]:
        return []

    def layer_times_ms(self, inputs: object) -> dict[str, float]:
        return {}

    @staticmethod
    def run_graph(model: bytes, inputs: object) -> np.ndarray:
        return np.zeros(0, np.float32)


INPUTS = (Input("sample", "float32", (2, 4, 4)), Input("timestep", "int64"))
ENGINE = Shift(Signature(INPUTS, 2, num_train_timesteps=10))
LABELLED = Shift(Signature((*INPUTS, label(5)), 2, num_train_timesteps=10))
SAMPLE = np.zeros((3, 2, 4, 4), np.float32)


@pytest.mark.parametrize(
    "timestep", [3, np.int32(3), np.full(3, 3), np.array([3.0]), torch.tensor(3), torch.full((3,), 3.0)], ids=repr
)
def test_one_timestep_serves_the_whole_batch(timestep: object) -> None:
    assert np.array_equal(ENGINE(SAMPLE, timestep), np.full_like(SAMPLE, 3))


def test_each_sample_has_its_own_timestep() -> None:
    assert ENGINE(SAMPLE, np.array([0, 9, 4]))[:, 0, 0, 0].tolist() == [0, 9, 4]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_not_finite_is_refused(value: float) -> None:
    sample = SAMPLE.copy()
    sample[2, 1, 3, 3] = value
    for given in (sample, torch.from_numpy(sample)):
        with pytest.raises(InputError, match="NaN or infinite"):
            ENGINE(given, 3)


def test_a_sample_whose_square_overflows_is_a_sample() -> None:
    assert np.isfinite(ENGINE(SAMPLE + np.float32(3e38), 0)).all()


def test_a_tensor_comes_back_as_a_tensor() -> None:
    sample = torch.zeros(3, 4, 4, 2, requires_grad=True).permute(0, 3, 1, 2)
    eps = ENGINE(sample, torch.tensor([1, 2, 3]))
    assert isinstance(eps, torch.Tensor) and eps.dtype == torch.float32
    assert eps[:, 0, 0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("timestep", [-1, 10, 2.5, float("nan"), True, "3", None, [1, 2], [[1, 2, 3]], [0, 0, 10]])
def test_a_timestep_that_was_never_trained_is_refused(timestep: object) -> None:
    with pytest.raises(InputError, match="time-step"):
        ENGINE(SAMPLE, timestep if np.isscalar(timestep) or timestep is None else np.array(timestep))


@pytest.mark.parametrize("timestep", [torch.tensor(2.0).half(), torch.tensor(2.0).bfloat16(), np.float16(2)], ids=repr)
def test_a_timestep_in_half_precision_is_refused(timestep: object) -> None:
    with pytest.raises(InputError, match="rounds 2049 to 2048"):
        ENGINE(SAMPLE, timestep)


@pytest.mark.parametrize("shape", [(3, 1, 4, 4), (3, 2, 4, 8), (2, 4, 4), (0, 2, 4, 4), (3, 2, 16)], ids=str)
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"takes \[N, 2, 4, 4\]"):
        ENGINE(np.zeros(shape, np.float32), 0)


@pytest.mark.parametrize(
    "sample", [SAMPLE.astype(np.float64), torch.zeros(3, 2, 4, 4).bfloat16(), torch.zeros(3, 2, 4, 4).long(), "noise"]
)
def test_another_type_is_refused(sample: object) -> None:
    with pytest.raises(InputError, match="takes float32"):
        ENGINE(sample, 0)


def test_a_fixed_batch_serves_that_batch_only() -> None:
    engine = Shift(Signature(INPUTS, 2, batch=3))
    assert engine(SAMPLE, 999).shape == SAMPLE.shape
    with pytest.raises(InputError, match="batch 2, this engine was compiled for batch 3"):
        engine(SAMPLE[:2], 0)


@pytest.mark.parametrize("given", [4, np.full(3, 4), torch.full((3,), 4)], ids=repr)
def test_labels_reach_a_class_conditional_engine(given: object) -> None:
    assert np.array_equal(LABELLED(SAMPLE, 2, label=given), np.full_like(SAMPLE, 6))


@pytest.mark.parametrize(
    ("engine", "given", "message"),
    [
        (LABELLED, None, "conditional: label .N. int64 is missing"),
        (LABELLED, 5, r"label 5 is out of range\nknown: 0\.\.4"),
        (LABELLED, [1, 2], "label has 2 rows, the sample 3"),
        (LABELLED, 1.5, "not an integer"),
        (ENGINE, 1, "no input label"),
    ],
)
def test_a_label_that_does_not_fit_is_refused(engine: Engine, given: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        engine(SAMPLE, 0, label=given)


def test_engines_are_imported_without_torch() -> None:
    code = "import sys, ptq_export.engines.ort.engine, ptq_export.engines; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


RAGGED = [[1.0], [1.0, 2.0]]
VIEW = torch.zeros(3, 2, 4, 4, dtype=torch.complex64).conj().imag  # values whose sign is not applied yet


@pytest.mark.parametrize(
    "sample",
    [
        RAGGED,
        SAMPLE.tolist(),
        SAMPLE.astype(object),
        SAMPLE.astype(bool),
        SAMPLE.astype(np.complex64),
        SAMPLE.astype(">f4"),
        np.float32(0),
        np.zeros(0, np.float32),
        np.zeros((3, 2, 0, 4), np.float32),
        None,
        {"sample": SAMPLE},
        torch.zeros(3, 2, 4, 4, device="meta"),
        torch.zeros(3, 2, 4, 4, dtype=torch.complex64),
        torch.zeros(3, 2, 4, 4, dtype=torch.bool),
    ],
    ids=lambda value: f"{type(value).__name__} {getattr(value, 'dtype', '')}",
)
def test_what_is_no_array_of_samples_is_refused(sample: object) -> None:
    with pytest.raises(InputError, match="sample is"):
        ENGINE(sample, 0)


@pytest.mark.parametrize(
    "timestep",
    [
        RAGGED,
        {"t": 1},
        2**70,
        1e30,
        np.uint64(2**63),
        1 + 0j,
        np.array([0, 1, None]),
        np.zeros(0, np.int64),
        torch.zeros(3, dtype=torch.int64, device="meta"),
        torch.zeros(3, dtype=torch.complex64),
        torch.zeros(3, dtype=torch.bool),
        torch.zeros(4, dtype=torch.int64),
    ],
    ids=repr,
)
@pytest.mark.parametrize("engine", [ENGINE, Shift(Signature(INPUTS, 2))], ids=["T known", "T not known"])
def test_what_is_no_timestep_is_refused(engine: Engine, timestep: object) -> None:
    with pytest.raises(InputError, match="time-step"):
        engine(SAMPLE, timestep)


@pytest.mark.parametrize(
    "sample",
    [SAMPLE[::-1], SAMPLE.swapaxes(2, 3), np.asfortranarray(SAMPLE), VIEW, torch.zeros(3, 2, 4, 4).to_sparse()],
    ids=["reversed", "transposed", "fortran", "unsigned view", "sparse"],
)
def test_samples_in_any_order_of_memory_are_taken(sample: object) -> None:
    assert np.array_equal(np.asarray(ENGINE(sample, 2)), np.full_like(SAMPLE, 2))


@pytest.mark.parametrize("threads", [0, -1, 100_000, 10**30])
def test_threads_that_no_machine_has_are_refused(threads: int) -> None:
    with pytest.raises(InputError, match="threads: this machine has"):
        EngineOptions(threads=threads)
