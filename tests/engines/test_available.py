"""Engine kinds: what is here, what is missing and what to do about it."""

from dataclasses import replace
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest

from ptq_export.benchmarks.environment import package_versions
from ptq_export.engines import RUNTIMES, Engine, availability, build_engine
from ptq_export.engines.cuda.driver import count_gpus, missing_gpu
from ptq_export.engines.registry import find_runtime
from ptq_export.engines.runtime import is_installed
from ptq_export.engines.trt.runtime import TRT
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


def test_what_is_missing_is_named_first_package_then_gpu() -> None:
    for modules, absent in (("absent_package",), "absent_package"), (("onnxruntime", "absent.part"), "absent.part"):
        missing = replace(TRT, modules=modules).missing()
        assert missing is not None and missing.cause == f"the package {absent} is not installed"
        assert missing.remedy == "pip install tensorrt cuda-python (it needs an NVIDIA GPU)"
    missing = replace(TRT, modules=("onnxruntime",)).missing()
    assert (missing is None) == (count_gpus() > 0)


@pytest.mark.parametrize("kind", [kind for kind in RUNTIMES if kind != "jetson"])  # built and run on the device
def test_every_kind_has_its_engine(kind: str) -> None:
    modules = RUNTIMES[kind].modules
    if absent := [module for module in modules if not is_installed(module)]:
        pytest.skip(f"{', '.join(absent)} is not installed")
    assert issubclass(RUNTIMES[kind].engine(), Engine)


def test_an_unknown_kind_lists_the_known_and_offers_the_nearest() -> None:
    known = ", ".join(sorted(RUNTIMES))
    with pytest.raises(InputError, match=rf"did you mean ort\? known: {known}"):
        availability("orf")


def test_every_target_names_a_kind() -> None:
    assert [availability(target.engine)[0] for target in TARGETS.values() if target.engine == "ort"] == [
        True,
        True,
        True,
    ]


@pytest.mark.parametrize("kind", [kind for kind in RUNTIMES if kind != "jetson"])
def test_a_kind_names_the_distribution_of_each_of_its_modules(kind: str) -> None:
    """Of those that are installed here, itself or what it is a part of: their versions stand in the manifest."""
    homes = packages_distributions()
    named_by = find_runtime(kind).distributions
    installed = package_versions(named_by)
    for module in (module for module in RUNTIMES[kind].modules if find_spec(module.partition(".")[0])):
        found = {name.replace("_", "-") for name in homes[module.partition(".")[0]]}
        named = tuple(name for name in named_by if name in installed)
        assert any(name.startswith(named) for name in found), f"{module} comes in {', '.join(sorted(found))}"
    with pytest.raises(InputError, match="unknown engine kind"):
        find_runtime(f"{kind}x")
