"""A network larger than any that is published with its size here: 0.87 G parameters, 3.5 GB in float32.

ptq-export --ckpt ptq_export.benchmarks.large_net:adm_wide --resolution 64 --rounding nearest
"""

from dataclasses import replace

import torch

from ptq_export.checkpoints.openai_published import PUBLISHED
from ptq_export.checkpoints.untrained import draw_published
from ptq_export.denoiser import Denoiser

__all__ = ["adm_wide"]

WIDER = (5, 4)


def adm_wide() -> Denoiser:
    """ADM's ImageNet 256x256 network, a quarter wider, with random weights."""
    published = PUBLISHED["adm-imagenet256"]
    times, of = WIDER
    layout = published.layout
    widths = tuple(width * times // of for width in layout.widths)
    layout = replace(layout, time_width=layout.time_width * times // of, widths=widths)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return draw_published(replace(published, layout=layout), "ptq_export.benchmarks.large_net:adm_wide", 64)
