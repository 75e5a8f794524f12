"""Parties that lie while they run: each lie is found and names its party, and its evidence holds offline."""

from typing import Any

import msgspec
import pytest
from liars import AltersTheTotal
from tertium.audit import evidence
from tertium.audit.errors import NotShown
from tertium.audit.report import Kind, Severity
from tertium.crypto.errors import Misbehaviour
from tertium.crypto.labels import Label
from tertium.owner.machine import ModelOwner
from tertium.protocol.charter import CharterError, load
from tertium.protocol.codec import decode_as
from tertium.protocol.ledger import DataClass
from tertium.protocol.messages import Closed, CloseList, Invitation, RequestCosignature, RoundStatement
from tertium.protocol.statements import sign
from tertium.secure_worker.machine import SecureWorker

Maker = Any


class Liar(SecureWorker):
    """Says something else to some, with its own good signature."""

    def lie(self, peer: str, message: Any) -> Any:
        return message

    def send(self, peer: str, message: Any) -> None:
        for each in self.lie(peer, message):
            super().send(peer, each)

    def resigned(self, signed: Any, kind: Any, change: Any) -> Any:
        return sign(self.identity, change(decode_as(kind, signed.statement)))


def without(name: str) -> Any:
    def change(close: CloseList) -> CloseList:
        kept = tuple(entry for entry in close.contributions if entry.party != name)
        return msgspec.structs.replace(close, contributions=kept)

    return change


def closes_to(*peers: str, both: bool) -> type[Liar]:
    class Closes(Liar):
        def lie(self, peer: str, message: Any) -> Any:
            if not isinstance(message, Closed) or (peers and peer not in peers):
                return [message]
            other = Closed(close=self.resigned(message.close, CloseList, without("bob")))
            return [message, other] if both else [other]

    return Closes


def test_a_model_owner_that_asks_two_questions(make: Maker) -> None:
    class Asks(ModelOwner):
        def send(self, peer: str, message: Any) -> None:
            if peer == "bob" and isinstance(message, Invitation):
                other = msgspec.structs.replace(self._asking.question, model=bytes(32))  # type: ignore[union-attr]
                message = Invitation(open_round=sign(self.identity, other), offers=message.offers)
            super().send(peer, message)

    done = make.audit(make.ran(parties=4, machines={"owner": Asks}))
    done.holds(Kind.TWO_QUESTIONS, "owner")
    assert {party for _, party in done.violations} == {"owner"}


@pytest.mark.parametrize("peers", [("alice",), ()])
def test_a_secure_worker_that_signs_two_sets(make: Maker, peers: tuple[str, ...]) -> None:
    done = make.audit(make.ran(parties=4, machines={"first": closes_to(*peers, both=True)}))
    done.holds(Kind.TWO_SETS, "first")
    assert {party for _, party in done.violations} == {"first"}


def test_it_is_found_from_the_ledger_of_the_one_who_was_lied_to(make: Maker) -> None:
    """Two data owners were told two sets; the liar hands nothing over, and its signatures are enough."""
    ran = make.ran(parties=4, machines={"first": closes_to("alice", both=False)})
    done = make.audit(ran, without=("first", "owner", "dave"))
    done.holds(Kind.TWO_SETS, "first")
    assert [party.given for party in done.report.parties] == [False, False, True, True, True, False]


def test_a_secure_worker_that_leaves_out_whom_it_gave_a_receipt(make: Maker) -> None:
    done = make.audit(make.ran(parties=4, machines={"first": closes_to(both=False)}))
    finding = done.holds(Kind.LEFT_OUT, "first")
    assert finding.others == ("bob",)
    assert {party for _, party in done.violations} == {"first"}


def test_a_secure_worker_that_states_two_outcomes(make: Maker) -> None:
    class States(Liar):
        def lie(self, peer: str, message: Any) -> Any:
            if not isinstance(message, RequestCosignature) or peer != "bob":
                return [message]
            change = lambda said: msgspec.structs.replace(said, release=bytes(32))  # noqa: E731
            other = self.resigned(message.statement, RoundStatement, change)
            return [message, RequestCosignature(statement=other)]

    done = make.audit(make.ran(parties=3, machines={"first": States}))
    done.holds(Kind.TWO_OUTCOMES, "first")


class ReleasesTwice(SecureWorker):
    """Seals the sum of its first round a second time, over fewer, and lets go of that as well."""

    again = False

    def _release(self, decision: Any, kept: Any, sealed: Any, now: float) -> None:
        super()._release(decision, kept, sealed, now)
        if type(self).again:
            return
        type(self).again = True
        question, name = self._memory.question, self._memory.open_round
        fewer = self._seats.total_content(decision.contributors[:3], self.name)
        context = self.exchange.view._context
        other = self.exchange.seal(
            Label.AGGREGATE,
            context,
            self._owner,
            question.owner_key,
            [bytes(8)],
            contributors=3,
            close=bytes(32),
            content=fewer,
        )
        self.exchange.view.released(self._owner, other.head, fewer, other.commitment)
        assert name is not None


def test_a_secure_worker_that_releases_twice(make: Maker) -> None:
    class Twice(ReleasesTwice):
        again = False

    done = make.audit(make.ran(parties=4, rounds=2, machines={"first": Twice}))
    finding = done.holds(Kind.TWO_RELEASES, "first")
    assert finding.round == 1
    # Sums over alice, bob, carol and over all four are sums over one model: dave's is their difference.
    finding = done.holds(Kind.TWO_SETS_OF_ONE_MODEL, "first")
    assert finding.others == ("dave",)


def test_a_sender_that_denies_what_it_sent(make: Maker) -> None:
    federation = make.federation(rounds=2)
    view = federation.machines["bob"].exchange.view
    real = view.sealed

    def sealed(header: Any, head: Any, content: Any) -> None:
        if header.label is not Label.CONTRIBUTION:
            real(header, head, content)

    view.sealed = sealed
    federation.run()
    done = make.audit(federation)
    finding = done.holds(Kind.DENIED_SENDING, "bob")
    assert finding.others == ("first",)
    assert {party for _, party in done.violations} == {"bob"}


@pytest.mark.parametrize("given", [True, False], ids=["with the sender's ledger", "without it"])
def test_a_receiver_that_denies_what_it_gave_a_receipt_for(make: Maker, given: bool) -> None:
    federation = make.federation(rounds=2)
    view = federation.machines["first"].exchange.view
    received, opened = view.received, view.opened
    view.received = lambda header, *rest: None if header.sender == "bob" else received(header, *rest)
    view.opened = lambda header, *rest: None if header.sender == "bob" else opened(header, *rest)
    federation.run()
    done = make.audit(federation, without=() if given else ("alice", "carol"))
    finding = done.holds(Kind.DENIED_RECEIVING, "first")
    assert finding.others == ("bob",)
    assert {party for _, party in done.violations} == {"first"}


def test_a_denial_that_a_short_ledger_explains_is_no_violation(make: Maker, rewrite: Any) -> None:
    """A ledger that ends before the upload denies nothing: it may have been cut, and then a checkpoint says so."""
    ran = make.ran()
    folder = make.export(ran, without=("first", "owner"))
    rewrite(folder, "bob", lambda rows: rows[:6])
    done = make.audit(folder)
    assert all(kind in (Kind.TRUNCATED_LEDGER,) for kind, _ in done.violations)


def test_a_model_owner_that_keeps_one_update(make: Maker) -> None:
    class Keeps(ModelOwner):
        def _sum_up_if_enough(self, now: float) -> None:
            if self._round == 0 and not hasattr(self, "kept"):
                self.kept = True
                self.exchange.view.derived(DataClass.UPDATE, ("alice",), sources=(), payload=8)
            super()._sum_up_if_enough(now)

    done = make.audit(make.ran(rounds=3, machines={"owner": Keeps}))
    finding = done.holds(Kind.FORBIDDEN_ACCESS, "owner")
    assert finding.others == ("alice",)
    assert [cell.text for cell in done.report.matrix[0].cells] == ["plaintext", "aggregate of 2", "aggregate of 2"]


def test_a_secure_worker_that_alters_a_sum_is_among_the_suspects(make: Maker) -> None:
    done = make.audit(make.ran(machines={"first": AltersTheTotal}))
    finding = done.holds(Kind.FAILED_SUM, None)
    assert finding.others[0] == "first"
    assert done.violations == [(Kind.FAILED_SUM, None)]


def test_where_the_scheme_can_tell_it_is_named(make: Maker) -> None:
    done = make.audit(make.ran("shamir 2 of 4", machines={"second": AltersTheTotal}))
    finding = done.holds(Kind.CONTRADICTED_TOTAL, None)
    assert finding.others[:2] == ("second", "owner")
    assert done.violations == [(Kind.CONTRADICTED_TOTAL, None)]
    assert [each.check for each in done.report.attempts] == ["verified"]


def test_two_identities_with_one_key_are_no_charter(make: Maker) -> None:
    folder = make.export(make.ran())
    path = folder / "charter.toml"
    charter = load(path)
    keys = [charter.party(name).signing.hex() for name in ("alice", "bob")]
    path.write_text(path.read_text().replace(keys[1], keys[0]))
    with pytest.raises(CharterError, match=r"parties.bob.signing: the same key stands at parties.alice.signing"):
        make.audit(folder)


def test_evidence_of_which_one_byte_is_changed_does_not_hold(make: Maker) -> None:
    done = make.audit(make.ran(parties=4, machines={"first": closes_to("alice", both=True)}))
    bundle = done.bundle(Kind.TWO_SETS)
    data = evidence.to_bytes(bundle)
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(NotShown):
            evidence.from_bytes(changed)
    # Nor does it for another party, as another kind, under another charter, or without one of its exhibits.
    replaced = [
        msgspec.structs.replace(bundle, party="owner"),
        msgspec.structs.replace(bundle, kind=Kind.LEFT_OUT),
        msgspec.structs.replace(bundle, kind=Kind.MODEL_JUMP),
        msgspec.structs.replace(bundle, charter=bytes(32)),
        *(msgspec.structs.replace(bundle, exhibits=(each,)) for each in bundle.exhibits),
    ]
    for other in replaced:
        with pytest.raises(Misbehaviour):
            evidence.verify(done.charter, other)


def test_evidence_whose_statements_are_changed_and_digested_anew_does_not_hold(make: Maker) -> None:
    done = make.audit(make.ran(parties=4, machines={"first": closes_to("alice", both=True)}))
    bundle = done.bundle(Kind.TWO_SETS)
    first, *rest = bundle.exhibits
    for at in range(len(first.content)):
        content = first.content[:at] + bytes([first.content[at] ^ 1]) + first.content[at + 1 :]
        forged = msgspec.structs.replace(bundle, exhibits=(msgspec.structs.replace(first, content=content), *rest))
        with pytest.raises(Misbehaviour):
            evidence.verify(done.charter, forged)


def test_what_somebody_refused_is_listed(make: Maker) -> None:
    done = make.audit(make.ran(parties=4, machines={"first": closes_to("alice", both=True)}))
    (refusal,) = [each for each in done.report.refusals if each.party == "alice"]
    assert (refusal.peer, refusal.code, refusal.number) == ("first", "split-view", 1)
    assert any(each.kind is Kind.REFUSED for each in done.report.of(Severity.ANOMALY))
