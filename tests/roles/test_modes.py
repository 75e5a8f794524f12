"""One flag changes the trust, never the model: every mode sums to the same bits, and each party gets only its share."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tertium.crypto.identity import verify
from tertium.crypto.labels import Label, digest, frame
from tertium.protocol.charter import Deadlines, Mode, SchemeName
from tertium.protocol.codec import decode_as
from tertium.protocol.lanes.memory_lanes import MemoryLanes
from tertium.protocol.ledger import SHARES, Act, Checkpoint, CheckpointKept, DataClass, Ledger, LedgerEntry
from tertium.protocol.messages import Header, SealedHead, Signed
from tertium.protocol.rounds import Phase
from tertium.protocol.site import LocalLimits

Maker = Any
Run = Any
NAMES = ("alice", "bob", "carol", "dave")
MODES: dict[str, tuple[Mode, str, tuple[str, ...]]] = {
    "trusted": (Mode.TRUSTED, "trusted", ("third",)),
    "masked": (Mode.MASKED, "masked", ("third",)),
    "plain": (Mode.PLAIN, "plain", ("third",)),
    "additive of 2": (Mode.ADDITIVE, "additive", ("first", "second")),
    "additive of 3": (Mode.ADDITIVE, "additive", ("first", "second", "third")),
    "additive of 5": (Mode.ADDITIVE, "additive", ("first", "second", "third", "v", "w")),
    "replicated": (Mode.SHARED, "replicated", ("first", "second", "third")),
    "shamir 2 of 3": (Mode.SHAMIR, "shamir", ("first", "second", "third")),
    "shamir 2 of 4": (Mode.SHAMIR, "shamir", ("first", "second", "third", "v")),
    "shamir 3 of 5": (Mode.SHAMIR, "shamir", ("first", "second", "third", "v", "w")),
}
OF_UPDATES = (DataClass.UPDATE, *SHARES)


def rules_of(make: Maker, name: str, **changes: Any) -> dict[str, Any]:
    mode, scheme, workers = MODES[name]
    more: dict[str, Any] = {"workers": workers}
    if mode is Mode.PLAIN:
        changes["unsafe_plain"] = "a test"
        more["limits_of"] = dict.fromkeys(make.names, LocalLimits(modes=tuple(Mode)))
    threshold = int(name.split()[1]) if mode is Mode.SHAMIR else None
    return {"rules": make.rules(mode=mode, scheme=SchemeName(name=scheme, threshold=threshold), **changes), **more}


@pytest.fixture(scope="module")
def in_mode(make_once: Maker) -> Any:
    played: dict[str, Run] = {}

    def run_it(name: str, **more: Any) -> Run:
        if not more and name in played:
            return played[name]
        run = played[name] = make_once(
            4,
            plan=make_once.plan(rounds=3, metrics=("loss",)),
            machines={"owner": make_once.sums, **more.pop("machines", {})},
            **rules_of(make_once, name),
            **more,
        )
        errors = run.run()
        assert {who: error for who, error in errors.items() if error} == {}
        return run

    return run_it


@pytest.fixture(scope="module")
def trusted(in_mode: Any) -> Run:
    return in_mode("trusted")


def opened(run: Run, party: str) -> list[Any]:
    return [each for each in run.handled[party] if not each.sealed and each.label is Label.CONTRIBUTION]


@pytest.mark.parametrize("name", MODES)
def test_every_mode_makes_the_same_model_bit_for_bit(in_mode: Any, trusted: Run, plain_sum: Any, name: str) -> None:
    run = in_mode(name)
    assert run.released == [1, 2, 3]
    assert bytes(run.model.to_bytes()) == bytes(trusted.model.to_bytes())
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 3, NAMES))
    assert run.all_refused == []
    assert run.clock.now < 30


@pytest.mark.parametrize("name", MODES)
def test_who_opens_what_is_what_the_seats_say(in_mode: Any, name: str) -> None:
    run = in_mode(name)
    seats = run.machines["owner"]._seats
    for party in (*run.workers, "owner"):
        found = opened(run, party)
        if party not in (*seats.holders, *seats.workers):
            assert found == []
            continue
        assert len(found) == 3 * len(NAMES)
        sizes = {each.payload for each in found}
        if name == "masked":
            assert sizes == ({32} if party == "owner" else sizes - {32})
        if name == "plain" and party == "third":
            assert sizes == {0}


def noted(run: Run) -> dict[str, list[LedgerEntry]]:
    """What each party's view ledger says."""
    ledgers = {name: Ledger(journal, run.charter.digest) for name, journal in run.journals.items()}
    return {name: [entry for _, entry in ledger.entries()] for name, ledger in ledgers.items()}


def exhibits(run: Run, name: str) -> list[tuple[bytes, str, Label, bytes]]:
    rows = run.journals[name]._db.execute("select subject, signer, label, content from exhibits").fetchall()
    return [(subject, signer, Label(label), content) for subject, signer, label, content in rows]


@pytest.mark.parametrize("name", MODES)
def test_everybody_notes_what_it_sees_and_the_ledgers_agree(in_mode: Any, name: str) -> None:
    run = in_mode(name)
    seats, logs = run.machines["owner"]._seats, noted(run)
    question = SimpleNamespace(cohort=NAMES, round=1)
    for party, log in logs.items():
        opens = [each for each in log if each.act is Act.OPENED and each.data in OF_UPDATES]
        read = {(each.data, each.whose, each.part) for each in opens}
        holds = party in (*seats.holders, *seats.workers)
        assert {whose for _, whose, _ in read} == ({(each,) for each in NAMES} if holds else set())
        if seats.index(party) is not None:
            for contributor in NAMES:
                content = seats.content(question, contributor, party)
                assert (content.part is None) is (len(seats.holders) == 1)
                assert {part for _, whose, part in read if whose == content.whose} == {content.part}
        # A plaintext update is read by a holder that has no other beside it, and by nobody else.
        alone = seats.holders == (party,)
        assert {data for data, _, _ in read} <= ({DataClass.UPDATE} if alone else set(SHARES))
        # Whatever it received, its sender says that it sent it: the same thing, to this party.
        shown = {subject for subject, _, label, _ in exhibits(run, party) if label is Label.CHECKPOINT}
        for each in log:
            if each.act is Act.RECEIVED and each.subject not in shown:
                said = [other for other in logs[each.peer] if other.act is Act.SENT and other.peer == party]
                assert (each.data, each.subject) in {(other.data, other.subject) for other in said}
        # Every round key it drew is erased.
        keys = [(each.act, each.subject) for each in log if each.data is DataClass.KEY]
        drawn = [subject for act, subject in keys if act is Act.DERIVED]
        assert len(drawn) == 3 * (2 if party in NAMES else 1)
        assert sorted(subject for act, subject in keys if act is Act.ERASED) == sorted(drawn)
    stored = [each for each in logs["owner"] if each.act is Act.STORED]
    assert [(each.data, each.round) for each in stored] == [(DataClass.MODEL, number) for number in (1, 2, 3)]
    for each in stored:
        (source,) = (logs["owner"][at] for at in each.derived_from)
        assert (source.act, source.data, source.subject) == (Act.DERIVED, DataClass.MODEL, each.subject)
    for worker in run.workers:
        released = [each for each in logs[worker] if each.act is Act.RELEASED]
        assert [(each.data, each.whose, each.round) for each in released] == [
            (DataClass.AGGREGATE, NAMES, number) for number in (1, 2, 3)
        ]


@pytest.mark.parametrize("name", MODES)
def test_every_exhibit_verifies_and_every_checkpoint_is_kept_to(in_mode: Any, name: str) -> None:
    run = in_mode(name)
    ledgers = {party: Ledger(journal, run.charter.digest) for party, journal in run.journals.items()}
    for party, ledger in ledgers.items():
        entries = [entry for _, entry in ledger.entries()]
        shown = exhibits(run, party)
        assert {subject for subject, _, _, _ in shown} <= {entry.subject for entry in entries}
        for subject, signer, label, content in shown:
            key = run.charter.party(signer).signing
            if label is Label.HEADER:
                head = decode_as(SealedHead, content)
                assert head.subject == subject
                signed = frame(decode_as(Header, head.header).label, [head.header, head.wrapped_key])
                verify(key, label, signed, head.signature, party=signer)
            else:
                said = decode_as(Signed, content)
                assert (digest(label, said.statement), said.signer) == (subject, signer)
                verify(key, label, said.statement, said.signature, party=signer)
        # At its end it signs for the whole of it.
        last = decode_as(Checkpoint, run.journals[party].read(CheckpointKept).signed.statement)
        assert (last.size, last.root) == (ledger.size, ledger.root(ledger.size))
        # Data owners seal masks for each other and never speak, so no checkpoint comes from there.
        speaks = {each.peer for each in entries if each.act is Act.RECEIVED and each.data is DataClass.CONTROL}
        assert set(ledger.held) == speaks
        for peer, (_, checkpoint) in ledger.held.items():
            assert 0 < checkpoint.size <= ledgers[peer].size
            assert ledgers[peer].root(checkpoint.size) == checkpoint.root
            # The model owner says goodbye with a checkpoint of all that came before it.
            assert peer != "owner" or ledgers[peer].size - checkpoint.size <= len(run.roles)


def test_nothing_is_said_before_what_led_to_it_is_in_the_file(
    make_once: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, said, send = make_once(4), [], MemoryLanes.send

    def looks(self: Any, peer: str, data: bytes) -> bool:
        journal = run.journals[self.name]
        said.append((len(journal._staged), journal.ledger_size()))
        return send(self, peer, data)

    monkeypatch.setattr(MemoryLanes, "send", looks)
    assert set(run.run().values()) == {None}
    assert len(said) > 40
    assert {staged for staged, _ in said} == {0}
    assert max(size for _, size in said) > 20


@pytest.mark.parametrize("name", ["additive of 2", "additive of 3"])
def test_the_load_goes_round_among_holders(in_mode: Any, name: str) -> None:
    run = in_mode(name)
    full = {worker: len([each for each in opened(run, worker) if each.payload != 32]) for worker in run.workers}
    assert max(full.values()) - min(full.values()) <= 1
    assert sum(full.values()) == 3 * len(NAMES)


STEPS = {
    "masked": {
        "owner": [Phase.OFFERING, Phase.COLLECTING, Phase.RECEIVING, Phase.VERIFYING, Phase.RELEASED],
        "third": [Phase.COLLECTING, Phase.RELEASED],
        "bob": [Phase.INVITED, Phase.RECEIVING, Phase.UPLOADING, Phase.CONTRIBUTED],
    },
    "additive of 3": {
        "owner": [Phase.OFFERING, Phase.COLLECTING, Phase.CLOSED, Phase.RECEIVING, Phase.VERIFYING, Phase.RELEASED],
        "second": [Phase.COLLECTING, Phase.LISTED, Phase.CLOSED, Phase.RELEASED],
        "bob": [Phase.INVITED, Phase.RECEIVING, Phase.UPLOADING, Phase.CONTRIBUTED],
    },
}


@pytest.mark.parametrize(
    ("name", "party", "phase"),
    [(name, party, phase) for name, steps in STEPS.items() for party, phases in steps.items() for phase in phases],
)
def test_a_round_survives_a_restart_at_every_step_or_says_who_was_lost(
    make: Maker, plain_sum: Any, name: str, party: str, phase: Phase
) -> None:
    run = make(
        4,
        plan=make.plan(rounds=2),
        machines={"owner": make.sums, "dave": make.slow},
        **rules_of(make, name, deadlines=Deadlines(join=10, upload=30, close=10, release=10, statement=5, absence=20)),
    )
    run.run(until=lambda: run.machines[party].phase is phase)
    run.restart(party)
    errors = run.run()
    assert {who: error for who, error in errors.items() if error} == {}
    contributors = run.statement(2, run.workers[0]).contributors
    # Who was restarted while it sent its shares sits that round out: some holder may have one of the first split.
    assert set(contributors) >= set(NAMES) - {party}
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 2, contributors))
    assert run.clock.now < 90
