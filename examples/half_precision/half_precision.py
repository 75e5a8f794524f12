"""A network with batch norm whose weights are bfloat16, on the embedded digits.

Updates of bfloat16 tensors travel as float32 and come back as bfloat16; BatchNorm's running statistics are averaged,
and the number of batches it has seen travels as an integer difference.
"""

import torch
from tertium import Examples, TorchTask
from tertium.learning.datasets import Images, embedded_digits
from torch import Tensor, nn


class HalfPrecision(TorchTask):
    """Options: `digits`, the ones this party holds; `test`, whether to score on the held-out images."""

    classes = 10

    def __init__(self, *, digits: list[int] | None = None, test: bool = False) -> None:
        self._digits, self._test = tuple(digits or ()), test
        self.title = f"digits {', '.join(map(str, self._digits)) or 'none'}"

    def build_model(self) -> nn.Module:
        """Return a convolution, batch norm and a linear layer: bfloat16 but for batch norm, which stays float32."""
        return Mixed()

    def load_data(self) -> Examples:
        """Return the training images of this party's digits, [n, 1, 8, 8]."""
        return _examples(embedded_digits().train.only(self._digits))

    def load_test(self) -> Examples | None:
        """Return the held-out images of all digits."""
        return _examples(embedded_digits().test) if self._test else None

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy, taken in float32."""
        return nn.functional.cross_entropy(outputs.float(), targets)


class Mixed(nn.Module):
    """8x8 images to ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 16, 3, dtype=torch.bfloat16)
        self.norm = nn.BatchNorm2d(16)
        self.linear = nn.Linear(16 * 6 * 6, 10, dtype=torch.bfloat16)

    def forward(self, images: Tensor) -> Tensor:
        """Return ten numbers an image."""
        features = self.norm(self.convolution(images.bfloat16()).float()).relu()
        scores: Tensor = self.linear(features.flatten(1).bfloat16())
        return scores


def _examples(images: Images) -> Examples:
    return Examples(torch.from_numpy(images.inputs).unsqueeze(1), torch.from_numpy(images.labels))
