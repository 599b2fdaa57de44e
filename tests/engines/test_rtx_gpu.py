"""Which GPUs TensorRT for RTX serves."""

import pytest

from ptq_export.engines import rtx_gpu
from ptq_export.engines.gpu import Gpu
from ptq_export.engines.rtx_gpu import missing_rtx_gpu, serves


@pytest.mark.parametrize(
    ("capability", "served"),
    [
        ((7, 5), False),
        ((8, 0), True),
        ((8, 6), True),
        ((8, 9), True),
        ((9, 0), False),
        ((10, 0), False),
        ((12, 0), True),
    ],
)
def test_what_is_served(capability: tuple[int, int], served: bool) -> None:
    assert serves(capability) is served


def test_a_data_centre_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtx_gpu, "missing_gpu", lambda: "")
    monkeypatch.setattr(rtx_gpu, "describe_gpu", lambda: Gpu("NVIDIA H100", (9, 0), "13.0", "0000:00:00.0"))
    missing = missing_rtx_gpu()
    assert missing is not None and "does not serve NVIDIA H100" in missing.cause
