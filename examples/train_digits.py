"""Train the embedded model: a DDPM U-Net on scikit-learn's handwritten digits, and the classifier that scores it.

    python examples/train_digits.py --out training --steps 3000

Everything is seeded; the state is saved every hundred steps, so the same command after an interruption goes on
where it stopped. It writes `digits.safetensors` (EMA weights, fp16), `digits_classifier.safetensors`,
`digits_features.safetensors` (what the classifier sees in the real digits: FID's reference) and `digits_loss.png`;
copy the four to `ptq_export/assets/` to embed them. About one hour on two CPU cores.
"""

import argparse
import json
import math
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ptq_export.benchmarks.digits import CLASSIFIER_FILE, DigitClassifier
from ptq_export.benchmarks.fid import FEATURES_FILE, digit_features

UNET = {
    "sample_size": 16,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [64, 128, 128],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
BATCH, LEARNING_RATE, WARM_UP = 64, 4e-4, 100


def digits() -> tuple[Tensor, Tensor]:
    """All 1797 digits as images `[N, 1, 16, 16]` in [-1, 1] and labels `[N]`."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    large = nn.functional.interpolate(images, size=16, mode="bicubic", align_corners=False)
    return large.clamp(-1, 1), torch.tensor(data.target)


def train_classifier(out: Path, seed: int) -> None:
    """Fit the classifier on 80 % of the digits; refuse to store one below 97 % on the rest."""
    torch.manual_seed(seed)
    images, labels = digits()
    order = torch.randperm(len(images))
    train, held_out = order[: int(0.8 * len(order))], order[int(0.8 * len(order)) :]
    model = DigitClassifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    for _ in range(30):
        for index in train[torch.randperm(len(train))].split(64):
            shift = torch.randint(-1, 2, (2,)).tolist()
            logits = model(torch.roll(images[index], shift, dims=(2, 3)))
            loss = nn.functional.cross_entropy(logits, labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = (model.eval()(images[held_out]).argmax(1) == labels[held_out]).float().mean().item()
    print(f"classifier: held-out accuracy {accuracy:.2%} on {len(held_out)} digits")
    if accuracy < 0.97:
        raise SystemExit("the classifier must reach 97 % on held-out digits")
    state = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, out / CLASSIFIER_FILE, metadata={"held_out_accuracy": f"{accuracy:.4f}"})
    save_features(out, state)


def save_features(out: Path, state: dict[str, Tensor]) -> None:
    """Write the features of all real digits, in the classifier as stored: FID is then measured without a data set."""
    stored = DigitClassifier()
    stored.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    features = digit_features(digits()[0], stored.eval())
    save_file({"features": features.half()}, out / FEATURES_FILE, metadata={"data": "sklearn.datasets.load_digits"})


def train_denoiser(out: Path, seed: int, steps: int) -> None:
    """Noise-prediction training (Ho et al. 2020, algorithm 1) with EMA weights and a cosine learning rate."""
    torch.manual_seed(seed)
    images, _ = digits()
    model = UNet2DModel(**UNET)
    ema = EMAModel(model.parameters(), decay=0.998, use_ema_warmup=True, power=0.75)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    scheduler = DDPMScheduler(**SCHEDULE)
    losses: list[float] = []
    checkpoint = out / "training_state.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema.load_state_dict(state["ema"])
        losses = state["losses"]
        print(f"resuming at step {len(losses)}")
    started, first = time.monotonic(), len(losses)
    for step in range(len(losses), steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min((step + 1) / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        clean = images[torch.randint(len(images), (BATCH,), generator=generator)]
        noise = torch.randn(clean.shape, generator=generator)
        timestep = torch.randint(SCHEDULE["num_train_timesteps"], (BATCH,), generator=generator)
        eps = model(scheduler.add_noise(clean, noise, timestep), timestep).sample
        loss = nn.functional.mse_loss(eps, noise)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        ema.step(model.parameters())
        losses.append(loss.item())
        if (step + 1) % 100 == 0 or step + 1 == steps:
            rate = (time.monotonic() - started) / (step + 1 - first)
            left = rate * (steps - step - 1) / 60
            print(f"step {step + 1}/{steps}  loss {np.mean(losses[-100:]):.4f}  {left:.0f} min left", flush=True)
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state | {"ema": ema.state_dict(), "losses": losses}, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
    ema.copy_to(model.parameters())
    save_model(out, model, losses, seed)


def save_model(out: Path, model: UNet2DModel, losses: list[float], seed: int) -> None:
    """Write the EMA weights as fp16 safetensors whose metadata holds the configuration, and the loss curve."""
    state = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    training = {"steps": len(losses), "batch": BATCH, "seed": seed, "final_loss": float(np.mean(losses[-200:]))}
    metadata = {
        "format": "ptq-export/unet2d",
        "unet": json.dumps(UNET),
        "scheduler": json.dumps(SCHEDULE),
        "training": json.dumps(training | {"data": "sklearn.datasets.load_digits", "ema": True}),
    }
    save_file(state, out / "digits.safetensors", metadata=metadata)
    smooth = np.convolve(losses, np.ones(50) / 50, mode="valid")
    figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
    axis.plot(losses, color="#c8d4e3", linewidth=0.6)
    axis.plot(np.arange(len(smooth)) + 49, smooth, color="#1f5fa8", linewidth=1.6)
    axis.set(xlabel="training step", ylabel="MSE of the predicted noise", ylim=(0, 0.2))
    figure.savefig(out / "digits_loss.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("training"), help="folder of the state and the results")
    parser.add_argument("--steps", type=int, default=3000, help="training steps of 64 images each")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if not (options.out / CLASSIFIER_FILE).exists():
        train_classifier(options.out, options.seed)
    train_denoiser(options.out, options.seed, options.steps)


if __name__ == "__main__":
    main()
