"""A scenario from a seed: who takes part, what goes wrong and when, and who lies. The same seed gives the same one.

Families, drawn by weight, so that every kind of trouble is also met alone: a failure with one cause is read sooner.
Adding a draw changes what later seeds mean, and nothing depends on which seed means what: draws that belong together
come from one generator of their own (`_stream`), so that an addition to one kind leaves the others alone.

Which modes there are is asked of the modes and the schemes themselves (`kinds`): a new one is drawn as it is there.
"""

import functools
from dataclasses import dataclass, replace
from random import Random

from ..crypto.identity import Identity
from ..crypto.sharing.registry import built_in
from ..protocol import limits
from ..protocol.charter import Arithmetic, Deadlines, Mode, Role, Rules, SchemeName
from ..protocol.errors import CharterError
from ..protocol.journal import WRITES, Write
from ..protocol.seats import Seats
from ..protocol.site import LocalLimits, Optimiser, OwnerPlan
from ..protocol.training import UpdateKind, WeightRule
from .crashes import CrashPlan
from .faults import Trouble
from .federation import OWNER, THIRD, make_charter
from .lies import lies_of

NAMES = ("alice", "bob", "carol", "dave", "erin", "frank")
WORKERS = (THIRD, "fourth", "fifth", "sixth")
"""Secure workers; the first of them alone, unless the mode is for several."""
EVALUATOR = "vera"
TASK = "regression"
CALM = Trouble()
DEADLINES = Deadlines(join=20, upload=40, close=5, release=10, statement=5)
SENT = {
    Role.MODEL_OWNER: (
        "RequestSession",
        "ProposeRound",
        "Invitation",
        "SendModel",
        "Fetch",
        "MaskKeys",
        "MaskSeeds",
        "Challenge",
        "Checked",
        "Cosign",
        "SessionOver",
    ),
    Role.SECURE_WORKER: (
        "OfferSession",
        "OfferRound",
        "Receipted",
        "Closed",
        "Release",
        "RequestCosignature",
        "RoundRecord",
    ),
    Role.DATA_OWNER: ("Acceptance", "Fetch", "Ready", "OfferMaskKey", "MaskSeeds", "Answered", "Cosign"),
    Role.EVALUATOR: ("Acceptance", "Fetch", "Evaluated"),
}
"""What each role sends in an honest round, in every mode: the places of a crash at a send."""
SENT_AMONG_SEVERAL = {Role.MODEL_OWNER: ("Lists", "Closes"), Role.SECURE_WORKER: ("Listed",)}
"""What is sent besides where several secure workers have to agree on a set."""
SENT_WITH_A_SEAT = {Role.MODEL_OWNER: ("Receipted",)}
"""What is sent besides where the model owner holds shares."""
SEATED = (Mode.MASKED, Mode.PLAIN)
"""Modes in which it does."""
OTHER_EFFECTS = ("Provide", "Expect", "Permit", "Dial", "Drop", "Work", "Finish")


@dataclass(frozen=True)
class ClockTrouble:
    """One party's clock, or the party itself, goes wrong at a simulated time."""

    party: str
    at: float
    what: str
    """Whether it "jumps", "stands still", or "hangs" (the party does nothing, and its connections live)."""
    seconds: float

    def words(self) -> str:
        """Return it for a person."""
        thing = self.party if self.what == "hangs" else f"{self.party}'s clock"
        return f"{thing} {self.what} for {self.seconds:.1f} s at {self.at:.3f} s".replace("jumps for", "jumps by")


@dataclass(frozen=True)
class Scenario:
    """Everything a simulation is made of."""

    seed: int
    family: str
    data_owners: tuple[str, ...]
    minimum: int
    rounds: int
    evaluator: bool = False
    cohort: int = 0
    stable: int | None = None
    mode: Mode = Mode.TRUSTED
    scheme: str = ""
    """The scheme's name, where it is not the mode's."""
    workers: tuple[str, ...] = (THIRD,)
    kind: UpdateKind = UpdateKind.WEIGHTS
    weights: WeightRule = WeightRule.UNIFORM
    momentum: bool = False
    trouble: Trouble = CALM
    crashes: tuple[CrashPlan, ...] = ()
    clocks: tuple[ClockTrouble, ...] = ()
    slow: tuple[str, ...] = ()
    late: tuple[tuple[str, float], ...] = ()
    declines: tuple[str, ...] = ()
    """Data owners whose site file does not allow the task."""
    hostile: str | None = None
    lie: str = ""
    """Which of `lies.LIES` it lives by, or of `conspiracy.CONSPIRACIES`; none: it sends anything at any time."""
    accomplice: str | None = None
    """Whose signing key a hostile model owner has besides its own: a secure worker's."""
    leaves: float = 90.0
    """When a hostile party leaves at the latest."""
    deadlines: Deadlines = DEADLINES

    @property
    def rules(self) -> Rules:
        """The charter's rules."""
        by_examples = self.weights is WeightRule.EXAMPLES
        return Rules(
            mode=self.mode,
            scheme=SchemeName(name=self.scheme or self.mode.value),
            unsafe_plain="a simulation" if self.mode is Mode.PLAIN else None,
            minimum_cohort=self.minimum,
            weight_rule=self.weights,
            stable_cohort=self.stable,
            arithmetic=Arithmetic(value_range=200.0, precision=1e-4, max_weight=100 if by_examples else 1),
            deadlines=self.deadlines,
        )

    def site_limits(self, name: str) -> LocalLimits:
        """Return what a data owner's or evaluator's own site file allows."""
        return LocalLimits(modes=tuple(Mode), tasks=("another",) if name in self.declines else None)

    @property
    def plan(self) -> OwnerPlan:
        """What the model owner wants."""
        options = {"lr": 0.5, "momentum": 0.9}
        optimiser = Optimiser(name="SGD", options=options) if self.momentum else None
        return OwnerPlan(
            task=TASK, rounds=self.rounds, seed=7, kind=self.kind, cohort=self.cohort, optimiser=optimiser, batches=2
        )

    @property
    def patience(self) -> float:
        """Simulated seconds within which everybody has ended, whatever happens: a bound, not an estimate."""
        each = self.deadlines
        attempt = each.join + each.upload + each.close + each.release + each.statement
        if len(self.workers) > 1:
            # For the others' lists a secure worker waits as long as they may take, and then for their Close lists.
            attempt += 2 * (each.join + each.upload + each.close + each.absence)
        clock = sum(trouble.seconds for trouble in self.clocks if trouble.what != "jumps")
        absent = sum(plan.back_after or 0.0 for plan in self.crashes) + max([at for _, at in self.late], default=0.0)
        attempts = self.rounds * (1 + self.evaluator) + len(self.crashes)
        hostile = self.leaves if self.hostile else 0.0
        return hostile + self.trouble.until + clock + absent + attempts * attempt + 2 * each.join + limits.STALL

    @property
    def recovers(self) -> bool:
        """Whether every round must come to its aggregate: only parties that end and are soon back, and enough of them.

        A data owner that is gone for longer than `limits.ABSENCE` is done without, so each that ends needs a spare one.
        """
        quiet = not self.hostile and not self.clocks and not self.late and not self.slow and self.trouble == CALM
        soon = all(
            plan.back_after is not None and plan.back_after <= 5 and plan.vanishes != "without a word"
            for plan in self.crashes
        )
        gone = {plan.party for plan in self.crashes} & set(self.data_owners) | set(self.declines)
        spare = (self.cohort or len(self.data_owners)) - self.minimum
        # Where fewer than all sign a set, those who did sum no other (decision 0017): a data owner that is in it, or in
        # some totals, and in the next attempt is not, or the other way round, can end the session.
        ours = self.mode, self.rules.scheme.name, len(self.workers)
        bound = bool(gone) and any((each.mode, each.scheme, each.workers) == ours and each.spare for each in kinds())
        return quiet and soon and len(gone) <= spare and not bound and not (self.stable and (gone or self.cohort))

    def words(self) -> list[str]:
        """Return the scenario for a person, a line each."""
        lines = [
            f"{self.family}: {len(self.data_owners)} data owners, minimum {self.minimum}, {self.rounds} round(s) of "
            f"{self.kind.value}, weights {self.weights.value}"
            + (f", cohorts of {self.cohort}" if self.cohort else "")
            + (f", stable cohort {self.stable}" if self.stable else "")
            + (", an evaluator" if self.evaluator else "")
            + ("" if self.mode is Mode.TRUSTED else f", mode {self.mode.value}")
            + (f" ({self.scheme})" if self.scheme else "")
            + (f", {len(self.workers)} secure workers" if len(self.workers) > 1 else ""),
            f"network: {self.trouble.words()}",
        ]
        lines += [plan.words() for plan in self.crashes]
        lines += [trouble.words() for trouble in self.clocks]
        lines += [f"{name} is ten times slower" for name in self.slow]
        lines += [f"{name} starts {at:.2f} s late" for name, at in self.late]
        lines += [f"{name} declines every round" for name in self.declines]
        lines += [f"{self.hostile} is hostile: {self.lie or 'sends anything'}"] if self.hostile else []
        return lines + ([f"{self.accomplice} is its accomplice"] if self.accomplice else [])

    @property
    def liars(self) -> frozenset[str]:
        """Who is hostile: nobody, one party, or a model owner and its accomplice."""
        return frozenset(name for name in (self.hostile, self.accomplice) if name is not None)

    @property
    def roles(self) -> dict[str, Role]:
        """Each party's role, by name."""
        roles = {OWNER: Role.MODEL_OWNER, **dict.fromkeys(self.workers, Role.SECURE_WORKER)}
        roles |= dict.fromkeys(self.data_owners, Role.DATA_OWNER)
        return roles | ({EVALUATOR: Role.EVALUATOR} if self.evaluator else {})

    def sent(self, role: Role) -> tuple[str, ...]:
        """Return what a role sends in an honest round of this mode."""
        several = SENT_AMONG_SEVERAL.get(role, ()) if len(self.workers) > 1 else ()
        seated = SENT_WITH_A_SEAT.get(role, ()) if self.mode in SEATED else ()
        return (*SENT[role], *several, *seated)

    def writes(self, role: Role) -> tuple[Write, ...]:
        """Return what a role may write in this mode, sorted by name."""
        alone = {Write.SET_AGREED} if len(self.workers) == 1 else set()
        return tuple(sorted(WRITES[role] - alone, key=lambda write: write.name))


CONSPIRACY = "hostile model owner with an accomplice"
FAMILIES = {
    "calm": 4,
    "network": 18,
    "crash": 26,
    "full disk": 8,
    "clock": 10,
    "everything": 14,
    "hostile data owner": 6,
    "hostile evaluator": 2,
    "hostile model owner": 4,
    CONSPIRACY: 2,
    "hostile secure worker": 6,
}
"""How many of a hundred seeds are of each family."""
TRUSTED = 0.75
"""Share of the seeds that run mode `trusted`, the cheapest; all other kinds of federation are drawn alike."""


@dataclass(frozen=True)
class Kind:
    """A kind of federation that this release runs: a mode, its scheme, and how many secure workers."""

    mode: Mode
    scheme: str
    workers: int
    spare: int
    """How many of the secure workers a round can begin without."""


@functools.cache
def kinds() -> tuple[Kind, ...]:
    """Return every kind there is, with up to three secure workers: whatever a charter can be made for.

    With four, those that can begin a round without one of them.
    Of schemes those that come with this release, so that a seed means the same wherever it is played.
    """
    found = []
    names = (OWNER, *WORKERS, *NAMES[:3])
    identities = {name: Identity.generate(name) for name in names}
    for mode in Mode:
        for scheme in built_in():
            for workers in range(1, len(WORKERS) + 1):
                made = Scenario(0, "", NAMES[:3], 3, 1, mode=mode, scheme=scheme, workers=WORKERS[:workers])
                try:
                    seats = Seats(make_charter(identities, made.roles, made.rules))
                except CharterError:
                    continue
                if workers < len(WORKERS) or seats.quorum < workers:
                    found.append(Kind(mode, scheme, workers, workers - seats.quorum))
    return tuple(found)


def of_kind(scenario: Scenario, kind: Kind) -> Scenario:
    """Return a scenario played in a federation of another kind."""
    scheme = "" if kind.scheme == kind.mode.value else kind.scheme
    return replace(scenario, mode=kind.mode, scheme=scheme, workers=WORKERS[: kind.workers])


def _stream(seed: int, what: str) -> Random:
    return Random(f"tertium simulation {seed} {what}")  # noqa: S311 - a schedule, no secret


def draw(seed: int, only: str | None = None) -> Scenario:
    """Return the scenario of a seed; with `only`, the one it has in that family."""
    base = _stream(seed, "scenario")
    drawn = base.choices(list(FAMILIES), list(FAMILIES.values()))[0]
    family = only or drawn
    owners = NAMES[: base.choices((3, 4, 5, 6), (35, 40, 15, 10))[0]]
    minimum = base.choice([3, 3, 3, len(owners)])
    rounds = base.choices((1, 2, 3), (50, 40, 10))[0]
    scenario = Scenario(
        seed=seed,
        family=family,
        data_owners=owners,
        minimum=minimum,
        rounds=rounds,
        evaluator=base.random() < 0.25 or family == "hostile evaluator",
        cohort=minimum if base.random() < 0.1 else 0,
        stable=2 if base.random() < 0.1 else None,
        kind=base.choice(list(UpdateKind)),
        weights=base.choice(list(WeightRule)),
    )
    scenario = replace(scenario, momentum=scenario.kind is UpdateKind.GRADIENTS or base.random() < 0.3)
    if base.random() < 0.06:
        scenario = replace(scenario, declines=(base.choice(owners),))
    scenario = of_kind(scenario, _kind(_stream(seed, "mode")))
    if family == CONSPIRACY:
        scenario = _conspiracy(_stream(seed, "conspiracy"), scenario)
    elif family.startswith("hostile"):
        liars = {"data owner": base.choice(owners), "evaluator": EVALUATOR, "model owner": OWNER}
        liar = liars.get(family.removeprefix("hostile "), base.choice(scenario.workers))
        lies = lies_of(scenario.roles[liar], among=len(scenario.workers))
        scenario = replace(scenario, hostile=liar)
        if lies and base.random() < 0.5:
            scenario = replace(scenario, lie=base.choice(sorted(lies)), rounds=max(2, rounds))
    everything = family == "everything"
    if everything or family == "network" or (scenario.hostile and base.random() < 0.3):
        scenario = replace(scenario, trouble=_trouble(_stream(seed, "trouble")))
    if everything or family == "crash":
        scenario = replace(scenario, crashes=_crashes(_stream(seed, "crashes"), scenario))
    if family == "full disk":
        scenario = replace(scenario, crashes=_full(_stream(seed, "disk"), scenario))
    if everything or family == "clock":
        scenario = _clocks(_stream(seed, "clocks"), scenario)
    return scenario


def _kind(chance: Random) -> Kind:
    others = [each for each in kinds() if each.mode is not Mode.TRUSTED]
    if chance.random() < TRUSTED:
        others = [each for each in kinds() if each.mode is Mode.TRUSTED]
    return chance.choice(others)


def _conspiracy(chance: Random, scenario: Scenario) -> Scenario:
    """Return it with a model owner and one of four secure workers against three, of which any three make a quorum."""
    return replace(
        of_kind(scenario, Kind(Mode.SHAMIR, "shamir", len(WORKERS), 1)),
        # Two sets, each of the minimum, need somebody to differ by.
        data_owners=NAMES[: chance.choice((4, 5, 5, 6))],
        minimum=3,
        evaluator=False,
        cohort=0,
        stable=None,
        declines=(),
        hostile=OWNER,
        accomplice=chance.choice(WORKERS),
        lie="conspires",
        leaves=200.0,
        deadlines=Deadlines(join=10, upload=10, close=5, release=5, statement=3, absence=10),
    )


def _trouble(chance: Random) -> Trouble:
    shares = {}
    for kind in ("reset", "drop", "double", "corrupt", "partition", "deaf"):
        if chance.random() < 0.4:
            shares[kind] = chance.choice((0.002, 0.005, 0.02, 0.05))
    delay, spike = chance.choice((0.0005, 0.005, 0.03)), chance.choice((0.0, 0.0, 0.01, 0.05))
    return Trouble(delay=delay, spike=spike, until=chance.choice((2.0, 8.0, 25.0)), **shares)


def _crashes(chance: Random, scenario: Scenario) -> tuple[CrashPlan, ...]:
    plans = []
    for _ in range(chance.choices((1, 2, 3), (60, 30, 10))[0]):
        party, role = _victim(chance, scenario)
        kind = chance.random()
        if kind < 0.35:
            at = f"write {chance.choice(scenario.writes(role)).name}"
        elif kind < 0.45:
            at = "write"
        elif kind < 0.75:
            at = f"Send {chance.choice(scenario.sent(role))}"
        elif kind < 0.85:
            at = chance.choice(OTHER_EFFECTS)
        else:
            at = "effect"
        number = chance.randint(1, 25) if at == "effect" else chance.choice((1, 1, 1, 2, 2, 3, 4))
        plans.append(
            CrashPlan(
                party,
                at,
                number,
                chance.choice(("before", "after")),
                chance.choice(("at once", "after its last words", "after its last words", "without a word")),
                chance.choice((0.01, 0.3, 1.0, 2.5, 5.0, 15.0, None)),
            )
        )
    return tuple(plans)


def _full(chance: Random, scenario: Scenario) -> tuple[CrashPlan, ...]:
    party, role = _victim(chance, scenario)
    at = chance.choice(["full", *(f"full {write.name}" for write in scenario.writes(role))])
    return (CrashPlan(party, at, chance.choice((1, 1, 2, 3)), back_after=chance.choice((0.3, 1.0, 5.0, None))),)


def _victim(chance: Random, scenario: Scenario) -> tuple[str, Role]:
    roles = scenario.roles
    party = chance.choice([OWNER, OWNER, THIRD, THIRD, THIRD, *sorted(set(roles) - {OWNER, THIRD})])
    return party, roles[party]


def _clocks(chance: Random, scenario: Scenario) -> Scenario:
    names = sorted(scenario.roles)
    troubles = []
    for _ in range(chance.randint(0, 3)):
        what = chance.choice(("jumps", "jumps", "stands still", "hangs"))
        seconds = chance.choice((2.0, 30.0, 300.0)) if what == "jumps" else chance.choice((0.5, 4.0, 12.0))
        troubles.append(ClockTrouble(chance.choice(names), chance.choice((0.0, 0.01, 0.03, 0.1, 1.0)), what, seconds))
    slow = tuple(name for name in names if chance.random() < 0.25)
    late = tuple((name, chance.choice((0.05, 1.0, 6.0, 18.0))) for name in names if chance.random() < 0.15)
    return replace(scenario, clocks=tuple(troubles), slow=slow, late=late)
