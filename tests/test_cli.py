"""The command line as a user meets it: what it prints where, how soon, and how it ends."""

import json
import logging
import os
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ptq_export.artifacts import sha256_file
from ptq_export.cli import app
from ptq_export.engines.ort.operators import library
from ptq_export.options import PRESETS, Options
from ptq_export.processor import instruction_sets

CHECKPOINT = Path(__file__).parent / "data" / "ddim_tiny.pt"
LEAST = (
    *("--ckpt", CHECKPOINT, "--target", "ort-int8", "--resolution", 16, "--effort", "quick", "--threads", 1),
    *("--samples", 4, "--steps", 2, "--iterations", 2, "--held-out", 2, "--rounds", 10, "--seconds", 0.1),
    *("--min-sqnr", 0),
)
"""The main job on a net of 16x16 pixels, as short as it can be; four pairs make no fidelity."""


def ptq_export(
    *arguments: object, cwd: Path | None = None, before: Callable[[], None] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "ptq_export", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=400, preexec_fn=before
    )


@dataclass(frozen=True)
class Answer:
    """What a command left behind, as `subprocess.run` tells it."""

    returncode: int
    stdout: str
    stderr: str


def call(*arguments: object, cwd: Path) -> Answer:
    """Run the command in this process, which has imported torch and the rest already: some seconds less each."""
    logger = logging.getLogger("ptq_export")
    level = logger.level
    try:
        with chdir(cwd):
            result = CliRunner().invoke(app, [*map(str, arguments)], prog_name="ptq-export")
    finally:
        logger.setLevel(level)
        logging.captureWarnings(False)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Answer(result.exit_code, result.stdout, result.stderr)


def test_help_shows_every_option_and_what_the_presets_set() -> None:
    done = ptq_export("--help")
    flags = {f"--{field.name.replace('_', '-')}" for field in fields(Options)}
    assert done.returncode == 0
    assert flags <= set(done.stdout.split())
    for name, preset in PRESETS.items():
        assert f"{name}: " + ", ".join(f"{flag} {value}" for flag, value in preset.items()) in " ".join(
            done.stdout.replace("│", " ").split()
        )


def test_command_alone_shows_the_help() -> None:
    done = ptq_export()
    assert (done.returncode, done.stdout.strip()) == (2, ptq_export("--help").stdout.strip())


def test_version_is_the_package_s() -> None:
    from importlib.metadata import version

    done = ptq_export("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"ptq-export {version('ptq-export')}\n", "")


def test_help_and_targets_import_no_torch() -> None:
    script = "import sys, ptq_export.cli, ptq_export.targets, ptq_export.engines; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_targets_are_listed_as_a_table_and_as_json(tmp_path: Path) -> None:
    done = ptq_export("targets")
    assert done.returncode == 0 and "ort-int8" in done.stdout
    value = json.loads(call("targets", "--json", cwd=tmp_path).stdout)
    ours, float32 = value["targets"]["ort-int8"], value["targets"]["ort-fp32"]
    assert ours["available"] and not ours["missing"]
    assert bool(ours["recommended"]) == (library() is not None and "avx2" in instruction_sets())
    assert ("recommended" in done.stdout) == bool(ours["recommended"]) and float32["recommended"] == ""
    assert json.loads(call("--json", "targets", cwd=tmp_path).stdout) == value


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--target", "ort-int8"], 2, "--ckpt is missing"),
        (["--ckpt", "absent.pt"], 2, "absent.pt"),
        (["--ckpt", "embedded:digits", "--target", "ort-int9"], 2, "did you mean ort-int8?"),
        (["--ckpt", "embedded:digits", "--policy", "ndtd"], 2, "did you mean ndtc?"),
        (["--ckpt", "embedded:digits", "--metric", "l2.5"], 2, "did you mean l2.4?"),
        (["--ckpt", "embedded:digits", "--target", "ort-fp32"], 2, "--target is one of ort-int8, "),
        (["--ckpt", "embedded:digits", "--batch", "0"], 2, "--batch"),
        (["--ckpt", "embedded:digits", "--batch", "4:1:16"], 2, "MIN:OPT:MAX"),
        (["--ckpt", "embedded:digits", "--batch", "1:4:16"], 2, "--batch MIN:OPT:MAX means nothing for ort-int8"),
        (["--ckpt", "embedded:digits", "--jetpack", "6"], 2, "--jetpack means nothing for ort-int8"),
        (["--ckpt", "embedded:digits", "--target", "jetson-int8", "--jetpack", "4"], 2, "one of 5, 6, 7"),
        (["--ckpt", "embedded:digits", "--check", "rtx"], 2, "--check means nothing for ort-int8"),
        (["--ckpt", "embedded:digits", "--target", "trt-int8", "--check", "trt"], 2, "'rtx', 'none'"),
        (["--ckpt", "embedded:digits", "--compute-capability", "9.0"], 2, "7.5, 8.0, 8.6, 8.9, 12.0, 12.1"),
        (
            ["--ckpt", "embedded:digits", "--target", "jetson-int8", "--tune", "60"],
            2,
            "it serves: ort-int8, openvino-int8",
        ),
        (["--ckpt", "embedded:digits", "--placement", "before-resize"], 2, "--placement means nothing for ort-int8"),
        (["--ckpt", "embedded:digits", "--target", "trt-int8", "--placement", "residuals"], 2, "there is no residuals"),
        (["--ckpt", "embedded:digits", "--tune", "0"], 2, "--tune"),
        (["--ckpt", "embedded:digits", "--tune", "long"], 2, "--tune"),
        (["--ckpt", "embedded:digits", "--tune-loss", "1"], 2, "give --tune SECONDS too"),
        (["build", "absent"], 2, "holds no bundle.json"),
        (["--ckpt", "embedded:digits", "--effort", "fast"], 2, "quick"),
        (["--ckpt", "embedded:digits", "verify", "somewhere"], 2, "takes no options of the main job"),
        (["--ckpt", "embedded:digits", "--samples", 10**9], 2, "--samples 1000000000 would take"),
        (["--ckpt", "embedded:digits", "--held-out", 10**9], 2, "--held-out 1000000000 would take"),
        (["--ckpt", "embedded:digits", "--batch", 10**9], 2, "--batch 1000000000 would take"),
        (["--ckpt", "embedded:digits", "--rounds", 2**31 - 1], 2, "--rounds 2147483647 would take"),
        (["--ckpt", "embedded:digits", "--resolution", 10**6], 2, "one sample takes 256,000.0 GB"),
        (["--ckpt", "embedded:digits", "--threads", 100_000], 2, "100000 threads: this machine has"),
        (["--ckpt", "embedded:digits", "--iterations", 10**400], 2, "--iterations"),
        (["--ckpt", "embedded:digits", "--workspace", 10**30], 2, "--workspace"),
        (["--ckpt", "embedded:digits", "--seconds", "inf"], 2, "--seconds"),
        (["--ckpt", "embedded:digits", "--seconds", "nan"], 2, "--seconds"),
        (["--ckpt", "embedded:digits", "--tune", "inf"], 2, "--tune"),
        (["--ckpt", "embedded:digits", "--seed", 2**70], 2, "--seed"),
        (["sample", "absent", "--seed", 2**70], 2, "--seed"),
        (["sample", "absent", "--count", 10**30], 2, "--count"),
        (["sample", "absent", "-o", "picture.jpg"], 2, "would hold a PNG picture under another name"),
        (["sample", "absent", "-o", "."], 2, "is not a regular file"),
        (["sample", "absent", "-o", "a" * 300], 2, "File name too long"),
        (["verify", "a" * 300], 2, "File name too long"),
        (["inspect", "a" * 300], 2, "File name too long"),
        (["--ckpt", "embedded:digits", "--out", "a" * 300], 2, "File name too long"),
        (["--ckpt", ""], 2, "--ckpt is missing"),
        (["inspect", ""], 2, "is not a diffusers folder"),
        (["--ckpt", os.fsdecode(b"\xff.pt")], 2, "\\udcff.pt does not exist"),
        (["--\x1b[2J\u202e"], 2, "\\x1b[2J\\u202e"),
        (["verify", "absent"], 2, "absent"),
        (["benhc", "absent"], 2, "bench"),
    ],
    ids=lambda value: ascii(" ".join(map(str, value)))[:80] if isinstance(value, list) else None,
)
def test_bad_usage_names_the_cause_without_a_trace_and_leaves_nothing(
    arguments: list[object], code: int, message: str, tmp_path: Path
) -> None:
    done = call(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_ours_is_said_without_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr("ptq_export.pipeline.inspect", fail)
    done = call("inspect", "absent", cwd=tmp_path)
    assert done.returncode == 70
    assert "RuntimeError: unforeseen (cli.py, line " in done.stderr and "Traceback" not in done.stderr
    assert "please report it with what -vv shows" in done.stderr
    assert "Traceback" in call("inspect", "absent", "-vv", cwd=tmp_path).stderr


@pytest.mark.parametrize("broken", ["raise RuntimeError('lacks tokenizers')", "import absent_package", "None | None"])
def test_a_package_that_cannot_be_imported_is_not_called_a_fault_of_ours(broken: str, tmp_path: Path) -> None:
    (tmp_path / "diffusers.py").write_text(broken)
    done = subprocess.run(
        [sys.executable, "-m", "ptq_export", "inspect", "absent"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 3
    assert "the package diffusers cannot be imported: " in done.stderr and "pip check" in done.stderr


def test_a_usage_error_is_named_on_stdout_under_json(tmp_path: Path) -> None:
    done = call("targets", "--json", "--colour", cwd=tmp_path)
    assert json.loads(done.stdout)["error"]["exit_code"] == done.returncode == 2
    assert "--colour" in done.stderr and "see `ptq-export targets --help`" in done.stderr


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.onnx")
    done = call("inspect", "net.onnx", cwd=tmp_path)
    assert done.returncode == 2 and "net.onnx is neither a file nor a folder" in done.stderr


SINKS = {
    "full disk": (">/dev/full", 2, "cannot be written to standard output: No space left on device"),
    "full disk, json": ("--json >/dev/full", 2, "cannot be written to standard output: No space left on device"),
    "nobody reads": ("| true", 141, ""),
    "closed": (">&- 2>&- <&-", 0, ""),
}


@pytest.mark.parametrize("sink", SINKS)
def test_results_that_cannot_be_shown_leave_no_trace_and_no_zero(sink: str, tmp_path: Path) -> None:
    redirection, code, message = SINKS[sink]
    command = f"set -o pipefail; {sys.executable} -m ptq_export targets {redirection}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code and message in done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_a_terminal_of_ascii_and_one_column_shows_what_it_can(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "COLUMNS": "1", "NO_COLOR": "1"}
    command = [
        sys.executable,
        "-c",
        "import sys; sys.argv[1:] = ['--ckpt', 'x', '--target', 'a×b']; from ptq_export.__main__ import main; main()",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 2 and b"unknown target 'a\\xd7b'" in done.stderr


def test_trace_is_shown_on_request(tmp_path: Path) -> None:
    assert "Traceback" in call("--ckpt", "absent.pt", "-vv", cwd=tmp_path).stderr


def test_json_names_the_error_on_stdout(tmp_path: Path) -> None:
    done = ptq_export("--ckpt", "x", "--target", "ort-int9", "--json", cwd=tmp_path)
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["exit_code"]) == (2, 2)
    assert error["cause"] == "unknown target 'ort-int9'"


def test_default_run_folder_is_named_after_checkpoint_and_target() -> None:
    assert Options("checkpoints/model-790000.ckpt").folder == Path("runs/model-790000-ort-int8")
    assert Options("embedded:digits", "ort-fp32").folder == Path("runs/embedded-digits-ort-fp32")
    assert Options("package.module:factory", out=Path("here")).folder == Path("here")


def test_preset_fills_only_the_options_that_are_not_given() -> None:
    options = Options("embedded:digits", effort="quick", samples=7).resolved()
    assert (options.samples, options.steps) == (7, PRESETS["quick"]["steps"])


@pytest.mark.parametrize("effort", PRESETS)
def test_random_weights_get_a_few_samples_unless_asked(effort: str) -> None:
    """Latency is all that they tell: an evaluation of Stable Diffusion's size takes a second."""
    few, many = Options("random:sd15", effort=effort).resolved(), Options("embedded:emoji", effort=effort).resolved()
    assert (few.samples, few.held_out) == (8, 2)
    assert (few.steps, few.iterations) == (many.steps, many.iterations)
    assert Options("random:sd15", effort=effort, samples=100).resolved().samples == 100


def test_run_folder_that_cannot_be_made_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("a file")
    done = call("--ckpt", "embedded:digits", "--out", tmp_path / "occupied" / "run", cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot write" in done.stderr and "Traceback" not in done.stderr
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("occupied", "a file")]


def test_disk_that_fills_up_is_named_and_what_was_finished_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "pipeline"))
    room = 150_000  # between the float graph and the larger one with the time embedding as a table

    def fill_up() -> None:  # the kernel refuses to write more than that into a file, as a full disk would
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    least = ("--ckpt", "families:clean", "--samples", 4, "--steps", 2, "--rounding", "nearest", "--threads", 1)
    done = ptq_export(*least, "--target", "ort-int8", "--out", "run", cwd=tmp_path, before=fill_up)
    assert done.returncode == 2, done.stderr
    assert "cannot write run/denoiser.fp32.onnx: File too large" in done.stderr and "Traceback" not in done.stderr
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())
    found = {path.name for path in (tmp_path / "run").iterdir()}
    assert found == {*ledger, "ledger.json", "request.json"}
    assert ledger == {name: sha256_file(tmp_path / "run" / name) for name in ["denoiser.fp32-unfolded.onnx"]}


@pytest.mark.parametrize("content", ["absent", "no archive", "other shape", "time-step past T"])
def test_calibration_data_that_cannot_be_used_leaves_no_run_folder(content: str, tmp_path: Path) -> None:
    file = tmp_path / "pairs.npz"
    if content == "no archive":
        file.write_bytes(b"no archive")
    elif content != "absent":
        size, t = (16, 1000) if content == "time-step past T" else (8, 5)
        np.savez(file, sample=np.zeros((2, 3, size, size), np.float32), timestep=np.full(2, t))
    before = [path.name for path in tmp_path.iterdir()]
    done = call(*LEAST, "--calibration-data", file, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "pairs.npz" in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == before


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> "tuple[Path, subprocess.CompletedProcess[str]]":
    """A folder with the run folder `run` in it, and what the command answered."""
    folder = tmp_path_factory.mktemp("main-job")
    return folder, ptq_export(*LEAST, "--out", "run", cwd=folder)


@pytest.fixture
def folder(first_run: "tuple[Path, subprocess.CompletedProcess[str]]", tmp_path: Path) -> Path:
    """The same in a folder of the test's own."""
    shutil.copytree(first_run[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_main_job_prints_the_tables_on_stdout_and_the_rest_on_stderr(
    first_run: "tuple[Path, subprocess.CompletedProcess[str]]",
) -> None:
    folder, done = first_run
    assert done.returncode == 0, done.stderr
    titles = (
        "Layers",
        "The engine's operators",
        "Fidelity",
        "The sampling loop",
        "Latency per denoising step",
        "Verdict",
    )
    assert [title for title in titles if title not in done.stdout] == []
    assert "all proofs hold" in " ".join(done.stdout.split())
    assert "run/report.html" in done.stdout
    assert "estimate: " in done.stderr and "parity, layer by layer: " in done.stderr
    assert (folder / "run" / "report.html").is_file()
    assert [path.name for path in folder.iterdir()] == ["run"]


def test_same_command_again_answers_at_once_and_json_holds_the_run(folder: Path) -> None:
    done = call(*LEAST, "--out", "run", "--json", cwd=folder)
    value = json.loads(done.stdout)
    assert (done.returncode, value["run"]) == (0, "run")
    assert value["manifest"] == json.loads((folder / "run" / "manifest.json").read_text())
    assert set(value) == {"run", "manifest", "layers", "linears", "fidelity", "latency"}
    assert "finished already" in done.stderr


def test_other_options_exit_2_and_say_which_differ(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    done = call(*LEAST, "--out", "run", "--metric", "kl", "--seed", 4, cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert "metric: 'l2.4' there, 'kl' now; seed: 0 there, 4 now" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("json_asked", [False, True], ids=["tables", "json"])
def test_failed_proof_exits_1_and_shows_the_tables_and_the_failure(json_asked: bool, folder: Path) -> None:
    manifest = json.loads((folder / "run" / "manifest.json").read_text())
    manifest["verdict"] |= {"ok": False, "failures": ["layer mid.conv1: the engine differs from the simulation"]}
    (folder / "run" / "manifest.json").write_text(json.dumps(manifest))
    done = call(*LEAST, "--out", "run", *(["--json"] if json_asked else []), cwd=folder)
    assert done.returncode == 1
    assert "error: proofs that do not hold, 1:\n  layer mid.conv1: the engine differs" in done.stderr
    if json_asked:
        assert json.loads(done.stdout)["manifest"]["verdict"]["ok"] is False
    else:
        assert "Latency per denoising step" in done.stdout and "FAIL" in done.stdout


def test_subcommands_serve_the_finished_run(folder: Path) -> None:
    verified = call("verify", "run", "--json", cwd=folder)
    drawn = call("sample", "run", "-o", "grid.png", "--count", 4, "--steps", 2, "--quiet", cwd=folder)
    compared = call("compare", "run", "run", "--json", cwd=folder)
    assert [done.returncode for done in (verified, drawn, compared)] == [0, 0, 0], drawn.stderr
    assert json.loads(verified.stdout)["run"] == "run"
    assert (folder / "grid.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(compared.stdout)["options"] == {}


def test_damaged_onnx_fails_verification_with_its_name(folder: Path) -> None:
    path = folder / "run" / "denoiser.ort-int8.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    done = call("verify", "run", cwd=folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert "denoiser.ort-int8.onnx is damaged: sha256" in done.stderr
    loaded = call("sample", "run", "-o", "grid.png", cwd=folder)
    assert loaded.returncode == 2 and "denoiser.ort-int8.onnx is damaged" in loaded.stderr
    assert not (folder / "grid.png").exists()


def test_more_samples_than_memory_holds_are_refused(folder: Path) -> None:
    done = call("sample", "run", "--count", 10**9, cwd=folder)
    assert done.returncode == 2
    assert "--count 1000000000 would take 22,888 GiB" in done.stderr and "give fewer: --count " in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_device_is_not_replaced_by_a_picture(folder: Path) -> None:
    os.mknod(folder / "full", 0o666 | stat.S_IFCHR, os.makedev(1, 7))
    done = call("sample", "run", "-o", "full", "--count", 1, "--steps", 2, cwd=folder)
    assert (done.returncode, done.stdout) == (2, "") and "full is not a regular file" in done.stderr
    assert (folder / "full").is_char_device()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_a_target_whose_runtime_is_absent_leaves_its_onnx_and_exits_3(tmp_path: Path) -> None:
    done = call(*LEAST, "--rounding", "nearest", "--target", "trt-int8", "--out", "run", cwd=tmp_path)
    assert done.returncode == 3
    assert "trt-int8 cannot be built on this machine" in done.stderr and "python build_plan.py" in done.stderr
    printed = " ".join(done.stdout.split())
    assert "layers are int8 in the graph; all proofs hold" in printed
    if find_spec("tensorrt_rtx") is not None:
        assert "accepted by the TensorRT-RTX 1." in printed and "1.00 byte per int8 weight" in printed
    assert (tmp_path / "run" / "denoiser.trt-int8.onnx").is_file() and (tmp_path / "run" / "build_plan.py").is_file()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_a_jetson_s_bundle_is_the_product_and_cannot_be_built_here(tmp_path: Path) -> None:
    done = call(*LEAST, "--rounding", "nearest", "--target", "jetson-int8", "--out", "run", cwd=tmp_path)
    printed = " ".join(done.stdout.split())
    assert done.returncode == 0, done.stderr
    assert "UNTIMED" in printed and "run/jetson: copy it to the Jetson and run there: python3 build.py" in printed
    built = call("build", "run", "--batch", "1", "--dla", "0", "--workspace", "64", cwd=tmp_path)
    assert (built.returncode, built.stdout) == (3, "") and "tensorrt cannot be imported" in built.stderr
