"""Which signed statements a control message holds: what a view ledger notes of it, and keeps as exhibits."""

from collections.abc import Iterator
from typing import Final

from ..crypto.labels import Label
from .check_messages import Answered, Checked, MaskedFingerprint, MaskKey, OfferMaskKey, SumCheck
from .messages import (
    Abort,
    Aborted,
    Acceptance,
    Closed,
    CloseList,
    Decline,
    Declined,
    Evaluated,
    Evaluation,
    HolderList,
    Invitation,
    Listed,
    Lists,
    Message,
    OfferRound,
    OfferSession,
    OpenRound,
    ProposeRound,
    Receipt,
    Receipted,
    RequestCosignature,
    RoundKeyStatement,
    RoundOffer,
    RoundRecord,
    RoundStatement,
    SessionEnd,
    SessionOffer,
    SessionOver,
    Signed,
    Statement,
)

STATEMENTS: Final[dict[type[Message], tuple[tuple[str, type[Statement]], ...]]] = {
    OfferSession: (("offer", SessionOffer),),
    ProposeRound: (("open_round", OpenRound),),
    OfferRound: (("offer", RoundOffer),),
    Invitation: (("open_round", OpenRound), ("offers", RoundOffer)),
    Acceptance: (("key", RoundKeyStatement),),
    Declined: (("decline", Decline),),
    Receipted: (("receipt", Receipt),),
    Listed: (("list", HolderList),),
    Lists: (("lists", HolderList),),
    Closed: (("close", CloseList),),
    RequestCosignature: (("statement", RoundStatement),),
    RoundRecord: (("statement", RoundStatement),),
    OfferMaskKey: (("key", MaskKey),),
    Answered: (("fingerprint", MaskedFingerprint),),
    Checked: (("check", SumCheck),),
    Evaluated: (("evaluation", Evaluation),),
    Aborted: (("abort", Abort),),
    SessionOver: (("end", SessionEnd),),
}
"""Which field of a message holds a statement, or several, of which kind."""


def statements_in(message: Message) -> Iterator[tuple[Label, Signed]]:
    """Yield each signed statement of a message, with the label it was signed under."""
    for field, kind in STATEMENTS.get(type(message), ()):
        held = getattr(message, field)
        for signed in held if isinstance(held, tuple) else (held,):
            yield kind.label, signed
