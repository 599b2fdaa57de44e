"""Draw what a text-to-image run makes of its prompts: FP32 and int8 from the same noise, and what a picture takes.

    python examples/emoji_picture.py runs/emoji

Writes `examples/emoji.png`, which carries the sha256 of the run's manifest in a PNG text called `manifest`.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor

from ptq_export.artifacts import atomic_path, sha256_file
from ptq_export.benchmarks.timing.clock import Protocol, interleave
from ptq_export.pipeline.drawing import Drawing, load_pipeline
from ptq_export.schemas import read_part

PROMPTS = (
    *("flat red apple", "noto dog face", "flat rocket", "noto grinning face", "flat house", "noto pizza"),
    *("flat guitar", "noto tulip", "flat cat face", "noto sports car", "flat hot beverage", "noto soccer ball"),
    *("flat blue heart", "noto evergreen tree", "flat police officer", "noto octopus"),
)
STEPS, SEED = 20, 0
COLUMNS, SIDE_PX, LEFT_PX, CAPTION_PX, TEXT_PX = 8, 128, 56, 26, 13
ROUNDS = Protocol(warmup=2, min_rounds=10, min_seconds=2.0)
PAPER, INK = (255, 255, 255), (40, 40, 40)


def main() -> None:
    """The picture of the run on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="a finished run of embedded:emoji on ort-int8")
    run = parser.parse_args().run
    pipelines = {"FP32": load_pipeline(run, "ort-fp32"), "int8": load_pipeline(run)}
    drawn = {name: pipeline(PROMPTS, steps=STEPS, seed=SEED) for name, pipeline in pipelines.items()}
    told = PngImagePlugin.PngInfo()
    told.add_text("manifest", sha256_file(run / "manifest.json"))
    with atomic_path(Path(__file__).parent / "emoji.png") as path:
        _sheet(drawn, _time_taken(run, pipelines)).quantize(256).save(path, "PNG", optimize=True, pnginfo=told)


def _time_taken(run: Path, pipelines: Mapping[str, Drawing]) -> str:
    calls = {name: partial(pipeline, PROMPTS[:1], steps=STEPS) for name, pipeline in pipelines.items()}
    taken = {name: latency.median_ms for name, latency in interleave(calls, ROUNDS).items()}
    machine = read_part(run, "manifest.json")["environment"]
    told = ", ".join(f"{name} {milliseconds:.0f} ms" for name, milliseconds in taken.items())
    return f"from prompt to picture, {STEPS} guided steps: {told} ({machine['cpu']}, {machine['threads']} threads)"


def _sheet(drawn: Mapping[str, Tensor], title: str) -> Image.Image:
    """A column per prompt and a row per engine, in as many bands as it takes."""
    bands = [PROMPTS[at : at + COLUMNS] for at in range(0, len(PROMPTS), COLUMNS)]
    band_px = len(drawn) * SIDE_PX + CAPTION_PX
    sheet = Image.new("RGB", (LEFT_PX + COLUMNS * SIDE_PX, CAPTION_PX + len(bands) * band_px), PAPER)
    ink, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT_PX)
    ink.text((LEFT_PX, CAPTION_PX // 2), title, INK, font, anchor="lm")
    for number, prompts in enumerate(bands):
        top = CAPTION_PX + number * band_px
        rows = {name: images[number * COLUMNS : (number + 1) * COLUMNS] for name, images in drawn.items()}
        _band(sheet, top, prompts, rows)
        for row, name in enumerate(drawn):
            ink.text((8, top + CAPTION_PX + row * SIDE_PX + SIDE_PX // 2), name, INK, font, anchor="lm")
    return sheet


def _band(sheet: Image.Image, top: int, prompts: Sequence[str], rows: Mapping[str, Tensor]) -> None:
    ink, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT_PX)
    for column, prompt in enumerate(prompts):
        left = LEFT_PX + column * SIDE_PX
        ink.text((left + SIDE_PX // 2, top + CAPTION_PX // 2), prompt, INK, font, anchor="mm")
        for row, images in enumerate(rows.values()):
            sheet.paste(_picture(images[column]), (left, top + CAPTION_PX + row * SIDE_PX))


def _picture(image: Tensor) -> Image.Image:
    """Of `[3, H, W]` in [-1, 1]."""
    levels = ((image.numpy().transpose(1, 2, 0) + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    return Image.fromarray(levels).resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
