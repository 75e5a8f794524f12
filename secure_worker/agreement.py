"""How several secure workers come to one contributor set, over a model owner that relays and may lie.

1. Each that takes part signs a list of what it counted. Who counts what follows from the question, so no two can list
   the same contribution. It says too whose share is in its total though another counts it (`HolderList.added`).
2. The set of the round is what all lists name together. If somebody is in a total and not in the set, not all can sum
   it: nobody signs it, and all abort. Else each signs a Close list of it, with its own name.
3. Each releases its partial total only when it has seen that q of them (`Seats.quorum`) signed the very same list.

So a model owner that shows different lists to different secure workers gets no release from any of them, and one that
shows none gets an abort. Withholding is never a different sum. Everything in here is checked before it is recorded.
"""

import msgspec

from ..crypto.errors import BadSignature
from ..crypto.identity import verify
from ..protocol.charter import Charter, Role
from ..protocol.codec import decode_as, encode
from ..protocol.errors import NotInCohort, SplitView, Unsummable, WrongOpenRound, WrongSender
from ..protocol.messages import CloseList, Cosignature, HolderList, OpenRound, Signed, close_over
from ..protocol.seats import Seats
from ..protocol.statements import open_signed


def agreed_set(
    charter: Charter, seats: Seats, question: OpenRound, open_round: bytes, ours: Signed, lists: tuple[Signed, ...]
) -> CloseList:
    """Return the unsigned Close list that follows from the lists of all that take part; its holder signed `ours`.

    Raises:
        WrongSender, WrongOpenRound, NotInCohort, SplitView: named for the list that does not fit.
    """
    if tuple(each.signer for each in lists) != question.present or ours not in lists:
        raise WrongSender("passes on other lists than one of each secure worker", party=charter.model_owner.name)
    counted_by = seats.counted_by(question)
    said_by_all = []
    for signed in lists:
        said = open_signed(charter, signed, HolderList, Role.SECURE_WORKER)
        if said.holder != signed.signer or said.open_round != open_round:
            raise WrongOpenRound("lists the contributions to another question", party=signed.signer)
        named = {entry.party for entry in said.contributions} | set(said.declined) | set(said.missing)
        if (named | set(said.added)) - set(question.cohort):
            raise NotInCohort("lists somebody the question does not ask", party=signed.signer)
        if any(counted_by[entry.party] != signed.signer for entry in said.contributions):
            raise SplitView("lists a contribution that another secure worker counts", party=signed.signer)
        said_by_all.append(said)
    return close_over(said_by_all, open_round, ours.signer)


def check_all_sum(contributors: tuple[str, ...], lists: tuple[Signed, ...]) -> None:
    """Check, in the lists that `agreed_set` has checked, that each holder can sum exactly these.

    Everybody concludes the same from the same lists, before anybody has signed a set. A holder that could sum it alone
    would bind its release gate to it, and refuse the next attempt's, in which who is missing now may be there again.

    Raises:
        Unsummable: naming who is in a total and not among them; whose total it is is in the text.
    """
    for signed in lists:
        for name in decode_as(HolderList, signed.statement).added:
            if name not in contributors:
                text = f"is not listed, and its share is in the total already, at {signed.signer}"
                raise Unsummable(text, party=name)


def check_closes(
    charter: Charter, seats: Seats, question: OpenRound, ours: Signed, signatures: tuple[Cosignature, ...]
) -> None:
    """Check that as many secure workers as the scheme needs have signed a Close list of the set of `ours`.

    Raises:
        WrongSender, SplitView: what the model owner passes on is not that.
    """
    owner = charter.model_owner.name
    signers = [each.party for each in signatures]
    if signers != [name for name in question.present if name in signers] or len(signers) < seats.quorum:
        raise WrongSender(f"passes on other signatures than of {seats.quorum} secure workers", party=owner)
    close = open_signed(charter, ours, CloseList, Role.SECURE_WORKER)
    for each in signatures:
        theirs = encode(msgspec.structs.replace(close, holder=each.party))
        try:
            verify(charter.party(each.party).signing, CloseList.label, theirs, each.signature, party=each.party)
        except BadSignature:
            # Whose doing it is, only the model owner can show: it has the list that was signed instead.
            raise SplitView(f"passes on a signature of {each.party} that is not for this set", party=owner) from None
