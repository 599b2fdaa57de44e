"""A training loop that is seeded, resumes where it stopped, and says how far it is."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["train"]

SAVED_EVERY_S = 60


def train(
    path: Path,
    parts: Mapping[str, nn.Module],
    loss_of: Callable[[torch.Generator], Tensor],
    steps: int,
    rate: float,
    after: Callable[[], None] = lambda: None,
    seed: int = 0,
) -> None:
    """Minimise `loss_of(generator)` over the parameters of `parts` by AdamW, at a rate that falls along a cosine.

    Attention by matrix products: on a CPU, torch's fused kernel takes longer for short sequences (a step 1.3 times).
    The state lies in `path`, saved every minute; `after` follows every step (averages, which are parts as well).
    """
    trained = [it for part in parts.values() for it in part.parameters() if it.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
    step = _resume(path, parts, optimizer) if path.exists() else 0
    generator = torch.Generator()
    saved, begun, first, mean = time.monotonic(), time.monotonic(), step, None
    while step < steps:
        generator.manual_seed((seed << 32) + step)
        for group in optimizer.param_groups:
            group["lr"] = rate * _pace(step, steps)
        optimizer.zero_grad()
        with sdpa_kernel(SDPBackend.MATH):
            loss = loss_of(generator)
            loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        after()
        step += 1
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if step % 50 == 0:
            left = (time.monotonic() - begun) / (step - first) * (steps - step) / 60
            print(f"{path.stem}: step {step} of {steps}, loss {mean:.4f}, {left:.0f} min left", flush=True)
        if step == steps or time.monotonic() - saved > SAVED_EVERY_S:
            _save(path, parts, optimizer, step)
            saved = time.monotonic()


def _pace(step: int, steps: int) -> float:
    warm, cosine = min(1.0, (step + 1) / 200), 0.5 * (1 + math.cos(math.pi * step / steps))
    return warm * max(cosine, 0.02)


def _save(path: Path, parts: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, step: int) -> None:
    state: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
    partial = path.with_suffix(".partial")
    torch.save(state | {"optimizer": optimizer.state_dict(), "step": step}, partial)
    partial.replace(path)


def _resume(path: Path, parts: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> int:
    state = torch.load(path)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    optimizer.load_state_dict(state["optimizer"])
    step: int = state["step"]
    return step
