"""The toy demo in its three acts with real processes and without torch, run as a program by the tests.

The four rows, the linear layer, the sum of squared errors and the files are those of `learning/tasks/toy.py`.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
from safetensors.numpy import load, save
from tertium.cli.demos.recipes import TOY, TOY_INPUTS, TOY_TARGETS
from tertium.cli.demos.tutorial import play_toy
from tertium.cli.errors import run
from tertium.cli.trust import trust
from tertium.learning.files import read_whole, write_atomically
from tertium.learning.numpy_task import NumpyGlobalModel, NumpyTask, Rows
from tertium.learning.task import ServerOptimiser


class Toy(NumpyTask):
    """Four rows and a linear layer; the loss is the sum of squared errors."""

    def __init__(self, *, rows: Any = None, test: bool = False) -> None:
        kept = rows or range(len(TOY_INPUTS))
        super().__init__(inputs=[TOY_INPUTS[at] for at in kept], targets=[TOY_TARGETS[at] for at in kept])
        self._test = test

    def _held_out_rows(self) -> Rows | None:
        return Rows(np.array(TOY_INPUTS, np.float32), np.array(TOY_TARGETS, np.float32)) if self._test else None

    def losses(self, flat: Any, rows: Rows) -> tuple[float, int]:
        mean, right = super().losses(flat, rows)
        return mean * len(rows), right

    def gradient(self, flat: Any, rows: Rows) -> Any:
        return super().gradient(flat, rows) * np.float32(len(rows))

    def global_model(self, seed: int, optimiser: ServerOptimiser) -> "Saved":
        return Saved(self.layout, self.initial(seed), optimiser, self.held_out())


class Saved(NumpyGlobalModel):
    """A model in the files of the torch tasks, which the demo itself reads."""

    def save(self, path: Path) -> None:
        write_atomically(path, save({"weight": self._flat[:-1].reshape(1, -1).copy(), "bias": self._flat[-1:].copy()}))

    def load(self, path: Path) -> None:
        tensors = load(read_whole(path))
        self._flat = np.concatenate([tensors["weight"].reshape(-1), tensors["bias"]])


@click.command()
@click.option("--out", type=click.Path(path_type=Path))
def main(out: Path | None) -> int:
    """Play the toy demo."""
    recipe = dataclasses.replace(TOY, factory="toy_numbers:Toy", needs=("safetensors", "matplotlib"))
    return play_toy(recipe, trust("trusted", None), rounds=None, seed=0, out=out, as_json=False, verbose=False)


if __name__ == "__main__":
    sys.exit(run(main))
