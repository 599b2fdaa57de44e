"""Is our int8 at least as faithful as the best of `onnxruntime.quantization`'s own calibrators?

    python -m ptq_export.benchmarks.ort_calibrators RUN [--samples 32] [--latency] [--out FILE.json]

Every calibrator gets the run's calibration pairs and quantises the same layers of the same folded FP32 graph: QDQ,
asymmetric uint8 activations (outputs too, as ONNX Runtime does it), int8 weights with a step per channel. All are
scored against that graph on held-out noise: PSNR of the final sample after 20 DDIM steps, SQNR of eps per time-step.
Exit code 1: ours has the lower mean PSNR.

Every calibrator appears with full-range weights and with `reduce_range` (7 bits): without VNNI, x86 kernels add two
uint8 x int8 products in 16 bits and saturate on full-range weights. ONNX Runtime advises `reduce_range` there, so
which of the two is ahead depends on the machine; that is part of what is measured.
"""

import argparse
import contextlib
import io
import math
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata
from safetensors.numpy import load_file
from torch import Tensor

from ptq_export.artifacts import read_json, write_json
from ptq_export.benchmarks.clock import Protocol
from ptq_export.benchmarks.environment import describe_environment
from ptq_export.benchmarks.fidelity import finite_db, sqnr_per_timestep
from ptq_export.benchmarks.held_out import held_out_noise, held_out_pairs
from ptq_export.benchmarks.latency import measure_steps
from ptq_export.benchmarks.same_noise import psnr_db, same_noise_psnr
from ptq_export.denoiser import NoiseSchedule
from ptq_export.errors import InputError, PtqExportError
from ptq_export.sampling import EpsModel

__all__ = ["CALIBRATORS", "RunFiles", "Score", "main", "margin_db", "open_session", "quantise_with_ort", "score"]

OURS = "ours"
STEPS = 20
CALIBRATORS: Mapping[str, tuple[CalibrationMethod, Mapping[str, float]]] = {
    "minmax": (CalibrationMethod.MinMax, {}),
    "entropy": (CalibrationMethod.Entropy, {}),
    "distribution": (CalibrationMethod.Distribution, {}),
    **{f"percentile {p}": (CalibrationMethod.Percentile, {"CalibPercentile": p}) for p in (99.999, 99.99, 99.9)},
}


class RunFiles:
    """What the comparison needs of a finished run; `layers` are the names of the int8 ones."""

    def __init__(self, folder: Path) -> None:
        """Read a run folder.

        Raises:
            InputError: a file is missing, or the FP32 graph does not have the int8 layers.
        """
        denoiser = read_json(folder / "manifest.json")["denoiser"]
        rows = read_json(folder / "layers.json")["layers"]
        self.layers: list[str] = [row["name"] for row in rows if row["precision"] == "int8"]
        self.schedule = NoiseSchedule(**denoiser["schedule"])
        channels, height, width = denoiser["sample_shape"]
        self.sample_shape: tuple[int, int, int] = (channels, height, width)
        self.reference, self.ours = folder / "denoiser.fp32.onnx", folder / "denoiser.ort-int8.onnx"
        for path in (self.reference, self.ours, folder / "pairs.safetensors"):
            if not path.is_file():
                raise InputError(f"{path} does not exist", "finish the run first")
        absent = sorted(set(self.layers) - {node.name for node in onnx.load(self.reference).graph.node})
        if absent or not self.layers:
            missing = ", ".join(absent) or "that is int8"
            raise InputError(f"{self.reference.name} has no layer {missing}", "compare a run without --split-shortcut")
        self.pairs: Mapping[str, Any] = load_file(folder / "pairs.safetensors")


@dataclass(frozen=True)
class Score:
    """Of one model: PSNR per sample, SQNR per time-step, and how much faster than FP32 a step is (None: not asked)."""

    psnr_db: Sequence[float]
    sqnr_db: Sequence[float]
    speedup: float | None = None

    def to_json(self) -> dict[str, float | None]:
        """The row of the table."""
        return {
            "psnr_mean_db": round(statistics.fmean(self.psnr_db), 4),
            "psnr_min_db": min(self.psnr_db),
            "sqnr_median_db": round(statistics.median(self.sqnr_db), 4),
            "sqnr_worst_db": min(self.sqnr_db),
            "speedup": self.speedup,
        }


def quantise_with_ort(run: RunFiles, target: Path, calibrator: str, reduce_range: bool) -> None:
    """Write the run's FP32 graph to `target`, its int8 layers quantised by one of `CALIBRATORS`."""
    method, options = CALIBRATORS[calibrator]
    model = onnx.load(run.reference)
    add_pre_process_metadata(model)  # The exporter has folded what the recommended pre-processing would fold.
    with contextlib.redirect_stdout(io.StringIO()):
        quantize_static(
            model,
            target,
            _PairReader(run.pairs),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            nodes_to_quantize=run.layers,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=method,
            # Pair by pair: memory does not grow with their number, and the entropy calibrator's 128 bins, in which
            # it finds no threshold but min-max, become more as the range widens.
            extra_options={**options, "CalibStridedMinMax": 1},
        )


def open_session(path: Path) -> EpsModel:
    """A plain ONNX Runtime session on the CPU as a function (sample, timestep) -> eps, for any batch."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    fixed = next(item.shape[0] for item in session.get_inputs() if item.name == "sample")

    def eps(sample: Tensor, timestep: Tensor) -> Tensor:
        rows = fixed if isinstance(fixed, int) else len(sample)
        chunks = zip(torch.split(sample, rows), torch.split(timestep, rows), strict=True)
        outputs = [session.run(None, {"sample": x.numpy(), "timestep": t.numpy()})[0] for x, t in chunks]
        return torch.cat([torch.from_numpy(output) for output in outputs])

    return eps


def score(run: RunFiles, models: Mapping[str, EpsModel], samples: int, latency: bool = False) -> dict[str, Score]:
    """Score every model against the FP32 graph on `samples` (two or more) held-out noises, best mean PSNR first."""
    reference = open_session(run.reference)
    noise = held_out_noise((samples, *run.sample_shape), seed=0)
    same = same_noise_psnr(reference, models, run.schedule, noise, STEPS)
    held_out = held_out_pairs(reference, run.schedule, run.sample_shape, STEPS, STEPS, samples, seed=1)
    curves = sqnr_per_timestep(reference, models, held_out)
    speedups = _speedups({"fp32": reference, **models}, run, list(held_out.pairs)) if latency else {}
    scores = {}
    for name in models:
        psnr = [finite_db(value) for value in psnr_db(same.reference, same.candidates[name])]
        sqnr = [finite_db(value) for value in curves[name].sqnr_db]
        scores[name] = Score(psnr, sqnr, speedups.get(name))
    return dict(sorted(scores.items(), key=lambda item: -statistics.fmean(item[1].psnr_db)))


def margin_db(first: Score, second: Score) -> tuple[float, float]:
    """By how much the mean PSNR of `first` is above that of `second`, and the standard error (same noise, paired)."""
    gaps = [ours - theirs for ours, theirs in zip(first.psnr_db, second.psnr_db, strict=True)]
    return statistics.fmean(gaps), statistics.stdev(gaps) / math.sqrt(len(gaps))


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns the exit code."""
    parser = argparse.ArgumentParser(prog="ort_calibrators", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run folder of target ort-int8")
    parser.add_argument("--samples", type=int, default=32, help="held-out noises, two or more (default: 32)")
    parser.add_argument(
        "--latency",
        action="store_true",
        help="time a step against FP32, too (indicative: `ptq-export bench` judges the noise)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the results here")
    options = parser.parse_args(arguments)
    if options.samples < 2:
        parser.error("--samples must be 2 or more")
    try:
        return _compare(RunFiles(options.run), options)
    except PtqExportError as error:
        print(error, file=sys.stderr)
        return error.exit_code


class _PairReader:
    """Calibration pairs one by one, as `quantize_static` asks for them."""

    def __init__(self, pairs: Mapping[str, Any]) -> None:
        self.pairs = pairs
        self.set_range(0, len(self))

    def __len__(self) -> int:
        return len(self.pairs["sample"])

    def set_range(self, start_index: int, end_index: int) -> None:
        self.rows = iter(range(start_index, end_index))

    def get_next(self) -> dict[str, Any] | None:
        row = next(self.rows, None)
        return None if row is None else {name: self.pairs[name][row : row + 1] for name in ("sample", "timestep")}


def _compare(run: RunFiles, options: argparse.Namespace) -> int:
    scores = score(run, _models(run), options.samples, options.latency)
    rival = next(name for name in scores if name != OURS)
    margin, stderr = margin_db(scores[OURS], scores[rival])
    result = {
        "schema": 1,
        "environment": describe_environment().to_json(),
        "calibration_pairs": len(run.pairs["sample"]),
        "int8_layers": len(run.layers),
        "psnr": {"sampler": "ddim", "steps": STEPS, "samples": options.samples},
        "models": {name: each.to_json() for name, each in scores.items()},
        "margin": {"over": rival, "mean_db": round(margin, 4), "stderr_db": round(stderr, 4)},
    }
    if options.out is not None:
        write_json(options.out, result)
    print(f"{'':33} {'PSNR mean':>10} {'min':>8} {'SQNR median':>12} {'worst':>8} {'speed-up':>9}")
    for name, each in scores.items():
        mean, low, median, worst, speedup = each.to_json().values()
        figures = f"{mean:10.2f} {low:8.2f} {median:12.2f} {worst:8.2f} {f'{speedup:.2f}x' if speedup else '':>9}"
        print(f"{'>' if name == OURS else ' '} {name:31} {figures}")
    print(f"\nours against the best calibrator ({rival}): {margin:+.2f} ± {stderr:.2f} dB")
    return 0 if margin >= 0 else 1


def _models(run: RunFiles) -> dict[str, EpsModel]:
    """Ours, and what every calibrator makes of the FP32 graph."""
    models = {OURS: open_session(run.ours)}
    with tempfile.TemporaryDirectory(prefix="ptq-export-") as folder:
        target = Path(folder) / "denoiser.onnx"
        for calibrator in CALIBRATORS:
            for reduce_range in (False, True):
                name = f"{calibrator}, reduce_range" if reduce_range else calibrator
                print(f"calibrating: {name}", file=sys.stderr)
                quantise_with_ort(run, target, calibrator, reduce_range)
                models[name] = open_session(target)
    return models


def _speedups(models: Mapping[str, EpsModel], run: RunFiles, timesteps: Sequence[int]) -> dict[str, float]:
    (step,) = measure_steps(models, [1], run.sample_shape, Protocol(), timesteps)
    fp32_ms = step.candidates["fp32"].median_ms
    return {name: round(fp32_ms / latency.median_ms, 4) for name, latency in step.candidates.items()}


if __name__ == "__main__":
    sys.exit(main())
