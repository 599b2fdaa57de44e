"""Pipelines of every kind that is read, through the whole job: engines in the place of the pipeline's own U-Net."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "checkpoints"))
import tiny_pipelines

from ptq_export.engines import load_engine
from ptq_export.options import Options
from ptq_export.pipeline import load_pipeline, run

pytestmark = pytest.mark.slow
PROMPT, SIDE = "a red apple", 32


def latents(pipeline: DiffusionPipeline, kind: str) -> Tensor:
    """What two steps of a pipeline make of one seed."""
    asked: dict[str, Any] = {"height": SIDE, "width": SIDE, "num_inference_steps": 2, "output_type": "latent"}
    if kind == "inpaint":
        picture, mask = Image.new("RGB", (SIDE, SIDE), (200, 30, 30)), Image.new("L", (SIDE, SIDE), 255)
        asked |= {"image": picture, "mask_image": mask, "strength": 1.0}
    pipeline.set_progress_bar_config(disable=True)
    made: Tensor = pipeline(PROMPT, generator=torch.Generator().manual_seed(0), **asked).images
    return made


@pytest.mark.parametrize("kind", [*tiny_pipelines.BUILDERS])
def test_an_engine_takes_what_the_pipeline_gives_its_unet(kind: str, tmp_path: Path) -> None:
    folder = tiny_pipelines.saved(kind, tmp_path)
    quick = {"samples": 8, "steps": 4, "held_out": 2, "rounds": 10, "seconds": 0.0, "threads": 1, "min_sqnr": 0.0}
    made = run(Options(str(folder), out=tmp_path / "run", rounding="nearest", **quick))
    pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    wanted = latents(pipeline, kind)
    pipeline.unet = load_engine(made, "ort-fp32").as_unet()
    torch.testing.assert_close(latents(pipeline, kind), wanted, rtol=0, atol=1e-4 * wanted.abs().max().item())
    pipeline.unet = load_engine(made).as_unet()
    assert 0 < (latents(pipeline, kind) - wanted).abs().max() < wanted.abs().max()
    assert load_pipeline(made)(PROMPT, steps=2).shape == (1, 3, SIDE, SIDE)
