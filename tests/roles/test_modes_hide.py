"""What a party outside a collusion set has ever held says nothing of an update, in other attempts and rounds too.

Planted updates are the same in every round, so that whatever leaks adds up: all that each party opened is kept, and
searched, and the shares of one contributor are compared bit by bit, alone and together with those of others.
"""

import itertools
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest
from tertium.crypto.labels import Label
from tertium.crypto.ring import to_wire
from tertium.crypto.sharing.base import Seed
from tertium.crypto.sharing.independence import combinations, combined
from tertium.protocol.charter import Mode, SchemeName
from tertium.protocol.exchange import Exchange
from tertium.protocol.rounds import Phase

Maker = Any
Run = Any
NAMES = ("alice", "bob", "carol", "dave")
PARAMETERS = 20_000
SIGMAS = 6.0
"""A sound scheme fails once in 5e8 comparisons; there are fewer than four hundred."""
MODES = {
    "masked": (Mode.MASKED, "masked", ("third",)),
    "additive of 2": (Mode.ADDITIVE, "additive", ("first", "second")),
    "additive of 3": (Mode.ADDITIVE, "additive", ("first", "second", "third")),
    "replicated": (Mode.SHARED, "replicated", ("first", "second", "third")),
    "shamir 2 of 3": (Mode.SHAMIR, "shamir", ("first", "second", "third")),
}


class Kept:
    """All that one party opened: label, sender, and the sections."""

    def __init__(self) -> None:
        self.opened: list[tuple[Any, bytes, str, list[bytes]]] = []

    def exchange(self) -> type[Exchange]:
        kept = self

        class Keeps(Exchange):
            def open(self, *args: Any, **kwargs: Any) -> Any:
                incoming = super().open(*args, **kwargs)
                finish = incoming.finish

                def noted() -> Any:
                    sections = finish()
                    header = incoming.header
                    kept.opened.append(
                        (header.label, header.open_round, header.sender, [bytes(section) for section in sections])
                    )
                    return sections

                incoming.finish = noted
                return incoming

        return Keeps


@pytest.fixture(scope="module", params=MODES)
def watched(request: pytest.FixtureRequest, make_once: Maker) -> tuple[Run, dict[str, Kept]]:
    """Three rounds, the second of them in two attempts because a secure worker was restarted."""
    mode, scheme, workers = MODES[request.param]
    kept = {name: Kept() for name in (*workers, "owner", *NAMES)}
    run = make_once(
        4,
        planted=PARAMETERS,
        plan=make_once.plan(rounds=3, kind="delta"),
        rules=make_once.rules(mode=mode, scheme=SchemeName(name=scheme)),
        workers=workers,
        exchanges={name: each.exchange() for name, each in kept.items()},
    )
    run.run(until=lambda: run.released == [1] and run.machines["bob"].phase is Phase.CONTRIBUTED)
    run.restart(workers[0])
    errors = run.run()
    assert not [error for error in errors.values() if error]
    assert run.released == [1, 2, 3]
    return run, kept


def needles(run: Run) -> dict[str, bytes]:
    """Every update in the encodings a party could hold it in, a stretch from the middle of each."""
    found = {}
    for (name, number), words in run.encoded.items():
        found[f"{name}'s words of round {number}"] = bytes(to_wire(words))[4_000:4_032]
    for (name, number), update in run.updates.items():
        for kind in ("<f4", "<f8", "<f2", ">f4"):
            flat = np.concatenate([np.asarray(value).reshape(-1) for value in update.values]).astype(kind)
            found[f"{name}'s {kind} of round {number}"] = flat.tobytes()[4_000:4_032]
    return found


def shares(run: Run, kept: dict[str, Kept], contributor: str) -> dict[bytes, dict[int, Any]]:
    """By attempt, then by holder: what it got of this contributor, as the total of that one share."""
    found: dict[bytes, dict[int, Any]] = defaultdict(dict)
    seats, plan, size = run.machines["owner"]._seats, run.charter.plan, next(iter(run.encoded.values())).size
    for index, name in enumerate(seats.holders):
        holder = seats.scheme.holder(plan, size, index)
        for label, attempt, sender, sections in kept[name].opened:
            if label is Label.CONTRIBUTION and sender == contributor:
                share = tuple(
                    Seed(section) if len(section) == 32 else np.frombuffer(section, plan.dtype) for section in sections
                )
                found[attempt][index] = holder.zero()
                holder.accumulate(found[attempt][index], share[0] if len(share) == 1 else share)
    return found


def uniform(words: Any) -> bool:
    """Whether about half of all bits are set."""
    bits = 8 * words.nbytes
    ones = int(np.unpackbits(words.view(np.uint8)).sum())
    return abs(ones / bits - 0.5) < SIGMAS * 0.5 / bits**0.5


def test_nobody_but_its_owner_ever_held_an_update(watched: tuple[Run, dict[str, Kept]]) -> None:
    run, kept = watched
    stretches = needles(run)
    assert len(stretches) >= 3 * len(NAMES)
    for name, each in kept.items():
        for label, _, sender, sections in each.opened:
            for what, stretch in stretches.items():
                hit = any(stretch in section for section in sections)
                assert not hit, f"{name} opened {what} in a {label.value} of {sender}"
    for name, journal in run.journals.items():
        rows = journal._db.execute("select value from entries").fetchall()
        rows += journal._db.execute("select record from bodies").fetchall()
        for what, stretch in stretches.items():
            assert not any(stretch in row[0] for row in rows), f"{name}'s journal holds {what}"


def test_a_threshold_of_holders_has_the_update_and_no_fewer_have_anything(watched: tuple[Run, dict[str, Kept]]) -> None:
    run, kept = watched
    scheme, plan, vector = run.machines["owner"]._seats.scheme, run.charter.plan, run.encoded["bob", 1]
    holders = range(scheme.holders)
    assert plan.word_bits == 32  # an element of the field of 64 bits has bits that are never set
    combiner = scheme.combiner(plan, vector.size)
    attempts = shares(run, kept, "bob")
    whole = [each for each in attempts.values() if set(each) == set(holders)]
    assert len(whole) >= 3
    for size in range(scheme.threshold, scheme.holders + 1):
        for some, each in itertools.product(itertools.combinations(holders, size), whole):
            np.testing.assert_array_equal(combiner.combine({index: each[index] for index in some}), vector)
    assert not uniform(vector)
    for size in range(1, scheme.threshold):
        for some in itertools.combinations(holders, size):
            held = [[piece for index in some for piece in each[index].reshape(-1, vector.size)] for each in whole]
            for signs in combinations(len(held[0])):
                sums = [combined(scheme.domain, plan, pieces, signs) for pieces in held]
                assert all(uniform(each) for each in sums), (some, signs)
                # Of two attempts at the same secret the difference would show it, if randomness were used twice.
                for pair in itertools.combinations(sums, 2):
                    assert uniform(combined(scheme.domain, plan, pair, (1, -1))), (some, signs)


def test_no_randomness_is_used_twice(watched: tuple[Run, dict[str, Kept]]) -> None:
    run, kept = watched
    seats = run.machines["owner"]._seats
    opened = [
        (section, (attempt, sender))
        for holder in seats.holders
        for label, attempt, sender, sections in kept[holder].opened
        for section in sections
        if label is Label.CONTRIBUTION and len(section) == 32
    ]
    assert len(dict(opened)) == len(set(opened)) >= 3 * len(NAMES)
    # In `replicated` two holders have each piece; elsewhere nobody shares one.
    assert max(Counter(seed for seed, _ in opened).values()) <= seats.scheme.total_vectors
