"""Engine kinds: what is here, what is missing and what to do about it."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from ptq_export.engines import availability, build_engine
from ptq_export.errors import EnvironmentMissing, InputError
from ptq_export.targets import TARGETS

without_tensorrt = pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed here")


def test_onnx_runtime_is_available() -> None:
    assert availability("ort") == (True, "")


@without_tensorrt
def test_missing_tensorrt_is_named_with_the_remedy(tmp_path: Path) -> None:
    message = "the package tensorrt is not installed: pip install tensorrt (it needs an NVIDIA GPU)"
    assert availability("trt") == (False, message)
    with pytest.raises(EnvironmentMissing) as caught:
        build_engine("trt", tmp_path / "denoiser.onnx", tmp_path / "engine")
    assert caught.value.exit_code == 3 and "pip install tensorrt" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_kind_lists_the_known_and_offers_the_nearest() -> None:
    with pytest.raises(InputError, match=r"did you mean ort\? known: jetson, ort, trt"):
        availability("orf")


def test_every_target_names_a_kind() -> None:
    assert [availability(target.engine)[0] for target in TARGETS.values() if target.engine == "ort"] == [
        True,
        True,
        True,
    ]
