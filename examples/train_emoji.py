"""Train the embedded text-to-image model: emoji of two styles, 64 x 64, in diffusers' own pipeline format.

    pip install 'ptq-export[text]' resvg-py
    python examples/train_emoji.py --out training/emoji

An autoencoder, then a U-Net with its text encoder in the autoencoder's latents; prompts are dropped now and then, for
guidance. Seeded; saved every minute: the same command goes on where it stopped.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import EMAModel
from emoji.parts import TOKENS, autoencoder, denoiser, scheduler, text_encoder, tokenizer
from emoji.pictures import SIDE, Pictures, load_pictures
from emoji.training import train
from torch import Tensor, nn

CROP, CROPS, BATCH = 32, 32, 64
DROPPED, GUIDANCE = 0.1, 4.0
CALIBRATED = 128
KL = 1e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("training/emoji"))
    parser.add_argument("--autoencoder-steps", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=6400)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    pictures = load_pictures(options.out)
    vae = train_autoencoder(options.out, pictures, options.autoencoder_steps)
    pipeline = train_denoiser(options.out, pictures, vae, options.steps)
    folder = options.out / "pipeline"
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    (folder / "prompts.txt").write_text("\n".join(_some(pictures.prompts)) + "\n", encoding="utf-8")
    shutil.copy(Path(__file__).parent / "emoji" / "LICENSES.md", folder)
    stated = {"guidance": GUIDANCE, "steps": options.steps, "autoencoder_steps": options.autoencoder_steps, "ema": True}
    (folder / "training.json").write_text(json.dumps(stated), encoding="utf-8")


def _some(prompts: list[str]) -> list[str]:
    """Prompts to calibrate with, of both styles and all groups."""
    return [prompts[index] for index in torch.linspace(0, len(prompts) - 1, CALIBRATED).long().tolist()]


def train_autoencoder(out: Path, pictures: Pictures, steps: int) -> nn.Module:
    """On crops: it is convolutional, but for one attention in the middle."""
    vae = autoencoder()

    def loss_of(generator: torch.Generator) -> Tensor:
        index = torch.randint(len(pictures.prompts), (CROPS,), generator=generator)
        top, left = torch.randint(SIDE - CROP + 1, (2,), generator=generator).tolist()
        real = pictures.floats(index)[:, :, top : top + CROP, left : left + CROP]
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(real).latent_dist
            drawn = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator)
            made = vae.decode(drawn).sample
        made = made.float()
        return (made - real).abs().mean() + 0.5 * _edges(made, real) + KL * posterior.kl().mean()

    train(out / "autoencoder.pt", {"vae": vae}, loss_of, steps, 1e-3)
    return vae.eval()


def _edges(made: Tensor, real: Tensor) -> Tensor:
    """The mean error of the differences between neighbours: sharp outlines."""
    rows, columns = (made - real).diff(dim=2), (made - real).diff(dim=3)
    return rows.abs().mean() + columns.abs().mean()


def train_denoiser(out: Path, pictures: Pictures, vae: nn.Module, steps: int) -> StableDiffusionPipeline:
    """The U-Net and the text encoder together, and the averages of both."""
    tokens = tokenizer(out / "tokenizer", pictures.prompts)
    mean, std = _latents(out, pictures, vae)
    vae.register_to_config(scaling_factor=1 / mean.std().item())
    text, unet, schedule = text_encoder(tokens), denoiser(), scheduler()
    averages = {
        name: EMAModel(part.parameters(), decay=0.999, use_ema_warmup=True)
        for name, part in (("text", text), ("unet", unet))
    }
    ids = _ids(tokens, pictures.prompts)
    empty = _ids(tokens, [""])

    def loss_of(generator: torch.Generator) -> Tensor:
        index = torch.randint(len(ids), (BATCH,), generator=generator)
        noises = torch.randn((2, *mean[index].shape), generator=generator)
        latents = (mean[index] + std[index] * noises[0]) * vae.config.scaling_factor
        times = torch.randint(len(schedule.betas), (BATCH,), generator=generator)
        dropped = torch.rand(BATCH, generator=generator) < DROPPED
        given = torch.where(dropped[:, None], empty, ids[index])
        seen, wanted = schedule.add_noise(latents, noises[1], times), schedule.get_velocity(latents, noises[1], times)
        with torch.autocast("cpu", torch.bfloat16):
            made = unet(seen, times, text(given).last_hidden_state).sample
        return (made.float() - wanted).square().mean()

    def average() -> None:
        averages["text"].step(text.parameters())
        averages["unet"].step(unet.parameters())

    parts = {"text": text, "unet": unet, **{f"{name} average": _Kept(it) for name, it in averages.items()}}
    train(out / "denoiser.pt", parts, loss_of, steps, 1e-3, average)
    averages["text"].copy_to(text.parameters())
    averages["unet"].copy_to(unet.parameters())
    return StableDiffusionPipeline(
        vae, text.eval(), tokens, unet.eval(), schedule, None, None, requires_safety_checker=False
    )


class _Kept(nn.Module):
    """An average as a part that has a state and nothing to train."""

    def __init__(self, average: EMAModel) -> None:
        super().__init__()
        self.average = average

    def state_dict(self, *_: object, **__: object) -> dict:
        return self.average.state_dict()

    def load_state_dict(self, state: dict, *_: object, **__: object) -> None:
        self.average.load_state_dict(state)


def _ids(tokens: object, prompts: list[str]) -> Tensor:
    found = tokens(prompts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    return found.input_ids


@torch.no_grad()
def _latents(out: Path, pictures: Pictures, vae: nn.Module) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every picture's posterior `[N, 4, 16, 16]`, computed once."""
    path = out / "latents.pt"
    if not path.exists():
        found = [
            vae.encode(pictures.floats(index)).latent_dist for index in torch.arange(len(pictures.prompts)).split(64)
        ]
        torch.save([torch.cat([it.mean for it in found]), torch.cat([it.std for it in found])], path)
    mean, std = torch.load(path)
    return mean, std


if __name__ == "__main__":
    main()
