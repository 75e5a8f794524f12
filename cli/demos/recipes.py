"""What each demo is: its parties, their data, its rules and its acts.

Rules of the file:
- A recipe holds only what people would write into charter and site files; how processes run is not its affair.
- An act is one run of every party. A later act goes on from the earlier one's checkpoint, with another plan.
- Nothing here imports torch: the launcher never trains.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...learning.points import BATCH
from ...protocol.charter import Arithmetic, Deadlines, Role
from ...protocol.progress import Scored, ScoredOwn
from ...protocol.site import Optimiser, OwnerPlan
from ...protocol.text import plural
from ...protocol.training import UpdateKind
from ..trust import Trust
from . import halfplane_pictures
from .errors import DemoError

DEADLINES = Deadlines(join=60.0, upload=120.0, close=30.0, release=30.0, statement=10.0, absence=3.0)
"""A demo's parties share one machine, so a minute is long."""

CROWD = 9
"""Data owners that are still shown one by one."""
FEWEST, MOST = 5, 9
"""Batches of a data owner of the halfplane."""
_COLOURS = ("green", "magenta", "blue")
_YELLOWS = ("yellow", "bright_yellow", "dark_orange")
EVALUATED_EVERY = 10
"""Rounds between two evaluations of the MNIST demo: after 1, 11, 21, 31, and the last."""
TOY_INPUTS = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))
TOY_TARGETS = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Member:
    """One party of a demo."""

    name: str
    role: Role
    colour: str
    organisation: str
    options: Mapping[str, Any] | None = None
    """What its site file gives to the task; None for a party that has no task."""


@dataclass(frozen=True)
class Act:
    """One run of every party: what the model owner's site file asks for, and a line that says so."""

    title: str
    plan: OwnerPlan
    first: int = 1
    """The number of its first round; `plan.rounds` is that of its last."""


@dataclass(frozen=True)
class Recipe:
    """A whole demo."""

    name: str
    title: str
    task: str
    factory: str
    members: tuple[Member, ...]
    pooled: Mapping[str, Any] | None
    """Options of the task that holds everybody's data, for the centralised baseline; None for no such baseline."""
    rounds: int
    acts: Callable[[int, int], tuple[Act, ...]]
    """From the number of rounds and the seed to the acts."""
    minimum_cohort: int
    unsafe_small_cohort: str | None = None
    needs: tuple[str, ...] = ("torch", "safetensors", "matplotlib")
    federation: str = ""
    """What its charter calls it; after the demo's name if empty."""
    closing: Callable[[Path], list[str]] | None = None
    """Lines about the finished model, from its file."""
    own_models: bool = False
    """Whether each data owner scores its own model after the rounds in `OwnerPlan.evaluate_rounds`."""
    prepare: "Callable[[Recipe, Path | None], Recipe] | None" = None
    """From a folder with data, or None where none was named, to the demo that has them; None if it needs none."""
    evaluation: Callable[[Path, Sequence[Scored], Mapping[str, Sequence[ScoredOwn]]], list[str]] | None = None
    """Writes what model owner and data owners scored into the run folder, and returns lines about it."""
    arithmetic: Arithmetic = field(default_factory=Arithmetic)
    in_one_process: bool = False
    """Every party in the launcher's process, over memory (`population.py`); a process each otherwise."""
    pictures: Callable[[Path, Sequence[Scored], int], tuple[str, ...]] | None = None
    """Draws more pictures into the run folder, from the scores and the seed, and returns their names."""

    def named(self, role: Role) -> tuple[Member, ...]:
        """Return the members of a role."""
        return tuple(member for member in self.members if member.role is role)

    @property
    def crowd(self) -> frozenset[str]:
        """The data owners, where they are too many to be shown one by one."""
        names = frozenset(member.name for member in self.named(Role.DATA_OWNER))
        return names if len(names) > CROWD else frozenset()

    def member(self, name: str) -> Member:
        """Return the member of this name."""
        return next(member for member in self.members if member.name == name)


def recipe(name: str, seed: int = 0, *, processes: bool = False) -> Recipe:
    """Return the demo of this name, with its data drawn from `seed` where they are; raises `DemoError`."""
    found = RECIPES.get(name)
    if found is None:
        raise DemoError(f"there is no demo {name[:40]!r} in this release; demos: {', '.join(sorted(RECIPES))}")
    if found.in_one_process:
        return few(seed) if processes else population(seed)
    if processes:
        raise DemoError(f"--processes is for halfplane; every party of {name} is a process anyway")
    return found


def with_data(recipe: Recipe, folder: Path | None) -> Recipe:
    """Return the demo with its data: from `folder`, or for None from where it has them; raises `DemoError`."""
    if recipe.prepare is not None:
        return recipe.prepare(recipe, folder)
    if folder is not None:
        raise DemoError(f"--data is for the demo mnist; {recipe.name} has its data with it, so leave --data out")
    return recipe


def _owner(options: Mapping[str, Any]) -> Member:
    return Member("owner", Role.MODEL_OWNER, "cyan", "The model owner", options)


def _third() -> Member:
    return Member("third", Role.SECURE_WORKER, "yellow", "A third party that both sides trust")


def in_trust(recipe: Recipe, trust: Trust) -> Recipe:
    """Return the demo with as many secure workers as the mode has."""
    if trust.workers == 1:
        return recipe
    several = tuple(
        Member(f"third{number}", Role.SECURE_WORKER, _YELLOWS[number % len(_YELLOWS)], f"Third party {number}")
        for number in range(1, trust.workers + 1)
    )
    others = tuple(member for member in recipe.members if member.role is not Role.SECURE_WORKER)
    return dataclasses.replace(recipe, members=(*others, *several))


def _digits_acts(rounds: int, seed: int) -> tuple[Act, ...]:
    plan = OwnerPlan(
        task="digits", rounds=rounds, batches=10, batch_size=32, learning_rate=0.3, final_learning_rate=0.0, seed=seed
    )
    return (Act(f"{plural(rounds, 'round')}, in each 10 batches of 32 at every data owner", plan),)


def _toy_acts(rounds: int, seed: int) -> tuple[Act, ...]:
    def plan(last: int, steps: int) -> OwnerPlan:
        return OwnerPlan(task="toy", rounds=last, epochs=steps, batch_size=0, learning_rate=0.1, seed=seed)

    first = Act("one round of 10 local steps", plan(1, 10))
    if rounds == 1:
        return (first,)
    return (first, Act(f"{plural(rounds - 1, 'round')} of 5 local steps", plan(rounds, 5), first=2))


def _toy_closing(model: Path) -> list[str]:
    """Return what the finished line answers on the four rows, computed here from the file alone."""
    from safetensors.numpy import load_file

    tensors = load_file(model)
    weight, bias = np.asarray(tensors["weight"], dtype=np.float64), np.asarray(tensors["bias"], dtype=np.float64)
    answers = (np.asarray(TOY_INPUTS) @ weight.T + bias).reshape(-1)
    lines = ["row      prediction  target"]
    for row, answer, target in zip(TOY_INPUTS, answers, TOY_TARGETS, strict=True):
        lines.append(f"[{row[0]:.0f}, {row[1]:.0f}]  {answer:10.4f}  {target:6.0f}")
    lines.append(f"sum of squared errors {float(np.square(answers - TOY_TARGETS).sum()):.6f}")
    return lines


def _mnist_acts(rounds: int, seed: int) -> tuple[Act, ...]:
    plan = OwnerPlan(
        task="mnist",
        rounds=rounds,
        batches=10,
        batch_size=32,
        learning_rate=0.1,
        seed=seed,
        evaluate_every=0,
        evaluate_rounds=(*range(1, rounds, EVALUATED_EVERY), rounds),
    )
    return (Act(f"{plural(rounds, 'round')}, in each 10 batches of 32 at every data owner", plan),)


def _mnist_prepare(recipe: Recipe, folder: Path | None) -> Recipe:
    from .mnist import prepare

    return prepare(recipe, folder)


def _cohorts(least: int, most: int) -> Callable[[int, int], tuple[Act, ...]]:
    """Return what makes the one act of the halfplane: gradients of a drawn cohort, summed, and a step of Adam."""

    def acts(rounds: int, seed: int) -> tuple[Act, ...]:
        plan = OwnerPlan(
            task="halfplane",
            rounds=rounds,
            kind=UpdateKind.GRADIENTS,
            epochs=1,
            batch_size=BATCH,
            seed=seed,
            cohort=least,
            cohort_most=most,
            optimiser=Optimiser(name="Adam", options={"lr": 1.0}),
            reduction="sum",
        )
        asked = f"in each the gradients of {least} to {most} data owners, summed, and one step of Adam"
        return (Act(f"{plural(rounds, 'round')}, {asked}", plan),)

    return acts


def _halfplane(seed: int, owners: int, cohort: tuple[int, int], minimum: int, *, together: bool) -> Recipe:
    """Return the halfplane among so many data owners, of 5, 6, 7, 8 or 9 batches in turn."""
    batches = [FEWEST + number % (MOST - FEWEST + 1) for number in range(owners)]
    data_owners = [
        Member(
            f"p{number + 1:02d}",
            Role.DATA_OWNER,
            _COLOURS[number % len(_COLOURS)],
            f"{each} batches of {BATCH:,} points",
            {"batches": each, "seed": seed, "party": number},
        )
        for number, each in enumerate(batches)
    ]
    return Recipe(
        name="halfplane",
        title=f"{owners} data owners with points in a square, and the line that tells them apart",
        task="halfplane",
        factory="tertium.learning.tasks.halfplane:Halfplane",
        members=(_owner({"batches": 0, "seed": seed, "test": True}), *data_owners, _third()),
        pooled={"pooled": batches, "seed": seed, "test": True},
        rounds=100,
        acts=_cohorts(*cohort),
        minimum_cohort=minimum,
        closing=halfplane_pictures.closing,
        # A mean gradient of cross-entropy over points of [-1, 1]^2 is at most 1 in each parameter, and batches add up.
        arithmetic=Arithmetic(value_range=float(MOST)),
        in_one_process=together,
        pictures=halfplane_pictures.draw,
    )


def population(seed: int, owners: int = 40, cohort: tuple[int, int] = (20, 29)) -> Recipe:
    """Return the halfplane among a population that shares a process; no sum is over fewer than the smallest cohort."""
    return _halfplane(seed, owners, cohort, cohort[0], together=True)


def few(seed: int) -> Recipe:
    """Return the halfplane among six data owners, a process each."""
    return _halfplane(seed, 6, (5, 6), 5, together=False)


DIGITS = Recipe(
    name="digits",
    title="three data owners with disjoint handwritten digits, one small convolutional network",
    task="digits",
    factory="tertium.learning.tasks.digits:Digits",
    members=(
        _owner({"digits": [], "test": True}),
        Member("alice", Role.DATA_OWNER, "green", "Digits 0 to 3", {"digits": [0, 1, 2, 3]}),
        Member("bob", Role.DATA_OWNER, "magenta", "Digits 4 to 6", {"digits": [4, 5, 6]}),
        Member("charlie", Role.DATA_OWNER, "blue", "Digits 7 to 9", {"digits": [7, 8, 9]}),
        _third(),
    ),
    pooled={"test": True},
    rounds=100,
    acts=_digits_acts,
    minimum_cohort=3,
    needs=("torch", "safetensors", "sklearn", "matplotlib"),
)

TOY = Recipe(
    name="toy",
    title="the tutorials' four rows and one linear layer, through a trusted aggregator",
    task="toy",
    factory="tertium.learning.tasks.toy:Toy",
    members=(
        _owner({"rows": [], "test": True}),
        Member("alice", Role.DATA_OWNER, "green", "Rows 2 and 3", {"rows": [2, 3]}),
        Member("bob", Role.DATA_OWNER, "magenta", "Rows 0 and 1", {"rows": [0, 1]}),
        _third(),
    ),
    pooled={"test": True},
    rounds=11,
    acts=_toy_acts,
    minimum_cohort=2,
    unsafe_small_cohort="it is the lesson of this tutorial: of two, each can subtract its own update from the sum",
    closing=_toy_closing,
)

MNIST = Recipe(
    name="mnist",
    title="three data owners with disjoint digits of MNIST, and a model owner with the test images",
    task="mnist",
    factory="tertium.learning.tasks.mnist:Mnist",
    members=(
        _owner({"digits": [], "test": True}),
        Member("alice", Role.DATA_OWNER, "green", "Digits 0 to 3", {"digits": [0, 1, 2, 3], "test": True}),
        Member("bob", Role.DATA_OWNER, "magenta", "Digits 4 to 6", {"digits": [4, 5, 6], "test": True}),
        Member("charlie", Role.DATA_OWNER, "blue", "Digits 7 to 9", {"digits": [7, 8, 9], "test": True}),
        _third(),
    ),
    pooled=None,
    rounds=40,
    acts=_mnist_acts,
    minimum_cohort=3,
    own_models=True,
    prepare=_mnist_prepare,
)

RECIPES: Mapping[str, Recipe] = {"digits": DIGITS, "halfplane": population(0), "mnist": MNIST, "toy": TOY}
