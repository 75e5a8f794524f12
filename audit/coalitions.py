"""What a group of parties has together: which single updates it can read, by which way, and from which sums.

Rules of the file:
- A group knows its own updates, what its members opened, what their shares make together, and all their sums.
- Over one model the rank test is exact. Over different models one party's updates are different unknowns; taken for the
  same they give an estimate, which is stated as such (`How.ACROSS`) and is no violation of anything a mode promises.
- Groups are tried from the smallest on. How many there are is bounded, and what was left out is said.
"""

import functools
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from .facts import At, Facts
from .findings import Findings
from .knowledge import Knowledge, Sum
from .rank import Form, computable
from .report import Exposure, How, Kind, Severity
from .words import worked_out

LARGEST: Final = 6
MOST_GROUPS: Final = 1024
MOST_WORK: Final = 30_000_000
"""What groups of several have to be asked about, all together: about a minute."""
MOST_EXPOSURES: Final = 500
STRENGTH: Final = tuple(How)
Group = tuple[str, ...]


@dataclass
class Reading:
    """One way in which a group can read an update."""

    how: How
    rounds: set[int] = field(default_factory=set)
    places: list[At] = field(default_factory=list)
    least: int = 0
    """Of the sums it takes: the contributors of the smallest."""


@dataclass
class Reach:
    """What a group has together."""

    who: Group
    readable: dict[str, Reading] = field(default_factory=dict)
    """By data owner, the strongest way only."""
    left: dict[str, tuple[int, Sum]] = field(default_factory=dict)
    """By data owner: how many updates the group cannot take off the sum it knows best, this one among them."""


def groups(parties: Group, left_out: list[str], known: Mapping[str, Knowledge] | None = None) -> Iterator[Group]:
    """Yield every party, then every group of two and more, up to six parties, a thousand groups, or much to look at.

    A ledger may say any number of things, each of which every group its party is in has to be asked about.
    """
    weight = {name: len(each.plain) + len(each.shares) + len(each.sums) for name, each in (known or {}).items()}
    number = work = 0
    for size in range(1, len(parties) + 1):
        for group in itertools.combinations(parties, size):
            work += sum(weight.get(name, 0) for name in group)
            if size > 1 and (size > LARGEST or number >= MOST_GROUPS or work > MOST_WORK):
                left_out.append(
                    f"coalitions: {number} were looked at, of up to {min(size, LARGEST)} parties; larger and later "
                    f"ones of {len(parties)} parties were left out"
                )
                return
            number += 1
            yield group


class Together:
    """Answers what groups have, from what each party has."""

    def __init__(self, facts: Facts, known: dict[str, Knowledge]) -> None:
        self._facts = facts
        self._known = known
        holders = facts.seats.holders
        self.collusion = tuple(
            frozenset(holders[index] for index in found) for found in facts.seats.scheme.collusion_sets
        )
        """The smallest sets of parties that the scheme says can read an update."""
        self._sums = {name: tuple(each.sums.values()) for name, each in known.items()}

    def reach(self, who: Group) -> Reach:
        """Return what a group can read, and how far it can take each sum apart."""
        reach, own = Reach(who), frozenset(who)
        direct = self._direct(who)
        by_model: dict[bytes, list[Sum]] = defaultdict(list)
        for name in who:
            for learnt in self._sums[name]:
                by_model[learnt.model].append(learnt)
        for (whose, model), reading in direct.items():
            if whose not in own:
                self._note(reach, whose, reading)
            by_model.setdefault(model, [])
        read: dict[bytes, set[str]] = defaultdict(set)
        for whose, model in direct:
            read[model].add(whose)
        for model, sums in by_model.items():
            self._over_one_model(reach, sums, own | read.get(model, set()), own)
        self._over_all(reach, [learnt for sums in by_model.values() for learnt in sums], own)
        return reach

    def _direct(self, who: Group) -> dict[tuple[str, bytes], Reading]:
        """Return, by data owner and model, what was opened or follows from the members' shares."""
        found: dict[tuple[str, bytes], Reading] = {}
        for name in who:
            for key, at in self._known[name].plain.items():
                reading = found.setdefault(key, Reading(How.MODE))
                reading.places.append(at)
                reading.rounds.add(at.entry.round)
        if not any(each <= frozenset(who) for each in self.collusion):
            return found
        merged: dict[tuple[str, bytes], dict[int, At]] = defaultdict(dict)
        for name in who:
            for key, shares in self._known[name].shares.items():
                merged[key].update(shares)
        sets = self._facts.seats.scheme.collusion_sets
        for (whose, open_round), shares in merged.items():
            if any(each <= shares.keys() for each in sets):
                question = self._facts.questions.get(open_round)
                model = question.model if question is not None else open_round
                reading = found.setdefault((whose, model), Reading(How.MODE))
                reading.places += shares.values()
                reading.rounds |= {at.entry.round for at in shares.values()}
        return found

    def _over_one_model(self, reach: Reach, sums: list[Sum], known: frozenset[str], own: frozenset[str]) -> None:
        for learnt in sums:
            left = learnt.form - known
            for whose in left:
                before = reach.left.get(whose)
                if before is None or len(left) < before[0]:
                    reach.left[whose] = len(left), learnt
            others = learnt.form - own
            if len(others) == 1:
                reading = Reading(How.OTHERS, {learnt.round}, list(learnt.places), len(learnt.form))
                self._note(reach, next(iter(others)), reading)
        forms = frozenset(learnt.form for learnt in sums)
        by_sums = _computable(forms, own)
        # What its members opened takes more of a sum away: that is by the way in which they opened it.
        for whose in _computable(forms, known) - known:
            places = [at for learnt in sums if whose in learnt.form for at in learnt.places]
            how = How.SUMS if whose in by_sums else How.MODE
            self._note(reach, whose, Reading(how, {learnt.round for learnt in sums}, places))

    def _over_all(self, reach: Reach, sums: list[Sum], own: frozenset[str]) -> None:
        for whose in _computable(frozenset(learnt.form for learnt in sums), own) - own:
            self._note(reach, whose, Reading(How.ACROSS, {learnt.round for learnt in sums if whose in learnt.form}))
        for whose, (left, learnt) in reach.left.items():
            if left == 2 and whose not in own:
                self._note(reach, whose, Reading(How.TWO_LEFT, {learnt.round}, list(learnt.places)))

    def _note(self, reach: Reach, whose: str, reading: Reading) -> None:
        before = reach.readable.get(whose)
        if before is None or STRENGTH.index(reading.how) < STRENGTH.index(before.how):
            reach.readable[whose] = reading
        elif before.how is reading.how:
            before.rounds |= reading.rounds
            before.places += reading.places
            before.least = min(before.least, reading.least)

    def allowed(self, who: Group, reading: Reading) -> bool:
        """Whether a way to read an update is one that the mode of the charter owns up to."""
        match reading.how:
            case How.MODE:
                return any(each <= frozenset(who) for each in self.collusion)
            case How.OTHERS:
                return reading.least >= self._facts.charter.rules.minimum_cohort
            case How.SUMS:
                return False
            case _:
                return True


@functools.lru_cache(maxsize=65_536)
def _computable(forms: frozenset[Form], known: frozenset[str]) -> frozenset[str]:
    return computable(forms, known)


def exposures(findings: Findings, together: Together, reaches: list[Reach], left_out: list[str]) -> list[Exposure]:
    """Return the smallest groups that can read each update, the strongest way of each; note what no mode owns up to."""
    out: list[Exposure] = []
    smaller: dict[str, list[tuple[frozenset[str], int]]] = defaultdict(list)
    for reach in reaches:
        group = frozenset(reach.who)
        for whose, reading in sorted(reach.readable.items()):
            strength = STRENGTH.index(reading.how)
            if any(each <= group and known <= strength for each, known in smaller[whose]):
                continue
            smaller[whose].append((group, strength))
            allowed = together.allowed(reach.who, reading)
            text = worked_out(reach.who, (whose,), reading.how, allowed=allowed)
            out.append(Exposure(reach.who, whose, reading.how, allowed, tuple(sorted(reading.rounds)), text))
            if not allowed and reading.how in (How.SUMS, How.OTHERS):
                # Who can read it need not have done anything: others let the sums go, and one may have noted sums that
                # never were.
                findings.note(
                    Kind.READABLE_UPDATE,
                    Severity.VIOLATION,
                    text,
                    others=(*reach.who, whose),
                    at=reading.places,
                )
    if len(out) > MOST_EXPOSURES:
        left_out.append(f"{len(out) - MOST_EXPOSURES} of {len(out)} exposures are not listed")
    return out[:MOST_EXPOSURES]
