"""Calibration pairs are what the network saw; the user's own are checked before anything is computed."""

import io
import json
import os
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from calibrators_toys import Recorder, denoiser_of
from safetensors.torch import save_file
from torch import Tensor, nn

from ptq_export.calibrators.pairs import collect_pairs, load_pairs
from ptq_export.denoiser import Denoiser
from ptq_export.errors import InputError
from ptq_export.interface import label
from ptq_export.pairs import Pairs

SHAPE = (1, 4, 4)


def recorder() -> Denoiser:
    return denoiser_of(Recorder(), SHAPE)


def collected(policy: str = "ndtc", count: int = 6, batch: int = 4) -> tuple[Pairs, Recorder]:
    denoiser = recorder()
    pairs = collect_pairs(denoiser, count, 5, policy, 11, lambda _: None, batch)
    assert isinstance(denoiser.module, Recorder)
    return pairs, denoiser.module


@pytest.mark.parametrize("policy", ["ndtc", "uniform", "single"])
def test_each_pair_is_a_sample_and_the_time_that_the_network_saw_with_it(policy: str) -> None:
    pairs, net = collected(policy)
    seen = [(x, t) for samples, times in net.calls for x, t in zip(samples, times, strict=True)]
    assert len(seen) <= 6 * 5
    for sample, timestep in zip(pairs.sample, pairs.timestep, strict=True):
        assert any(torch.equal(sample, x) and timestep == t for x, t in seen)


def test_every_pair_comes_from_a_trajectory_of_its_own() -> None:
    pairs, net = collected("single", count=6, batch=6)
    at_that_time = [samples for samples, times in net.calls if times[0] == pairs.timestep[0]]
    assert len(at_that_time) == 1 and torch.equal(pairs.sample, at_that_time[0])


def test_as_released_stores_the_next_sample_under_the_loop_index() -> None:
    pairs, net = collected("as-released", count=40, batch=40)
    following = {index: set(map(_bytes, call[0])) for index, call in enumerate(net.calls[1:])}
    for sample, index in zip(pairs.sample, pairs.timestep.tolist(), strict=True):
        if index < 4:
            assert _bytes(sample) in following[index]
    assert set(pairs.timestep.tolist()) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_neither_batch_size_nor_the_global_generator_matters(batch: int) -> None:
    wanted, _ = collected(batch=6)
    torch.manual_seed(batch)
    state = torch.get_rng_state()
    pairs, _ = collected(batch=batch)
    assert torch.equal(pairs.sample, wanted.sample) and torch.equal(pairs.timestep, wanted.timestep)
    assert torch.equal(torch.get_rng_state(), state)


def test_progress_adds_up_to_every_network_evaluation() -> None:
    told: list[int] = []
    collect_pairs(recorder(), 7, 5, "ndtc", 0, told.append, batch=4)
    assert sum(told) == 7 * 5


def test_a_trajectory_ends_with_the_last_step_that_is_wanted() -> None:
    _, net = collected("single", count=6, batch=6)
    assert len(net.calls) == 3


def _bytes(sample: Tensor) -> bytes:
    return sample.numpy().tobytes()


def good() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"sample": torch.randn(3, *SHAPE, generator=generator), "timestep": torch.tensor([0, 500, 999])}


def save(path: Path, tensors: dict[str, Tensor]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **{name: value.numpy() for name, value in tensors.items()})
    else:
        save_file(tensors, path)
    return path


@pytest.mark.parametrize("name", ["pairs.safetensors", "pairs.npz"])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16], ids=str)
def test_the_users_own_pairs_are_taken_in_either_format_and_any_precision(
    tmp_path: Path, name: str, kind: torch.dtype
) -> None:
    tensors = good()
    path = save(tmp_path / name, {"sample": tensors["sample"].to(kind), "timestep": tensors["timestep"].to(kind)})
    with torch.no_grad():
        pairs = load_pairs(path, recorder())
    assert pairs.sample.dtype == torch.float32 and pairs.timestep.dtype == torch.int64
    torch.testing.assert_close(pairs.sample, tensors["sample"], atol=2e-3, rtol=2e-3)
    assert pairs.timestep.tolist() == ([0, 500, 999])


BAD: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "no sample": (lambda arrays: arrays.pop("sample"), "no array sample"),
    "no timestep": (lambda arrays: arrays.pop("timestep"), "no array timestep"),
    "no arrays": (lambda arrays: (arrays.clear(), arrays.update(x=torch.zeros(1))), "no array sample and no array"),
    "other shape": (lambda arrays: arrays.update(sample=torch.zeros(3, 1, 4, 5)), r"\[3, 1, 4, 5\].* \[N, 1, 4, 4\]"),
    "no batch": (lambda arrays: arrays.update(sample=torch.zeros(SHAPE)), r"\[1, 4, 4\].* \[N, 1, 4, 4\]"),
    "empty": (lambda arrays: arrays.update(sample=torch.zeros(0, *SHAPE)), r"\[0, 1, 4, 4\]"),
    "another N": (lambda arrays: arrays.update(timestep=torch.tensor([1, 2])), "one integer per sample"),
    "fraction": (lambda arrays: arrays.update(timestep=torch.tensor([1.5, 2, 3])), "one integer per sample"),
    "NaN time": (lambda arrays: arrays.update(timestep=torch.tensor([torch.nan, 2, 3])), "one integer per sample"),
    "t = T": (lambda arrays: arrays.update(timestep=torch.tensor([0, 1, 1000])), r"lie in 0\.\.999"),
    "t < 0": (lambda arrays: arrays.update(timestep=torch.tensor([0, 1, -1])), r"lie in 0\.\.999"),
    "NaN": (lambda arrays: arrays["sample"].view(-1)[:1].fill_(torch.nan), "NaN or infinite"),
    "infinite": (lambda arrays: arrays["sample"].view(-1)[:1].fill_(torch.inf), "NaN or infinite"),
}


@pytest.mark.parametrize("name", ["pairs.safetensors", "pairs.npz"])
@pytest.mark.parametrize("flaw", BAD)
def test_unfit_pairs_are_refused_with_the_reason(tmp_path: Path, name: str, flaw: str) -> None:
    arrays = good()
    spoil, reason = BAD[flaw]
    spoil(arrays)
    with pytest.raises(InputError, match=reason) as refused:
        load_pairs(save(tmp_path / name, arrays), recorder())
    assert name in refused.value.cause and "sample [N, 1, 4, 4]" in refused.value.remedy


@pytest.mark.parametrize("name", ["pairs.safetensors", "pairs.npz"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99], ids=["empty", "half", "almost whole"])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, kept: float) -> None:
    path = save(tmp_path / name, good())
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError, match="cannot be used"):
        load_pairs(path, recorder())


@pytest.mark.parametrize("name", ["pairs.safetensors", "pairs.npz"])
def test_a_file_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_pairs(tmp_path / name, recorder())


def test_a_changed_byte_of_an_archive_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path / "pairs.npz", good())
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="CRC"):
        load_pairs(path, recorder())


class Bomb:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.witness,)


@pytest.mark.parametrize("form", ["object array", "bare pickle"])
def test_a_pickle_inside_is_refused_and_does_not_run(tmp_path: Path, form: str) -> None:
    path, witness = tmp_path / "pairs.npz", tmp_path / "ran"
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(Bomb(witness)))
    else:
        np.savez(path, sample=np.array([Bomb(witness)], dtype=object), timestep=np.zeros(1))
    with pytest.raises(InputError, match="cannot be used"):
        load_pairs(path, recorder())
    assert not witness.exists()


def test_a_plain_array_named_npz_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "pairs.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(InputError, match="cannot be used"):
        load_pairs(tmp_path / "pairs.npz", recorder())


def npz_of(path: Path, sample: bytes) -> Path:
    """A compressed archive whose `sample.npy` has these bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sample.npy", sample)
        archive.writestr("timestep.npy", npy(np.zeros(2)))
    return path


def npy(array: np.ndarray, shape: tuple[int, ...] | None = None) -> bytes:
    """An array in numpy's format; with `shape`, its header claims that one."""
    header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": shape or array.shape}
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + array.tobytes()


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (npy(np.zeros((2, *SHAPE), np.float32), (2**31, *SHAPE)), "claims the shape"),
        (npy(np.zeros((2, *SHAPE), np.float32), (2**62, 2**62, 1, 1)), "claims the shape"),
        (npy(np.zeros((2, *SHAPE), np.float32), (-2, *SHAPE)), "claims the shape"),
        (npy(np.zeros((1 << 21, *SHAPE), np.int8)), "GB"),
        (npy(np.zeros((2, *SHAPE), np.complex64)), "complex64"),
        (npy(np.zeros((2, *SHAPE), np.uint16)), "uint16"),
        (npy(np.zeros(2, [("a", "f4")])), "holds"),
    ],
    ids=["huge", "more than 2^64", "negative", "bomb", "complex", "uint16", "records"],
)
def test_an_array_is_judged_by_its_header_before_anything_is_allocated(
    tmp_path: Path, sample: bytes, reason: str
) -> None:
    path = npz_of(tmp_path / "pairs.npz", sample)
    tracemalloc.start()
    with pytest.raises(InputError, match=reason):
        load_pairs(path, recorder())
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


@pytest.mark.parametrize("kind", ["U16", "U64", "C64", "F4", "BOOL", "F8_E4M3"])
def test_a_safetensors_type_that_is_no_float_is_refused(tmp_path: Path, kind: str) -> None:
    bits = {"F4": 4, "U16": 16, "U64": 64, "C64": 64}.get(kind, 8)
    count = 2 * int(np.prod(SHAPE))
    sizes = [count * bits // 8, count * bits // 8 + 16]
    entries = {"sample": {"dtype": kind, "shape": [2, *SHAPE], "data_offsets": [0, sizes[0]]}}
    entries["timestep"] = {"dtype": "I64", "shape": [2], "data_offsets": sizes}
    header = json.dumps(entries).encode()
    path = tmp_path / "pairs.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(sizes[1]))
    with pytest.raises(InputError, match=r"pairs\.safetensors"):
        load_pairs(path, recorder())


@pytest.mark.parametrize("name", ["pairs.safetensors", "pairs.npz"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="is a named pipe"):
        load_pairs(tmp_path / name, recorder())
    with pytest.raises(InputError, match="is a folder"):
        load_pairs(tmp_path, recorder())


class Labelled(nn.Module):
    """eps = label, remembering what went in."""

    def __init__(self) -> None:
        super().__init__()
        self.labels: list[Tensor] = []

    def forward(self, sample: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        self.labels.append(label.clone())
        return torch.zeros_like(sample) + label[:, None, None, None]


def labelled(classes: int = 5) -> Denoiser:
    return replace(denoiser_of(Labelled(), SHAPE), conditions=(label(classes),))


def test_labels_are_of_all_classes_and_stay_with_their_trajectory() -> None:
    denoiser = labelled()
    pairs = collect_pairs(denoiser, 40, 5, "uniform", 11, lambda _: None, batch=4)
    assert set(pairs.conditions["label"].tolist()) == set(range(5))
    assert isinstance(denoiser.module, Labelled)
    seen = {tuple(label.tolist()) for label in denoiser.module.labels}
    assert sorted(value for row in seen for value in row) == sorted(pairs.conditions["label"].tolist()), (
        "a batch keeps its labels"
    )
    assert [set(batch.conditions) for batch in pairs.batches(16)] == [{"label"}] * 3


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, "no array label"),
        (torch.tensor([0, 5]), r"labels must lie in 0\.\.4"),
        (torch.tensor([0, -1]), r"labels must lie in 0\.\.4"),
        (torch.tensor([0.0, 1.0]), "one integer per sample"),
        (torch.tensor([0]), "one integer per sample"),
    ],
)
def test_unfit_labels_are_refused(tmp_path: Path, label: Tensor | None, message: str) -> None:
    arrays = {"sample": torch.zeros(2, *SHAPE), "timestep": torch.tensor([0, 1])}
    save_file(arrays | ({} if label is None else {"label": label}), tmp_path / "pairs.safetensors")
    with pytest.raises(InputError, match=message):
        load_pairs(tmp_path / "pairs.safetensors", labelled())


def test_labels_of_a_file_are_taken(tmp_path: Path) -> None:
    arrays = {"sample": torch.zeros(2, *SHAPE), "timestep": torch.tensor([0, 1]), "label": torch.tensor([4, 0])}
    save_file(arrays, tmp_path / "pairs.safetensors")
    pairs = load_pairs(tmp_path / "pairs.safetensors", labelled())
    assert pairs.conditions["label"].tolist() == [4, 0]
