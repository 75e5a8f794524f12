"""The matrix against values: what each party's process really had in its hands, followed without any ledger.

Every body that anybody opens is kept as bytes. A party or coalition *has* an update if it can put the very words
together from those bytes: as they are, by the scheme's own halves from the shares, or by taking what it knows off a
sum. That must be what the audit says from the ledgers, in every cell, for every coalition of up to six parties, in
every mode.
"""

import itertools
from typing import Any

import numpy as np
import pytest
from tertium.crypto.labels import Label
from tertium.crypto.sharing.wire import total_from_section
from tertium.protocol.charter import Role
from tertium.protocol.exchange import Exchange, Incoming
from tertium.protocol.seats import Seats

MODES = ("trusted", "masked", "additive", "shamir 2 of 3", "shamir 2 of 4", "replicated", "plain")
NAMES = ("alice", "bob", "carol")
Words = Any


class Seen:
    """What the processes of one run had: bodies by who opened them, and what every data owner encoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: dict[str, list[tuple[Any, list[bytes]]]] = {}
        self.encoded: dict[tuple[str, int], Words] = {}
        self.questions: dict[bytes, Any] = {}
        self.models: dict[bytes, int] = {}
        """By the bytes of a model: the round whose sum it was made with."""
        seen, make = self, Exchange.open

        def opens(exchange: Exchange, head: Any, key: Any, *more: Any, **named: Any) -> Incoming:
            incoming = make(exchange, head, key, *more, **named)
            finish, name = incoming.finish, exchange._identity.name

            def finished() -> Any:
                sections = finish()
                seen.opened.setdefault(name, []).append((incoming.header, [bytes(each) for each in sections]))
                return sections

            incoming.finish = finished  # type: ignore[method-assign]
            return incoming

        monkeypatch.setattr(Exchange, "open", opens)


def follow(make: Any, mode: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Seen]:
    seen = Seen(monkeypatch)
    run = make.federation(mode, rounds=3)
    for name in NAMES:
        machine = run.machines[name]
        worked = machine.worked

        def noted(tag: str, result: Any, now: float, machine: Any = machine, worked: Any = worked) -> None:
            if hasattr(result, "words") and machine.asked is not None:
                seen.encoded[machine.name, machine.asked.question.round] = result.words.copy()
                seen.questions[machine.asked.open_round] = machine.asked.question
            worked(tag, result, now)

        machine.worked = noted
    owner = run.machines["owner"]
    checkpoint = owner._store.checkpoint

    def stepped(model: Any, number: int) -> None:
        seen.models[bytes(model.to_bytes())] = number
        checkpoint(model, number)

    owner._store.checkpoint = stepped
    run.run()
    assert {name: error for name, error in run.errors.items() if error} == {}
    return run, seen


class Taint:
    """Works out, from values alone, what groups of parties have."""

    def __init__(self, run: Any, seen: Seen) -> None:
        self.seats, self.seen, self.run = Seats(run.charter), seen, run
        self.question = next(iter(seen.questions.values()))
        self.rounds = sorted({number for _, number in seen.encoded})

    def shares(self, party: str) -> dict[tuple[str, int], dict[int, Any]]:
        """By data owner and round: the shares a party opened, by the scheme's number."""
        found: dict[tuple[str, int], dict[int, Any]] = {}
        for header, sections in self.seen.opened.get(party, ()):
            if header.label is Label.CONTRIBUTION and self.seats.index(party) is not None:
                question = self.seen.questions[header.open_round]
                share = self.seats.share(question, header.sender, party, sections)
                found.setdefault((header.sender, header.round), {})[self.seats.index(party)] = share
        return found

    def totals(self, party: str, number: int) -> dict[int, Words]:
        found = {}
        for header, sections in self.seen.opened.get(party, ()):
            index = self.seats.index(header.sender)
            if header.label is Label.AGGREGATE and header.round == number and index is not None:
                plan, words = self.question.plan, self.question.words
                found[index] = total_from_section(self.seats.scheme, plan, words, memoryview(sections[0])).copy()
        own = self.seats.index(party)
        if own is not None and found is not None:
            made = [self.shares(party).get((name, number), {}).get(own) for name in NAMES]
            if all(share is not None for share in made):
                found[own] = self.added(own, made)
        return found

    def added(self, index: int, shares: list[Any]) -> Words:
        half = self.seats.scheme.holder(self.question.plan, self.question.words, index)
        total = half.zero()
        total.fill(0)
        for share in shares:
            half.accumulate(total, share)
        return total

    def combined(self, totals: dict[int, Words]) -> list[Words]:
        """Everything that some of these totals make."""
        combiner, out = self.seats.scheme.combiner(self.question.plan, self.question.words), []
        for size in range(1, len(totals) + 1):
            for some in itertools.combinations(sorted(totals), size):
                try:
                    out.append(combiner.combine({index: totals[index].copy() for index in some}))
                except Exception:  # too few, or they contradict each other: no sum
                    continue
        return out

    def knows_sum(self, party: str, number: int) -> bool:
        bits = 8 * self.question.plan.dtype.itemsize
        whole = sum(self.seen.encoded[name, number].astype(object) for name in NAMES) % 2**bits
        made = self.combined(self.totals(party, number))
        if any(np.array_equal(each.astype(object), whole) for each in made):
            return True
        # Or as the step between two models, by a model that was made with it.
        models = [sections[-1] for header, sections in self.seen.opened.get(party, ()) if header.label is Label.MODEL]
        return any(self.seen.models.get(model) == number for model in models)

    def cell(self, who: tuple[str, ...], whose: str) -> tuple[str, Any]:
        if whose in who:
            return "own", None
        least: int | None = None
        mine = [(name, self.shares(name)) for name in who]
        readable: dict[tuple[str, int], bool] = {}
        for name, number in itertools.product(NAMES, self.rounds):
            merged = {index: share for _, found in mine for index, share in found.get((name, number), {}).items()}
            totals = {index: self.added(index, [share]) for index, share in merged.items()}
            right = self.seen.encoded[name, number]
            readable[name, number] = any(np.array_equal(each, right) for each in self.combined(totals))
        if any(readable[whose, number] for number in self.rounds):
            return "plaintext", None
        for number in self.rounds:
            if any(self.knows_sum(name, number) for name in who):
                left = [name for name in NAMES if name not in who and not readable[name, number]]
                least = len(left) if least is None else min(least, len(left))
        if least == 1:
            return "plaintext", None
        if least is not None:
            return "aggregate", least
        parts = {index + 1 for _, found in mine for (name, _), held in found.items() if name == whose for index in held}
        return ("share", tuple(sorted(parts))) if parts else ("no recorded access", None)


@pytest.mark.parametrize("mode", MODES)
def test_the_matrix_is_what_the_processes_had_in_every_cell(
    make: Any, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen = follow(make, mode, monkeypatch)
    report, taint = make.audit(run).report, Taint(run, seen)
    parties = [name for name, role in run.roles.items() if role is not Role.EVALUATOR]
    rows = {frozenset(row.who): row for row in (*report.matrix, *report.coalitions)}
    wanted = [who for size in range(1, 7) for who in itertools.combinations(parties, size)]
    assert set(rows) == {frozenset(who) for who in wanted}
    levels = set()
    for who in wanted:
        for cell in rows[frozenset(who)].cells:
            level, more = taint.cell(who, cell.whose)
            levels.add(level)
            assert cell.level.value == level, (who, cell.whose, cell.text, level, more)
            if level == "aggregate":
                assert cell.count == more, (who, cell.whose)
            if level == "share":
                listed = ", ".join(map(str, more))
                assert cell.text == f"share {listed} of {len(report.holders)}", (who, cell.whose)
    assert {"own", "plaintext", "aggregate"} <= levels
