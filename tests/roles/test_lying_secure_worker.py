"""A secure worker that tells one party one thing and another party another is refused, by whoever can see it."""

import os
from typing import Any

import msgspec
import pytest
from tertium.crypto.labels import Label, frame
from tertium.protocol.codec import decode_as, encode
from tertium.protocol.exchange import Exchange
from tertium.protocol.messages import (
    Closed,
    CloseList,
    Contribution,
    Cosignature,
    Header,
    Receipt,
    Receipted,
    Release,
    RequestCosignature,
    RoundRecord,
    RoundStatement,
    SealedHead,
)
from tertium.protocol.progress import RefusedProgress
from tertium.protocol.statements import sign
from tertium.secure_worker.machine import SecureWorker

Maker = Any
Run = Any


class Liar(SecureWorker):
    """Alters what it sends to some, with its own good signature."""

    def lie(self, peer: str, message: Any) -> Any:
        return message

    def send(self, peer: str, message: Any) -> None:
        told = self.lie(peer, message)
        for each in told if isinstance(told, list) else [told]:
            if each is not None:
                super().send(peer, each)

    def resigned(self, signed: Any, kind: Any, **changes: Any) -> Any:
        statement = decode_as(kind, signed.statement)
        changes = {name: value(statement) if callable(value) else value for name, value in changes.items()}
        return sign(self.identity, msgspec.structs.replace(statement, **changes))


def without(name: str) -> Any:
    return lambda close: tuple(each for each in close.contributions if each.party != name)


def altered(name: str) -> Any:
    return lambda close: tuple(
        Contribution(each.party, os.urandom(32)) if each.party == name else each for each in close.contributions
    )


def blames(run: Run, name: str, code: str) -> bool:
    return any(progress.code == code and "third" in progress.text for progress in run.said(name, RefusedProgress))


@pytest.mark.parametrize("change", [without("bob"), altered("bob")], ids=["without it", "with another commitment"])
def test_a_receipt_and_a_close_list_that_disagree(make: Maker, change: Any) -> None:
    class Drops(Liar):
        def lie(self, peer: str, message: Any) -> Any:
            if isinstance(message, Closed) and peer == "bob":
                return Closed(close=self.resigned(message.close, CloseList, contributions=change))
            return message

    run = make(4, machines={"third": Drops})
    run.run()
    first = run.said("bob", RefusedProgress)[0]
    assert (first.code, "closed without it" in first.text) == ("split-view", True)
    # It does not cosign an outcome of which it knows another set.
    assert "bob" not in [each.party for each in run.record(1).cosignatures]
    assert "bob" in run.record(1).absent


def test_two_close_lists_to_one_data_owner(make: Maker) -> None:
    class Twice(Liar):
        def lie(self, peer: str, message: Any) -> Any:
            if isinstance(message, Closed) and peer == "alice":
                return [message, Closed(close=self.resigned(message.close, CloseList, contributions=without("bob")))]
            return message

    run = make(4, machines={"third": Twice})
    run.run()
    assert blames(run, "alice", "split-view")


def test_a_second_close_list_after_the_round_is_evidence_too(make: Maker) -> None:
    class Later(Liar):
        late: Any = None

        def lie(self, peer: str, message: Any) -> Any:
            if isinstance(message, Closed) and peer == "alice":
                type(self).late = Closed(close=self.resigned(message.close, CloseList, contributions=without("bob")))
            if isinstance(message, RoundRecord) and peer == "alice":
                return [message, type(self).late]
            return message

    run = make(4, machines={"third": Later}, plan=make.plan(rounds=2))
    run.run()
    assert blames(run, "alice", "split-view")


def test_two_close_lists_to_the_owner(make: Maker) -> None:
    class Twice(Liar):
        def lie(self, peer: str, message: Any) -> Any:
            if isinstance(message, Closed) and peer == "owner":
                return [message, Closed(close=self.resigned(message.close, CloseList, contributions=without("bob")))]
            return message

    run = make(4, machines={"third": Twice})
    run.run()
    assert blames(run, "owner", "split-view")


def test_a_close_list_for_the_owner_of_another_set_than_was_summed(make: Maker) -> None:
    class Differs(Liar):
        def lie(self, peer: str, message: Any) -> Any:
            if isinstance(message, Closed) and peer == "owner":
                return Closed(close=self.resigned(message.close, CloseList, contributions=without("bob")))
            return message

    run = make(4, machines={"third": Differs})
    errors = run.run()
    assert blames(run, "owner", "split-view")
    assert not run.released
    assert errors["owner"]


@pytest.mark.parametrize("change", ["too few", "a stranger", "the evaluator's"])
def test_a_close_list_over_a_set_the_question_does_not_allow(make: Maker, change: str) -> None:
    def contributions(close: CloseList) -> tuple[Contribution, ...]:
        match change:
            case "too few":
                return close.contributions[:2]
            case "a stranger":
                return (*close.contributions, Contribution("mallory", bytes(32)))
        return (*close.contributions, Contribution("third", bytes(32)))

    class Closes(Liar):
        def lie(self, peer: str, message: Any) -> Any:
            if isinstance(message, Closed) and peer == "owner":
                return Closed(close=self.resigned(message.close, CloseList, contributions=contributions))
            return message

    run = make(machines={"third": Closes})
    run.run()
    assert blames(run, "owner", "not-in-cohort")
    assert not run.released


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"contributor": "alice"}, "wrong-sender"),
        ({"holder": "owner"}, "wrong-sender"),
        ({"commitment": bytes(32)}, "wrong-open-round"),
        ({"header": bytes(32)}, "wrong-open-round"),
        ({"open_round": bytes(32)}, "wrong-open-round"),
    ],
)
def test_a_receipt_for_something_else(make: Maker, changes: dict[str, Any], code: str) -> None:
    class Receipts(Liar):
        def lie(self, peer: str, message: Any) -> Any:
            if isinstance(message, Receipted) and peer == "bob":
                return Receipted(receipt=self.resigned(message.receipt, Receipt, **changes))
            return message

    run = make(machines={"third": Receipts})
    run.run()
    assert blames(run, "bob", code)


def test_a_contribution_closed_without_a_receipt_must_be_the_one_that_was_sent(make: Maker) -> None:
    class Invents(Liar):
        def lie(self, peer: str, message: Any) -> Any:
            if peer != "bob" or not isinstance(message, Receipted | Closed):
                return message
            if isinstance(message, Receipted):
                return None
            said = decode_as(CloseList, message.close.statement)
            entries = [
                msgspec.structs.replace(entry, commitment=bytes(32)) if entry.party == "bob" else entry
                for entry in said.contributions
            ]
            return Closed(close=self.resigned(message.close, CloseList, contributions=tuple(entries)))

    run = make(machines={"third": Invents})
    run.run()
    assert blames(run, "bob", "split-view")


@pytest.mark.parametrize(
    "changes",
    [
        {"contributors": lambda said: tuple(name for name in said.contributors if name != "bob")},
        {"close": os.urandom(32)},
    ],
    ids=["other contributors", "another close list"],
)
@pytest.mark.parametrize("to", ["bob", "owner"])
def test_a_statement_of_another_outcome_is_not_cosigned(make: Maker, changes: dict[str, Any], to: str) -> None:
    class States(Liar):
        def lie(self, peer: str, message: Any) -> Any:
            if isinstance(message, RequestCosignature) and peer == to:
                return RequestCosignature(statement=self.resigned(message.statement, RoundStatement, **changes))
            return message

    run = make(machines={"third": States})
    run.run()
    assert blames(run, to, "split-view")
    if to == "bob":
        assert run.record(1).absent == ("bob",)


def test_two_outcomes_of_one_round_are_not_both_cosigned(make: Maker) -> None:
    class States(Liar):
        def lie(self, peer: str, message: Any) -> Any:
            if isinstance(message, RequestCosignature) and peer == "bob":
                other = self.resigned(message.statement, RoundStatement, release=os.urandom(32))
                return [message, RequestCosignature(statement=other)]
            return message

    run = make(machines={"third": States})
    run.run()
    assert blames(run, "bob", "split-view")


def test_a_release_over_another_set_than_it_closed_with(make: Maker) -> None:
    class Miscounts(Exchange):
        def seal(self, *args: Any, **kwargs: Any) -> Any:
            if "contributors" in kwargs:
                kwargs["contributors"] += 1
            return super().seal(*args, **kwargs)

    run = make(exchanges={"third": Miscounts})
    errors = run.run()
    assert blames(run, "owner", "split-view")
    assert not run.released
    assert errors["owner"]


def test_a_release_cannot_be_sent_twice_with_two_bodies(make: Maker) -> None:
    class Twice(Liar):
        def lie(self, peer: str, message: Any) -> Any:
            if not isinstance(message, Release):
                return message
            header = decode_as(Header, message.head.header)
            other = encode(msgspec.structs.replace(header, commitment=bytes(32)))
            signature = self.identity.sign(Label.HEADER, frame(header.label, [other, message.head.wrapped_key]))
            return [message, Release(head=SealedHead(other, message.head.wrapped_key, signature))]

    run = make(machines={"third": Twice})
    run.run()
    assert blames(run, "owner", "split-view")
    assert run.released == [1]


def test_a_sum_no_honest_contributors_could_have_is_not_applied(make: Maker) -> None:
    class Invents(SecureWorker):
        def _close(self, now: float) -> None:
            total = self._intake._total  # type: ignore[union-attr]
            total[:] = total.dtype.type(2 ** (8 * total.dtype.itemsize - 1))
            super()._close(now)

    run = make(machines={"third": Invents})
    before = run.model.to_bytes()
    errors = run.run()
    assert "exceeds what honest contributors can reach" in str(errors["owner"])
    assert run.model.to_bytes() == before
    assert not run.released


@pytest.mark.parametrize("lie", ["an absence kept quiet", "a cosigner twice", "a forged cosignature", "a stranger"])
def test_a_record_that_is_not_what_everybody_signed(make: Maker, lie: str) -> None:
    class Records(Liar):
        def lie(self, peer: str, message: Any) -> Any:
            if not isinstance(message, RoundRecord) or peer != "owner":
                return message
            first, *others = message.cosignatures
            match lie:
                case "an absence kept quiet":
                    return msgspec.structs.replace(message, cosignatures=tuple(others))
                case "a cosigner twice":
                    return msgspec.structs.replace(message, cosignatures=(others[0], *others))
                case "a forged cosignature":
                    forged = Cosignature(first.party, bytes(64))
                    return msgspec.structs.replace(message, cosignatures=(forged, *others))
            return msgspec.structs.replace(message, cosignatures=(Cosignature("mallory", bytes(64)), *others))

    run = make(machines={"third": Records})
    run.run()
    code = {"a forged cosignature": "bad-signature", "a stranger": "not-in-charter"}.get(lie, "split-view")
    assert run.refused("owner") == [code]
    # The sum itself was right: it was applied, and the owner says whose signature it lacks.
    assert run.released == [1]
    assert not list((run.store.folder / "records").glob("*.record"))
