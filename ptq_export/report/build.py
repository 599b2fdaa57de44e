"""One run folder in, one self-contained `report.html` out: whatever is missing is said, never guessed."""

import base64
import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError

from ptq_export.artifacts import atomic_path, inside
from ptq_export.errors import InputError
from ptq_export.printable import printable
from ptq_export.report import charts, tables, units, verdict
from ptq_export.report.images import load_gallery
from ptq_export.report.layermap import layer_map
from ptq_export.schemas import read_part

__all__ = ["build_report"]

Json = Mapping[str, Any]
PARTS = (
    "manifest",
    "latency",
    "fidelity",
    "parity",
    "layers",
    "calibration",
    "linears",
    "sensitivity",
    "tensorrt",
    "tuning",
)
SAMPLES_FILE = "samples.safetensors"
REPORT_FILE = "report.html"


def build_report(run: Path) -> Path:
    """Write `<run>/report.html` from the files of the run folder; the same files give the same bytes.

    Raises:
        InputError: the folder holds no run, or one of its files is damaged or of a newer schema.
    """
    parts = {name: _read_part(run / f"{name}.json") for name in PARTS}
    if not any(parts.values()):
        raise InputError(
            f"{run} holds no run", f"expected at least one of {', '.join(f'{name}.json' for name in PARTS)}"
        )
    samples = inside(run, SAMPLES_FILE)
    low, high = ((parts["fidelity"] or {}).get("psnr") or {}).get("range", (-1.0, 1.0))
    gallery = load_gallery(samples, low, high) if samples.exists() else None
    page = _environment().get_template("report.html.j2")
    try:
        html = page.render(_context(parts), gallery=gallery, run_name=run.resolve().name, **parts)
    except UndefinedError as error:  # a field that older versions may leave out
        raise InputError(
            f"{run}: the report shows a field that is absent: {error.message}", "make the run again"
        ) from error
    target = run / REPORT_FILE
    with atomic_path(target) as path:
        path.write_text(html, encoding="utf-8", newline="\n")
    return target


def _read_part(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    return read_part(path.parent, path.name)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    for function in (units.count, units.decibel, units.duration, units.milliseconds, units.percent, units.size):
        environment.filters[function.__name__] = partial(_present, function)
    environment.filters["sampler"] = units.sampler_label
    environment.filters["precision"] = units.precision_label
    environment.filters["sha256_base64"] = _sha256_base64
    environment.globals.update(charts=charts, tables=tables, gains=verdict.gains, layer_map=layer_map)
    return environment


def _present(show: Callable[[Any], str], value: Any) -> str:
    """A field that a file leaves out is shown as one that is null."""
    return show(None if isinstance(value, StrictUndefined) else value)


def _shown(value: Any) -> Any:
    """Texts without direction marks and the like, which would hide what they say; markup is made of such texts."""
    return printable(value) if type(value) is str else value


def _context(parts: Mapping[str, Json | None]) -> dict[str, Any]:
    manifest = parts["manifest"]
    return {
        "verdict": verdict.judge(manifest, parts["latency"]),
        "figures": verdict.headline(parts),
        "output": verdict.output_name(manifest),
        "accent": "" if manifest is None else units.precision_label(manifest["target"]),
        "random": manifest is not None and verdict.random_weights(manifest["denoiser"]),
    }


def _sha256_base64(text: str) -> str:
    """The form in which a Content-Security-Policy names the one script that may run."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
