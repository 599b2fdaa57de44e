"""A run folder with plausible figures of a small digit denoiser, for the tests of the report."""

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ptq_export.artifacts import write_json

__all__ = ["PARTS", "write_run"]

PARTS = ("calibration", "fidelity", "latency", "layers", "manifest", "parity")
TIMESTEPS = list(range(0, 1000, 50))
CANDIDATES = {"ort-int8": 3.31, "ort-fp32": 6.39, "ort-fp32-unfolded": 6.87}


def write_run(run: Path) -> Path:
    """Write every JSON file and the samples of a finished run into `run`."""
    write_json(run / "latency.json", latency())
    write_json(run / "fidelity.json", fidelity())
    write_json(run / "parity.json", parity())
    write_json(run / "layers.json", {"schema": 2, "layers": layers()})
    write_json(run / "calibration.json", calibration())
    write_json(run / "manifest.json", manifest())
    save_file(samples(), run / "samples.safetensors")
    return run


def latency() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    steps = []
    for batch, factor in ((1, 1.0), (16, 11.4)):
        rounds = {name: factor * ms * generator.gamma(900, 1 / 900, 240) for name, ms in CANDIDATES.items()}
        candidates = {name: _timing(values) for name, values in rounds.items()}
        medians = {name: timing["median_ms"] for name, timing in candidates.items()}
        speedup = {name: medians[name] / medians["ort-int8"] for name in list(CANDIDATES)[1:]}
        spread = {name: {"p25": ratio - 0.05, "p75": ratio + 0.05, "margin": 0.012} for name, ratio in speedup.items()}
        step = {"batch": batch, "candidates": candidates, "speedup": speedup, "speedup_spread": spread}
        steps.append(step | {"valid": True, "reason": ""})
    loops = [
        {
            "sampler": sampler,
            "steps": 20,
            "batch": 1,
            "candidates": {
                name: {"total_s": 0.021 * ms, "per_step_ms": 1.05 * ms, "outside_share": 0.16 / ms}
                for name, ms in list(CANDIDATES.items())[:2]
            },
        }
        for sampler in ("ddim", "dpm-solver++")
    ]
    return {
        "schema": 2,
        "environment": {"cpu": "Example CPU", "threads": 2},
        "protocol": {"warmup": 20, "min_rounds": 200, "min_seconds": 5.0},
        "steps": steps,
        "loops": loops,
        "size_bytes": {"ort-int8": 6_912_000, "ort-fp32": 24_310_000, "ort-fp32-unfolded": 25_020_000},
        "peak_memory_bytes": {"ort-int8": 182_000_000, "ort-fp32": 231_000_000, "ort-fp32-unfolded": 236_000_000},
    }


def _timing(rounds: np.ndarray) -> dict[str, Any]:
    figures = {f"p{q}_ms": float(np.percentile(rounds, q)) for q in (90, 95, 99)}
    figures |= {"mean_ms": float(rounds.mean()), "median_ms": float(np.median(rounds)), "min_ms": float(rounds.min())}
    return {"n": len(rounds), **figures, "raw_ms": rounds.tolist()}


def fidelity() -> dict[str, Any]:
    curves = {}
    for name, offset, wobble in (("ort-int8", 0.0, 0.12), ("simulation", 0.0, 0.0), ("exact_weights", 1.1, 0.0)):
        sqnr = [36.5 + offset + wobble * math.sin(t) - 22 * math.exp(-(t + 20) / 60) - 4e-3 * t for t in TIMESTEPS]
        error = [0.0003 + 0.004 * (t / 1000) ** 2 * 10 ** (-offset / 20) + 1e-5 * wobble for t in TIMESTEPS]
        curves[name] = {"sqnr_db": sqnr, "step_error": error}
    values = {"ort-int8": 38.42, "simulation": 38.51, "exact_weights": 39.93}
    psnr = {name: {"mean_db": value, "min_db": value - 5.2} for name, value in values.items()}
    return {
        "schema": 2,
        "pairs_per_timestep": 64,
        "timesteps": TIMESTEPS,
        "curves": curves,
        "psnr": {"sampler": "ddim", "steps": 20, "samples": 64, "values": psnr},
        "fid": {"network": "digits classifier", "samples": 2048, "fp32": 3.214, "int8": 3.291, "ratio": 1.024},
    }


def layers() -> list[dict[str, Any]]:
    names = [("conv_in", "Conv"), ("time_embedding.linear_1", "Gemm"), ("time_embedding.linear_2", "Gemm")]
    for block, resnets, attention in (("down_blocks.0", 1, 0), ("down_blocks.1", 1, 1), ("down_blocks.2", 1, 0)):
        names += [*_block(block, resnets, attention), (f"{block}.downsamplers.0.conv", "Conv")]
    names += _block("mid_block", 2, 1)
    for block, attention in (("up_blocks.0", 0), ("up_blocks.1", 2), ("up_blocks.2", 0)):
        names += _block(block, 2, attention, shortcut=True)
    names.append(("conv_out", "Conv"))
    return [_layer(f"unet.{name}", op) for name, op in names]


def _block(block: str, resnets: int, attentions: int, shortcut: bool = False) -> list[tuple[str, str]]:
    kinds = ["conv1", "conv2"] + ["conv_shortcut"] * shortcut
    convs = [(f"{block}.resnets.{index}.{kind}", "Conv") for index in range(resnets) for kind in kinds]
    parts = ("to_q", "to_k", "to_v", "to_out.0")
    return convs + [(f"{block}.attentions.{index}.{part}", "Gemm") for index in range(attentions) for part in parts]


def _layer(name: str, op: str) -> dict[str, Any]:
    reasons = {"conv_in": "first convolution: its input is the sample itself", "conv_out": "last convolution"}
    reason = "folded into a table over t" if "time_embedding" in name else reasons.get(name.removeprefix("unet."), "")
    precision = "float" if reason else "int8"
    return {"name": name, "op": op, "precision": precision, "intended": precision, "reason": reason}


def parity() -> dict[str, Any]:
    int8 = [layer["name"] for layer in layers() if layer["precision"] == "int8"]
    local = [
        {
            "block": name,
            "kind": "layer",
            "sqnr_db": 51.0 + 37 * index % 29,
            "max_steps": 1.0 if index % 3 else 0.0,
            "bound_db": None,
            "share_off": 1e-4 * (index % 7) if index % 3 else 0.0,
            "ok": True,
        }
        for index, name in enumerate(int8)
    ]
    local.append(
        {
            "block": "unet.mid_block",
            "kind": "block",
            "sqnr_db": 58.7,
            "bound_db": 44.8,
            "max_steps": 2.6,
            "share_off": 0.031,
            "ok": True,
        }
    )
    curves = fidelity()["curves"]
    both = zip(TIMESTEPS, curves["simulation"]["sqnr_db"], curves["ort-int8"]["sqnr_db"], strict=True)
    bounds = [{"timestep": t, "simulation_db": s, "engine_db": e, "bound_db": 0.5, "ok": True} for t, s, e in both]
    return {"schema": 2, "local": local, "global": bounds}


def calibration() -> dict[str, Any]:
    drawn = np.random.default_rng(1).normal(400, 300, 256)
    timesteps = (np.clip(drawn, 0, 950) // 50 * 50).astype(int).tolist()
    return {
        "schema": 2,
        "policy": "ndtc",
        "metric": "l2.4",
        "rounding": "learned",
        "pairs": len(timesteps),
        "timesteps": timesteps,
        "sampler": "ddim",
        "steps": 20,
        "seconds": 96.4,
    }


def samples() -> dict[str, np.ndarray]:
    """Rings and bars in place of digits: `[8, 1, 16, 16]` in [-1, 1], and the same with a little noise."""
    y, x = np.mgrid[-1:1:16j, -1:1:16j]
    shapes = [np.exp(-(((x**2 + y**2) ** 0.5 - 0.3 - 0.05 * k) ** 2) * 30) for k in range(4)]
    shapes += [np.exp(-((x * math.cos(k) + y * math.sin(k)) ** 2) * 12) * (abs(y) < 0.8) for k in range(4)]
    reference = (2 * np.stack(shapes)[:, None] - 1).astype(np.float32)
    noise = np.random.default_rng(2).normal(0, 0.02, reference.shape).astype(np.float32)
    return {"reference": reference, "engine": np.clip(reference + noise, -1, 1)}


def manifest() -> dict[str, Any]:
    counted = layers()
    files = {"denoiser.fp32.onnx": 24_310_000, "denoiser.ort-int8.onnx": 6_912_000, "pairs.safetensors": 530_000}
    return {
        "schema": 2,
        "ptq_export": "0.1.0",
        "command": "ptq-export --ckpt digits --target ort-int8 --out runs/digits",
        "created": "2026-11-22T17:40:12+00:00",
        "options": {"ckpt": "digits", "target": "ort-int8", "effort": "standard", "rounding": "learned", "seed": 0},
        "denoiser": {
            "spec": "digits",
            "format": "embedded",
            "sha256": hashlib.sha256(b"digits").hexdigest(),
            "ema": True,
            "notes": ["DDPM U-Net trained on scikit-learn's handwritten digits"],
            "parameters": 6_020_161,
            "sample_shape": [1, 16, 16],
            "inputs": [
                {"name": "sample", "dtype": "float32", "shape": [1, 16, 16], "limit": None},
                {"name": "timestep", "dtype": "int64", "shape": [], "limit": None},
            ],
        },
        "target": "ort-int8",
        "scheme": {"activations": "uint8, per tensor", "weights": "int8, per output channel", "output_q": True},
        "versions": {"torch": "2.13.0", "onnx": "1.22.0", "onnxruntime": "1.32.0", "diffusers": "0.36.0"},
        "environment": {
            "cpu": "Example CPU @ 2.60GHz",
            "isa": ["avx2", "avx512f", "avx512_vnni"],
            "cores": 2,
            "threads": 2,
            "os": "Linux",
            "python": "3.12.4",
        },
        "artefacts": {
            name: {"sha256": hashlib.sha256(name.encode()).hexdigest(), "size_bytes": size}
            for name, size in files.items()
        },
        "timings_s": {"pairs": 21.3, "ranges": 9.8, "rounding": 65.3, "export": 11.9, "proofs": 24.0, "latency": 38.2},
        "verdict": {
            "ok": True,
            "speedup": 1.93,
            "baseline": "ort-fp32",
            "valid": True,
            "psnr_db": 38.42,
            "median_sqnr_db": 34.1,
            "int8_layers": sum(layer["precision"] == "int8" for layer in counted),
            "layers": len(counted),
            "failures": [],
        },
    }
