"""A signal ends the command at once: its message, exit code 128 + number, and nothing of ours left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

CHECKPOINT = Path(__file__).parent / "data" / "ddim_tiny.pt"
SCRIPT = """
import hashlib, subprocess, sys, time
from ptq_export.scratch import scratch_folder
from ptq_export.signals import ends_on_signals, interrupted_note
WORK = {
    "python": lambda: [time.sleep(0.01) for _ in range(6000)],
    "native": lambda: hashlib.pbkdf2_hmac("sha512", b"", b"", 200_000_000),
    "child": lambda: subprocess.run(["sleep", "60"]),
    "import": lambda: __import__("torch"),
}
with ends_on_signals():
    folder = scratch_folder()
    open(folder.name + "/part", "w").close()
    interrupted_note("interrupted; the same command resumes this run")
    print("ready", flush=True)
    WORK[sys.argv[1]]()
"""


def hear() -> None:
    """Undo what `nohup`, or a shell without job control, does to signals: a command that is started so ignores them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Running:
    """The script at work, with a folder for temporary files of its own."""

    def __init__(self, work: str, folder: Path, script: str = SCRIPT) -> None:
        environment = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, "-c", script, work]
        self.process = subprocess.Popen(command, env=environment, text=True, preexec_fn=hear, **pipes)
        assert self.process.stdout is not None and self.process.stdout.readline() == "ready\n"
        time.sleep(0.3)

    def end(self, *numbers: int) -> tuple[int, float, str]:
        """Exit code, seconds, and what was said on stderr."""
        began = time.monotonic()
        for number in numbers:
            self.process.send_signal(number)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, time.monotonic() - began, said


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    assert [path.name for path in tmp_path.glob("ptq-export-*")] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda it: it.name)
def test_a_signal_ends_python_code_with_the_message_and_its_code(number: int, folder: Path) -> None:
    code, seconds, said = Running("python", folder).end(number)
    assert (code, said) == (128 + number, "interrupted; the same command resumes this run\n")
    assert seconds < 3


def test_native_code_that_does_not_hear_is_ended_too(folder: Path) -> None:
    code, seconds, said = Running("native", folder).end(signal.SIGTERM)
    assert (code, said) == (143, "interrupted; the same command resumes this run\n")
    assert seconds < 5


def test_a_process_that_was_started_ends_with_its_parent(folder: Path) -> None:
    running = Running("child", folder)
    [child] = psutil.Process(running.process.pid).children()
    assert running.end(signal.SIGTERM)[0] == 143
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_the_second_signal_kills(tmp_path: Path) -> None:
    running = Running("native", tmp_path)
    code, seconds, _ = running.end(signal.SIGTERM, signal.SIGINT)
    assert code in (143, 130, -signal.SIGINT) and seconds < 1


def test_what_was_ignored_stays_ignored(tmp_path: Path) -> None:
    script = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + SCRIPT
    running = Running("python", tmp_path, script)
    running.process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert running.process.poll() is None
    assert running.end(signal.SIGTERM)[0] == 143


def test_a_folder_that_a_killed_process_left_is_removed_and_one_in_use_is_not(tmp_path: Path) -> None:
    Running("python", tmp_path).end(signal.SIGKILL)
    [left] = tmp_path.glob("ptq-export-*")
    first = Running("python", tmp_path)
    [used] = tmp_path.glob("ptq-export-*")
    second = Running("python", tmp_path)
    assert left != used and used.is_dir() and len(list(tmp_path.glob("ptq-export-*"))) == 2
    assert [running.end(signal.SIGTERM)[0] for running in (first, second)] == [143, 143]


def start(folder: Path, *more: object) -> "subprocess.Popen[str]":
    arguments = ("--ckpt", CHECKPOINT, "--resolution", 16, "--effort", "quick", "--threads", 1, "--out", folder / "run")
    command = [sys.executable, "-m", "ptq_export", *map(str, (*arguments, *more))]
    environment = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, preexec_fn=hear, **pipes)


def test_the_command_hears_while_it_is_still_importing(tmp_path: Path) -> None:
    process = start(tmp_path)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1].splitlines()[-1].startswith("interrupted")
    assert process.returncode == 130


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda it: it.name)
def test_the_main_job_ends_within_two_seconds_wherever_it_is(number: int, tmp_path: Path) -> None:
    delays_s = [0.5, 1, 1.5, 2, 3, 4, 6, 8, 10, 12, 15, 20, 25, 30]
    late = []
    for delay_s in delays_s:  # each goes on where the last one ended
        process = start(tmp_path, "--samples", 16, "--seconds", 1)
        time.sleep(delay_s)
        if process.poll() is not None:
            break
        began = time.monotonic()
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
        late.append(time.monotonic() - began)
        assert process.returncode == 128 + number, said
        assert "Traceback" not in said and said.splitlines()[-1].startswith("interrupted")
    assert max(late) < 2, late
    assert [path for path in tmp_path.rglob(".*") if "ptq-export" in path.name] == []
