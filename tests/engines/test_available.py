"""Engine kinds: what is here, what is missing and what to do about it."""

from dataclasses import replace
from importlib import import_module
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest

from ptq_export.benchmarks.environment import package_versions
from ptq_export.engines import KINDS, Engine, availability, build_engine
from ptq_export.engines.cuda.driver import count_gpus, missing_gpu
from ptq_export.engines.registry import distributions
from ptq_export.errors import EnvironmentMissing, InputError
from ptq_export.targets import TARGETS

without_tensorrt = pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed here")


def test_onnx_runtime_is_available() -> None:
    assert availability("ort") == (True, "")


@without_tensorrt
def test_missing_tensorrt_is_named_with_the_remedy(tmp_path: Path) -> None:
    message = "the package tensorrt is not installed: pip install tensorrt cuda-python (it needs an NVIDIA GPU)"
    assert availability("trt") == (False, message)
    with pytest.raises(EnvironmentMissing) as caught:
        build_engine("trt", tmp_path / "denoiser.onnx", tmp_path / "engine")
    assert caught.value.exit_code == 3 and "pip install tensorrt" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="TensorRT for RTX has no package for this platform")
@pytest.mark.skipif(count_gpus() > 0, reason="there is a GPU here")
def test_a_package_without_a_gpu_is_another_message(tmp_path: Path) -> None:
    available, message = availability("trt-rtx")
    assert not available and message.startswith(missing_gpu()) and "pip install" not in message
    with pytest.raises(EnvironmentMissing, match="an NVIDIA RTX GPU"):
        build_engine("trt-rtx", tmp_path / "denoiser.onnx", tmp_path / "engine")
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_named_first_package_then_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = KINDS["ort"]
    for packages, missing in (("absent_package",), "absent_package"), (("onnxruntime", "absent.part"), "absent.part"):
        monkeypatch.setitem(KINDS, "ort", replace(kind, packages=packages, gpu="a GPU"))
        assert availability("ort")[1].startswith(f"the package {missing} is not installed: pip install onnxruntime")
    monkeypatch.setitem(KINDS, "ort", replace(kind, gpu="a GPU"))
    assert availability("ort")[0] == (count_gpus() > 0)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "jetson"])  # built and run on the device
def test_every_kind_has_its_engine(kind: str) -> None:
    assert KINDS[kind].engine is not None
    module, name = KINDS[kind].engine
    assert issubclass(getattr(import_module(module), name), Engine)


def test_an_unknown_kind_lists_the_known_and_offers_the_nearest() -> None:
    with pytest.raises(InputError, match=r"did you mean ort\? known: jetson, openvino, openvino-bf16, ort, ort-cuda"):
        availability("orf")


def test_every_target_names_a_kind() -> None:
    assert [availability(target.engine)[0] for target in TARGETS.values() if target.engine == "ort"] == [
        True,
        True,
        True,
    ]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "jetson"])
def test_a_kind_names_the_distribution_of_each_of_its_modules(kind: str) -> None:
    """Of those that are installed here, itself or what it is a part of: their versions stand in the manifest."""
    homes = packages_distributions()
    installed = package_versions(distributions(kind))
    for module in (module for module in KINDS[kind].packages if find_spec(module.partition(".")[0])):
        found = {name.replace("_", "-") for name in homes[module.partition(".")[0]]}
        named = tuple(name for name in distributions(kind) if name in installed)
        assert any(name.startswith(named) for name in found), f"{module} comes in {', '.join(sorted(found))}"
    with pytest.raises(InputError, match="unknown engine kind"):
        distributions(f"{kind}x")
