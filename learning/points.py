"""The simulated population of the halfplane demo: points in a square and which side of a line they lie on.

Torch-free, so that whoever draws a picture of them need not load it. The numbers come from a seed and are public.
"""

import numpy as np
import numpy.typing as npt

BOUNDARY = (0.3, 0.2, 0.8)
"""The label is 1 where BOUNDARY . (1, x1, x2) is above 0. The constant stands in this rule only, not in the inputs."""
BATCH = 1000
"""Points a batch."""
TEST_POINTS = 10_000
"""Points that are scored on; nobody trains on one of them."""


def training_points(seed: int, party: int, number: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return `number` points of a party: positions [n, 2] in [-1, 1], labels [n] of 0.0 and 1.0."""
    return _points(number, (seed, 1, party))


def held_out_points(seed: int, number: int = TEST_POINTS) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the first `number` points that are scored on, as `training_points` does."""
    inputs, labels = _points(TEST_POINTS, (seed, 2))
    return inputs[:number], labels[:number]


def _points(number: int, seed: tuple[int, ...]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    points = np.random.default_rng(seed).uniform(-1.0, 1.0, (number, 2))
    constant, first, second = BOUNDARY
    labels = constant + first * points[:, 0] + second * points[:, 1] > 0
    return points.astype(np.float32), labels.astype(np.float32)
