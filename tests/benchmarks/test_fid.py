import pytest
import torch
from torch import Tensor

from ptq_export.benchmarks.digits import load_digit_classifier
from ptq_export.benchmarks.fid import (
    classifier_confidence,
    compare_digit_fid,
    digit_features,
    digit_fid,
    frechet_distance,
    real_digit_features,
)


@pytest.fixture(scope="module")
def digits() -> Tensor:
    """All real digits `[1797, 1, 16, 16]` in [-1, 1], made as the training script makes them."""
    images = pytest.importorskip("sklearn.datasets").load_digits().images
    small = torch.tensor(images, dtype=torch.float32)[:, None] / 8 - 1
    return torch.nn.functional.interpolate(small, size=16, mode="bicubic", align_corners=False).clamp(-1, 1)


def test_frechet_distance_of_known_gaussians() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(200_000, 2, generator=generator)
    second = torch.randn(200_000, 2, generator=generator) * torch.tensor([3.0, 1.0]) + torch.tensor([0.0, 2.0])
    # |mu1 - mu2|^2 + sum (sigma1 - sigma2)^2 where the covariances are diagonal
    assert frechet_distance(first, second) == pytest.approx(2**2 + (3 - 1) ** 2, rel=0.02)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-6)


def test_stored_features_are_those_of_the_stored_classifier(digits: Tensor) -> None:
    stored = real_digit_features()
    assert stored.shape == (1797, 64)
    torch.testing.assert_close(stored, digit_features(digits), rtol=1e-3, atol=0.02)


def test_fid_rises_with_the_noise(digits: Tensor) -> None:
    some = digits[::4]
    noise = torch.randn(some.shape, generator=torch.Generator().manual_seed(0))
    distances = [digit_fid(digit_features(some), (some + level * noise).clamp(-1, 1)) for level in (0, 0.2, 0.5)]
    assert distances[0] == pytest.approx(0, abs=1e-6)
    assert distances[0] < distances[1] < distances[2]


def test_comparison_states_its_n_and_the_ratio(digits: Tensor) -> None:
    noisy = (digits + 0.3 * torch.randn(digits.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    entry = compare_digit_fid(digits[:300], noisy[:300]).to_json()
    assert list(entry) == ["network", "samples", "fp32", "int8", "ratio"]
    assert entry["samples"] == 300
    assert entry["ratio"] == pytest.approx(entry["int8"] / entry["fp32"], abs=1e-3)
    assert entry["ratio"] > 1


def test_sets_of_different_size_are_not_compared(digits: Tensor) -> None:
    with pytest.raises(ValueError, match="10 and 9 samples"):
        compare_digit_fid(digits[:10], digits[:9])


def test_classifier_is_sure_of_real_digits_only(digits: Tensor) -> None:
    noise = torch.randn(256, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert not load_digit_classifier().training
    assert classifier_confidence(digits[:256]) > 0.98
    assert classifier_confidence(noise) < 0.9
