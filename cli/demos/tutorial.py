"""What the toy demo adds to a run: the row that one update gives away, and the same try at a sum.

For the tutorials' model, `Linear(2, 1)` under a sum of squared errors, the gradient of one row x is 2 e x for the
weights and 2 e for the bias, e being the error there: their quotient is the row, and the error gives its target. A
model owner has the model it sent and the model it got back, and needs nothing else. Of a sum over two data owners the
quotient is a mixture of rows, weighted by errors nobody told it.

Everything here is read from the model owner's own folder: its last two checkpoints.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from .errors import DemoError
from .recipes import TOY_INPUTS, TOY_TARGETS

RATE: Final = 0.1
"""The tutorials' learning rate."""
NEAR: Final = 0.01
"""How near a computed row must be to a true one, in each number, to be called it."""


@dataclass(frozen=True)
class Guess:
    """What a model owner computes of a training row from the model before and after a step."""

    row: tuple[float, ...]
    target: float

    @property
    def place(self) -> int | None:
        """Which of the tutorials' rows it is, from 0; None for none of them."""
        for place, (row, target) in enumerate(zip(TOY_INPUTS, TOY_TARGETS, strict=True)):
            if np.allclose((*self.row, self.target), (*row, target), rtol=0, atol=NEAR):
                return place
        return None

    def line(self) -> str:
        """Return it as a person reads it."""
        numbers = ", ".join(f"{value:.3f}" for value in self.row)
        return f"row [{numbers}], target {self.target:.3f}"


def guess(owner_state: Path, number: int) -> Guess:
    """Return what the step of round `number` gives away, from the checkpoints before and after it.

    Raises:
        DemoError: one of the two is not there.
    """
    from safetensors.numpy import load_file

    before, after = (owner_state / "checkpoints" / f"round-{each:06d}.safetensors" for each in (number - 1, number))
    try:
        old, new = load_file(before), load_file(after)
    except OSError:
        raise DemoError(f"the checkpoints of rounds {number - 1} and {number} are not both in {owner_state}") from None
    weight, bias, later, moved = (
        np.asarray(model[name], np.float64).reshape(-1) for model in (old, new) for name in ("weight", "bias")
    )
    double_error = float(bias[0] - moved[0]) / RATE
    # An error of zero moves nothing, and then a step says nothing about its row.
    row = (weight - later) / RATE / double_error if double_error else np.full(2, np.nan)
    target = float(row @ weight + bias[0]) - double_error / 2
    return Guess(tuple(float(value) for value in row), target)
