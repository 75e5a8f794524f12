"""Evidence of wrong totals and sums: it holds with the charter alone, and no honest holder can be shown guilty by it.

Each case that frames somebody is a real bundle: everybody but the one it is against signs what it likes.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from liars import AltersTheTotal
from tertium.audit import evidence
from tertium.audit.addition import sum_of_totals, total_of_shares
from tertium.audit.evidence import Bundle, Item
from tertium.audit.exhibits import KINDS, open_exhibit
from tertium.audit.report import Disclosure, Kind, Severity
from tertium.cli import main
from tertium.crypto.errors import Misbehaviour, WrongShare
from tertium.crypto.labels import Label, digest, frame
from tertium.crypto.ring import to_wire
from tertium.crypto.sealing import commit
from tertium.crypto.sharing.halves import RingHolder
from tertium.protocol.check_messages import SumCheck
from tertium.protocol.codec import decode_as, encode
from tertium.protocol.ledger import Exhibit
from tertium.protocol.messages import (
    CloseList,
    Contribution,
    Header,
    OpenRound,
    Purpose,
    Receipt,
    RoundStatement,
    SealedHead,
)
from tertium.protocol.openings import Opening
from tertium.protocol.seats import Seats
from tertium.protocol.statements import sign

Maker = Any
THREE = ("alice", "bob", "carol")
EVERY = 7
"""Of how many bytes one is altered where every change takes a dozen signatures."""


def opened(make: Maker, mode: str, **more: Any) -> tuple[Any, Path]:
    ran = make.ran(mode, openings=make.folder / f"kept-{make.made}", **more)
    return ran, make.export(ran)


@pytest.fixture(scope="module")
def lied(make_once: Maker) -> Path:
    return opened(make_once, "trusted", machines={"first": AltersTheTotal})[1]


class Told:
    """An honest run, and what an auditor puts together of it who says that all of it is wrong."""

    def __init__(self, ran: Any, bundles: list[Bundle]) -> None:
        self.charter = ran.charter
        self.seats = Seats(ran.charter)
        self.identities = ran.identities
        self.bundles = bundles

    def against(self, holder: str | None, place: int = 0) -> Bundle:
        return [each for each in self.bundles if each.party == holder][place]

    def shown(self, bundle: Bundle, kind: type, **fields: Any) -> list[Any]:
        """The statements or headers of a kind in a bundle whose fields are these, with who signed them."""
        every = [open_exhibit(self.charter, Exhibit(*msgspec.structs.astuple(each))) for each in bundle.exhibits]
        return [
            each
            for each in every
            if isinstance(each.content, kind)
            and all(getattr(each.content, name) == value for name, value in fields.items())
        ]

    def said(self, statement: Any, by: str, *, named: str | None = None) -> Item:
        """A statement, signed; `named` is whom it is passed off as signed by."""
        signed = msgspec.structs.replace(sign(self.identities[by], statement), signer=named or by)
        return item(Exhibit.of_statement(statement.label, signed))

    def headed(self, header: Header, *, by: str | None = None) -> Item:
        head = encode(header)
        wrapped = bytes(1168)
        key = self.identities[by or header.sender]
        signature = key.sign(Label.HEADER, frame(header.label, [head, wrapped]))
        return item(Exhibit.of_head(header.sender, SealedHead(head, wrapped, signature)))

    def sealed(self, header: Header, sections: tuple[bytes, ...], *, by: str | None = None) -> tuple[Item, Opening]:
        """Another envelope than this one, with this in it, and its opening."""
        salt = bytes(range(32))
        header = msgspec.structs.replace(header, commitment=commit(header.binding, salt, sections))
        head = self.headed(header, by=by)
        return head, Opening(head.subject, salt, sections)

    def refuses(self, bundle: Bundle, why: str) -> None:
        """See that a bundle shows nothing, read from its own bytes as anybody would."""
        with pytest.raises(Misbehaviour, match=why):
            evidence.verify(self.charter, evidence.from_bytes(evidence.to_bytes(bundle)))

    def resigned(
        self, bundle: Bundle, question: OpenRound, holder: str, close: Callable[[CloseList], CloseList] = lambda it: it
    ) -> Bundle:
        """The same about another question, in which even `holder` signed everything anew: what it never would."""
        first = self.said(question, "owner")
        heads: dict[bytes, tuple[Item, Header]] = {}
        for each in self.shown(bundle, Header, label=Label.CONTRIBUTION):
            made = self.headed(msgspec.structs.replace(each.content, open_round=first.subject))
            heads[each.subject] = made, decode_as(Header, decode_as(SealedHead, made.content).header)
        receipts = [
            self.said(
                msgspec.structs.replace(
                    each.content, open_round=first.subject, header=heads[each.content.header][0].subject
                ),
                holder,
            )
            for each in self.shown(bundle, Receipt)
        ]
        (listed,) = self.shown(bundle, CloseList)
        closed = self.said(close(msgspec.structs.replace(listed.content, open_round=first.subject)), holder)
        (total,) = self.shown(bundle, Header, label=Label.AGGREGATE)
        head = self.headed(msgspec.structs.replace(total.content, open_round=first.subject, close=closed.subject))
        (stated,) = self.shown(bundle, RoundStatement)
        statement = msgspec.structs.replace(
            stated.content, open_round=first.subject, close=closed.subject, release=head.subject
        )
        subjects = {old: new.subject for old, (new, _) in heads.items()} | {total.subject: head.subject}
        return msgspec.structs.replace(
            bundle,
            exhibits=(
                first,
                *(new for new, _ in heads.values()),
                *receipts,
                closed,
                head,
                self.said(statement, holder),
            ),
            openings=tuple(msgspec.structs.replace(each, subject=subjects[each.subject]) for each in bundle.openings),
        )


def shows(charter: Any, data: bytes) -> evidence.Proven:
    return evidence.verify(charter, decode_as(Bundle, data))


def item(exhibit: Exhibit) -> Item:
    return Item(exhibit.subject, exhibit.signer, exhibit.label, exhibit.content)


def changed(
    bundle: Bundle, *, less: tuple[Any, ...] = (), more: tuple[Item, ...] = (), openings: tuple[Opening, ...] = ()
) -> Bundle:
    """A bundle without these subjects, exhibits and openings, and with others instead."""
    gone = {each.subject for each in less}
    return msgspec.structs.replace(
        bundle,
        exhibits=(*(each for each in bundle.exhibits if each.subject not in gone), *more),
        openings=(*(each for each in bundle.openings if each.subject not in gone), *openings),
    )


@pytest.fixture(scope="module")
def trusted(make_once: Maker, claimed: Any) -> Told:
    ran, folder = opened(make_once, "trusted", rounds=2)
    return Told(ran, claimed(folder))


@pytest.fixture(scope="module")
def shamir(make_once: Maker, claimed: Any) -> Told:
    ran, folder = opened(make_once, "shamir 2 of 3")
    return Told(ran, claimed(folder))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


# --- what it shows, and to whom


def test_it_is_written_where_that_is_asked_for_and_says_whose_updates_it_opens(
    lied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    closed, open_, page = tmp_path / "closed", tmp_path / "open", tmp_path / "page.html"
    whose = "the updates of alice, bob, carol"
    assert main(["audit", str(lied), "--evidence", str(closed), "--html", str(page)]) == 1
    assert sorted(path.name for path in closed.iterdir()) == ["001-failed-sum-nobody.evidence"]
    assert f"[provable by opening {whose}: --evidence FOLDER --disclose]" in capsys.readouterr().out
    assert f"It opens {whose} to whoever" in page.read_text(encoding="utf-8")
    assert main(["audit", str(lied), "--evidence", str(open_), "--disclose", "--html", str(page)]) == 1
    names = sorted(path.name for path in open_.iterdir())
    assert names == ["001-failed-sum-nobody.evidence", "002-wrong-total-first.disclosing.evidence"]
    assert f"[{names[1]}, which opens {whose}]" in capsys.readouterr().out
    assert f"That file opens {whose}." in page.read_text(encoding="utf-8")
    assert [(open_ / name).stat().st_mode & 0o777 for name in names] == [0o644, 0o600]
    file, charter = open_ / names[1], str(lied / "charter.toml")
    assert main(["evidence", "verify", str(file), "--charter", charter]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "holds: the total that first released in round 1 is not that of the shares it gave receipts for",
        f"{names[1]} opens {whose} to whoever reads it",
    ]
    # What does not hold is warned of as well: the updates are in it all the same.
    file.write_bytes(evidence.to_bytes(msgspec.structs.replace(evidence.read(file), party="owner")))
    assert main(["evidence", "verify", str(file), "--charter", charter]) == 1
    assert (
        capsys.readouterr()
        .out.splitlines()[1]
        .endswith("contents of sealed envelopes in it all the same: treat it as updates")
    )


def test_disclose_without_a_folder_is_an_error_with_a_sentence(lied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(lied), "--disclose"]) == 2
    assert "name a folder for it with --evidence" in capsys.readouterr().err


def test_what_cannot_be_opened_again_is_said_and_no_file_is_left(lied: Path, tmp_path: Path, make: Maker) -> None:
    folder = Path(shutil.copytree(lied, tmp_path / "run"))
    done = make.audit(folder)
    shutil.rmtree(folder / "bob" / "state" / "openings")
    with pytest.raises(evidence.UnusableEvidence, match="bob does not open any more"):
        done.audit.with_evidence(tmp_path / "evidence", disclose=True)
    assert not list((tmp_path / "evidence").glob("*.disclosing.evidence"))


@pytest.mark.parametrize("mode", ["trusted", "masked"])
def test_a_wrong_sum_of_which_no_total_is_opened_names_nobody(make: Maker, mode: str) -> None:
    """A contributor is among them only where the model owner, restarted, may have taken another share than it opens."""
    _, folder = opened(make, mode, machines={"first": AltersTheTotal})
    shutil.rmtree(folder / "owner" / "state" / "openings")
    done = make.audit(folder)
    found = done.holds(Kind.WRONG_SUM, None)
    assert found.others == (("first", "owner") if mode == "trusted" else ("first", *THREE, "owner"))
    assert found.discloses == Disclosure("updates", THREE, ("first",) if mode == "trusted" else ("first", "owner"))
    assert Kind.WRONG_TOTAL not in {each.kind for each in done.report.findings}


def test_what_is_too_large_for_a_file_is_a_violation_without_one(
    lied: Path, make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tertium.audit.findings.LARGEST", 2000)
    found = [each for each in make.audit(lied).report.findings if each.kind is Kind.WRONG_TOTAL]
    assert [(each.party, each.severity, each.provable) for each in found] == [("first", Severity.VIOLATION, False)]


def test_no_byte_of_it_can_be_another(lied: Path, make: Maker) -> None:
    done = make.audit(lied)
    bundle = done.bundle(Kind.WRONG_TOTAL)
    data = evidence.to_bytes(bundle)
    for at in range(len(data)):
        with pytest.raises(Misbehaviour):
            evidence.from_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    # With the digest made anew: what was opened, every byte of it, and of the rest some.
    data = encode(bundle)
    openings = data.index(encode(bundle.openings[0]))
    for at in (*range(0, openings, EVERY), *range(openings, len(data))):
        with pytest.raises(Misbehaviour):
            shows(done.charter, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


# --- framing an honest secure worker


def test_another_envelope_of_a_contributor_than_the_one_it_has_a_receipt_for(trusted: Told) -> None:
    bundle = trusted.against("first")
    (sent,) = trusted.shown(bundle, Header, sender="alice")
    head, opening = trusted.sealed(sent.content, (bytes(sent.content.sections[0]),))
    framed = changed(bundle, less=(sent,), more=(head,), openings=(opening,))
    trusted.refuses(framed, "what first gave alice a receipt for is not there")
    # Beside the right one it changes nothing, and a receipt in the secure worker's name is not its own.
    trusted.refuses(changed(bundle, more=(head,), openings=(opening,)), "that of the shares")
    (receipt,) = trusted.shown(bundle, Receipt, contributor="alice")
    content = decode_as(Header, decode_as(SealedHead, head.content).header)
    forged = msgspec.structs.replace(receipt.content, header=head.subject, commitment=content.commitment)
    for by, named, why in (
        ("alice", "first", "signature"),
        ("owner", "owner", "in the name of first"),
        ("alice", "alice", "in the name of first"),
    ):
        item = trusted.said(forged, by, named=named)
        trusted.refuses(changed(framed, less=(receipt,), more=(item,)), why)


def test_an_opening_of_something_else_than_was_committed_to(trusted: Told) -> None:
    bundle = trusted.against("first")
    by_sender = {each.content.sender: each.subject for each in trusted.shown(bundle, Header)}
    known = {each.subject: each for each in bundle.openings}
    alice, bob = (known[by_sender[name]] for name in ("alice", "bob"))
    others = (
        msgspec.structs.replace(alice, sections=(bytes(len(alice.sections[0])),)),
        msgspec.structs.replace(alice, sections=bob.sections, salt=bob.salt),
        msgspec.structs.replace(alice, sections=(alice.sections[0][:8], alice.sections[0][8:])),
        msgspec.structs.replace(alice, salt=bytes(32)),
    )
    for other in others:
        framed = tuple(other if each is alice else each for each in bundle.openings)
        trusted.refuses(msgspec.structs.replace(bundle, openings=framed), "something other than its header")
    # Nor what no header here committed to.
    strange = msgspec.structs.replace(alice, subject=bytes(32))
    trusted.refuses(changed(bundle, openings=(strange,)), "whose signed header is not there")


@pytest.mark.parametrize("kind", [Receipt, OpenRound, RoundStatement, CloseList, Header])
def test_anything_that_is_missing(trusted: Told, kind: type) -> None:
    bundle = trusted.against("first")
    for shown in trusted.shown(bundle, kind):
        trusted.refuses(changed(bundle, less=(shown,)), "not there|has not stated|opens no total")
    for opening in bundle.openings:
        kept = tuple(each for each in bundle.openings if each is not opening)
        trusted.refuses(msgspec.structs.replace(bundle, openings=kept), "not opened|opens no total")


def test_receipts_of_another_round_or_of_an_attempt_that_was_given_up(trusted: Told) -> None:
    one, two = trusted.against("first"), trusted.against("first", 1)
    totals = [trusted.shown(each, Header, label=Label.AGGREGATE)[0] for each in (one, two)]
    both = changed(one, more=two.exhibits, openings=two.openings)
    trusted.refuses(both, "opens no total, or more than one")
    # The total of the first round with all that belongs to the second, its own receipts left out.
    own = trusted.shown(one, Receipt)
    opened = tuple(each for each in two.openings if each.subject != totals[1].subject)
    trusted.refuses(changed(one, less=tuple(own), more=two.exhibits, openings=opened), "not there, or not opened")
    # The model owner signs the same question as another attempt: what the secure worker signed names the one it took.
    (asked,) = trusted.shown(one, OpenRound)
    again = trusted.said(msgspec.structs.replace(asked.content, attempt=1), "owner")
    trusted.refuses(changed(one, less=(asked,), more=(again,)), "question that this is about is not there")


def test_a_total_that_was_sealed_and_never_stated(trusted: Told) -> None:
    bundle = trusted.against("first")
    (said,) = trusted.shown(bundle, RoundStatement)
    # Others sign under a statement; the one who makes it is the secure worker.
    cosigned = trusted.said(said.content, "owner")
    trusted.refuses(changed(bundle, less=(said,), more=(cosigned,)), "has not stated")
    (other,) = trusted.shown(trusted.against("first", 1), RoundStatement)
    trusted.refuses(changed(bundle, less=(said,), more=(item(other.exhibit),)), "has not stated")


def test_another_close_list_than_the_one_the_total_names(trusted: Told) -> None:
    bundle = trusted.against("first")
    (close,) = trusted.shown(bundle, CloseList)
    fewer = msgspec.structs.replace(close.content, contributions=close.content.contributions[:2])
    # Even if the secure worker signed a second list, it is held to the one its total is over: the lie is another.
    second = trusted.said(fewer, "first")
    trusted.refuses(changed(bundle, more=(second,)), "that of the shares")
    trusted.refuses(changed(bundle, less=(close,), more=(second,)), "own Close list that the total names is not there")
    trusted.refuses(changed(bundle, less=(close,), more=(trusted.said(fewer, "owner"),)), "in the name of first")
    (listed,) = trusted.shown(trusted.against("first", 1), CloseList)
    trusted.refuses(changed(bundle, less=(close,), more=(item(listed.exhibit),)), "is not there")


def test_a_total_that_somebody_else_sealed(trusted: Told) -> None:
    bundle = trusted.against("first")
    (total,) = trusted.shown(bundle, Header, label=Label.AGGREGATE)
    words = (bytes(total.content.sections[0]),)
    theirs, opening = trusted.sealed(msgspec.structs.replace(total.content, sender="owner", recipient="owner"), words)
    for party in ("first", "owner"):
        framed = changed(bundle, less=(total,), more=(theirs,), openings=(opening,))
        trusted.refuses(msgspec.structs.replace(framed, party=party), "does not ask this secure worker")
    forged, opening = trusted.sealed(total.content, words, by="owner")
    trusted.refuses(changed(bundle, less=(total,), more=(forged,), openings=(opening,)), "signature")


def test_another_party_or_another_kind_than_it_shows(lied: Path, make: Maker) -> None:
    done = make.audit(lied)
    bundle = done.bundle(Kind.WRONG_TOTAL)
    for forged in (
        *(msgspec.structs.replace(bundle, party=party) for party in ("owner", "alice", None)),
        *(msgspec.structs.replace(bundle, kind=kind, party=None) for kind in (Kind.WRONG_SUM, Kind.FAILED_SUM)),
    ):
        with pytest.raises(Misbehaviour):
            evidence.verify(done.charter, forged)


def test_a_question_that_asks_otherwise_than_any_that_was_taken(trusted: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the secure worker lies as well and signs all of it: nobody else is named, and no room is taken for it."""
    bundle = trusted.against("first")
    (shown,) = trusted.shown(bundle, OpenRound)
    asked = shown.content
    monkeypatch.setattr(RingHolder, "zero", lambda half: pytest.fail("room is taken before it is known to be right"))
    change = msgspec.structs.replace
    huge = trusted.resigned(bundle, change(asked, coordinates=2**31), "first")
    trusted.refuses(huge, "where the plan makes it")
    scored = trusted.resigned(bundle, change(asked, purpose=Purpose.EVALUATE), "first")
    trusted.refuses(scored, "does not ask this secure worker")
    spared = trusted.resigned(bundle, change(asked, without=("first",)), "first")
    trusted.refuses(spared, "does not ask this secure worker")
    other = lambda close: change(close, contributions=(Contribution("alice", bytes(32)), *close.contributions[1:]))  # noqa: E731
    trusted.refuses(trusted.resigned(bundle, asked, "first", other), "closed over another contribution of alice")
    later = lambda close: change(close, open_round=bytes(32))  # noqa: E731
    trusted.refuses(trusted.resigned(bundle, asked, "first", later), "own Close list that the total names is not there")
    monkeypatch.undo()
    trusted.refuses(trusted.resigned(bundle, change(asked, cohort=("bob", "carol")), "first"), "alice was not asked")
    # What is signed anew and says the same is the same.
    trusted.refuses(trusted.resigned(bundle, asked, "first"), "that of the shares")


@pytest.mark.parametrize(
    ("kind", "field", "why"),
    [
        (RoundStatement, "open_round", "has not stated"),
        (RoundStatement, "close", "has not stated"),
        (RoundStatement, "release", "has not stated"),
        (Receipt, "open_round", "a receipt for is not there"),
        (Receipt, "commitment", "a receipt for is not there"),
    ],
)
def test_a_statement_of_its_own_that_is_about_something_else(trusted: Told, kind: type, field: str, why: str) -> None:
    bundle = trusted.against("first")
    (shown, *_) = trusted.shown(bundle, kind)
    other = trusted.said(msgspec.structs.replace(shown.content, **{field: bytes(32)}), "first")
    trusted.refuses(changed(bundle, less=(shown,), more=(other,)), why)


@pytest.mark.parametrize(
    ("field", "value"), [("open_round", bytes(32)), ("recipient", "owner"), ("label", Label.MODEL), ("sender", "bob")]
)
def test_a_receipt_for_something_that_is_no_share_of_that_contributor(trusted: Told, field: str, value: Any) -> None:
    bundle = trusted.against("first")
    (sent,) = trusted.shown(bundle, Header, sender="alice")
    (old,) = trusted.shown(bundle, Receipt, contributor="alice")
    header = msgspec.structs.replace(sent.content, **{field: value})
    head, opening = trusted.sealed(header, (bytes(sent.content.sections[0]),))
    commitment = decode_as(Header, decode_as(SealedHead, head.content).header).commitment
    receipt = trusted.said(msgspec.structs.replace(old.content, header=head.subject, commitment=commitment), "first")
    framed = changed(bundle, less=(sent, old), more=(head, receipt), openings=(opening,))
    trusted.refuses(framed, "what first gave alice a receipt for is not there")


def test_another_holders_receipts(shamir: Told) -> None:
    one, two = shamir.against("first"), shamir.against("second")
    (total,) = shamir.shown(two, Header, label=Label.AGGREGATE)
    shares = [each for each in two.openings if each.subject != total.subject]
    framed = changed(one, less=tuple(shamir.shown(one, Receipt)), more=two.exhibits, openings=tuple(shares))
    shamir.refuses(framed, "what first gave alice a receipt for is not there")


def test_what_another_holder_states_of_its_total_or_closed_with(shamir: Told) -> None:
    one, two = shamir.against("first"), shamir.against("second")
    (said,) = shamir.shown(one, RoundStatement)
    theirs = shamir.said(msgspec.structs.replace(said.content, holder="second"), "second")
    shamir.refuses(changed(one, less=(said,), more=(theirs,)), "has not stated")
    # Even if it said that its total is over the list of another.
    (total,) = shamir.shown(one, Header, label=Label.AGGREGATE)
    (close,) = shamir.shown(two, CloseList)
    head = shamir.headed(msgspec.structs.replace(total.content, close=close.subject))
    stated = msgspec.structs.replace(said.content, close=close.subject, release=head.subject)
    (opening,) = [each for each in one.openings if each.subject == total.subject]
    more = (item(close.exhibit), head, shamir.said(stated, "first"))
    same = msgspec.structs.replace(opening, subject=head.subject)
    shamir.refuses(changed(one, less=(total, said), more=more, openings=(same,)), "own Close list that the total names")


def test_a_share_that_the_scheme_refuses(shamir: Told) -> None:
    """A vector that came late has a receipt before it is added: a secure worker that cannot add it releases nothing."""
    tried = 0
    for holder in ("first", "second", "third"):
        bundle = shamir.against(holder)
        (asked,) = shamir.shown(bundle, OpenRound)
        late = [
            name
            for name in sorted(shamir.seats.vectors_to(asked.content, holder))
            if shamir.seats.counting(asked.content, name) != holder
        ]
        tried += len(late)
        for sent in (shamir.shown(bundle, Header, sender=name)[0] for name in late):
            words = np.full(asked.content.words, 2**32 - 1, asked.content.plan.dtype)
            head, opening = shamir.sealed(sent.content, (bytes(to_wire(words)),))
            (old,) = shamir.shown(bundle, Receipt, header=sent.subject)
            commitment = decode_as(Header, decode_as(SealedHead, head.content).header).commitment
            taken = msgspec.structs.replace(old.content, header=head.subject, commitment=commitment)
            less, more = (sent, old), (head, shamir.said(taken, holder))
            framed = changed(bundle, less=less, more=more, openings=(opening,))
            shamir.refuses(framed, "not in the field")
    assert tried


# --- framing everybody with a sum


def test_a_sum_of_which_something_is_missing_or_is_another(shamir: Told) -> None:
    bundle = shamir.against(None)
    shamir.refuses(bundle, "that of the shares")
    closes = shamir.shown(bundle, CloseList)
    shamir.refuses(changed(bundle, less=(closes[0],)), "fewer secure workers than a sum needs")
    fewer = msgspec.structs.replace(closes[0].content, contributions=closes[0].content.contributions[:2])
    other = shamir.said(fewer, closes[0].signer)
    shamir.refuses(changed(bundle, more=(other,)), "signed two sets")
    shamir.refuses(changed(bundle, less=(closes[0],), more=(other,)), "the set of the sum is not one")
    (receipt, *_) = shamir.shown(bundle, Receipt)
    shamir.refuses(changed(bundle, less=(receipt,)), "a receipt for is not there")
    shamir.refuses(msgspec.structs.replace(bundle, openings=()), "opens less than one vector")
    (check,) = shamir.shown(bundle, SumCheck)
    lie = msgspec.structs.replace(check.content, fingerprint=(check.content.fingerprint + 1) % 1000)
    shamir.refuses(changed(bundle, more=(shamir.said(lie, "owner"),)), "no account of a check, or more than one")
    shamir.refuses(changed(bundle, less=(check,), more=(shamir.said(lie, "alice"),)), "not for its role")
    silent = msgspec.structs.replace(check.content, fingerprint=None)
    shamir.refuses(changed(bundle, less=(check,), more=(shamir.said(silent, "owner"),)), "no fingerprint of a sum")
    nothing = msgspec.structs.replace(check.content, challenge=None)
    shamir.refuses(changed(bundle, less=(check,), more=(shamir.said(nothing, "owner"),)), "no fingerprint of a sum")
    # A model owner that signs another fingerprint shows that there are liars, and is one of them.
    told = changed(bundle, less=(check,), more=(shamir.said(lie, "owner"),))
    proven = evidence.verify(shamir.charter, told)
    assert (proven.party, proven.others) == (None, ("first", "second", "third", "owner"))


def test_totals_of_strangers_or_too_few_are_the_fault_of_who_signed_them(shamir: Told) -> None:
    question = shamir.shown(shamir.against(None), OpenRound)[0].content
    total = np.zeros(question.words, question.plan.dtype)
    with pytest.raises(WrongShare, match="owner holds nothing"):
        total_of_shares(shamir.seats, question, "owner", (), lambda name: ())
    for totals in ({"first": total}, {"first": total, "second": total, "owner": total}):
        with pytest.raises(WrongShare):
            sum_of_totals(shamir.seats, question, totals)


def test_the_set_of_another_round_is_no_second_one(trusted: Told) -> None:
    bundle = trusted.against(None)
    (other,) = trusted.shown(trusted.against(None, 1), CloseList)
    trusted.refuses(changed(bundle, more=(item(other.exhibit),)), "the sum is that of the shares")


def test_digests_in_here_are_those_of_the_protocol(trusted: Told) -> None:
    """Else the cases above would be refused for what they are made of."""
    (close,) = trusted.shown(trusted.against("first"), CloseList)
    assert trusted.said(close.content, "first") == item(close.exhibit)
    assert close.subject == digest(CloseList.label, encode(close.content))
    assert KINDS[CloseList.label] is CloseList
