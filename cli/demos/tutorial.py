"""The toy demo in three acts: training in one place, plain federated learning, and a trusted aggregator.

After act two the model owner computes Bob's training row from one update; after act three it tries the same at a sum.

For the tutorials' model, `Linear(2, 1)` under a sum of squared errors, the gradient of one row x is 2 e x for the
weights and 2 e for the bias, e being the error there: their quotient is the row, and the error gives its target. A
model owner has the model it sent and the model it got back, and needs nothing else. Of a sum over two data owners the
quotient is a mixture of rows, weighted by errors nobody told it.

Everything here is read from the model owner's own folder: its last two checkpoints.
"""

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import click
import numpy as np

from ...protocol.charter import Mode, Role
from ...protocol.site import OwnerPlan
from ..trust import Trust, trust
from .audited import Audited, audited
from .baseline import Answer, Baseline
from .errors import DemoError
from .folder import default_folder, make_folder
from .play import Extra, Performed, centralised, finish, perform, require_installed, stops
from .recipes import TOY_INPUTS, TOY_TARGETS, Act, Recipe, in_trust
from .screen import Screen, screen_for

RATE: Final = 0.1
"""The tutorials' learning rate."""
STEPS: Final = 20
"""Of act one, and of act two: ten passes over Bob and Alice."""
PLAIN: Final = "plain"
"""The folder of act two in the run folder."""
TURNS: Final = (("bob",), ("alice",))
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
    return Guess(tuple(_number(value) for value in row), _number(target))


def play_toy(
    recipe: Recipe,
    chosen: Trust,
    *,
    rounds: int | None,
    seed: int,
    out: Path | None,
    as_json: bool,
    verbose: bool,
) -> int:
    """Run the three acts and return the exit status; `rounds` are those of act three.

    Raises what `play.play` raises.
    """
    require_installed(recipe)
    begun = time.monotonic()
    third = dataclasses.replace(in_trust(recipe, chosen), pooled=None)
    run = out or default_folder(recipe.name, datetime.now().astimezone())
    make_folder(run)
    total = rounds or recipe.rounds
    how: dict[str, Any] = {"seed": seed, "as_json": as_json, "verbose": verbose}
    say = _Say(quiet=as_json)
    with stops() as stopped:
        say("act one: all four rows in one place, 20 steps")
        alone = _alone(recipe, seed, run, screen_for(recipe, total, as_json=as_json, verbose=True))
        say(*(f"step {number:2}  loss {loss:.6f}" for number, loss in enumerate(alone.losses, start=1)))

        say("", "act two: plain federated learning; each update comes back to the model owner as it is")
        (run / PLAIN).mkdir()
        plain = dataclasses.replace(recipe, pooled=None, minimum_cohort=1, closing=None)
        passes = Act("ten passes: the model goes to bob, takes one step there, comes back, goes to alice", _turns(seed))
        probe = Act(
            f"round {STEPS + 1}, for the try alone: one step at bob, on a batch of one",
            _probe(seed, STEPS + 1, turns=TURNS),
        )
        second = perform(plain, trust(Mode.PLAIN.value), run / PLAIN, rounds=STEPS, acts=(passes,), probe=probe, **how)
        found, seen_plainly = guess(_state(second), STEPS + 1), audited(run / PLAIN)
        say("", *_tried(found, "one update of bob"), *_heads(seen_plainly, "act two"))

        say("", f"act three: a trusted aggregator, mode {chosen.name.name}")
        last = Act(
            f"round {total + 1}, for the try alone: one step at both, on a batch of one each", _probe(seed, total + 1)
        )
        done = perform(third, chosen, run, rounds=total, probe=last, beside=alone.score, **how)
        again = guess(_state(done), total + 1)
        tried = _tried(again, "the mean of one update of bob and one of alice")
        extra = Extra(
            facts={"tutorial": {"act_one": list(alone.losses), "act_two": _facts(found), "act_three": _facts(again)}},
            notes=("After act two:", *_tried(found, "one update of bob"), ""),
            audits=(("act two, plain", PLAIN, seen_plainly),),
        )
        done = dataclasses.replace(done, learned=(*done.learned, "", *tried))
        finish(done, seed=seed, seconds=time.monotonic() - begun, as_json=as_json, extra=extra)
    return stopped.status


def _number(value: float) -> float:
    """Return a number without the sign that rounding leaves on a zero."""
    return 0.0 if abs(value) < NEAR / 100 else float(value)


class _Say:
    """Prints lines between the acts; nothing where standard output is for one object."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def __call__(self, *lines: str) -> None:
        if not self._quiet:
            for line in lines:
                click.echo(line)


def _alone(recipe: Recipe, seed: int, run: Path, screen: Screen) -> Answer:
    """Train in one place, in a process of its own; raises `DemoError` where that fails."""
    plan = OwnerPlan(task="toy", rounds=STEPS, epochs=1, batch_size=0, learning_rate=RATE, seed=seed)
    with contextlib.closing(Baseline(recipe, (Act("", plan),), seed, 1, run)) as baseline:
        found = centralised(baseline, _nothing, screen)
    if found is None:
        raise DemoError("act one could not be trained in one place")
    return found


def _nothing() -> None:
    pass


def _turns(seed: int) -> OwnerPlan:
    return OwnerPlan(task="toy", rounds=STEPS, epochs=1, batch_size=0, learning_rate=RATE, seed=seed, turns=TURNS)


def _probe(seed: int, number: int, turns: Sequence[tuple[str, ...]] = ()) -> OwnerPlan:
    return OwnerPlan(
        task="toy", rounds=number, batches=1, batch_size=1, learning_rate=RATE, seed=seed, turns=tuple(turns)
    )


def _state(done: Performed) -> Path:
    return done.run / done.recipe.named(Role.MODEL_OWNER)[0].name / "state"


def _tried(found: Guess, what: str) -> tuple[str, ...]:
    """Say what the model owner computed of what it got, beside the truth."""
    rows = zip(TOY_INPUTS, TOY_TARGETS, strict=True)
    truth = "; ".join(f"[{row[0]:.0f}, {row[1]:.0f}] -> {target:.0f}" for row, target in rows)
    which = f"row {found.place + 1} of the data" if found.place is not None else "nobody's row"
    return f"the model owner computes, from {what}: {found.line()}: {which}", f"the data: {truth}"


def _heads(said: Audited, what: str) -> tuple[str, ...]:
    """Return the verdict of an audit and who has what of whom."""
    at = next(place for place, line in enumerate(said.lines) if line.startswith("who has on record"))
    until = next(place for place in range(at, len(said.lines)) if not said.lines[place])
    return f"the audit of {what}: {said.lines[0]}", *said.lines[at:until]


def _facts(found: Guess) -> dict[str, Any]:
    return {"row": list(found.row), "target": found.target, "is_row": found.place}
