"""Make the README's picture and table from one finished run, so that neither can contradict the other.

    python examples/readme.py runs/demo      (after `make demo`; needs Chromium)

The picture is the top of the run's own `report.html`: verdict, latency, samples, without the tables. Both carry the
sha256 of the run's manifest: the picture in a PNG text called `manifest`, the table in the comment above it.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, PngImagePlugin

from ptq_export.artifacts import atomic_path, sha256_file
from ptq_export.errors import InputError
from ptq_export.report.units import decibel, milliseconds, ratio, sampler_label
from ptq_export.report.verdict import judge
from ptq_export.schemas import read_part

__all__ = ["block", "main", "replace_block", "take_picture"]

Json = Mapping[str, Any]
ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- demo: ", "<!-- /demo -->"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTH_PX, HEIGHT_PX, MARGIN_PX = 1160, 3000, 24
SHORT = """<style>
#latency > .columns ~ *, #samples > .scroll ~ *, #samples ~ *, footer { display: none !important }
</style></head>"""


def block(run: Path) -> str:
    """The README's lines between the comments, both included, from the JSON files of `run`.

    Raises:
        InputError: a file is absent or damaged, or a proof of this run does not hold.
    """
    manifest, latency, fidelity = (read_part(run, f"{name}.json") for name in ("manifest", "latency", "fidelity"))
    if not manifest["verdict"]["ok"]:
        raise InputError(f"{run}: {judge(manifest, latency).sentence}", "show a run whose proofs hold")
    comment = f"{BEGIN}written by examples/readme.py, manifest {sha256_file(run / 'manifest.json')} -->"
    table = [["`make demo`", "int8", "FP32"], ["---"] * 3]
    table += [_step(step) for step in latency["steps"]]
    table += [_psnr(fidelity["psnr"], manifest["target"]), _layers(manifest["verdict"])]
    rows = [f"| {' | '.join(row)} |" for row in table]
    return "\n".join([comment, *rows, "", _measured(manifest, latency), END])


def _step(step: Json) -> list[str]:
    """One batch size: median of the engine and of its first baseline."""
    engine, baseline, *_ = (milliseconds(timing["median_ms"]) for timing in step["candidates"].values())
    pace = f"{ratio(next(iter(step['speedup'].values())))} as fast{'' if step['valid'] else ', INVALID'}"
    return [f"one denoising step, batch {step['batch']}, median", f"**{engine} ms** ({pace})", f"{baseline} ms"]


def _psnr(psnr: Json, target: str) -> list[str]:
    found, exact = (decibel(psnr["values"][name]["mean_db"]) for name in (target, "exact_weights"))
    title = f"same-noise PSNR of {psnr['samples']} samples, {psnr['steps']} {sampler_label(psnr['sampler'])} steps"
    return [title, f"{found} dB (with exact weights: {exact} dB)", ""]


def _layers(verdict: Json) -> list[str]:
    return ["layers that run int8 in the engine", f"{verdict['int8_layers']} of {verdict['layers']}", ""]


def _measured(manifest: Json, latency: Json) -> str:
    """Where and when, and whether the timing counts."""
    machine = manifest["environment"]
    told = f"Measured on {machine['cpu']}, {machine['threads']} threads, {manifest['created'][:10]}."
    noisy = " INVALID: the machine was too busy for that figure to count; every proof holds."
    return told if all(step["valid"] for step in latency["steps"]) else told + noisy


def replace_block(page: Path, text: str) -> None:
    """Put `text` in the place of what stands between the comments in `page`."""
    before, found, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise SystemExit(f"{page} has no lines {BEGIN}… --> and {END}")
    with atomic_path(page) as path:
        path.write_text(f"{before}{text}{after}", encoding="utf-8")


def take_picture(run: Path, picture: Path) -> None:
    """Write the top of `run`'s report, in its light colours, as a PNG that names the manifest."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit("no Chromium: apt-get install chromium, or another of " + ", ".join(BROWSERS))
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        flags = ["--headless", "--hide-scrollbars", "--disable-gpu", f"--user-data-dir={folder}/profile"]
        flags += ["--no-sandbox"] if os.geteuid() == 0 else []
        page, report = Path(folder) / "page.html", (run / "report.html").read_text(encoding="utf-8")
        page.write_text(report.replace("</head>", SHORT, 1), encoding="utf-8")
        command = [browser, *flags, f"--window-size={WIDTH_PX},{HEIGHT_PX}", f"--screenshot={shot}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        told = PngImagePlugin.PngInfo()
        told.add_text("manifest", sha256_file(run / "manifest.json"))
        with atomic_path(picture) as path:
            _trimmed(Image.open(shot).convert("RGB")).quantize(256).save(path, "PNG", optimize=True, pnginfo=told)


def _trimmed(shot: Image.Image) -> Image.Image:
    """Without the empty rows below the page's content, but for a margin."""
    paper = Image.new("RGB", shot.size, shot.getpixel((0, shot.height - 1)))
    _, _, _, bottom = ImageChops.difference(shot, paper).getbbox() or (0, 0, 0, shot.height)
    return shot.crop((0, 0, shot.width, min(shot.height, bottom + MARGIN_PX)))


def main() -> None:
    """Both, from the run folder on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="a finished run folder, as `make demo` writes it")
    run = parser.parse_args().run
    try:
        text = block(run)
    except InputError as error:
        raise SystemExit(f"error: {error}") from error
    take_picture(run, ROOT / "examples" / "report.png")
    replace_block(ROOT / "README.md", text)


if __name__ == "__main__":
    main()
