"""Frechet distance between sets of digits, in the features of the stored digit classifier ("digit-FID").

The reference features of the real digits are stored beside the classifier, so no data set is needed to score samples.
"""

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ptq_export.benchmarks.digits import DigitClassifier, load_digit_classifier

__all__ = [
    "FEATURES_FILE",
    "DigitFid",
    "classifier_confidence",
    "compare_digit_fid",
    "digit_features",
    "digit_fid",
    "frechet_distance",
    "real_digit_features",
]

FEATURES_FILE = "digits_features.safetensors"
BATCH = 256


@dataclass(frozen=True)
class DigitFid:
    """Distances of N full-precision and N int8 samples to the real digits; their ratio is what int8 costs."""

    samples: int
    fp32: float
    int8: float

    def to_json(self) -> dict[str, Any]:
        """`fid` in `fidelity.json`."""
        return {
            "network": "digits classifier",
            "samples": self.samples,
            "fp32": round(self.fp32, 4),
            "int8": round(self.int8, 4),
            "ratio": round(self.int8 / self.fp32, 4),
        }


def compare_digit_fid(fp32_samples: Tensor, int8_samples: Tensor) -> DigitFid:
    """Both FIDs of equally many digits `[N, 1, 16, 16]` (FID depends on N: only equal N compare)."""
    if len(fp32_samples) != len(int8_samples):
        raise ValueError(f"{len(fp32_samples)} and {len(int8_samples)} samples: their FIDs do not compare")
    real = real_digit_features()
    return DigitFid(len(fp32_samples), digit_fid(real, fp32_samples), digit_fid(real, int8_samples))


def digit_fid(real_features: Tensor, samples: Tensor) -> float:
    """FID of samples `[N, 1, 16, 16]` in [-1, 1] against features `[M, 64]` of real digits."""
    return frechet_distance(real_features, digit_features(samples))


def classifier_confidence(samples: Tensor) -> float:
    """Mean over samples `[N, 1, 16, 16]` of the classifier's largest probability."""
    classifier = load_digit_classifier()
    with torch.no_grad():
        probabilities = torch.cat([classifier(chunk).softmax(1) for chunk in torch.split(samples, BATCH)])
    return probabilities.amax(1).mean().item()


def digit_features(samples: Tensor, classifier: DigitClassifier | None = None) -> Tensor:
    """Features `[N, 64]` of digits `[N, 1, 16, 16]` in [-1, 1], by the stored classifier unless another is given."""
    network = classifier or load_digit_classifier()
    with torch.no_grad():
        return torch.cat([network.features(chunk) for chunk in torch.split(samples, BATCH)])


def real_digit_features() -> Tensor:
    """Features `[1797, 64]` of all real digits, as `examples/train_digits.py` stored them."""
    path = files("ptq_export") / "assets" / FEATURES_FILE
    return load_file(str(path))["features"].float()


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Frechet distance of two Gaussians fitted to features `[N, D]` and `[M, D]` (Heusel et al. 2017)."""
    # Imported where it is used: torchmetrics takes seconds to load.
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Features(first.shape[1]))
    metric.update(first.double(), real=True)
    metric.update(second.double(), real=False)
    return float(metric.compute())


class _Features(nn.Module):
    """torchmetrics' feature network for inputs that are features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features
