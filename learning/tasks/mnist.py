"""MNIST and the network of the tutorial on three owners with disjoint digits."""

from pathlib import Path

import torch
from torch import Tensor, nn

from ..datasets import CLASSES, Images, mnist_test, mnist_train
from ..describe import numbers
from ..options import flag, indices, text
from ..torch_task import Examples, TorchTask

MEAN, DEVIATION = 0.1307, 0.3081
"""Of the pixels of the training set; what the tutorial scales by."""


class Mnist(TorchTask):
    """MNIST from a folder with its four original files.

    Options: `data`, the folder; `digits`, the ones this party holds (all where it is left out, none where the list is
    empty); `test`, whether it holds the 10,000 test images; `device`, cpu or cuda.
    """

    classes = CLASSES

    def __init__(self, *, data: str, digits: object = None, test: bool = False, device: str = "cpu") -> None:
        self._folder = Path(text("data", data))
        self._digits = indices("digits", digits, CLASSES)
        self._test = flag("test", test)
        self.device = text("device", device)
        self.title = f"digits {numbers(self._digits)}"

    def build_model(self) -> nn.Module:
        """Return conv 1->20 5x5, pool, conv 20->50 5x5, pool, linear 800->500, linear 500->10, log-softmax."""
        return nn.Sequential(
            nn.Conv2d(1, 20, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(20, 50, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(800, 500),
            nn.ReLU(),
            nn.Linear(500, CLASSES),
            nn.LogSoftmax(dim=1),
        )

    def load_data(self) -> Examples:
        """Return the training images of this party's digits, [n, 1, 28, 28], and their labels."""
        if not self._digits:
            return Examples(torch.zeros(0, 1, 28, 28), torch.zeros(0, dtype=torch.int64))
        return _examples(mnist_train(self._folder, self._digits))

    def load_test(self) -> Examples | None:
        """Return the test images of all digits where this party holds them."""
        return _examples(mnist_test(self._folder)) if self._test else None

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean negative log-likelihood."""
        return nn.functional.nll_loss(outputs, targets)


def _examples(images: Images) -> Examples:
    """Return images scaled as the tutorial does."""
    inputs = (torch.from_numpy(images.inputs).unsqueeze(1) - MEAN) / DEVIATION
    return Examples(inputs, torch.from_numpy(images.labels))
