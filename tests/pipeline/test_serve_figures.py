"""The programs behind the figures of serving run, and tell what they measured."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ptq_export.benchmarks.serving import disconnects, fairness, soak, step_overhead, throughput

Program = Callable[[Sequence[str]], int]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "arguments", "told"),
    [
        (step_overhead.main, ["--rounds", "2"], "engine thread: "),
        (throughput.main, ["--rounds", "1", "--seconds", "1", "--clients", "4"], "throughput "),
        (fairness.main, ["--rounds", "1"], "4 steps behind 32 of 100 steps: "),
        (disconnects.main, ["--requests", "40"], "0 lost; 0 slots in use at the end"),
        (soak.main, ["--minutes", "0.05"], "0 slots in use at the end"),
    ],
    ids=["step_overhead", "throughput", "fairness", "disconnects", "soak"],
)
def test_a_program_measures(
    program: Program, arguments: list[str], told: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = program([str(finished), *arguments])
    out = capsys.readouterr()
    assert told in out.out + out.err
    assert code == 0 or program in (disconnects.main, soak.main)  # so short, memory and probes prove nothing
