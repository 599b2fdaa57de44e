"""Files that claim more than they hold: refused before memory is taken for what they claim."""

import copy
import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from ddim_reference import State
from safetensors.torch import save_file

from ptq_export.checkpoints import load_checkpoint
from ptq_export.errors import InputError

MEGABYTE = 1 << 20


def _peak_bytes() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) << 10


@contextmanager
def _grows_at_most(limit_bytes: int) -> Iterator[None]:
    """The block raises the peak of this process's resident memory by no more than `limit_bytes`."""
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        pytest.skip("only Linux tells a process the peak of its memory")
    reset.write_text("5")
    before = _peak_bytes()
    yield
    assert _peak_bytes() - before < limit_bytes


def _refusal(path: Path) -> str:
    with _grows_at_most(24 * MEGABYTE), pytest.raises(InputError) as caught:
        load_checkpoint(str(path))
    assert caught.value.remedy
    return caught.value.cause


def _unpacked(path: Path) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        return [(record.filename, archive.read(record)) for record in archive.infolist()]


def test_torch_file_with_compressed_records_is_not_unpacked(tmp_path: Path) -> None:
    torch.save({"conv_in.weight": torch.zeros(64 * MEGABYTE // 4)}, tmp_path / "large.pt")
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in _unpacked(tmp_path / "large.pt"):
            archive.writestr(name, data)
    assert (tmp_path / "bomb.pt").stat().st_size < MEGABYTE
    assert "torch writes each record once, uncompressed" in _refusal(tmp_path / "bomb.pt")


def test_torch_file_whose_records_overlap_is_not_unpacked(tmp_path: Path) -> None:
    torch.save({"conv_in.weight": torch.zeros(MEGABYTE // 4)}, tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w") as archive:
        for name, data in _unpacked(tmp_path / "model.pt"):
            archive.writestr(name, data)
        record = next(record for record in archive.filelist if record.filename.endswith("/data/0"))
        for index in range(1, 100):
            archive.filelist.append(copy.copy(record))
            archive.filelist[-1].filename = f"bomb/data/{index}"
    assert "unpacks from 1.1 MB to 104.9 MB" in _refusal(tmp_path / "bomb.pt")


@pytest.mark.parametrize("place", ["before", "comment"])
def test_archive_within_another_file_is_refused(place: str, ddim_state: State, tmp_path: Path) -> None:
    """Two readers of zip could take two directories for the file's."""
    torch.save(ddim_state, tmp_path / "model.pt")
    whole = (tmp_path / "model.pt").read_bytes()
    if place == "before":
        (tmp_path / "model.pt").write_bytes(whole[:64] + whole)
    else:
        with zipfile.ZipFile(tmp_path / "model.pt", "a") as archive:
            archive.comment = b"more"
    assert "inside another file" in _refusal(tmp_path / "model.pt")


def test_tensors_that_repeat_a_few_values_are_not_laid_out(ddim_state: State, tmp_path: Path) -> None:
    wide = {name: torch.zeros(1).expand([32 * size for size in tensor.shape]) for name, tensor in ddim_state.items()}
    torch.save(wide, tmp_path / "model.pt")
    assert "repeats few values up to the shape" in _refusal(tmp_path / "model.pt")


def test_many_names_for_one_tensor_are_not_laid_out(ddim_state: State, tmp_path: Path) -> None:
    shared = torch.zeros(MEGABYTE // 4)
    torch.save({**ddim_state, **{f"mid.{index}": shared for index in range(500)}}, tmp_path / "model.pt")
    assert "but its tensors would take 52" in _refusal(tmp_path / "model.pt")


def test_tied_tensors_are_loaded(ddim_state: State, tmp_path: Path) -> None:
    ddim_state["mid.block_2.norm2.bias"] = ddim_state["mid.block_2.norm1.bias"]
    torch.save(ddim_state, tmp_path / "model.pt")
    assert load_checkpoint(str(tmp_path / "model.pt")).source.ema is None


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("claim", ["sparse", "nested", "meta"])
def test_tensors_of_other_kinds_are_refused_at_their_claimed_size(
    claim: str, ddim_state: State, tmp_path: Path
) -> None:
    indices, values = torch.zeros(1, 1, dtype=torch.int64), torch.ones(1)
    ddim_state["mid.block_2.norm2.bias"] = {
        "sparse": lambda: torch.sparse_coo_tensor(indices, values, (1 << 40,), check_invariants=True),
        "nested": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.strided),
        "meta": lambda: torch.empty(1 << 40, device="meta"),
    }[claim]()
    torch.save(ddim_state, tmp_path / "model.pt")
    assert "model.pt" in _refusal(tmp_path / "model.pt")


def _edit(folder: Path, **changes: object) -> Path:
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    return folder


MANY = 100_000


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"layers_per_block": 10**9}, "asks for 4000000002 residual blocks"),
        (
            {
                "block_out_channels": [32] * MANY,
                "down_block_types": ["DownBlock2D"] * MANY,
                "up_block_types": ["UpBlock2D"] * MANY,
            },
            "asks for 300000 residual blocks",
        ),
        ({"block_out_channels": [10**7, 10**7]}, "the net needs [10000000, 1, 3, 3]"),
        ({"block_out_channels": [2**62, 2**62]}, "does not describe a UNet2DModel"),
        ({"num_class_embeds": 10**13}, "lacks the tensors class_embedding.weight"),
        ({"sample_size": 1 << 20}, "one sample takes 140,737.5 GB in the net's first layer"),
    ],
    ids=["blocks", "levels", "widths", "widths beyond counting", "classes", "sample"],
)
def test_configuration_larger_than_its_file_is_refused(changes: dict[str, Any], cause: str, folder: Path) -> None:
    assert cause in _refusal(_edit(folder, **changes))


@pytest.mark.parametrize("text", ["[" * MANY, '{"a": ' * MANY, '{"layers_per_block": ' + "9" * 5000 + "}"])
@pytest.mark.parametrize("file", ["unet/config.json", "scheduler/scheduler_config.json"])
def test_json_without_end_is_refused(file: str, text: str, folder: Path) -> None:
    (folder / file).write_text(text)
    assert f"{Path(file).name} cannot be read" in _refusal(folder)


@pytest.mark.parametrize("text", ["[" * MANY, '{"a": ' + "9" * 5000 + "}"], ids=["nested", "digits"])
def test_header_without_end_is_refused(text: str, ddim_state: State, tmp_path: Path) -> None:
    header = {"format": "ptq-export/unet2d", "unet": text, "scheduler": "{}", "training": "{}"}
    save_file(ddim_state, tmp_path / "model.safetensors", metadata=header)
    assert "no readable 'unet' in its header" in _refusal(tmp_path / "model.safetensors")
