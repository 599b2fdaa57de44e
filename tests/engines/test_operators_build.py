"""Our operators compile with every compiler that is here, with pip's flags; where they are missing, we say why."""

import shutil
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hostile_nets import make_case
from operator_nets import exact, run
from own_copy import WINOGRAD_ISAS, loaded

from ptq_export.engines.ort import operators as ort_operators

ROOT = Path(__file__).parents[2]
[EXTENSION] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"]
STRICT = ["-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]


@pytest.fixture(scope="module", params=["the default", "g++-11", "clang++"])
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that a compiler makes; GCC 11 is that of Ubuntu 22.04."""
    path = ort_operators.compiler() if request.param == "the default" else shutil.which(request.param)
    if path is None:
        pytest.skip(f"no C++ compiler: {request.param}")
    library = tmp_path_factory.mktemp("compiled") / "operators.so"
    command = [path, *EXTENSION["extra-compile-args"], *STRICT, "-o", str(library), *EXTENSION["sources"]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return library


@pytest.mark.parametrize("isa", WINOGRAD_ISAS)
def test_every_compiler_makes_operators_that_compute_what_numpy_computes(
    compiled: Path, isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, _settings = loaded(compiled, isa, tmp_path, monkeypatch)
    rng, seen = np.random.default_rng(0), set()
    for case in (make_case(rng) for _ in range(120)):
        if case.odd or case.wild:
            continue
        found = run(library, case.op, case.inputs, case.attributes, case.threads)
        wanted = exact(case.op, case.inputs, case.attributes)
        bound = 0.51 if found.dtype == np.uint8 else 1e-4 * (1 + np.abs(wanted))
        assert (np.abs(found - (wanted.clip(0, 255) if found.dtype == np.uint8 else wanted)) <= bound).all(), case.op
        seen.add(case.op)
    assert len(seen) == 8, "every operator"


@pytest.fixture
def nothing_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an installation whose optional extension was not compiled."""
    (tmp_path / "custom_ops").mkdir()
    monkeypatch.setattr(ort_operators, "__file__", str(tmp_path / "operators.py"))
    monkeypatch.setattr(ort_operators, "library", ort_operators.library.__wrapped__)
    monkeypatch.delenv("CXX", raising=False)
    return tmp_path / "custom_ops"


@pytest.mark.usefixtures("nothing_compiled")
@pytest.mark.parametrize("name", [None, "c++", "g++", "clang++"])
def test_a_failed_compilation_is_told_from_a_missing_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if name is not None:
        (tmp_path / name).touch(0o755)
    advice = ort_operators.missing_operators()
    assert ("install g++ or clang++" in advice) == (name is None)
    assert ("pip install -v" in advice) == (name is not None)


def test_a_library_that_cannot_be_loaded_asks_for_no_compiler(nothing_compiled: Path) -> None:
    (nothing_compiled / "operators.so").write_bytes(b"of another machine")
    assert ort_operators.library() is None
    assert "cannot load the operators; install this package again" in ort_operators.missing_operators()
