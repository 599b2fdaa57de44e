"""Whether there is a GPU, asked of CUDA: the driver's answer and the runtime's are one."""

from importlib.util import find_spec

import pytest

from ptq_export.engines.cuda.driver import count_gpus, describe_gpu, missing_gpu
from ptq_export.errors import EnvironmentMissing

without_gpu = pytest.mark.skipif(count_gpus() > 0, reason="there is a GPU here")
with_gpu = pytest.mark.skipif(count_gpus() == 0, reason=missing_gpu())


@pytest.mark.skipif(find_spec("cuda") is None, reason="cuda-python is not installed")
def test_the_driver_and_the_runtime_count_alike() -> None:
    from cuda.bindings import runtime

    error, count = runtime.cudaGetDeviceCount()
    assert count_gpus() == (0 if error else count)


@without_gpu
def test_without_a_gpu_the_reason_is_said() -> None:
    assert "driver" in missing_gpu()
    with pytest.raises(EnvironmentMissing, match="driver") as caught:
        describe_gpu()
    assert caught.value.exit_code == 3 and caught.value.remedy


@pytest.mark.gpu
@with_gpu
def test_a_gpu_is_described() -> None:
    gpu = describe_gpu()
    assert gpu.name and gpu.sm.startswith("sm") and gpu.capability >= (5, 0) and gpu.pci_bus_id.count(":") == 2
    assert missing_gpu() == ""


@pytest.mark.gpu
@with_gpu
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(EnvironmentMissing, match="no GPU 99"):
        describe_gpu(99)
