"""The manifest: what a run was asked for, with which versions it was made, every artefact's digest, and the verdict."""

import shlex
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from ptq_export.artifacts import describe_file, write_json
from ptq_export.benchmarks.environment import describe_environment, package_versions
from ptq_export.interface import inputs_to_json
from ptq_export.options import Options
from ptq_export.pairs import Pairs
from ptq_export.pipeline.job import Job
from ptq_export.pipeline.latency import timing_verdict
from ptq_export.pipeline.proofs import failures
from ptq_export.run_folder import VERDICT
from ptq_export.schemas import MANIFEST, SCHEMA, read_part

__all__ = ["command_line", "plain", "record_calibration", "write_manifest"]


def record_calibration(job: Job, pairs: Pairs) -> None:
    """Write `calibration.json`."""
    options = job.options
    job.folder.save_json(
        "calibration.json",
        {
            "policy": "own data" if options.calibration_data else options.policy,
            "metric": options.metric,
            "rounding": options.rounding,
            "pairs": len(pairs),
            "timesteps": pairs.timestep.tolist(),
            "sampler": job.denoiser.schedule.sampler,
            "steps": options.steps,
            "seconds": sum(value for stage, value in job.timings_s.items() if stage.startswith("calibration")),
        },
    )


def write_manifest(job: Job, started: datetime) -> None:
    """Write `verdict.json` and, last of all, `manifest.json`."""
    folder, target = job.folder, job.target
    verdict = _verdict(job)
    folder.save_json(VERDICT, verdict)
    artefacts = {name: describe_file(folder.path / name) for name in folder.names if not name.startswith("units/")}
    manifest = {
        "schema": SCHEMA,
        "ptq_export": package_versions()["ptq-export"],
        "command": command_line(job.options),
        "created": started.isoformat(timespec="seconds"),
        "options": plain(job.options),
        "denoiser": _describe(job),
        "target": target.name,
        "scheme": asdict(job.scheme),
        "versions": package_versions(job.runtime.distributions),
        "environment": describe_environment(runtime=job.runtime.distributions).to_json(),
        "artefacts": artefacts,
        "timings_s": job.timings_s,
        "verdict": verdict,
    }
    write_json(folder.path / MANIFEST, manifest)


def _verdict(job: Job) -> dict[str, Any]:
    fidelity, layers = (read_part(job.folder.path, name) for name in ("fidelity.json", "layers.json"))
    latency = job.folder.load_json("latency.json")
    found = failures(job)
    name = job.target.name
    rows = layers["layers"]
    return {
        "ok": not found,
        **timing_verdict(latency),
        "psnr_db": fidelity["psnr"]["values"][name]["mean_db"],
        "median_sqnr_db": round(median(fidelity["curves"][name]["sqnr_db"]), 2),
        "int8_layers": sum(row["precision"] == "int8" for row in rows),
        "layers": len(rows),
        "layers_read_from": layers["read_from"],
        "failures": found,
    }


def _describe(job: Job) -> dict[str, Any]:
    denoiser, source = job.denoiser, job.denoiser.source
    return {
        "spec": source.spec,
        "format": source.format,
        "sha256": source.sha256,
        "ema": source.ema,
        "notes": list(source.notes),
        "parameters": denoiser.parameters,
        "sample_shape": list(denoiser.sample_shape),
        "schedule": denoiser.schedule.to_json(),
        "inputs": inputs_to_json(denoiser.inputs),
        "classes": denoiser.classes,
        "text": denoiser.text and denoiser.text.parts.to_json(),
    }


def command_line(options: Options) -> str:
    """The command that asks for `options`: those that are not the defaults."""
    default = Options().resolved()
    words = ["ptq-export"]
    for name, value in plain(options).items():
        if value != getattr(default, name) or name in ("ckpt", "target"):
            flag = f"--{name.replace('_', '-')}"
            words += [flag] if value is True else [flag, str(value)]
    return shlex.join(words)


def plain(options: Options) -> dict[str, Any]:
    """The options as JSON has them."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(options).items()}
