"""The program that times 3 x 3 convolutions alone."""

from collections import Counter
from pathlib import Path

import pytest

from ptq_export.benchmarks import convolutions
from ptq_export.benchmarks.convolutions import least_times, main, rows
from ptq_export.engines.ort.winograd import Convolution
from ptq_export.engines.ort.winograd_race import Times

PADS = (1, 1, 1, 1)
BIG, SMALL = Convolution(16, 16, 8, 8, PADS), Convolution(4, 4, 8, 16, PADS)


def test_sums_count_every_layer_and_the_best_takes_the_faster_method() -> None:
    times = {BIG: Times(0.003, 0.001), SMALL: Times(0.001, 0.002)}
    lines = [" ".join(line.split()) for line in rows(Counter({BIG: 2, SMALL: 1}), times)]
    assert lines[1:] == [
        "16 x 16 8 -> 8 2 3.000 ms 1.000 ms 3.00x",
        "4 x 4 8 -> 16 1 1.000 ms 2.000 ms 0.50x",
        "all 3 7.00 ms 4.00 ms",
        "best 3.00 ms 2.33x",
    ]


def test_a_shape_has_the_least_seconds_of_all_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = iter([(3, 1), (9, 9), (2, 4), (9, 9), (5, 5), (9, 9), (5, 5), (9, 8), (5, 5), (9, 9)])
    monkeypatch.setattr(convolutions, "race", lambda *_, **__: Times(*next(passes)))
    assert least_times((BIG, SMALL), 1, 1, 1.0) == {BIG: Times(2, 1), SMALL: Times(9, 8)}


def test_a_folder_without_the_graph_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "denoiser.ort-int8.onnx" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--batch", "--threads"])
def test_sizes_below_1_are_a_usage_error(tmp_path: Path, option: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), option, "0"])
