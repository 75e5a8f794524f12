"""The embedded default: 1,797 real handwritten 8x8 digits and a small convolutional network."""

import torch
from torch import Tensor, nn

from ..datasets import CLASSES, embedded_digits
from ..describe import numbers
from ..options import flag, indices, text
from ..torch_task import Examples, TorchTask


class Digits(TorchTask):
    """Handwritten digits in 8x8 pixels.

    Options: `digits`, the ones this party holds (all where it is left out, none where the list is empty); `test`,
    whether it holds the test set, 359 images of all digits; `device`, cpu or cuda.
    """

    classes = CLASSES

    def __init__(self, *, digits: object = None, test: bool = False, device: str = "cpu") -> None:
        self._digits = indices("digits", digits, CLASSES)
        self._test = flag("test", test)
        self.device = text("device", device)
        self.title = f"digits {numbers(self._digits)}"

    def build_model(self) -> nn.Module:
        """Return two convolutions and a linear layer: 14,224 parameters."""
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(512, 18),
            nn.ReLU(),
            nn.Linear(18, CLASSES),
        )

    def load_data(self) -> Examples:
        """Return the training images of this party's digits, [n, 1, 8, 8], and their labels."""
        images = embedded_digits().train.only(self._digits)
        return Examples(torch.from_numpy(images.inputs).unsqueeze(1), torch.from_numpy(images.labels))

    def load_test(self) -> Examples | None:
        """Return the held-out images of all digits where this party holds them."""
        if not self._test:
            return None
        images = embedded_digits().test
        return Examples(torch.from_numpy(images.inputs).unsqueeze(1), torch.from_numpy(images.labels))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy."""
        return nn.functional.cross_entropy(outputs, targets)
