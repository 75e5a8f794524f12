"""Evidence that somebody forged: with the file's digest made anew, what was signed still gives it away."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tertium.audit import evidence
from tertium.audit.report import Kind
from tertium.crypto.errors import Misbehaviour
from tertium.crypto.identity import Identity
from tertium.protocol.codec import decode_as, encode
from tertium.protocol.ledger import Checkpoint, DataClass, LedgerEntry
from tertium.protocol.statements import sign

Maker = Any
EVERY = 23
"""Of how many bytes one is altered."""


@pytest.fixture(scope="module")
def proven(make_once: Maker, rewrite: Any) -> dict[Kind, Any]:
    """A run with three liars, and the evidence against each."""
    federation = make_once.federation(rounds=3)
    view = federation.machines["owner"].exchange.view
    settle, sealed = view.settle, federation.machines["bob"].exchange.view.sealed

    def keeps() -> None:
        if view._context is not None and view._context.round == 1 and view.settle is keeps:
            view.settle = settle
            view.derived(DataClass.UPDATE, ("alice",), sources=())
        settle()

    view.settle = keeps
    federation.machines["bob"].exchange.view.sealed = lambda header, *rest: (
        None if header.recipient == "first" and header.round == 1 else sealed(header, *rest)
    )
    federation.run()
    folder: Path = make_once.export(federation)
    rewrite(folder, "carol", lambda rows: [rows[1], rows[0], *rows[2:]],
            signed_by=(federation.identities["carol"], federation.charter))  # fmt: skip
    done = make_once.audit(folder)
    found = {
        kind: done.holds(kind, party)
        for kind, party in (
            (Kind.FORBIDDEN_ACCESS, "owner"),
            (Kind.DENIED_SENDING, "bob"),
            (Kind.FORKED_LEDGER, "carol"),
        )
    }
    assert {each.party for each in found.values()} == {"owner", "bob", "carol"}
    return {"charter": done.charter, **{kind: done.bundle(kind) for kind in found}}


def shows(charter: Any, data: bytes) -> evidence.Proven:
    return evidence.verify(charter, decode_as(evidence.Bundle, data))


@pytest.mark.parametrize("kind", [Kind.FORBIDDEN_ACCESS, Kind.FORKED_LEDGER])
def test_no_byte_of_what_was_signed_can_be_another(proven: Any, kind: Kind) -> None:
    data = encode(proven[kind])
    for at in range(0, len(data), EVERY):
        with pytest.raises(Misbehaviour):
            shows(proven["charter"], data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_a_ledger_that_denies_can_be_altered_only_behind_what_its_party_signed_for(proven: Any) -> None:
    bundle = proven[Kind.DENIED_SENDING]
    signed = decode_as(Checkpoint, bundle.log.checkpoint.statement).size
    for at in range(0, signed, 7):
        entries = list(bundle.log.entries)
        entry = decode_as(LedgerEntry, entries[at])
        entries[at] = encode(msgspec.structs.replace(entry, wire=entry.wire + 1))
        forged = msgspec.structs.replace(bundle, log=msgspec.structs.replace(bundle.log, entries=tuple(entries)))
        with pytest.raises(Misbehaviour, match="is not the one"):
            evidence.verify(proven["charter"], forged)


def test_a_ledger_nobody_signed_for_denies_nothing(proven: Any) -> None:
    bundle = proven[Kind.DENIED_SENDING]
    forged = msgspec.structs.replace(bundle, log=msgspec.structs.replace(bundle.log, checkpoint=None))
    with pytest.raises(Misbehaviour, match="does not go on after it"):
        evidence.verify(proven["charter"], forged)


def test_a_ledger_that_ends_with_the_attempt_denies_nothing(proven: Any) -> None:
    """Somebody cuts an honest ledger before the upload, to have its party deny it: it does not go on after that."""
    bundle = proven[Kind.DENIED_SENDING]
    log = bundle.log
    early = tuple(data for data in log.entries if decode_as(LedgerEntry, data).round <= 1)
    forged = msgspec.structs.replace(bundle, log=msgspec.structs.replace(log, entries=early, checkpoint=None))
    with pytest.raises(Misbehaviour):
        evidence.verify(proven["charter"], forged)


def test_an_entry_under_somebody_elses_checkpoint_shows_nothing(proven: Any) -> None:
    bundle = proven[Kind.FORBIDDEN_ACCESS]
    (one,) = bundle.inclusions
    said = decode_as(Checkpoint, one.checkpoint.statement)
    mallory = sign(Identity.generate("owner"), said)
    bob = sign(Identity.generate("bob"), msgspec.structs.replace(said, party="bob"))
    for checkpoint in (mallory, bob, msgspec.structs.replace(one.checkpoint, signer="bob")):
        forged = msgspec.structs.replace(bundle, inclusions=(msgspec.structs.replace(one, checkpoint=checkpoint),))
        with pytest.raises(Misbehaviour):
            evidence.verify(proven["charter"], forged)


def test_a_checkpoint_and_the_ledger_it_grew_into_contradict_nothing(make: Maker) -> None:
    """Growth of an honest ledger, dressed up as a fork."""
    ran = make.ran(rounds=2)
    done = make.audit(ran)
    ledger = ran.machines["bob"].exchange.view._ledger
    identity = ran.identities["bob"]
    older, newer = (Checkpoint(ran.charter.digest, "bob", size, ledger.root(size)) for size in (10, ledger.size))
    proof = tuple(ledger.consistency_proof(10, ledger.size))
    growth = evidence.Growth(sign(identity, older), sign(identity, newer), older.root, proof)
    bundle = evidence.Bundle(1, ran.charter.digest, Kind.FORKED_LEDGER, "bob", growth=growth)
    with pytest.raises(Misbehaviour, match="no two checkpoints contradict"):
        evidence.verify(done.charter, bundle)
    other = msgspec.structs.replace(growth, root=bytes(32))
    with pytest.raises(Misbehaviour, match="does not follow"):
        evidence.verify(done.charter, msgspec.structs.replace(bundle, growth=other))
