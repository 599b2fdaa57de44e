"""Which GPUs TensorRT for RTX serves, and which a plan."""

import re

import pytest

from ptq_export.engines.cuda.driver import Gpu
from ptq_export.engines.trt import rtx_gpu
from ptq_export.engines.trt.rtx_gpu import is_rtx, missing_rtx_gpu, other_gpu, serves


@pytest.mark.parametrize(
    ("capability", "by_default", "at_all"),
    [
        ((7, 5), False, True),
        ((8, 0), True, True),
        ((8, 6), True, True),
        ((8, 7), False, False),
        ((8, 9), True, True),
        ((9, 0), False, False),
        ((10, 0), False, False),
        ((12, 0), True, True),
        ((12, 1), True, True),
    ],
)
def test_what_is_served(capability: tuple[int, int], by_default: bool, at_all: bool) -> None:
    assert serves(capability, ()) is by_default
    assert is_rtx(capability) is at_all


def test_a_plan_for_named_gpus_serves_no_other() -> None:
    assert serves((7, 5), ("7.5",)) and serves((8, 9), ("8.6", "8.9"))
    assert not serves((8, 6), ("7.5",)) and not serves((12, 1), ("12.0",))


@pytest.mark.parametrize(
    ("capability", "names", "said"),
    [
        ((8, 9), ("7.5",), r"the plan is for compute capability 7\.5, RTX has 8\.9.*no --compute-capability"),
        ((7, 5), (), r"the plan is for compute capability 8\.0 and newer, RTX has 7\.5.*--compute-capability 7\.5"),
    ],
)
def test_a_plan_for_other_gpus_is_refused_with_the_remedy(
    capability: tuple[int, int], names: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rtx_gpu, "describe_gpu", lambda: Gpu("RTX", capability, "13.0", "0000:00:00.0"))
    missing = other_gpu(names)
    assert missing is not None and re.search(said, f"{missing.cause} {missing.remedy}")
    assert missing.exit_code == 3
    assert other_gpu((f"{capability[0]}.{capability[1]}",)) is None


def test_a_data_centre_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtx_gpu, "missing_gpu", lambda: "")
    monkeypatch.setattr(rtx_gpu, "describe_gpu", lambda: Gpu("NVIDIA H100", (9, 0), "13.0", "0000:00:00.0"))
    missing = missing_rtx_gpu()
    assert missing is not None and "does not serve NVIDIA H100" in missing.cause
