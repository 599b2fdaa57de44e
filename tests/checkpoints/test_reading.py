"""Opening files: nothing in them runs, and everything that is no checkpoint is refused with cause and remedy."""

import os
import pickle
import sys
import types
from pathlib import Path

import pytest
import torch
from ddim_reference import State
from safetensors.torch import save_file

from ptq_export.checkpoints import FORMATS, load_checkpoint
from ptq_export.checkpoints.reading import read_weights
from ptq_export.errors import InputError


class _Attack:
    """Pickled, it makes a file when somebody loads it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


def _refusal(path: Path | str) -> InputError:
    with pytest.raises(InputError) as caught:
        load_checkpoint(str(path))
    assert caught.value.remedy
    assert "weights_only" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("protocol", range(6))
def test_bare_pickle_is_refused_and_its_code_does_not_run(protocol: int, tmp_path: Path) -> None:
    path, trace = tmp_path / "model.pt", tmp_path / "trace"
    path.write_bytes(pickle.dumps({"weight": _Attack(trace)}, protocol=protocol))
    cause = _refusal(path).cause
    assert not trace.exists()
    assert protocol < 2 or "could run code" in cause
    pickle.loads(path.read_bytes())
    assert trace.exists(), "the attack is real"


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_in_a_torch_file_is_refused_and_does_not_run(zipped: bool, tmp_path: Path) -> None:
    path, trace = tmp_path / "model.pt", tmp_path / "trace"
    content = {"weight": torch.zeros(2), "extra": _Attack(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    cause = _refusal(path).cause
    assert not trace.exists()
    assert "mkdir: loading it could run code" in cause
    torch.load(path, weights_only=False)
    assert trace.exists(), "the attack is real"


def test_whole_pickled_module_is_refused_with_the_way_to_save_it(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    error = _refusal(tmp_path / "model.pt")
    assert "torch.nn.modules.linear.Linear" in error.cause
    assert "state_dict()" in error.remedy


@pytest.mark.parametrize("spec", ["absent.pt", "", "no/such/folder/model.pt", "x" * 5000, "nul\0.pt"])
def test_absent_file_is_refused(spec: str) -> None:
    assert _refusal(spec).exit_code == 2


def test_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt").touch()
    assert "is empty" in _refusal(tmp_path / "model.pt").cause


def test_gguf_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "unet-q4_0.gguf").write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(64))
    error = _refusal(tmp_path / "unet-q4_0.gguf")
    assert "is a GGUF file, which holds codes in place of weights" in error.cause
    assert "the float weights" in error.remedy


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.999])
def test_truncated_file_is_refused(kind: str, share: float, ddim_state: State, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    if kind == "safetensors":
        save_file(ddim_state, path)
    else:
        torch.save(ddim_state, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "damaged or truncated" in _refusal(path).cause


@pytest.mark.parametrize("content", [b"hello world\n" * 9, b"\x89PNG\r\n\x1a\n" + bytes(99), b"<html>", b"{}"])
def test_file_of_another_kind_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    assert "neither a torch file nor safetensors" in _refusal(tmp_path / "model.pt").cause


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_torchscript_archive_is_refused(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "model.pt")
    assert "TorchScript" in _refusal(tmp_path / "model.pt").cause


def test_device_file_is_refused() -> None:
    assert "not a regular file" in _refusal("/dev/null").cause


def test_folder_that_diffusers_did_not_write_is_refused(tmp_path: Path) -> None:
    assert "not a diffusers folder" in _refusal(tmp_path).cause


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (torch.zeros(3), "type Tensor"),
        ([1, 2], "type list"),
        ({}, "empty dict"),
        ({"epoch": 1, "loss": 0.5}, "'epoch', 'loss'"),
    ],
    ids=["tensor", "list", "empty", "numbers"],
)
def test_content_without_a_state_dict_is_described(content: object, found: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.pt")
    assert found in _refusal(tmp_path / "model.pt").cause


def test_unknown_net_shows_its_keys_and_the_formats_known(tmp_path: Path) -> None:
    torch.save({f"layer.{index}.weight": torch.zeros(1) for index in range(9)}, tmp_path / "model.pt")
    error = _refusal(tmp_path / "model.pt")
    assert "layer.0.weight, layer.1.weight" in error.cause
    assert "layer.8.weight" not in error.cause
    assert all(name in error.remedy for name in FORMATS)


def test_format_is_told_from_the_content_not_from_the_name(ddim_state: State, tmp_path: Path) -> None:
    save_file(ddim_state, tmp_path / "weights.pt")
    torch.save(ddim_state, tmp_path / "weights.safetensors")
    formats = {load_checkpoint(str(path)).source.format for path in tmp_path.iterdir()}
    assert formats == {"ermongroup/ddim"}


def test_loading_leaves_nothing_behind(ddim_state: State, tmp_path: Path) -> None:
    torch.save(ddim_state, tmp_path / "model.pt")
    load_checkpoint(str(tmp_path / "model.pt"))
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_lightning_classes_among_the_keys_are_passed_over(
    ddim_state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning 1.4, which wrote latent-diffusion's files: the states of callbacks by the callbacks' classes."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    owner = type("ModelCheckpoint", (), {"__module__": name})
    with monkeypatch.context() as context:
        for part in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
            context.setitem(sys.modules, part, types.ModuleType(part))
        sys.modules[name].ModelCheckpoint = owner
        torch.save({"state_dict": ddim_state, "callbacks": {owner: {"best_model_path": ""}}}, tmp_path / "last.ckpt")
    assert set(read_weights(tmp_path / "last.ckpt", "").tensors) == set(ddim_state)
    assert name not in sys.modules


def test_pickle_that_carries_its_code_is_named(tmp_path: Path) -> None:
    """What NVlabs/edm writes begins with a call of this function."""
    (tmp_path / "edm.pkl").write_bytes(b"\x80\x04ctorch_utils.persistence\n_reconstruct_persistent_obj\n.")
    with pytest.raises(InputError, match=r"torch_utils.persistence \(EDM, EDM2, StyleGAN\)"):
        read_weights(tmp_path / "edm.pkl", "")
