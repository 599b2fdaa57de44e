"""Pictures of an int8 engine under schedulers of diffusers, beside those of its simulation in torch under the same.

Engine and simulation round alike, but for sums in float32 that lie between two codes. Of weights that were never
trained a sampler that clips (DDIM) makes much of that: so the measure is how far the float network's pictures are.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import tiny
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler
from torch import Tensor, nn

from ptq_export.denoiser import Denoiser
from ptq_export.engines import EngineOptions, build_engine
from ptq_export.engines.base import Engine
from ptq_export.guidance import Guided
from ptq_export.options import Options
from ptq_export.pipeline import export, quantise
from ptq_export.schedulers import SAMPLERS

KINDS = {name: kind for name, kind in SAMPLERS.items() if name != "flow-euler"}
pytestmark = pytest.mark.slow
NEAREST = Options(samples=4, steps=2, rounding="nearest", threads=1)


class Pair(NamedTuple):
    """The simulation in torch, the engine that was exported from it, and the float network."""

    simulation: Denoiser
    engine: Engine
    exact: Denoiser


def pair_of(denoiser: Denoiser, folder: Path) -> Pair:
    simulation = quantise(denoiser, NEAREST)
    source = export(simulation, folder / "denoiser.onnx")
    return Pair(simulation, build_engine("ort", source, folder / "engine", EngineOptions(threads=1)), denoiser)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair_of(tiny.denoiser(), tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair_of(tiny.one_level(), tmp_path_factory.mktemp("labelled"))


class SimulationUNet(nn.Module):
    """A denoiser as a pipeline calls a network."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        channels, side, _ = denoiser.sample_shape
        self.denoiser, self.config = denoiser, SimpleNamespace(sample_size=side, in_channels=channels)

    def forward(self, sample: Tensor, timestep: Tensor | int) -> SimpleNamespace:
        times = torch.as_tensor(timestep).round().long().expand(len(sample))
        return SimpleNamespace(sample=self.denoiser(sample, times))


def assert_nearer(engine: Tensor, simulation: Tensor, exact: Tensor) -> None:
    """By 10 dB."""
    peak = simulation.max() - simulation.min()
    near, far = (float(20 * torch.log10(peak / (it - simulation).std())) for it in (engine, exact))
    print(f"engine {near:.1f} dB, float {far:.1f} dB")
    assert near > far + 10


@pytest.mark.parametrize(("pipeline", "scheduler"), [(DDIMPipeline, DDIMScheduler), (DDPMPipeline, DDPMScheduler)])
def test_a_pipeline_makes_the_simulations_pictures(plain: Pair, pipeline: type, scheduler: type) -> None:
    def pictures(unet: nn.Module) -> Tensor:
        pipe = pipeline(unet=unet, scheduler=scheduler()).to("cpu")
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        return torch.from_numpy(pipe(4, generator=generator, num_inference_steps=10, output_type="np").images)

    simulation, exact = (pictures(SimulationUNet(each)) for each in (plain.simulation, plain.exact))
    assert_nearer(pictures(plain.engine.as_unet()), simulation, exact)


def drawn(kind: type, model: Callable[[Tensor, Tensor], Tensor], channels: int, **settings: Any) -> Tensor:
    """Four samples in eight steps, as every pipeline of diffusers loops."""
    scheduler, generator = kind(**settings), torch.Generator().manual_seed(0)
    scheduler.set_timesteps(8)
    sample = torch.randn(4, channels, 8, 8, generator=generator) * scheduler.init_noise_sigma
    noise = {"generator": generator} if kind is DDPMScheduler else {}
    for t in scheduler.timesteps:
        eps = model(scheduler.scale_model_input(sample, t), t)[:, :channels]
        sample = scheduler.step(eps, t, sample, **noise).prev_sample
    return sample


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_scheduler_draws_what_it_draws_from_the_simulation(plain: Pair, kind: type) -> None:
    unets = plain.engine.as_unet(), SimulationUNet(plain.simulation), SimulationUNet(plain.exact)
    assert_nearer(*(drawn(kind, lambda x, t, unet=unet: unet(x, t).sample, 1) for unet in unets))


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_scheduler_does_so_under_guidance_towards_a_class(labelled: Pair, kind: type) -> None:
    labels, none = torch.tensor([0, 1, 2, 1]), {"label": torch.tensor([0])}

    def unet(sample: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        found: Tensor = labelled.engine.as_unet()(sample, timestep, class_labels=label).sample
        return found

    def guided(model: Callable[..., Tensor]) -> Tensor:
        both = Guided(model, 2.0, none)
        step = lambda x, t: both(x, t.round().long().expand(len(x)), label=labels)  # noqa: E731
        return drawn(kind, step, 1, num_train_timesteps=4000, beta_schedule="squaredcos_cap_v2")

    assert_nearer(*(guided(model) for model in (unet, labelled.simulation, labelled.exact)))
