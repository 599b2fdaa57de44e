"""Nothing that stands in a file or an argument reaches a terminal as anything but text."""

import json
import os
import pty
import subprocess
import sys

import pytest

from ptq_export.console import Output, Screen
from ptq_export.errors import InputError
from ptq_export.printable import one_line, printable

EVIL = "e\x1b]0;PWN\x07\x1b[2J\x9b31m\u202efdp\x08\r\u2066\udcff\nerror: forged"
DRIVES = ("\x1b", "\x07", "\x08", "\r", "\x9b", "\u202e", "\u2066", "\udcff", "\nerror: forged")
SCRIPT = f"""
import logging, sys
from ptq_export.console import Output, Screen
EVIL = {EVIL!r}
screen = Screen(Output())
with screen.progress() as progress:
    progress.stage(EVIL, 2)
    progress.advance()
    progress.message(EVIL)
    print(EVIL.replace(chr(10), " "))  # what a library prints may have lines
    logging.getLogger("ptq_export").warning(EVIL)
"""


@pytest.mark.parametrize(
    "character", [*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), *"\u200f\u202a\u2069\u2028"]
)
def test_controls_and_direction_marks_become_escapes(character: str) -> None:
    assert character not in one_line(f"a{character}b") and one_line(f"a{character}b").isprintable()
    assert printable(one_line(character)) == one_line(character)


@pytest.mark.parametrize("text", ["−9.1 dB × 2", "façade/模型.pt", "a\nb\tc", "emoji 🙂", ""])
def test_what_is_seen_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    return out + err


def test_results_notes_errors_and_traces_drive_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(Output(verbose=2))
    screen.facts({EVIL: EVIL, "more": {EVIL: [EVIL]}})
    screen.result({}, {"Layers": [["layer", EVIL], [EVIL, EVIL]]})
    screen.note(EVIL)
    screen.error(InputError(EVIL, EVIL))
    text = shown(capsys)
    assert text.count("\\x1b[2J") >= 9 and text.count("\\u202e") >= 9
    assert [mark for mark in DRIVES if mark in text] == []


def test_progress_and_logs_on_a_pipe_drive_no_terminal() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True)
    text = (done.stdout + done.stderr).decode("utf-8", "surrogatepass")
    assert text.count("\\x1b[2J") >= 4 and [mark for mark in DRIVES if mark in text] == []


def test_progress_on_a_terminal_obeys_the_bars_alone() -> None:
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200"}
    subprocess.run([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=slave, env=environment, check=True)
    os.close(slave)
    text = os.read(master, 65536).decode()
    assert "\\x1b[2J" in text and "━" in text
    assert [mark for mark in ("\x1b]0;", "\x1b[2J", "\x07", "\x9b", "\u202e", "\nerror: forged") if mark in text] == []


def test_json_escapes_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(Output(json=True)).facts({EVIL: EVIL})
    text = capsys.readouterr().out
    assert json.loads(text) == {EVIL: EVIL}
    assert text.isascii() and [mark for mark in DRIVES if mark in text] == []
