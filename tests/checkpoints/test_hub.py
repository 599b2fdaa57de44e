"""A hub id is answered with the command that downloads it; a path that is merely wrong is not called one."""

from pathlib import Path

import pytest

from ptq_export.checkpoints import load_checkpoint
from ptq_export.errors import InputError


def test_hub_id_is_answered_with_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="google/ddpm-cifar10-32 is no file or folder here") as caught:
        load_checkpoint("google/ddpm-cifar10-32")
    assert caught.value.exit_code == 2
    assert caught.value.remedy == (
        "hf download google/ddpm-cifar10-32 --local-dir ddpm-cifar10-32, and then --ckpt ddpm-cifar10-32"
    )


@pytest.mark.parametrize("spec", ["runs/model.pt", "here/absent", "a/b/c", "/absent/model", "absent"])
def test_wrong_path_is_not_called_a_hub_id(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(InputError, match="does not exist"):
        load_checkpoint(spec)
