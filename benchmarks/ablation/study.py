"""An ablation on disk: which settings are done, with what they came to; whole after every one of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptq_export.artifacts import read_json, write_json
from ptq_export.benchmarks.ablation.score import FID_SAMPLES, HELD_OUT, STEPS, TIMESTEPS
from ptq_export.benchmarks.ablation.settings import Setting
from ptq_export.benchmarks.ablation.summary import Outcome, summarise
from ptq_export.benchmarks.environment import describe_environment, package_versions
from ptq_export.denoiser import Denoiser
from ptq_export.errors import InputError
from ptq_export.interface import inputs_to_json

__all__ = ["ITERATIONS", "Study"]

SCHEMA = 1
ITERATIONS = 80  # of learned rounding, per block


class Study:
    """The outcomes so far, kept in `ablation.json`."""

    def __init__(self, folder: Path, denoiser: Denoiser, assumptions: Mapping[str, str]) -> None:
        """Begin in `folder`, or go on with what stands there.

        Raises:
            InputError: the folder cannot be written, or holds an ablation of something else.
        """
        self.path = folder / "ablation.json"
        self.request = _request(denoiser, assumptions)
        self.fp32_digit_fid: float | None = None
        self.outcomes: dict[tuple[Setting, int], Outcome] = {}
        if self.path.exists():
            self._take_up(read_json(self.path))
        write_json(self.path, self.to_json())

    def _take_up(self, found: dict[str, Any]) -> None:
        before = found.get("request", {})
        differences = [
            f"{key}: {before.get(key)} there, {now} now" for key, now in self.request.items() if before.get(key) != now
        ]
        if differences:
            raise InputError(
                f"{self.path} holds an ablation with other options ({'; '.join(differences)})",
                "give the same options to go on with it, or choose another folder with --out",
            )
        self.fp32_digit_fid = found["fp32_digit_fid"]
        for outcome in map(Outcome.from_json, found["outcomes"]):
            self.outcomes[outcome.setting, outcome.seed] = outcome

    def keep(self, outcome: Outcome) -> None:
        """Record an outcome, on disk too."""
        self.outcomes[outcome.setting, outcome.seed] = outcome
        write_json(self.path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """All of `ablation.json`."""
        outcomes = list(self.outcomes.values())
        return {
            "schema": SCHEMA,
            "request": self.request,
            "environment": describe_environment().to_json(),
            "seeds": len({outcome.seed for outcome in outcomes}),
            "fp32_digit_fid": self.fp32_digit_fid,
            **summarise(outcomes),
            "outcomes": [outcome.to_json() for outcome in outcomes],
        }


def _request(denoiser: Denoiser, assumptions: Mapping[str, str]) -> dict[str, Any]:
    return {
        "checkpoint": denoiser.source.spec,
        "sha256": denoiser.source.sha256,
        "assume": dict(assumptions),
        "inputs": inputs_to_json(denoiser.inputs),
        "steps": STEPS,
        "iterations": ITERATIONS,
        "timesteps": TIMESTEPS,
        "held_out": HELD_OUT,
        "fid_samples": FID_SAMPLES,
        "versions": package_versions(),
    }
