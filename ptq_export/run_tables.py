"""What the terminal shows of a finished run.

Heavy imports happen inside: the command line answers `--help` without them.
"""

from pathlib import Path
from typing import Any

from ptq_export.console import Screen
from ptq_export.schemas import read_part

__all__ = ["show_run", "step_tables"]

Rows = list[list[str]]
Tables = dict[str, Rows]


def show_run(screen: Screen, folder: Path) -> None:
    """Print the tables of a run, or all of its files as JSON."""
    from ptq_export.report import tables
    from ptq_export.report.verdict import judge

    names = ("manifest", "layers", "linears", "fidelity", "latency", "tensorrt", "tuning")
    files = {name: read_part(folder, f"{name}.json") for name in names if (folder / f"{name}.json").is_file()}
    latency = files.get("latency")
    verdict = judge(files["manifest"], latency)
    timed = {"The sampling loop": tables.loop_table(latency), **step_tables(latency)} if latency else {}
    built = {"TensorRT": tables.tensorrt_table(files["tensorrt"])} if "tensorrt" in files else {}
    line = tables.linears_line(files["linears"]) if "linears" in files else ""
    inputs = {"Inputs of linears": [["", line]]} if line else {}
    tuned = {"Tuning": [["", tables.tuning_line(files["tuning"])]]} if "tuning" in files else {}
    screen.result(
        {"run": str(folder), **files},
        {
            "Layers": tables.layers_summary(files["layers"]),
            **_kernels(tables.kernels_table(files["layers"])),
            **inputs,
            "Fidelity": tables.fidelity_table(files["fidelity"]),
            **timed,
            **built,
            **tuned,
            "Verdict": [[verdict.badge, verdict.sentence], *(["", reason] for reason in verdict.reasons)],
            "Run folder": [["report", str(folder / "report.html")], *_bundle_row(folder)],
        },
    )


def step_tables(latency: dict[str, Any]) -> Tables:
    """What a step takes, what is computed once per prompt, and the times on a GPU, where there are any."""
    from ptq_export.report import tables

    lines = [line for line in (tables.picture_line(latency), tables.prompt_line(latency)) if line]
    return {
        "Latency per denoising step": tables.latency_table(latency),
        **({"Prompt": [["", line] for line in lines]} if lines else {}),
        **({"On the GPU": tables.gpu_table(latency)} if "gpu" in latency else {}),
    }


def _kernels(rows: Rows) -> Tables:
    """What the engine made of the layers, where it tells."""
    return {"The engine's operators": rows} if len(rows) > 1 else {}


def _bundle_row(folder: Path) -> Rows:
    bundle = folder / "jetson"
    return [["bundle", f"{bundle}: copy it to the Jetson and run there: python3 build.py"]] if bundle.is_dir() else []
