"""What goes to which stream: results alone on stdout, bars only on a terminal, nothing but errors when quiet."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from ptq_export.console import Output, Screen

SCRIPT = """
import sys, warnings
from ptq_export.console import Output, Screen
screen = Screen(Output(json="json" in sys.argv, quiet="quiet" in sys.argv))
with screen.progress() as progress:
    progress.stage("collect pairs", 4)
    for _ in range(4):
        progress.advance()
    print("a library prints")
    progress.stage("round weights", None)
    progress.message("0.01 [dB]")
    warnings.warn("a library warns")
screen.result({"psnr_db": 38.5}, {"Fidelity": [["figure", "value"], ["PSNR [dB]", "38.5"]]})
"""


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True)


def test_pipe_gets_plain_lines_and_the_result_alone_on_stdout() -> None:
    done = run()
    lines = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "a library prints",
        "collect pairs",
        "0.01 [dB]",
        "round weights",
    ]
    assert "PSNR [dB]" in done.stdout and "a library prints" not in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def test_json_is_all_that_stdout_gets() -> None:
    assert json.loads(run("json").stdout) == {"psnr_db": 38.5}


def test_quiet_leaves_only_the_result() -> None:
    done = run("quiet")
    assert done.stderr == "a library prints\n"
    assert "38.5" in done.stdout


def test_terminal_gets_bars_with_the_time_left(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    with (tmp_path / "stdout").open("w") as stdout:
        subprocess.run([sys.executable, "-c", SCRIPT], stdout=stdout, stderr=slave, env=environment, check=True)
    os.close(slave)
    shown = os.read(master, 65536).decode()
    assert "━" in shown and "4/4" in shown and "0:00:00" in shown
    assert "━" not in (tmp_path / "stdout").read_text()


def test_result_keeps_brackets_and_numbers_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(Output()).result({}, {"": [["name", "value"], ["out[0]", "−9.1"]]})
    text = capsys.readouterr().out
    assert "out[0]" in text and "−9.1" in text
