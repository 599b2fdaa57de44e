"""The least that a manifest may hold, for tests that need no more of a run."""

from typing import Any

__all__ = ["least_manifest"]

INPUTS = [
    {"name": "sample", "dtype": "float32", "shape": [1, 8, 8], "limit": None},
    {"name": "timestep", "dtype": "int64", "shape": [], "limit": None},
]


def least_manifest(**parts: Any) -> dict[str, Any]:
    """A valid manifest with these fields in place of its own."""
    verdict = {"ok": True, "valid": None, "speedup": None, "baseline": None, "psnr_db": None, "median_sqnr_db": None}
    return {
        "schema": 2,
        "ptq_export": "0",
        "command": "",
        "created": "",
        "options": {},
        "denoiser": {"spec": "", "sha256": "", "notes": [], "sample_shape": [1, 8, 8], "inputs": INPUTS},
        "target": "ort-int8",
        "scheme": {},
        "versions": {},
        "environment": {},
        "artefacts": {},
        "timings_s": {},
        "verdict": verdict | {"int8_layers": 0, "layers": 0, "failures": []},
    } | parts
