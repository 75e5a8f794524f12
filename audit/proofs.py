"""What shows which violation: one function a kind, from verified content of a bundle to a party and a sentence.

Rules of the file:
- A function looks at its `Case` and the charter, never at anything else; it raises `NotShown` where it sees no proof.
- It holds whatever else may be in the bundle: what is there beside the proof takes nothing away and adds nothing, and
  however much there is, time grows with it and no faster.
- A ledger goes on under the next charter, so an entry of it may be of one that allowed what this one does not.
- The sentence says what was signed. What an honest program could have signed is no proof, and the reason stands there.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Final, TypeVar

from ..crypto.labels import Label
from ..protocol.charter import Mode
from ..protocol.check_messages import SumCheck, SumState
from ..protocol.ledger import LABELS, Act, Checkpoint, DataClass, LedgerEntry
from ..protocol.messages import CloseList, Header, HolderList, OpenRound, Receipt, RoundStatement, Statement
from .access import forbidden
from .errors import NotShown
from .evidence import Case, Included, Proven
from .exhibits import Shown
from .report import Kind
from .sums import wrong_sum, wrong_total
from .words import names, spoken, where

T = TypeVar("T", bound=Statement)
V = TypeVar("V")


def _said(case: Case, kind: type[T]) -> list[tuple[Shown, T]]:
    return [(each, each.content) for each in case.shown if isinstance(each.content, kind) and each.own]


def _headers(case: Case) -> list[tuple[Shown, Header]]:
    return [(each, each.content) for each in case.shown if isinstance(each.content, Header)]


def _two(found: Iterable[tuple[Hashable, Hashable, V]]) -> tuple[V, V] | None:
    """Return the first two values of one key, the first item, that differ in the second."""
    first: dict[Hashable, tuple[Hashable, V]] = {}
    for key, what, value in found:
        known = first.setdefault(key, (what, value))
        if known[0] != what:
            return known[1], value
    return None


def _question(case: Case, open_round: bytes) -> OpenRound:
    question = case.questions.get(open_round)
    if question is None:
        raise NotShown("the question that this is about is not there")
    return question


def _entries(case: Case) -> list[Included]:
    """Return the entries under the charter that the bundle is about."""
    return [at for at in case.included if at.entry.charter == case.charter.digest]


# --- ledgers


def forked(case: Case) -> Proven:
    """Two checkpoints of one party: of one size with two roots, or one that the other's ledger did not grow from."""
    pair = _two(((said.party, said.size), said.root, said) for _, said in _said(case, Checkpoint))
    if pair is not None:
        return Proven(pair[0].party, f"{pair[0].party} signed for two view ledgers of {pair[0].size} entries")
    if case.growth is not None:
        older, newer, root = case.growth
        if older.root != root:
            return Proven(
                older.party,
                f"{older.party} signed for {older.size} entries, and later for {newer.size} that do not begin with "
                f"them",
            )
    raise NotShown("no two checkpoints contradict each other")


def truncated(case: Case) -> Proven:
    """A ledger that is shorter than what its party signed for."""
    for _, said in _said(case, Checkpoint):
        if said.party == case.log_of and said.size > case.log_size:
            return Proven(
                said.party,
                f"{said.party} signed for {said.size} entries, and the ledger given as its own ends after "
                f"{case.log_size}",
            )
    raise NotShown("the ledger is as long as was signed")


def edited(case: Case) -> Proven:
    """A ledger with other entries than its party signed for."""
    for _, said in _said(case, Checkpoint):
        if said.party == case.log_of and said.size <= case.log_size and case.log_roots[said.size] != said.root:
            return Proven(
                said.party,
                f"{said.party} signed for {said.size} entries, and the ledger given as its own has others, or in "
                f"another order",
            )
    raise NotShown("the ledger is the one that was signed for")


# --- two stories


def _goes_on_after(case: Case, session: bytes, number: int, attempt: int) -> bool:
    """Whether the part of the log that was signed for has anything of a later attempt or round of the session.

    What belongs to an attempt is noted before the party turns to the next; without that, a log that ends early would
    look like a denial.
    """
    return case.log_last.get(session, (number, attempt)) > (number, attempt)


DURABLE: Final = frozenset({Label.CONTRIBUTION, Label.AGGREGATE, Label.RECEIPT})
"""What a party has on the disk before it is sent, so that not even a power failure explains a ledger without it."""


def denied_sending(case: Case) -> Proven:
    """What a party signed and its whole ledger does not have as sent, though it goes on after that."""
    for shown in case.shown:
        about: Header | OpenRound | None = shown.content if isinstance(shown.content, Header) else None
        if isinstance(shown.content, Receipt) and shown.own:
            about = _question(case, shown.content.open_round)
        if about is None or shown.signer != case.log_of or shown.label not in DURABLE:
            continue
        passed = _goes_on_after(case, about.session, about.round, about.attempt)
        if passed and (Act.SENT, shown.subject) not in case.log_notes:
            to = _addressee(shown.content)
            what = spoken(shown.label)
            return Proven(
                shown.signer,
                f"{shown.signer} signed a {what} for {to} in {where(about)}, and its ledger, which goes on after that, "
                f"says it sent none",
                (to,),
            )
    raise NotShown("the ledger has what its party signed, or does not go on after it")


def _addressee(content: Statement | Header) -> str:
    if isinstance(content, Header):
        return content.recipient
    return content.contributor if isinstance(content, Receipt) else "somebody"


def denied_receiving(case: Case) -> Proven:
    """A receipt, and the whole ledger of who gave it without the opening of what it is for, though it goes on.

    A receipt says that the share was opened, and the opening is in the file before the receipt is signed.
    """
    for _, receipt in _said(case, Receipt):
        if receipt.holder != case.log_of:
            continue
        question = _question(case, receipt.open_round)
        passed = _goes_on_after(case, question.session, question.round, question.attempt)
        if passed and (Act.OPENED, receipt.header) not in case.log_notes:
            return Proven(
                receipt.holder,
                f"{receipt.holder} gave {receipt.contributor} a receipt in {where(question)}, and its ledger, which "
                f"goes on after that, says it opened nothing",
                (receipt.contributor,),
            )
    raise NotShown("the ledger has what its party gave a receipt for, or does not go on after it")


def two_questions(case: Case) -> Proven:
    """Two questions for one attempt."""
    asked = _said(case, OpenRound)
    pair = _two(
        ((said.session, said.round, said.attempt, said.purpose), shown.subject, (shown, said)) for shown, said in asked
    )
    if pair is not None:
        (shown, said), _ = pair
        return Proven(shown.signer, f"{shown.signer} signed two questions for {where(said)} of one session")
    raise NotShown("no two questions are for one attempt")


def two_sets(case: Case) -> Proven:
    """Two final lists of one secure worker for one question."""
    lists: list[tuple[Shown, CloseList | HolderList]] = [*_said(case, CloseList), *_said(case, HolderList)]
    pair = _two(((type(said), said.holder, said.open_round), shown.subject, said) for shown, said in lists)
    if pair is not None:
        texts = [names([entry.party for entry in each.contributions]) for each in pair]
        told = f": {texts[0]}; and {texts[1]}" if texts[0] != texts[1] else ""
        return Proven(pair[0].holder, f"{pair[0].holder} signed two contributor sets for one question{told}")
    raise NotShown("no two lists of one party are for one question")


def two_outcomes(case: Case) -> Proven:
    """Two round statements of one secure worker for one question."""
    stated = _said(case, RoundStatement)
    pair = _two(((said.holder, said.open_round), shown.subject, said) for shown, said in stated)
    if pair is not None:
        return Proven(pair[0].holder, f"{pair[0].holder} signed two outcomes of one question")
    raise NotShown("no two outcomes of one party are for one question")


def contradicted_set(case: Case) -> Proven:
    """A release, or its statement, that is not over the Close list of who made it."""
    stated: dict[tuple[str, bytes], list[RoundStatement]] = defaultdict(list)
    sealed: dict[tuple[str, bytes], list[Header]] = defaultdict(list)
    for _, said in _said(case, RoundStatement):
        stated[said.holder, said.open_round].append(said)
    for _, header in _headers(case):
        if header.label is Label.AGGREGATE:
            sealed[header.sender, header.open_round].append(header)
    for shown, close in _said(case, CloseList):
        contributors = close.contributors
        for said in stated.get((close.holder, close.open_round), ()):
            if said.close != shown.subject or said.contributors != contributors:
                return Proven(close.holder, f"{close.holder} closed with one set and stated the outcome over another")
        for header in sealed.get((close.holder, close.open_round), ()):
            if header.close != shown.subject or header.contributors != len(close.contributions):
                text = f"{close.holder} released a sum over another set than it closed with in {where(header)}"
                return Proven(close.holder, text)
    raise NotShown("what was released is over the set that was closed")


def left_out(case: Case) -> Proven:
    """A receipt of who counts a contribution, and its Close list without it."""
    in_all: dict[tuple[str, bytes], set[tuple[str, bytes]]] = {}
    for _, close in _said(case, CloseList):
        listed = {(entry.party, entry.commitment) for entry in close.contributions}
        in_all.setdefault((close.holder, close.open_round), listed).intersection_update(listed)
    for _, receipt in _said(case, Receipt):
        closed = in_all.get((receipt.holder, receipt.open_round))
        if closed is None or (receipt.contributor, receipt.commitment) in closed:
            continue
        question = _question(case, receipt.open_round)
        # Another holder that has a share does not list it; who counts it closes over what it gave a receipt for.
        if receipt.contributor in question.cohort and (
            case.seats.counting(question, receipt.contributor) == receipt.holder
        ):
            return Proven(
                receipt.holder,
                f"{receipt.holder} gave {receipt.contributor} a receipt in {where(question)} and closed without "
                f"that contribution",
                (receipt.contributor,),
            )
    raise NotShown("every receipt is in the set")


# --- what was let go


def _released(case: Case) -> Iterator[tuple[str, bytes, int, bytes, tuple[str, ...], bytes | None]]:
    """Yield holder, session, round, envelope, contributors and question of every release a holder signed for.

    The head of an envelope alone shows none: one that is sealed is released only once the others agreed.
    """
    for _, said in _said(case, RoundStatement):
        question = _question(case, said.open_round)
        yield said.holder, question.session, question.round, said.release, said.contributors, said.open_round
    for at in _entries(case):
        entry = at.entry
        if entry.act is Act.RELEASED and entry.session is not None and entry.subject is not None:
            yield at.party, entry.session, entry.round, entry.subject, entry.whose, entry.open_round


def two_releases(case: Case) -> Proven:
    """Two sums of one secure worker in one round."""
    pair = _two((each[:3], each[3], each) for each in _released(case))
    if pair is not None:
        return Proven(pair[0][0], f"{pair[0][0]} released two sums in round {pair[0][2]} of one session")
    raise NotShown("no two releases are of one round")


def two_sets_of_one_model(case: Case) -> Proven:
    """Releases of one secure worker over two sets for one model."""
    asked = ((each, case.questions.get(each[5] or b"")) for each in _released(case))
    pair = _two(
        ((each[0], question.model), frozenset(each[4]), each) for each, question in asked if question is not None
    )
    if pair is not None:
        one, other = pair
        apart = tuple(sorted(set(one[4]) ^ set(other[4])))
        return Proven(
            one[0],
            f"{one[0]} released sums over two contributor sets for one model, in rounds {one[2]} and {other[2]}: "
            f"their difference is of {names(apart)}",
            apart,
        )
    raise NotShown("no two releases are over two sets for one model")


def small_release(case: Case) -> Proven:
    """A release over fewer contributors than the charter's minimum."""
    least = case.charter.rules.minimum_cohort
    for holder, _, number, _, contributors, _ in _released(case):
        if len(contributors) < least:
            return Proven(
                holder,
                f"{holder} released a sum over {len(contributors)} in round {number}; the minimum cohort is {least}",
                contributors,
            )
    raise NotShown("every release has the minimum cohort")


def forbidden_access(case: Case) -> Proven:
    """An entry in which a party says that it opened, made or kept what it must not have."""
    for at in _entries(case):
        why = forbidden(case.seats, case.charter, at.party, at.entry)
        if why is not None:
            whose = names(at.entry.whose)
            return Proven(
                at.party, f"{at.party} {at.entry.act.value} the {at.entry.data.value} of {whose}: {why}", at.entry.whose
            )
    raise NotShown("the mode allows what these entries say")


def plain_access(case: Case) -> Proven:
    """An entry in which the model owner says that it opened an update, under a charter of mode plain."""
    owner = case.charter.model_owner.name
    opened = [at for at in _entries(case) if at.party == owner and at.entry.act is Act.OPENED]
    whose = sorted({at.entry.whose[0] for at in opened if at.entry.data is DataClass.UPDATE})
    if case.charter.rules.mode is not Mode.PLAIN or not whose:
        raise NotShown("no single update is on record as opened by the model owner of a plain run")
    text = f"{owner} opened single updates of {names(whose)}: mode plain lets the model owner read each one"
    return Proven(owner, text, tuple(whose))


def false_entry(case: Case) -> Proven:
    """An entry that says something else of an envelope than its signed header and Close list do."""
    headers = {shown.subject: header for shown, header in _headers(case)}
    closed = {shown.subject: close.contributors for shown, close in _said(case, CloseList)}
    for at in case.included:
        header = headers.get(at.entry.subject or b"")
        why = None if header is None else misstated(at.party, at.entry, header)
        whose = at.entry.whose
        if header is not None and why is None and at.entry.data is DataClass.AGGREGATE:
            other = closed.get(header.close or b"", whose) != whose
            why = f"it says that the sum is of {names(whose)}, and it was closed over another set" if other else None
        if why is not None:
            return Proven(at.party, f"entry {at.sequence} of {at.party} is not what was signed: {why}")
    raise NotShown("every entry says what was signed")


def misstated(party: str, entry: LedgerEntry, header: Header) -> str | None:
    """Return in what an entry about an envelope differs from its header, or None."""
    ours, theirs = (header.sender, header.recipient) if entry.act in _BY_SENDER else (header.recipient, header.sender)
    if entry.act not in (*_BY_SENDER, Act.RECEIVED, Act.OPENED):
        return None
    if (party, entry.peer) != (ours, theirs):
        return f"it was sealed by {header.sender} for {header.recipient}"
    if entry.charter != header.charter:
        return "it is of another charter"
    if LABELS.get(entry.data) is not header.label:
        return f"it holds a {spoken(header.label)}, not a {entry.data.value}"
    if (entry.session, entry.round, entry.attempt) != (header.session, header.round, header.attempt):
        return f"it is of {where(header)}"
    if entry.open_round != header.open_round:
        return f"it answers another question of {where(header)}"
    if header.label is Label.CONTRIBUTION and entry.whose != (header.sender,):
        return f"it is of {header.sender}"
    if header.label is Label.AGGREGATE and len(entry.whose) != header.contributors:
        return f"it sums {header.contributors}"
    return None


_BY_SENDER: Final = (Act.SENT, Act.RELEASED)


# --- sums


def failed_sum(case: Case) -> Proven:
    """The model owner's signed word that a sum is wrong."""
    for shown, check in _said(case, SumCheck):
        if check.state is SumState.FAILED:
            question = _question(case, check.open_round)
            # Nobody but the model owner knows the sum, so its word may be what is wrong.
            suspects = tuple(dict.fromkeys((*question.present, *question.cohort, shown.signer)))
            return Proven(
                None,
                f"{shown.signer} signed that the sum of {where(question)} is not that of its contributors; one of "
                f"these lied: {names(question.present)}, a contributor, or {shown.signer} with that",
                suspects,
            )
    raise NotShown("no check of a sum failed")


def contradicted_total(case: Case) -> Proven:
    """The model owner's signed word that one holder's total contradicts the sum of the others.

    The totals are sealed for the model owner, so nobody else sees whether they contradict each other. Where they do, a
    contributor may have sent that holder a share that does not fit its others.
    """
    for shown, check in _said(case, SumCheck):
        for holder in check.contradicted:
            question = _question(case, check.open_round)
            if holder in question.present:
                return Proven(
                    None,
                    f"{shown.signer} signed that the total of {holder} contradicts the sum of {where(question)} that "
                    f"the others make; {holder} lied with its total, a contributor with a share, or {shown.signer} "
                    f"with that",
                    tuple(dict.fromkeys((holder, shown.signer, *question.cohort))),
                )
    raise NotShown("no total is contradicted")


PROOFS: Final[dict[Kind, Callable[[Case], Proven]]] = {
    Kind.FORKED_LEDGER: forked,
    Kind.TRUNCATED_LEDGER: truncated,
    Kind.EDITED_LEDGER: edited,
    Kind.DENIED_SENDING: denied_sending,
    Kind.DENIED_RECEIVING: denied_receiving,
    Kind.TWO_QUESTIONS: two_questions,
    Kind.TWO_SETS: two_sets,
    Kind.TWO_OUTCOMES: two_outcomes,
    Kind.CONTRADICTED_SET: contradicted_set,
    Kind.LEFT_OUT: left_out,
    Kind.TWO_RELEASES: two_releases,
    Kind.TWO_SETS_OF_ONE_MODEL: two_sets_of_one_model,
    Kind.SMALL_RELEASE: small_release,
    Kind.FORBIDDEN_ACCESS: forbidden_access,
    Kind.PLAIN_ACCESS: plain_access,
    Kind.FALSE_ENTRY: false_entry,
    Kind.FAILED_SUM: failed_sum,
    Kind.CONTRADICTED_TOTAL: contradicted_total,
    Kind.WRONG_TOTAL: wrong_total,
    Kind.WRONG_SUM: wrong_sum,
}
"""Which kinds of findings have evidence."""
