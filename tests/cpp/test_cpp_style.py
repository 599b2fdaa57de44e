"""The C++ code itself: its format, its linter, other compilers, and no fault that valgrind or a sanitiser sees."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from clip_run import clip_run
from cpp_tools import PROGRAMS, SOURCES, compiled, configured, missing, tool

FILES = sorted(path for folder in (SOURCES, PROGRAMS) for end in ("*.h", "*.cpp") for path in folder.rglob(end))
NO_FAULT = ("--quiet", "--error-exitcode=99", "--leak-check=full", "--errors-for-leak-kinds=definite,indirect")
KNOWN = f"--suppressions={Path(__file__).parent / 'valgrind.supp'}"
TENSORRT, CUDA = "TENSORRT_INCLUDE", "CUDA_INCLUDE"


def test_files_are_formatted() -> None:
    formatter = tool("clang-format")
    if formatter is None:
        missing("no clang-format")
    style = f"--style=file:{SOURCES / '.clang-format'}"
    command = [str(formatter), style, "--dry-run", "--Werror", *map(str, FILES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_files_are_small_and_say_what_they_are() -> None:
    for path in FILES:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 300, f"{path.name} has {len(lines)} lines"
        if path.suffix == ".h":
            assert lines[0].startswith("// "), f"{path.name} does not say what it is"
            assert "#pragma once" in lines, path.name


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["g++-11", "g++-12", "clang++"])
def test_other_compilers_warn_of_nothing(compiler: str, onnxruntime_root: Path, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    compiled(configured(onnxruntime_root, tmp_path, f"-DCMAKE_CXX_COMPILER={compiler}", "-DCMAKE_UNITY_BUILD=OFF"))


@pytest.mark.slow
def test_clang_tidy_finds_nothing(onnxruntime_root: Path, tmp_path: Path) -> None:
    linter = shutil.which("clang-tidy")
    if linter is None:
        pytest.skip("no clang-tidy")
    build = configured(onnxruntime_root, tmp_path, "-DCMAKE_UNITY_BUILD=OFF", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON")
    files = [str(path) for path in FILES if path.suffix == ".cpp" and "trt" not in path.parts]
    command = [linter, f"--config-file={SOURCES / '.clang-tidy'}", "-p", str(build), "--quiet", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_tensorrts_half_compiles_against_its_headers(tmp_path: Path) -> None:
    """Those of NVIDIA's public repository, and CUDA's of the wheel nvidia-cuda-runtime: no GPU is needed for that."""
    if not (TENSORRT in os.environ and CUDA in os.environ):
        pytest.skip(f"no headers: set {TENSORRT} and {CUDA} to folders that have them")
    warnings = ("-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror")
    system = [word for name in (TENSORRT, CUDA) for word in ("-isystem", os.environ[name])]
    for path in sorted((SOURCES / "src" / "trt").glob("*.cpp")):
        own = (f"-I{SOURCES / 'include'}", f"-I{SOURCES / 'src'}", "-std=c++17", "-fsyntax-only")
        done = subprocess.run(["c++", *own, *warnings, *system, str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_valgrind_sees_no_fault_and_no_leak(build: Path, copied_run: Path, tmp_path: Path) -> None:
    """Without the kept graph: valgrind has no AVX-512, for which it may have been optimised."""
    shutil.rmtree(copied_run / "engine")
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        pytest.skip("no valgrind")
    program = str(build / "ptq_export" / "sample_images")
    words = (str(copied_run), "--steps", "2", "--count", "2", "--threads", "1")
    prompted = (str(clip_run(tmp_path / "sdxl", two=True)), *words[1:], "--prompt", "é <|endoftext|> it's " * 9)
    for asked in (words, prompted):
        command = [valgrind, *NO_FAULT, KNOWN, program, *asked, "-o", str(tmp_path / "a.png")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_damaged_files_are_refused_under_sanitisers(onnxruntime_root: Path, tmp_path: Path) -> None:
    """JSON, arrays, tokenizers and examples with bytes flipped, cut and doubled: an answer or a refusal, and nothing a
    sanitiser sees."""
    # With sanitisers gcc warns of variables that are initialised (its manual, -fsanitize).
    flags = "-O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
    flags += " -Wno-maybe-uninitialized"
    build = configured(onnxruntime_root, tmp_path / "build", f"-DCMAKE_CXX_FLAGS={flags}", "-DCMAKE_BUILD_TYPE=Debug")
    compiled(build, "probe", "trace")
    rng = np.random.default_rng(0)
    schedule = (
        b'{"num_train_timesteps": 1000, "settings": {"timestep_spacing": "leading", "steps_offset": 1, "x": [1.5e3]},'
        b' "conventions": {"ddim": {"timesteps": "inclusive"}}, "trained_betas": null, "beta_schedule": "linear"}'
    )
    np.save(tmp_path / "noise.npy", rng.standard_normal((1, 1, 2, 2)).astype(np.float32))
    array = (tmp_path / "noise.npy").read_bytes()
    run = clip_run(tmp_path / "run")
    kept = {name: (run / name).read_bytes() for name in ("tokenizer.json", "pairs.safetensors")}
    (tmp_path / "lines.txt").write_text("a red apple\né 日本 it's 12\n\n", encoding="utf-8")
    asked = (
        ("tokens", run / "tokenizer.json", tmp_path / "lines.txt"),
        ("examples", run, "sizes", 8, 0, run / "x.npy"),
    )
    for number in range(200):
        name = [*kept][number % 2]
        # the rules at the beginning and the end, not only the words between
        content = kept[name]
        (run / name).write_bytes(damaged(content[:2000], rng) + content[2000:-1000] + damaged(content[-1000:], rng))
        words = [str(build / "probe"), *map(str, asked[number % 2])]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode in (0, 2), done.stderr
    for number in range(200):
        (tmp_path / "schedule.json").write_bytes(damaged(schedule, rng) if number % 2 else schedule)
        (tmp_path / "noise.npy").write_bytes(array if number % 2 else damaged(array, rng))
        words = [tmp_path / "schedule.json", ("ddim", "euler", "dpm-solver++")[number % 3], 10]
        command = [str(build / "trace"), *map(str, words), str(tmp_path / "noise.npy"), str(tmp_path / "out.npy")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode in (0, 2), done.stderr


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    found = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(found)))
        kind = rng.integers(3)
        if kind == 0:
            found[at] = int(rng.integers(256))
        elif kind == 1:
            del found[at : at + int(rng.integers(1, 8))]
        else:
            found[at:at] = found[at : at + 8]
        found = found or bytearray(b" ")
    return bytes(found)
