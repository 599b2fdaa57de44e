"""How the authors of ermongroup/ddim, improved-diffusion and guided-diffusion sample, by sampler.

ermongroup/ddim (`functions/denoising.py`): DDIM (arXiv:2010.02502, equation 12) never clips; `ddpm_noisy` clips x_0.
Its variance is fixed_large: no sampler reads the `var_type` of the configurations. OpenAI (`respace.py`,
`gaussian_diffusion.py`): both clip x_0; DDIM takes eps again from the clipped x_0. CompVis/latent-diffusion
(`ddim.py`): DDIM at the time-steps 1, 1 + T // S, ..., never clipped; the alpha before the first is that of t = 0.
lucidrains (`ddim_sample`): DDIM from T - 1 downwards at a fractional stride, x_0 clipped and eps taken again from it.
"""

from collections.abc import Mapping
from typing import Any

from ptq_export.denoiser import Convention

__all__ = ["ERMONGROUP", "LATENT_DIFFUSION", "LUCIDRAINS", "OPENAI"]

ERMONGROUP: Mapping[str, Convention] = {
    "ddim": Convention("floor-stride", clip_sample=False),
    "ddpm": Convention("floor-stride"),
}
LATENT_DIFFUSION: Mapping[str, Any] = {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False}
"""No convention of its own: diffusers' DDIM does so with these settings."""
LUCIDRAINS: Mapping[str, Convention] = {
    "ddim": Convention("downwards", clipped_eps=True),
    "ddpm": Convention("floor-stride"),
}
OPENAI: Mapping[str, Convention] = {
    "ddim": Convention("exact-stride", clipped_eps=True),
    "ddpm": Convention("inclusive"),
}
