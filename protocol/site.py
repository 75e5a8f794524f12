"""A party's own file, `site.toml`: what it is willing to do, what it runs for a task, and where it listens.

Rules of the file:
- A site can only be stricter than the charter. A line that is laxer would have no effect, and its author would believe
  it has one: it is refused, by name.
- Why a site refuses a round is for its own operator. A detailed reason would be an answer to a question the model owner
  chose, so `Site.refuses` returns words for the local log and nothing is ever sent but "refused".
- No code and no import path comes from a peer: a task is a name on the wire, and what runs stands here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from ..crypto.errors import Misuse
from . import limits
from .charter_rules import Charter, Mode, Role
from .checked import BindAddress, Checked, Factory, Positive, check_port, convert, load_toml
from .errors import SiteFileError
from .lanes.base import Address
from .training import Name, TrainingPlan, UpdateKind

SAFE_MODES = tuple(mode for mode in Mode if mode is not Mode.PLAIN)
"""What a site takes part in when its file does not say: every mode but the one that hides nothing."""


class _Line(Checked, frozen=True, forbid_unknown_fields=True):
    """A table of a site file."""

    error: ClassVar[type[Misuse]] = SiteFileError


Rounds = Annotated[tuple[Annotated[int, Meta(ge=1, le=1_000_000)], ...], Meta(max_length=100_000)]
"""Numbers of rounds, the first of which is 1."""


class LocalLimits(_Line, frozen=True, forbid_unknown_fields=True):
    """What this site allows; a line left out allows what the charter does."""

    table: ClassVar[str] = "limits"

    tasks: tuple[Name, ...] | None = None
    max_epochs: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    max_batches: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    smallest_cohort: Annotated[int, Meta(ge=1, le=limits.PARTIES)] | None = None
    modes: Annotated[tuple[Mode, ...], Meta(min_length=1)] = SAFE_MODES
    """Modes this site takes part in; `plain` only if it stands here, where the site gives updates."""
    max_refusals: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    """Refusals after which this site takes part in no further round of a session: each refusal tells the model owner
    one bit about a question of its choosing."""


class TaskEntry(_Line, frozen=True, forbid_unknown_fields=True):
    """What runs here for a task: the class, and keyword arguments for it."""

    factory: Factory
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    evaluate_own_rounds: Rounds = ()
    """Rounds after which a data owner scores the model it has just trained, before it is averaged, on this task's test
    data, and shows the score to its own operator; never sent. The update waits for it."""


class Listen(_Line, frozen=True, forbid_unknown_fields=True):
    """Where to bind, if that differs from the charter's endpoints (address translation, a relay in front)."""

    table: ClassVar[str] = "listen"

    control: BindAddress | None = None
    bulk: BindAddress | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for lane, address in (("control", self.control), ("bulk", self.bulk)):
            if address is not None:
                check_port(f"listen.{lane}", address, SiteFileError)


class Audit(_Line, frozen=True, forbid_unknown_fields=True):
    """What this party keeps so that an auditor can add a sum up again."""

    table: ClassVar[str] = "audit"

    keep_openings: bool = False
    """Keep salt and content of what this party committed to, in the clear in its own state folder: a data owner its
    shares, which together are its update; the model owner the totals."""


class Optimiser(_Line, frozen=True, forbid_unknown_fields=True):
    """The model owner's optimiser: a class of `torch.optim` and its keyword arguments."""

    table: ClassVar[str] = "owner.optimiser"

    name: Annotated[str, Meta(min_length=1, max_length=limits.NAME_LENGTH, pattern=r"^[A-Za-z][A-Za-z0-9]*\Z")]
    options: dict[str, Any] = msgspec.field(default_factory=dict)


Turn = Annotated[tuple[Name, ...], Meta(min_length=1, max_length=limits.PARTIES)]
"""Data owners that are asked together."""


class OwnerPlan(_Line, frozen=True, forbid_unknown_fields=True):
    """What a model owner wants trained: the plan of each round, how many rounds, and how it uses the aggregate."""

    table: ClassVar[str] = "owner"

    task: Name
    rounds: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    kind: UpdateKind = UpdateKind.WEIGHTS
    batches: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    epochs: Annotated[int, Meta(ge=0, le=10_000)] = 0
    """One of batches and epochs; neither means one epoch."""
    batch_size: Annotated[int, Meta(ge=0, le=1_000_000)] = 32
    learning_rate: Annotated[float, Meta(ge=0.0)] = 0.1
    final_learning_rate: Annotated[float, Meta(ge=0.0)] | None = None
    """When set, the rate falls (or rises) in a straight line that reaches this after the last round."""
    momentum: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    clip_norm: Positive | None = None
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    cohort: Annotated[int, Meta(ge=0, le=limits.PARTIES)] = 0
    """Data owners asked in a round, drawn anew for each; 0 asks all."""
    turns: Annotated[tuple[Turn, ...], Meta(max_length=limits.PARTIES)] = ()
    """Whom to ask in the first round, the second, and so on, and then from the start again; none draws cohorts."""
    cohort_most: Annotated[int, Meta(ge=1, le=limits.PARTIES)] | None = None
    """When set, how many are asked is drawn anew for each round too, from `cohort` to this, both included."""
    optimiser: Optimiser | None = None
    """None sets or adds the mean directly."""
    reduction: Literal["mean", "sum"] = "mean"
    metrics: Annotated[tuple[Name, ...], Meta(max_length=16)] = ("loss", "accuracy")
    evaluate_every: Annotated[int, Meta(ge=0, le=1_000_000)] = 1
    """Rounds between evaluations; 0 evaluates only after the last."""
    evaluate_rounds: Rounds = ()
    """Rounds after which the model is evaluated too, whatever `evaluate_every` says."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batches and self.epochs:
            raise SiteFileError("owner: names both batches and epochs; a round is measured in one of them")
        if self.turns and self.cohort:
            raise SiteFileError("owner: names both turns and a cohort; turns say whom to ask, a cohort is drawn")
        if self.cohort_most is not None and not self.cohort:
            raise SiteFileError("owner.cohort_most: is the end of a range; say in owner.cohort where it begins")
        if self.cohort_most is not None and self.cohort_most < self.cohort:
            raise SiteFileError(f"owner.cohort_most: {self.cohort_most} is less than the {self.cohort} of owner.cohort")

    def learning_rate_at(self, index: int) -> float:
        """Return the learning rate of round `index`, counted from 0.

        With a final rate, `rate + (final - rate) * index / rounds`: a final rate of 0 is never used, so that no round
        is wasted on it.
        """
        if self.final_learning_rate is None:
            return self.learning_rate
        done = min(index, self.rounds) / self.rounds
        return self.learning_rate + (self.final_learning_rate - self.learning_rate) * done

    def training_plan(self, index: int) -> TrainingPlan:
        """Return what every data owner is asked in round `index`, counted from 0."""
        return TrainingPlan(
            task=self.task,
            kind=self.kind,
            batches=self.batches,
            epochs=0 if self.batches else self.epochs or 1,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate_at(index),
            momentum=self.momentum,
            clip_norm=self.clip_norm,
            seed=self.seed,
            metrics=self.metrics,
        )

    def evaluates_after(self, index: int) -> bool:
        """Whether the model is scored after round `index`, counted from 0; after the last it always is."""
        number = index + 1
        asked = number == self.rounds or number in self.evaluate_rounds
        return asked or (self.evaluate_every > 0 and number % self.evaluate_every == 0)


class Site(_Line, frozen=True, forbid_unknown_fields=True):
    """A party's own file; an empty one is valid, and as strict as the charter."""

    limits: LocalLimits = LocalLimits()
    tasks: dict[Name, TaskEntry] = msgspec.field(default_factory=dict)
    listen: Listen = Listen()
    owner: OwnerPlan | None = None
    audit: Audit = Audit()

    def check_against(self, charter: Charter, name: str | None = None) -> None:
        """Hold this file against the charter, and with `name` against that party's role too.

        Raises:
            SiteFileError: a line is laxer than the charter, can never be met under it, or belongs to another role.
            NotInCharter: `name` is no party.
        """
        self._check_limits(charter)
        if self.owner is not None:
            self._check_owner(self.owner, charter)
        self._check_mode(charter.rules.mode, updates=name is None or charter.party(name).role is Role.DATA_OWNER)
        if name is None:
            return
        role = charter.party(name).role
        if self.owner is not None and role is not Role.MODEL_OWNER:
            raise SiteFileError(f"owner: {name} is not the model owner, whose site file alone has this section")
        if self.owner is None and role is Role.MODEL_OWNER:
            raise SiteFileError(f"owner: {name} is the model owner, so its site file needs this section")
        if (self.listen.control or self.listen.bulk) and not role.listens:
            raise SiteFileError(f"listen: {name} only connects to others, so there is nothing to listen on")
        if not self.tasks and role is not Role.SECURE_WORKER:
            raise SiteFileError(f'tasks: {name} has none; add [tasks.NAME] with factory = "package.module:Class"')
        if self.audit.keep_openings and role not in (Role.DATA_OWNER, Role.MODEL_OWNER):
            raise SiteFileError(f"audit.keep_openings: {name} is a {role.words}, which has nothing of its own to open")
        own = [task for task, entry in self.tasks.items() if entry.evaluate_own_rounds]
        if own and role is not Role.DATA_OWNER:
            raise SiteFileError(
                f"tasks.{own[0]}.evaluate_own_rounds: only a data owner trains a model of its own, and {name} is none"
            )
        if role is Role.SECURE_WORKER and self.tasks:
            raise SiteFileError(f"tasks: {name} is a secure worker, which never trains or scores anything")

    def refuses(
        self,
        charter: Charter,
        *,
        task: str,
        epochs: int,
        batches: int,
        cohort_size: int,
        mode: Mode,
        updates: bool = True,
    ) -> str | None:
        """Say why this site takes no part in such a round, or return None. For the local log; never sent.

        `updates` says whether an update of this site is asked for: an evaluator gives none.
        """
        own, rules = self.limits, charter.rules
        if mode is not rules.mode:
            return f"mode {mode.value} is not the charter's"
        if not self._agrees_to(mode, updates=updates):
            return f"mode {mode.value} is not one of limits.modes"
        allowed = rules.training.tasks if own.tasks is None else own.tasks
        if (allowed or own.tasks is not None) and task not in allowed:
            return f"task {task} is not allowed"
        if task not in self.tasks:
            return f"there is no [tasks.{task}] here"
        most = _smaller(own.max_epochs, rules.training.max_epochs)
        if epochs > most:
            return f"{epochs} epochs are asked for, at most {most} are allowed"
        most = _smaller(own.max_batches, rules.training.max_batches)
        if batches > most:
            return f"{batches} batches are asked for, at most {most} are allowed"
        least = max(own.smallest_cohort or 0, rules.minimum_cohort)
        if cohort_size < least:
            return f"the cohort has {cohort_size}, at least {least} are required"
        return None

    def _check_limits(self, charter: Charter) -> None:
        own, rules = self.limits, charter.rules
        for name in ("max_epochs", "max_batches"):
            mine, agreed = getattr(own, name), getattr(rules.training, name)
            if mine is not None and mine > agreed:
                raise SiteFileError(f"limits.{name}: {mine} is laxer than the charter's {agreed}")
        if own.smallest_cohort is not None:
            if own.smallest_cohort < rules.minimum_cohort:
                raise SiteFileError(
                    f"limits.smallest_cohort: {own.smallest_cohort} is laxer than the charter's {rules.minimum_cohort}"
                )
            if own.smallest_cohort > len(charter.data_owners):
                raise SiteFileError(
                    f"limits.smallest_cohort: the charter has only {len(charter.data_owners)} data owners, so every "
                    "round would be refused"
                )
        beyond = sorted(set(own.tasks or ()) - set(rules.training.tasks)) if rules.training.tasks else []
        if beyond:
            raise SiteFileError(f"limits.tasks: {beyond[0]} is laxer than the charter, which does not allow it")

    def _agrees_to(self, mode: Mode, *, updates: bool) -> bool:
        # The default is about this site's updates; the others' consent to a mode is their signature under the charter.
        return mode in self.limits.modes or (not updates and self.limits.modes == SAFE_MODES)

    def _check_mode(self, mode: Mode, *, updates: bool) -> None:
        if not self._agrees_to(mode, updates=updates):
            raise SiteFileError(
                f"limits.modes: the charter's mode is {mode.value}, which this site does not take part in"
                + (' unless it says modes = ["plain"]' if mode is Mode.PLAIN else "")
            )

    def _check_owner(self, owner: OwnerPlan, charter: Charter) -> None:
        training = charter.rules.training
        plan = owner.training_plan(0)
        if training.tasks and owner.task not in training.tasks:
            raise SiteFileError(f"owner.task: the charter does not allow {owner.task}")
        if owner.task not in self.tasks:
            raise SiteFileError(f"owner.task: there is no [tasks.{owner.task}] in this file")
        if plan.epochs > training.max_epochs:
            raise SiteFileError(f"owner.epochs: {plan.epochs} is more than the charter's {training.max_epochs}")
        if plan.batches > training.max_batches:
            raise SiteFileError(f"owner.batches: {plan.batches} is more than the charter's {training.max_batches}")
        if owner.cohort and not charter.rules.minimum_cohort <= owner.cohort <= len(charter.data_owners):
            raise SiteFileError(
                f"owner.cohort: {owner.cohort} is not between the charter's minimum of {charter.rules.minimum_cohort} "
                f"and its {len(charter.data_owners)} data owners"
            )
        known = {party.name for party in charter.data_owners}
        for turn in owner.turns:
            strangers = sorted(set(turn) - known)
            if strangers:
                raise SiteFileError(f"owner.turns: {strangers[0]} is no data owner of the charter")
            if len(set(turn)) != len(turn) or len(turn) < charter.rules.minimum_cohort:
                raise SiteFileError(
                    f"owner.turns: {', '.join(turn)} is fewer than the charter's minimum of "
                    f"{charter.rules.minimum_cohort}, or names somebody twice"
                )
        most, there = owner.cohort_most, len(charter.data_owners)
        if most is not None and most > there:
            raise SiteFileError(f"owner.cohort_most: {most} is more than the charter's {there} data owners")
        least = self.limits.smallest_cohort
        if owner.cohort and least is not None and owner.cohort < least:
            raise SiteFileError(
                f"owner.cohort: {owner.cohort} is laxer than this file's limits.smallest_cohort of {least}"
            )


def load_site(path: Path) -> Site:
    """Read a site file.

    Raises:
        SiteFileError: it cannot be read, is over 1 MiB, is not TOML, or holds something this release does not know;
            with file, line and cause.
    """
    raw = load_toml(path, limits.SITE_BYTES, SiteFileError)
    try:
        return convert(raw, Site, SiteFileError)
    except SiteFileError as error:
        raise SiteFileError(f"{path}: {error}") from None


def addresses(charter: Charter) -> Mapping[str, Address]:
    """Return where each party of the charter listens, and the key it is known by, as the lanes want them.

    Here and not on `Charter`, since the audit reads charters and must not depend on lanes.
    """
    return {party.name: Address(curve=party.curve, control=party.control, bulk=party.bulk) for party in charter.parties}


def _smaller(own: int | None, agreed: int) -> int:
    return agreed if own is None else min(own, agreed)
