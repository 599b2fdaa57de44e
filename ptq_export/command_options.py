"""The options of the commands that take a finished run."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ptq_export.errors import InputError
from ptq_export.options import LONGEST_S, MOST, MOST_GUIDANCE, Flag

__all__ = ["Fleet", "Packaging", "Sampling", "Serving"]

MOST_BATCH = 1024


@dataclass(frozen=True)
class Sampling:
    """What `ptq-export sample` draws."""

    picture: Annotated[Path, Flag("Sampling", "Picture to write.", {}, ("--output", "-o"))] = Path("samples.png")
    count: Annotated[int, Flag("Sampling", "How many samples.", {"min": 1, "max": MOST, "metavar": "N"})] = 16
    steps: Annotated[int, Flag("Sampling", "Denoising steps.", {"min": 1, "max": MOST, "metavar": "N"})] = 20
    sampler: Annotated[str, Flag("Sampling", "ddim, ddpm, dpm-solver++, euler, pndm or unipc.")] = "ddim"
    label: Annotated[
        int | None,
        Flag(
            "Sampling",
            "Class of all samples.",
            {"min": 0, "max": MOST, "metavar": "N", "show_default": "drawn"},
            ("--class",),
        ),
    ] = None
    prompt: Annotated[
        str | None,
        Flag(
            "Sampling",
            "Text-to-image: what the samples show.",
            {"metavar": "TEXT", "show_default": "the prompts of the run"},
        ),
    ] = None
    negative: Annotated[
        str, Flag("Sampling", "Text-to-image: what they are moved away from.", {"show_default": "nothing"})
    ] = ""
    guidance: Annotated[
        float | None,
        Flag(
            "Sampling",
            "Text-to-image: scale of the guidance, 1 for none.",
            {"min": 0.0, "max": MOST_GUIDANCE, "metavar": "SCALE", "show_default": "the run's"},
        ),
    ] = None
    seed: Annotated[
        int, Flag("Sampling", "Seed of the initial noise, and of what else is drawn.", {"min": 0, "max": MOST})
    ] = 0


@dataclass(frozen=True)
class Serving:
    """How `ptq-export serve` serves."""

    host: Annotated[
        str, Flag("Serving", "Address to listen on; 0.0.0.0 for every network. Nothing asks who calls.")
    ] = "127.0.0.1"
    port: Annotated[int, Flag("Serving", "Port; 0 for any that is free.", {"min": 0, "max": 65535})] = 8000
    max_batch: Annotated[
        int | None,
        Flag(
            "Serving",
            "Rows of the largest batch.",
            {"min": 1, "max": MOST_BATCH, "metavar": "N", "show_default": "by the engine's step times, at most 32"},
        ),
    ] = None
    queue: Annotated[
        int,
        Flag("Serving", "Pictures that are accepted and not finished; more are answered 429.", {"min": 1, "max": MOST}),
    ] = 256
    timeout: Annotated[
        float, Flag("Serving", "Seconds that an accepted request may take.", {"min": 0.001, "max": LONGEST_S})
    ] = 300.0
    max_body: Annotated[int, Flag("Serving", "Bytes of the largest body.", {"min": 1, "max": MOST})] = 4 << 20
    also: Annotated[
        str | None,
        Flag(
            "Serving",
            "Another engine of the run beside its own, for instance its baseline ort-fp32; the model RUN:TARGET.",
            {"metavar": "TARGET", "show_default": "none"},
        ),
    ] = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.timeout):
            raise InputError(f"--timeout {self.timeout} is no number", "give one that is finite")


@dataclass(frozen=True)
class Packaging:
    """What `ptq-export package` writes."""

    out: Annotated[Path, Flag("Package", "Folder to write.", {"metavar": "DIR"}, ("--output", "-o"))] = Path("package")
    format: Annotated[str, Flag("Package", "folder, or triton: a model repository.")] = "folder"
    engine: Annotated[
        Literal["native", "python"],
        Flag(
            "Package",
            "triton: what runs a step, Triton's own backend for the engine or its Python backend with this package.",
        ),
    ] = "native"
    max_batch: Annotated[
        int, Flag("Package", "triton: steps that are joined into one at most.", {"min": 1, "max": 4096, "metavar": "N"})
    ] = 8


@dataclass(frozen=True)
class Fleet:
    """How many processes serve, on how many machines."""

    ray: Annotated[
        bool,
        Flag(
            "Ray",
            "Serve by replicas of Ray Serve, here or on the cluster of RAY_ADDRESS.",
            {"show_default": False},
            ("--ray",),
        ),
    ] = False
    replicas: Annotated[
        str,
        Flag(
            "Ray", "Replicas: their number, or LEAST:MOST, as many as the requests at work ask for.", {"metavar": "N"}
        ),
    ] = "1:4"
    cpus: Annotated[
        float, Flag("Ray", "CPUs that Ray sets aside for a replica.", {"min": 0.01, "max": 1024}, ("--replica-cpus",))
    ] = 1.0

    def __post_init__(self) -> None:
        least, most = self.range
        if not 1 <= least <= most <= MOST_BATCH:
            raise InputError(f"--replicas {self.replicas} are no replicas", f"give 1 to {MOST_BATCH}, or LEAST:MOST")

    @property
    def range(self) -> tuple[int, int]:
        """The least number of replicas and the largest."""
        least, _, most = self.replicas.partition(":")
        try:
            return int(least), int(most or least)
        except ValueError:
            return 0, 0
