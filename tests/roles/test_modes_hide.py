"""What a party outside a collusion set has ever held says nothing of an update, in other attempts and rounds too.

Planted updates are the same in every round, so that whatever leaks adds up: all that each party opened is kept, and
searched, and the shares of one contributor are compared bit by bit, alone and together with those of others.
"""

import itertools
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from tertium.crypto.labels import Label
from tertium.crypto.ring import to_wire
from tertium.crypto.sharing.base import Seed
from tertium.protocol.charter import Mode, SchemeName
from tertium.protocol.exchange import Exchange
from tertium.protocol.rounds import Phase

Maker = Any
Run = Any
NAMES = ("alice", "bob", "carol", "dave")
PARAMETERS = 20_000
SIGMAS = 6.0
"""A sound scheme fails once in 5e8 comparisons; there are fewer than a hundred."""
MODES = {
    "masked": (Mode.MASKED, "masked", ("third",)),
    "additive of 2": (Mode.ADDITIVE, "additive", ("first", "second")),
    "additive of 3": (Mode.ADDITIVE, "additive", ("first", "second", "third")),
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


def shares(run: Run, kept: dict[str, Kept], contributor: str) -> dict[bytes, dict[str, Any]]:
    """By attempt, then by holder: what it got of this contributor, seeds expanded."""
    found: dict[bytes, dict[str, Any]] = defaultdict(dict)
    size = next(iter(run.encoded.values()))
    for holder in run.machines["owner"]._seats.holders:
        for label, attempt, sender, sections in kept[holder].opened:
            if label is Label.CONTRIBUTION and sender == contributor:
                (section,) = sections
                words = np.zeros(size.size, size.dtype)
                if len(section) == 32:
                    Seed(section).keystream().add_into(words)
                else:
                    words += np.frombuffer(section, size.dtype)
                found[attempt][holder] = words
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


def test_all_holders_together_have_the_update_and_no_fewer_have_anything(
    watched: tuple[Run, dict[str, Kept]],
) -> None:
    run, kept = watched
    holders = run.machines["owner"]._seats.holders
    vector = run.encoded["bob", 1]
    attempts = shares(run, kept, "bob")
    whole = [each for each in attempts.values() if set(each) == set(holders)]
    assert len(whole) >= 3
    for each in whole:
        np.testing.assert_array_equal(sum(each.values(), np.zeros_like(vector)), vector)
    assert not uniform(vector)
    for size in range(1, len(holders)):
        for some in itertools.combinations(holders, size):
            sums = [sum((each[name] for name in some), np.zeros_like(vector)) for each in whole]
            assert all(uniform(each) for each in sums), some
            # Of two attempts at the same secret the difference would show it, if randomness were used twice.
            for one, other in itertools.combinations(sums, 2):
                assert uniform(one - other), some


def test_no_randomness_is_used_twice(watched: tuple[Run, dict[str, Kept]]) -> None:
    run, kept = watched
    seeds = [
        section
        for holder in run.machines["owner"]._seats.holders
        for label, _, _, sections in kept[holder].opened
        for section in sections
        if label is Label.CONTRIBUTION and len(section) == 32
    ]
    assert len(seeds) == len(set(seeds)) >= 3 * len(NAMES)
