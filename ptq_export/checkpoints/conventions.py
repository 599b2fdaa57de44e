"""How the authors of ermongroup/ddim, improved-diffusion and guided-diffusion sample, by sampler.

ermongroup/ddim (`functions/denoising.py`): DDIM (arXiv:2010.02502, equation 12) never clips; `ddpm_noisy` clips x_0.
Its variance is fixed_large: no sampler reads the `var_type` of the configurations. OpenAI (`respace.py`,
`gaussian_diffusion.py`): both clip x_0; DDIM takes eps again from the clipped x_0.
"""

from collections.abc import Mapping

from ptq_export.denoiser import Convention

__all__ = ["ERMONGROUP", "OPENAI"]

ERMONGROUP: Mapping[str, Convention] = {
    "ddim": Convention("floor-stride", clip_sample=False),
    "ddpm": Convention("floor-stride"),
}
OPENAI: Mapping[str, Convention] = {
    "ddim": Convention("exact-stride", clipped_eps=True),
    "ddpm": Convention("inclusive"),
}
