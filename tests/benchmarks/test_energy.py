"""Energy per step: the sum of a power over time, and NVML where there is a GPU to ask about."""

from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from ptq_export.benchmarks import energy
from ptq_export.benchmarks.energy import energy_meter, integrate_mj
from ptq_export.engines.gpu import count_gpus, describe_gpu, missing_gpu


def test_power_is_added_up_by_trapezoids() -> None:
    assert integrate_mj([0.0, 1.0, 1.5], [1000, 3000, 3000]) == 2000 + 1500


@pytest.mark.skipif(count_gpus() > 0, reason="there is a GPU here")
def test_without_a_gpu_there_is_no_meter() -> None:
    assert energy_meter("0000:00:00.0") is None


def board(**functions: object) -> SimpleNamespace:
    """NVML of a board that knows nothing else."""

    class NVMLError(Exception):
        pass

    def unsupported(handle: object) -> int:
        raise NVMLError

    known = dict.fromkeys(("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"), unsupported)
    return SimpleNamespace(NVMLError=NVMLError, **(known | functions))


def test_a_counter_is_divided_by_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "SECONDS", 0.05)
    calls: list[int] = []
    nvml = board(nvmlDeviceGetTotalEnergyConsumption=lambda _: 7 * len(calls))
    assert energy._by_counter(nvml, None, lambda: calls.append(1)) == 7.0


def test_an_old_board_s_power_is_integrated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "SECONDS", 0.2)
    calls: list[int] = []
    nvml = board(nvmlDeviceGetPowerUsage=lambda _: 1000)
    assert energy._by_counter(nvml, None, print) is None
    found_mj = energy._by_power(nvml, None, lambda: calls.append(1)) or 0.0
    assert found_mj * len(calls) == pytest.approx(200, rel=0.1)


def test_a_board_that_tells_nothing_has_no_figure() -> None:
    assert energy._by_power(board(), None, print) is None


@pytest.mark.gpu
@pytest.mark.skipif(count_gpus() == 0, reason=missing_gpu())
@pytest.mark.skipif(find_spec("pynvml") is None, reason="nvidia-ml-py is not installed")
def test_a_gpu_s_energy_is_measured() -> None:
    meter = energy_meter(describe_gpu().pci_bus_id)
    found_mj = None if meter is None else meter(lambda: None)
    assert found_mj is None or found_mj > 0
