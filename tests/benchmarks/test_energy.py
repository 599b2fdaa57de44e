"""Energy per step: the sum of a power over time, and NVML where there is a GPU to ask about."""

import time
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from ptq_export.benchmarks.timing import energy
from ptq_export.benchmarks.timing.energy import energy_meter, integrate_mj
from ptq_export.engines.cuda.driver import count_gpus, describe_gpu, missing_gpu


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


class Steps:
    """A loop on a board that takes 7 mJ and 1 ms for a step."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def __call__(self, count: int) -> None:
        self.counts.append(count)
        time.sleep(count / 1000)

    @property
    def spent_mj(self) -> float:
        return 7.0 * sum(self.counts)


def test_a_counter_is_divided_by_the_steps_of_one_uninterrupted_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "SECONDS", 0.05)
    loop = Steps()
    nvml = board(nvmlDeviceGetTotalEnergyConsumption=lambda _: loop.spent_mj)
    assert energy.per_step_mj(nvml, None, loop) == 7.0
    assert loop.counts[:2] == [energy.TRIAL_STEPS] * 2 and len(loop.counts) == 3 and 10 <= loop.counts[2] <= 50


@pytest.mark.parametrize("counter", ["absent", "stands still"])
def test_without_a_counter_the_power_is_integrated_beside_the_loop(
    counter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "SECONDS", 0.2)
    loop, read = Steps(), []
    still = {} if counter == "absent" else {"nvmlDeviceGetTotalEnergyConsumption": lambda _: 5}
    nvml = board(nvmlDeviceGetPowerUsage=lambda _: read.append(1) or 7000, **still)
    found_mj = energy.per_step_mj(nvml, None, loop)
    assert found_mj == pytest.approx(7, rel=0.25) and len(read) >= 3, "7 W for the millisecond of a step"


def test_a_board_that_tells_nothing_has_no_figure() -> None:
    assert energy.per_step_mj(board(), None, Steps()) is None


@pytest.mark.gpu
@pytest.mark.skipif(count_gpus() == 0, reason=missing_gpu())
@pytest.mark.skipif(find_spec("pynvml") is None, reason="nvidia-ml-py is not installed")
def test_a_gpu_s_energy_is_measured() -> None:
    meter = energy_meter(describe_gpu().pci_bus_id)
    found_mj = None if meter is None else meter(lambda count: time.sleep(count / 1000))
    assert found_mj is None or found_mj > 0
