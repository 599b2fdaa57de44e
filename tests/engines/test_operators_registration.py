"""Our library before an ONNX Runtime of the test's own: what it lacks or refuses comes back as a status."""

import ctypes
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

CREATE_STATUS, CREATE_DOMAIN, ADD_TO_DOMAIN, ADD_DOMAIN = 0, 26, 27, 28
REFUSED, MADE = 7, 8
Words = list[bytes]


class Runtime:
    """A table of functions for some versions of the interface; each function but `refusing` succeeds."""

    def __init__(self, versions: range, refusing: int | None = None) -> None:
        self.said: Words = []
        pointer = ctypes.c_void_p
        status = ctypes.CFUNCTYPE(pointer, ctypes.c_int, ctypes.c_char_p)(self._said)
        get = ctypes.CFUNCTYPE(pointer, ctypes.c_uint32)(lambda v: ctypes.addressof(table) if v in versions else None)
        answers: dict[int, Callable[..., int | None]] = {
            place: (lambda *_, place=place: REFUSED if place == refusing else None)
            for place in (CREATE_DOMAIN, ADD_TO_DOMAIN, ADD_DOMAIN)
        }
        functions = {place: ctypes.CFUNCTYPE(pointer, pointer, pointer)(answer) for place, answer in answers.items()}
        table = (pointer * 300)()
        for place, function in {CREATE_STATUS: status, **functions}.items():
            table[place] = ctypes.cast(function, pointer)
        self.base = (pointer * 2)(ctypes.cast(get, pointer))
        self._alive = status, get, functions, table

    def _said(self, _code: int, message: bytes) -> int:
        self.said.append(message)
        return MADE

    def register(self, library: Path) -> int | None:
        """The status: None is success."""
        function = ctypes.CDLL(str(library)).RegisterCustomOps
        function.restype = ctypes.c_void_p
        found: int | None = function(None, self.base)
        return found


@pytest.fixture
def library(operators: Path, tmp_path: Path) -> Path:
    """A copy that no session has registered: a library makes its domain once."""
    return Path(shutil.copy(operators, tmp_path))


def test_an_onnx_runtime_that_does_not_know_the_version_is_told_which_it_must(library: Path) -> None:
    runtime = Runtime(range(1, 17))
    assert runtime.register(library) == MADE
    assert runtime.said == [b"these operators need ONNX Runtime 1.17"]


@pytest.mark.parametrize("place", [CREATE_DOMAIN, ADD_TO_DOMAIN, ADD_DOMAIN])
def test_what_the_runtime_refuses_comes_back_and_is_tried_again(library: Path, place: int) -> None:
    runtime = Runtime(range(1, 18), refusing=place)
    assert [runtime.register(library), runtime.register(library)] == [REFUSED, REFUSED]
    assert Runtime(range(1, 18)).register(library) is None
    assert not runtime.said


def test_a_variable_that_names_no_loops_comes_back_as_a_status(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTQ_EXPORT_ISA", "avx9")
    runtime = Runtime(range(1, 18))
    assert runtime.register(library) == MADE
    assert runtime.said[0].startswith(b"PTQ_EXPORT_ISA names none of this processor's: ")
