"""Every option of the main job, declared once: the command line, the Python API and the manifest read it here."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from ptq_export.errors import InputError
from ptq_export.jetpack import DEFAULT_JETPACK
from ptq_export.machine import most_threads, physical_cores
from ptq_export.nn.scheme import PLACEMENTS

__all__ = ["CAPABILITIES", "LONGEST_S", "MOST", "MOST_GUIDANCE", "PRESETS", "Flag", "Options"]

PRESETS: Mapping[str, Mapping[str, int]] = {
    "quick": {"samples": 64, "steps": 20, "iterations": 30, "held_out": 8},
    "standard": {"samples": 128, "steps": 20, "iterations": 80, "held_out": 64},
    "paper": {"samples": 1024, "steps": 100, "iterations": 20000, "held_out": 64},
}
RANDOM_SUFFICES: Mapping[str, int] = {"samples": 8, "held_out": 2}
"""The most that `random:` takes of a preset: its images mean nothing, and latency asks for no more."""
DEFAULT_TUNE_LOSS_DB = 0.1
MOST = 2**31 - 1
"""What a count may be at most, whatever this machine can hold."""
LONGEST_S = 1e7
"""What a time may be at most."""
MOST_GUIDANCE = 100.0

CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""For which TensorRT for RTX builds on request
(https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/cpu-engines.html)."""


@dataclass(frozen=True)
class Flag:
    """How a dataclass field shows itself as a command line flag: panel, help, and further keywords of the flag."""

    panel: str
    help: str
    details: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()


def _preset_rows() -> str:
    rows = (f"{name}: " + ", ".join(f"{key} {value}" for key, value in row.items()) for name, row in PRESETS.items())
    return "; ".join(rows)


def _batch(text: str) -> str | None:
    return None if text == "dynamic" else text


_MAIN, _CALIBRATION, _ENGINE, _MEASURE = "Main job", "Calibration", "Engine", "Measurement"
_PRESET = {"min": 1, "max": MOST, "metavar": "N", "show_default": "from --effort"}


@dataclass(frozen=True)
class Options:
    """What the main job is asked to do; `resolved()` fills the options left at None from the preset `effort`."""

    ckpt: Annotated[
        str,
        Flag(
            _MAIN,
            "Trained denoiser: a .pt, .ckpt or .safetensors file, a diffusers folder, package.module:factory, "
            "embedded:digits or embedded:emoji (come with the package) or random:ddim-cifar10 (latency only).",
            {"metavar": "FILE|FOLDER|NAME", "show_default": False},
        ),
    ] = ""
    target: Annotated[str, Flag(_MAIN, "Where it will run; `ptq-export targets` lists them.")] = "ort-int8"
    out: Annotated[Path | None, Flag(_MAIN, "Run folder.", {"show_default": "runs/<checkpoint>-<target>"})] = None
    effort: Annotated[
        Literal["quick", "standard", "paper"],
        Flag(_MAIN, f"Preset for the calibration options that are not given. {_preset_rows()}."),
    ] = "standard"
    resolution: Annotated[
        int | None,
        Flag(
            _MAIN,
            "Height and width of the samples; of the images, where latents are decoded.",
            {"min": 1, "max": MOST, "metavar": "N", "show_default": "from the checkpoint"},
        ),
    ] = None
    assume: Annotated[
        str | None,
        Flag(
            _MAIN,
            "What the checkpoint's tensors do not tell, in place of the published defaults, e.g. heads=4,predict=v; "
            "a wrong key is answered with all of them.",
            {"metavar": "KEY=VALUE,...", "show_default": False},
        ),
    ] = None
    config: Annotated[
        Path | None,
        Flag(
            _MAIN,
            "The config.json of a diffusers UNet2DModel whose state dict stands alone.",
            {"metavar": "FILE", "show_default": "beside the checkpoint"},
        ),
    ] = None
    scheduler_config: Annotated[
        Path | None,
        Flag(
            _MAIN,
            "The noise schedule, in place of the checkpoint's own or an assumed one: a scheduler_config.json as "
            "diffusers saves it.",
            {"metavar": "FILE", "show_default": False},
        ),
    ] = None
    variance: Annotated[
        Literal["drop", "keep"],
        Flag(
            _MAIN,
            "Learned variance (IDDPM, ADM): DDPM sampling reads it; DDIM and DPM-Solver do not, and the engine is "
            "smaller without.",
        ),
    ] = "drop"
    policy: Annotated[
        str,
        Flag(
            _CALIBRATION, "How calibration time-steps are drawn: ndtc[:MEAN:STD], uniform, single[:T] or as-released."
        ),
    ] = "ndtc"
    metric: Annotated[
        str, Flag(_CALIBRATION, "What a range minimises: min-max, percentile, l1, l2, l2.4, cosine or kl.")
    ] = "l2.4"
    linears: Annotated[
        Literal["auto", "tensor", "token"],
        Flag(
            _CALIBRATION,
            "Inputs of linears: one calibrated step, or each token divided by its largest value, which outliers of "
            "others cannot spoil. auto: per layer, by measured error, channels balanced where that helps.",
        ),
    ] = "auto"
    rounding: Annotated[Literal["learned", "nearest"], Flag(_CALIBRATION, "Rounding of the weights.")] = "learned"
    samples: Annotated[int | None, Flag(_CALIBRATION, "Calibration pairs (x_t, t).", _PRESET)] = None
    steps: Annotated[int | None, Flag(_CALIBRATION, "Sampler steps that the pairs are taken from.", _PRESET)] = None
    iterations: Annotated[int | None, Flag(_CALIBRATION, "Learned rounding: iterations per block.", _PRESET)] = None
    keep_float: Annotated[
        str | None,
        Flag(
            _CALIBRATION,
            "Layers to keep in float: patterns of names with commas between them, e.g. `*.to_q,*.to_k`, or auto:DB, as "
            "few as reach that median SQNR. `ptq-export sensitivity` ranks them.",
            {"metavar": "PATTERN,...|auto:DB", "show_default": False},
        ),
    ] = None
    prompts: Annotated[
        Path | None,
        Flag(
            _CALIBRATION,
            "Text-to-image: prompts to calibrate and measure with, a text file with one per line.",
            {"metavar": "FILE", "show_default": "some of our own"},
        ),
    ] = None
    guidance: Annotated[
        float | None,
        Flag(
            _CALIBRATION,
            "Text-to-image: scale of the guidance under which it is calibrated and measured; 1 for none.",
            {"min": 0.0, "max": MOST_GUIDANCE, "metavar": "SCALE", "show_default": "by the model's kind"},
        ),
    ] = None
    calibration_data: Annotated[
        Path | None,
        Flag(
            _CALIBRATION,
            "Your own pairs instead: safetensors or npz with `sample` (N, C, H, W) and `timestep` (N).",
            {"show_default": False},
        ),
    ] = None
    device: Annotated[
        Literal["cpu", "cuda"],
        Flag(_CALIBRATION, "Where calibration computes; the engine runs where its target says."),
    ] = "cpu"
    seed: Annotated[int, Flag(_CALIBRATION, "Seed of everything random.", {"min": 0, "max": MOST})] = 0
    held_out: Annotated[
        int | None, Flag(_MEASURE, "Held-out samples per time-step of the proofs.", _PRESET | {"min": 2})
    ] = None
    min_sqnr: Annotated[
        float,
        Flag(
            _MEASURE,
            "Least median SQNR of the engine against full precision: below it the run fails. Images differ under 25.",
            {"metavar": "DB"},
        ),
    ] = 15.0
    rounds: Annotated[
        int,
        Flag(
            _MEASURE,
            "Least number of timed rounds; 10 or more where they would take over two minutes and over --seconds.",
            {"min": 10, "max": MOST, "metavar": "N"},
        ),
    ] = 30
    seconds: Annotated[
        float,
        Flag(_MEASURE, "Least time measured per batch size.", {"min": 0.0, "max": LONGEST_S, "metavar": "S"}),
    ] = 5.0
    batch: Annotated[
        str | None,
        Flag(
            _ENGINE,
            "Batch that the engine is built for, `dynamic`, or TensorRT's least, usual and largest.",
            {"parser": _batch, "metavar": "N|MIN:OPT:MAX|dynamic", "show_default": "dynamic"},
        ),
    ] = None
    jetpack: Annotated[
        int | None,
        Flag(
            _ENGINE,
            "JetPack of the Jetson: 5 (TensorRT 8.5; for JetPack 6.0 too), 6 (10.3) or 7 (10.13 or newer).",
            {"metavar": "5|6|7", "show_default": str(DEFAULT_JETPACK)},
        ),
    ] = None
    builder_level: Annotated[
        int | None,
        Flag(
            _ENGINE,
            "TensorRT: 0 builds fastest, 5 searches longest.",
            {"min": 0, "max": 5, "metavar": "N", "show_default": "TensorRT's own, 3"},
        ),
    ] = None
    workspace: Annotated[
        int | None,
        Flag(
            _ENGINE,
            "TensorRT: limit of the builder's scratch memory, in MiB.",
            {"min": 1, "max": MOST, "metavar": "MIB", "show_default": "all of the GPU's"},
        ),
    ] = None
    compute_capability: Annotated[
        str | None,
        Flag(
            _ENGINE,
            "TensorRT for RTX: the GPUs that the plan is for, and no others: 7.5 for Turing, 8.6,8.9 for two of them.",
            {"metavar": "X.Y,...", "show_default": "8.0 and newer"},
        ),
    ] = None
    check: Annotated[
        Literal["rtx", "none"] | None,
        Flag(
            _ENGINE,
            "TensorRT's targets: try the graph on the parser and builder of TensorRT for RTX, which need no GPU. Asked "
            "for, it is a proof that must hold.",
            {"show_default": "where it is installed, for information"},
        ),
    ] = None
    placement: Annotated[
        str | None,
        Flag(
            _ENGINE,
            "TensorRT's targets: what a GPU has to judge: float-shortcuts (the shortcuts of residual blocks in "
            "float16), before-resize (quantise before an upsampling, too), residual (an int8 operand for the sum of a "
            "residual block), conv1-output (int8 behind its first convolution). --tune tries them.",
            {"metavar": "NAME,...", "show_default": "none"},
        ),
    ] = None
    split_shortcut: Annotated[
        bool,
        Flag(
            _ENGINE,
            "Run the shortcut convolution over a skip concat as two convolutions and an Add.",
            {"show_default": False},
            ("--split-shortcut",),
        ),
    ] = False
    threads: Annotated[
        int | None,
        Flag(
            _ENGINE, "Threads of the engine.", {"min": 1, "max": MOST, "metavar": "N", "show_default": "physical cores"}
        ),
    ] = None
    tune: Annotated[
        float | None,
        Flag(
            _ENGINE,
            "Try for so many seconds, on the engine itself, which layers are faster in float, in which form the "
            "shortcuts are, and for TensorRT each --placement, and keep what wins. A cheap quantisation and its export "
            "come on top.",
            {"min": 1.0, "max": LONGEST_S, "metavar": "SECONDS", "show_default": "off"},
        ),
    ] = None
    tune_loss: Annotated[
        float | None,
        Flag(
            _ENGINE,
            "How many dB of median SQNR against FP32 the choices of --tune may cost in all.",
            {"min": 0.0, "metavar": "DB", "show_default": str(DEFAULT_TUNE_LOSS_DB)},
        ),
    ] = None

    def __post_init__(self) -> None:
        for name in ("out", "config", "scheduler_config", "prompts", "calibration_data"):
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, Path(value))
        for name in ("seconds", "tune", "tune_loss", "guidance"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise InputError(f"--{name.replace('_', '-')} {value} is no number", "give one that is finite")

        if self.tune is None and self.tune_loss is not None:
            raise InputError("--tune-loss bounds what --tune may choose", "give --tune SECONDS too, or leave it out")

    def resolved(self) -> "Options":
        """The same options with every option that `effort` governs filled in."""
        preset = PRESETS[self.effort]
        if self.ckpt.startswith("random:"):
            preset = {key: min(value, RANDOM_SUFFICES.get(key, value)) for key, value in preset.items()}
        missing: dict[str, Any] = {key: value for key, value in preset.items() if getattr(self, key) is None}
        return replace(self, **missing)

    @property
    def runtime_flags(self) -> tuple[str, ...]:
        """The flags that were given, of those that mean something for some runtimes alone (`Runtime.takes`)."""
        given = {
            "--batch MIN:OPT:MAX": self.batch_range,
            "--builder-level": self.builder_level,
            "--workspace": self.workspace,
            "--compute-capability": self.compute_capabilities or None,
            "--check": self.check,
            "--placement": self.placements or None,
            "--jetpack": self.jetpack,
            "--tune": self.tune,
        }
        return tuple(flag for flag, value in given.items() if value is not None)

    @property
    def for_engines(self) -> dict[str, Any]:
        """What engines are built with, by the names of their own options; a run that was made on more cores may be
        served here."""
        threads = physical_cores() if self.threads is None else min(self.threads, most_threads())
        return {
            "batch": self.fixed_batch,
            "threads": threads,
            "batches": self.batch_range,
            "builder_level": self.builder_level,
            "workspace_mib": self.workspace,
            "compute_capabilities": self.compute_capabilities,
            "jetpack": self.jetpack,
        }

    @property
    def fixed_batch(self) -> int | None:
        """The only batch that the engine serves.

        Raises:
            InputError: `batch` is no batch, nor a range of them.
        """
        sizes = self._batch_sizes()
        return sizes[0] if len(sizes) == 1 else None

    @property
    def batch_range(self) -> tuple[int, int, int] | None:
        """Least, usual and largest batch of a TensorRT engine, where `batch` gives them.

        Raises:
            InputError: `batch` is no batch, nor a range of them.
        """
        sizes = self._batch_sizes()
        return (sizes[0], sizes[1], sizes[2]) if len(sizes) == 3 else None

    def _batch_sizes(self) -> list[int]:
        """Of `8` or `1:4:16`; empty for a dynamic batch."""
        parts = [] if self.batch is None else str(self.batch).split(":")
        sizes = [int(part) if re.fullmatch("[0-9]{1,10}", part) else 0 for part in parts]
        if len(sizes) not in (0, 1, 3) or sizes != sorted(sizes) or 0 in sizes or max(sizes, default=0) > MOST:
            raise InputError(f"--batch {self.batch} is no batch", "give N, dynamic, or MIN:OPT:MAX in rising order")
        return sizes

    @property
    def compute_capabilities(self) -> tuple[str, ...]:
        """The parts of `compute_capability` in rising order, none where TensorRT's default is asked for.

        Raises:
            InputError: one of them is unknown.
        """
        parts = [] if self.compute_capability is None else self.compute_capability.split(",")
        asked = {part.strip() for part in parts}
        unknown = sorted(asked.difference(CAPABILITIES))
        if unknown:
            raise InputError(
                f"--compute-capability {self.compute_capability}: there is no {unknown[0] or 'empty one'}",
                f"TensorRT for RTX knows {', '.join(CAPABILITIES)}",
            )
        return tuple(name for name in CAPABILITIES if name in asked)

    @property
    def placements(self) -> frozenset[str]:
        """The parts of `placement`.

        Raises:
            InputError: one of them is unknown.
        """
        asked = frozenset(part.strip() for part in (self.placement or "").split(",") if part.strip())
        if unknown := sorted(asked.difference(PLACEMENTS)):
            raise InputError(f"--placement: there is no {unknown[0]}", f"known: {', '.join(PLACEMENTS)}")
        return asked

    @property
    def assumptions(self) -> dict[str, str]:
        """`assume` as keys and values.

        Raises:
            InputError: a part of it is not KEY=VALUE.
        """
        pairs = [part.partition("=") for part in (self.assume or "").split(",") if part.strip()]
        wrong = [key for key, sign, value in pairs if not (key.strip() and sign and value.strip())]
        if wrong:
            raise InputError(f"--assume: {wrong[0]!r} is not KEY=VALUE", "for instance --assume heads=4,betas=linear")
        return {key.strip(): value.strip() for key, _, value in pairs}

    @property
    def keep_float_db(self) -> float | None:
        """The DB of `--keep-float auto:DB`.

        Raises:
            InputError: it is no number.
        """
        kind, _, number = (self.keep_float or "").partition(":")
        if kind != "auto":
            return None
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(f"--keep-float {self.keep_float}: {number!r} is no number of dB", "auto:45")
        return value

    @property
    def tune_loss_db(self) -> float:
        """`tune_loss`, or its default."""
        return DEFAULT_TUNE_LOSS_DB if self.tune_loss is None else self.tune_loss

    @property
    def keep_float_patterns(self) -> tuple[str, ...]:
        """The patterns of `--keep-float`, none for `auto:DB`."""
        parts = () if self.keep_float_db is not None else (self.keep_float or "").split(",")
        return tuple(part.strip() for part in parts if part.strip())

    @property
    def folder(self) -> Path:
        """The run folder: `out`, or `runs/<checkpoint>-<target>` under the current folder."""
        if self.out is not None:
            return self.out
        name = re.sub(r"\.(pt|pth|ckpt|bin|safetensors)$", "", Path(self.ckpt).name)
        return Path("runs", f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}-{self.target}")
