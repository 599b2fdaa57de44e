"""`engine.as_unet()` in diffusers pipelines: the images are those of the network that the engine was made from."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch import nn

from ptq_export.engines.base import EngineOptions
from ptq_export.engines.ort.engine import OrtEngine
from ptq_export.errors import InputError

Write = Callable[..., Path]


@pytest.fixture
def engine(denoiser_onnx: Write, tmp_path: Path) -> OrtEngine:
    return OrtEngine(denoiser_onnx(), tmp_path / "engine", EngineOptions(threads=1))


class TorchDenoiser(nn.Module):
    """The same net in torch, as a pipeline wants it."""

    config = SimpleNamespace(sample_size=4, in_channels=2)
    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.kernel, self.table = (torch.from_numpy(weights[name]) for name in ("stem.weight", "table"))

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> SimpleNamespace:
        shift = self.table[timestep.round().long().expand(len(sample))][:, :, None, None]
        return SimpleNamespace(sample=nn.functional.conv2d(sample, self.kernel) + shift)


@pytest.mark.parametrize(("pipeline", "scheduler"), [(DDIMPipeline, DDIMScheduler), (DDPMPipeline, DDPMScheduler)])
def test_a_pipeline_makes_the_images_of_the_original_net(
    engine: OrtEngine, weights: dict[str, np.ndarray], pipeline: type, scheduler: type
) -> None:
    def images(unet: nn.Module) -> np.ndarray:
        pipe = pipeline(unet=unet, scheduler=scheduler(num_train_timesteps=10)).to("cpu")
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        result: np.ndarray = pipe(3, generator=generator, num_inference_steps=5, output_type="np").images
        return result

    made = images(engine.as_unet())
    assert made.shape == (3, 4, 4, 2) and np.ptp(made) > 0
    np.testing.assert_allclose(made, images(TorchDenoiser(weights)), atol=1e-5)


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize(
    "kind",
    [
        DDIMScheduler,
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        EulerDiscreteScheduler,
        PNDMScheduler,
        UniPCMultistepScheduler,
    ],
)
def test_it_follows_the_schedulers_of_diffusers(engine: OrtEngine, weights: dict[str, np.ndarray], kind: type) -> None:
    def latents(unet: nn.Module) -> torch.Tensor:
        scheduler = kind(num_train_timesteps=10)
        scheduler.set_timesteps(4)
        sample = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
        generator = {"generator": torch.Generator().manual_seed(0)} if kind is DDPMScheduler else {}
        for t in scheduler.timesteps:
            eps = unet(scheduler.scale_model_input(sample, t), t).sample
            sample = scheduler.step(eps, t, sample, **generator).prev_sample
        return sample

    torch.testing.assert_close(latents(engine.as_unet()), latents(TorchDenoiser(weights)), atol=1e-5, rtol=1e-4)


def test_it_answers_like_a_unet(engine: OrtEngine) -> None:
    unet = engine.as_unet()
    sample = torch.ones(2, 2, 4, 4)
    assert (unet.config.sample_size, unet.config.in_channels) == (4, 2)
    assert torch.equal(unet(sample, torch.tensor(3)).sample, unet(sample, 3, return_dict=False)[0])
    with pytest.raises(InputError, match="no input label"):
        unet(sample, 3, class_labels=torch.tensor([1, 2]))
