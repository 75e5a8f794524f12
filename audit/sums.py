"""What shows that a sum, or one holder's total in it, is another than that of what contributors sent.

Nobody sees a wrong total without what went into it. So these bundles hold openings (`protocol/openings.py`), each
checked against the signed header that committed to it, and the addition is done again (`addition.py`), the one that
`replay.py` does. Rules of the file:
- A holder is accused of its total by what it signed itself, and each link hangs on one of its signatures: the reasons
  stand at the links. Whatever all others make and sign, together, adds nothing that could take the place of one.
- What an honest holder never does, and would have to for a link to be false, is said there too, with where it is kept.
- Unlike other bundles, one of these is about one total or one account, and no more: else each more of them would have
  everything added up again.
- Room is taken for no more than the bundle itself has bytes for. Time is contributors times words of the vector.
"""

from collections.abc import Sequence

from ..crypto.fingerprint import fingerprint
from ..crypto.labels import Label
from ..crypto.ring import Words
from ..protocol.check_messages import SumCheck
from ..protocol.messages import CloseList, Header, OpenRound, Purpose, Receipt, RoundStatement
from ..protocol.vector import vector_bytes
from .addition import opened_total, same, sum_of_totals, total_of_shares
from .errors import NotShown
from .evidence import Case, Proven
from .exhibits import Shown
from .words import names, where


def wrong_total(case: Case) -> Proven:
    """One holder's released total, and the shares that it gave receipts for, which make another."""
    holder, subject, released = _released(case)
    question = _asked(case, released.open_round, (holder,))
    close = _summed(case, holder, subject, released)
    # First what bounds the room: a total is as long as the question makes it, and this one is in the bundle.
    theirs = opened_total(case.seats, question, case.opened[subject].sections)
    ours = _total(case, released.open_round, question, holder, close)
    if same(ours, theirs):
        raise NotShown("the total is that of the shares")
    return Proven(
        holder,
        f"the total that {holder} released in {where(question)} is not that of the shares it gave receipts for",
    )


def _released(case: Case) -> tuple[str, bytes, Header]:
    """Return who released the one total that is opened, the digest of its header, and that."""
    totals = [subject for subject in case.opened if case.headers[subject].label is Label.AGGREGATE]
    if len(totals) != 1:
        raise NotShown("it opens no total, or more than one")
    # The holder's signature over this header fixes the question, the Close list by its digest, and by the commitment
    # every word of the total: whoever opens the envelope can show no other content.
    header = case.headers[totals[0]]
    return header.sender, totals[0], header


def _asked(case: Case, open_round: bytes, holders: Sequence[str]) -> OpenRound:
    """Return the question of this digest, which all that follows names, and which asks these secure workers."""
    # The digest is in every statement and header of the holder, so its content (scheme's lengths, who is asked, whose
    # turn it is) is what the holder had. Receipts of an attempt that was given up name another, and so does a question
    # that the model owner signs for this later.
    question = case.questions.get(open_round)
    if question is None:
        raise NotShown("the question that this is about is not there")
    if question.purpose is not Purpose.TRAIN or not set(holders) <= set(question.present):
        raise NotShown("the question does not ask this secure worker for a sum")
    return question


def _summed(case: Case, holder: str, subject: bytes, released: Header) -> CloseList:
    """Return the holder's own Close list of the set that it released this total over."""
    for shown in case.shown:
        close = shown.content
        if not isinstance(close, CloseList) or not shown.own or shown.subject != released.close:
            continue
        # Named in the header by its digest: a holder that signed two lists is held to that which this total is over.
        if (close.holder, close.open_round) != (holder, released.open_round):
            break
        if not any(_states(each, holder, subject, released) for each in case.shown):
            # A total is sealed before the other secure workers agree, and may be of a set that then comes to nothing.
            raise NotShown("its holder has not stated that it released this total over that set")
        return close
    raise NotShown("the holder's own Close list that the total names is not there")


def _states(shown: Shown, holder: str, subject: bytes, released: Header) -> bool:
    said = shown.content
    return (
        isinstance(said, RoundStatement)
        and shown.own
        and (said.holder, said.open_round) == (holder, released.open_round)
        and (said.release, said.close) == (subject, released.close)
    )


def _total(case: Case, open_round: bytes, question: OpenRound, holder: str, close: CloseList) -> Words:
    """Return the total of what this holder gave receipts for, of everybody in a Close list.

    That list is whom the holder counted in, by its own signature (a model owner that holds shares signs none: it counts
    in whom its secure workers list). It signs none that names somebody whose share it has not got, nor releases with
    one more or less in its total (`Intake.check_summable`).
    """
    receipted, counted_by = _receipted(case, open_round, holder), case.seats.counted_by(question)
    for entry in close.contributions:
        subject = receipted.get(entry.party)
        if subject is None:
            raise NotShown(f"what {holder} gave {entry.party} a receipt for is not there, or not opened")
        if counted_by.get(entry.party) == holder and case.headers[subject].commitment != entry.commitment:
            # Of who is counted elsewhere the list has the commitment to another share, which this holder cannot check.
            raise NotShown(f"{holder} closed over another contribution of {entry.party}")
    # A share that the scheme's half refuses (WrongShare) shows nothing: an honest holder has no total with it either.
    return total_of_shares(
        case.seats,
        question,
        holder,
        close.contributors,
        lambda contributor: case.opened[receipted[contributor]].sections,
    )


def _receipted(case: Case, open_round: bytes, holder: str) -> dict[str, bytes]:
    """Return the opened envelopes of which this holder signed a receipt, by contributor.

    The receipt names the header by its digest, so another one that the contributor signs, then or now, is not it; and
    says that the holder opened the body and found its commitment right (`sealing.BodyOpener.finish`), so what it added
    is what any opening of that commitment shows. A secure worker gives one receipt a contributor and question
    (`Intake.take`): after a restart it takes nothing more to that question. What it refused has none.
    """
    out: dict[str, bytes] = {}
    for shown in case.shown:
        receipt = shown.content
        if not isinstance(receipt, Receipt) or not shown.own:
            continue
        header = case.headers.get(receipt.header)
        if (receipt.holder, receipt.open_round) != (holder, open_round) or header is None:
            continue
        fits = (
            header.label is Label.CONTRIBUTION
            and (header.sender, header.recipient) == (receipt.contributor, holder)
            and (header.open_round, header.commitment) == (open_round, receipt.commitment)
        )
        if fits and receipt.header in case.opened:
            out.setdefault(receipt.contributor, receipt.header)
    return out


def wrong_sum(case: Case) -> Proven:
    """The model owner's signed fingerprint of a sum, and all shares that make another.

    Who lied it does not show: a holder with its total, or the model owner with its account. Where the model owner holds
    shares itself a contributor may have, too: after a restart it takes them anew, and gives a second receipt if it is
    sent another. The challenge may be anything: one sum has one fingerprint, whatever the challenge, so two that differ
    are of two sums. (That a sum which was chosen knowing the challenge may pass by it is why equal ones show less.)
    """
    checks = [(shown.signer, said) for shown in case.shown if isinstance(said := shown.content, SumCheck)]
    if len(checks) != 1:
        raise NotShown("it has no account of a check, or more than one")
    owner, check = checks[0]
    if check.challenge is None or check.fingerprint is None:
        raise NotShown("the account has no fingerprint of a sum")
    question = _asked(case, check.open_round, ())
    close = _agreed(case, check.open_round, question)
    if vector_bytes(question) > sum(len(section) for each in case.opened.values() for section in each.sections):
        # All holders together have one whole vector of each contributor, or more, in every scheme.
        raise NotShown("it opens less than one vector")
    # All that took part, though fewer may be enough: with those that are left out, shares of a contributor that do not
    # fit together would show, and any of them that do fit make one sum.
    holders = [name for name in case.seats.holders if name == owner or name in question.present]
    totals = {name: _total(case, check.open_round, question, name, close) for name in holders}
    total = sum_of_totals(case.seats, question, totals)
    if fingerprint(total, check.challenge) == check.fingerprint:
        raise NotShown("the sum is that of the shares")
    contributors = close.contributors if case.seats.owner is not None else ()
    suspects = tuple(dict.fromkeys((*question.present, *contributors, owner)))
    return Proven(
        None,
        f"the sum of {where(question)} that {owner} signed for is not that of what its contributors opened; one of "
        f"these lied: {names(suspects)}",
        suspects,
    )


def _agreed(case: Case, open_round: bytes, question: OpenRound) -> CloseList:
    """Return a Close list of the set that a quorum of secure workers signed, and nobody another."""
    closes: dict[str, CloseList] = {}
    for shown in case.shown:
        close = shown.content
        if isinstance(close, CloseList) and shown.own and close.open_round == open_round:
            other = closes.setdefault(close.holder, close)
            if not other.same_set(close):
                raise NotShown(f"{close.holder} signed two sets")
    signed = [close for holder, close in closes.items() if holder in question.present]
    # An honest model owner sums over a set that so many signed. Of two such sets, one of the holders signed both.
    if len(signed) < case.seats.quorum:
        raise NotShown("fewer secure workers than a sum needs have signed its set")
    if any(close.contributions != signed[0].contributions for close in signed):
        raise NotShown("the set of the sum is not one")
    return signed[0]
