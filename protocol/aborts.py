"""How a party signs that an attempt, or all it knew of a session, ended without an aggregate."""

from ..crypto.identity import Identity
from . import limits
from .messages import Abort, Cause, Contribution, OpenRound, Signed
from .statements import sign


def sign_abort(
    identity: Identity,
    question: OpenRound,
    cause: Cause,
    text: str,
    *,
    about: tuple[str, ...] = (),
    receipted: tuple[Contribution, ...] = (),
    attempt: int | None = None,
) -> Signed:
    """Return a signed abort of the attempt `question` asks for, or of another `attempt` at the same round."""
    abort = Abort(
        session=question.session,
        round=question.round,
        attempt=question.attempt if attempt is None else attempt,
        party=identity.name,
        cause=cause,
        text=text[: limits.TEXT_LENGTH],
        about=about,
        receipted=receipted,
    )
    return sign(identity, abort)
