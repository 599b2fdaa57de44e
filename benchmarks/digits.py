"""The digit classifier stored beside the embedded model: its features are the FID network for digits.

Inception features mean nothing on 16x16 grey digits, so the distance between sample sets is measured in the
penultimate layer of a classifier trained on the same real digits (`examples/train_digits.py`).
"""

from importlib.resources import files

from safetensors.torch import load_file
from torch import Tensor, nn

__all__ = ["DigitClassifier", "load_digit_classifier"]

CLASSIFIER_FILE = "digits_classifier.safetensors"


class DigitClassifier(nn.Module):
    """A small convolutional classifier of grey images `[N, 1, 16, 16]` in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 4 * 4, 64),
            nn.ReLU(),
        )
        self.head = nn.Linear(64, 10)

    def features(self, images: Tensor) -> Tensor:
        """Penultimate activations `[N, 64]`."""
        features: Tensor = self.body(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Class logits `[N, 10]`."""
        logits: Tensor = self.head(self.features(images))
        return logits


def load_digit_classifier() -> DigitClassifier:
    """The trained classifier that ships with the package, in evaluation mode."""
    classifier = DigitClassifier()
    path = files("ptq_export").joinpath("assets", CLASSIFIER_FILE)
    state = load_file(str(path))
    classifier.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return classifier.eval()
