import os
from pathlib import Path

import pytest

from ptq_export.benchmarks.peers.worker import PeerFailed, Worker


def test_a_worker_is_a_process_of_its_own_that_keeps_what_is_printed(tmp_path: Path) -> None:
    with Worker(tmp_path / "logs" / "it.log") as worker:
        assert worker.ask(os.getpid) != os.getpid()
        worker.ask(print, "its own words", flush=True)
    assert "its own words" in (tmp_path / "logs" / "it.log").read_text()


def test_the_first_line_of_an_error_is_told_and_the_worker_goes_on(tmp_path: Path) -> None:
    with Worker(tmp_path / "it.log") as worker:
        with pytest.raises(PeerFailed, match=r"ValueError: invalid literal for int\(\)") as caught:
            worker.ask(int, "no number")
        assert str(tmp_path / "it.log") in caught.value.remedy
        assert worker.ask(int, "7") == 7
    assert "Traceback" in (tmp_path / "it.log").read_text()


def test_a_worker_that_ends_is_told_with_its_exit_code(tmp_path: Path) -> None:
    with Worker(tmp_path / "it.log") as worker, pytest.raises(PeerFailed, match="ended with exit code 5"):
        worker.ask(os._exit, 5)


def test_an_answer_that_cannot_be_sent_is_told(tmp_path: Path) -> None:
    with Worker(tmp_path / "it.log") as worker, pytest.raises(PeerFailed, match="pickle"):
        worker.ask(eval, "lambda: 0")
