"""A session: nonces of the model owner and of every secure worker, and the questions that hang on them.

A session id is a digest over all the nonces, so nobody can open a session twice: a secure worker that was restored from
an old disk gives a new nonce, and every signed message of the old session is refused by number. `check_question` is
what every recipient of a question, secure worker and data owner alike, holds it to; `docs/protocol.md` lists it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from ..crypto.labels import Label, digest
from ..crypto.sealing import check_public_key
from . import limits
from .charter import Charter, Role
from .codec import encode
from .errors import NotInCohort, SplitView, WrongCharter, WrongOpenRound, WrongPlan, WrongRound, WrongSession
from .messages import Abort, OpenRound, Purpose, RoundOffer, Signed
from .seats import Seats
from .statements import open_signed


def new_nonce() -> bytes:
    """Return 32 bytes of the operating system's randomness."""
    return os.urandom(32)


def session_id(charter: bytes, owner_nonce: bytes, holder_nonces: Sequence[bytes]) -> bytes:
    """Return the 32-byte id of the session these nonces open."""
    return digest(Label.SESSION, charter, owner_nonce, *holder_nonces)


def question_digest(question: OpenRound) -> bytes:
    """Return the 32-byte digest of what all attempts at a round ask alike: all but attempt, its key and its holders."""
    same = msgspec.structs.replace(question, attempt=0, owner_key=bytes(limits.HPKE_PUBLIC_KEY), without=())
    return digest(Label.QUESTION, encode(same))


def contributor_set(names: Sequence[str]) -> bytes:
    """Return the 32-byte digest of a set of contributors, by which two sets are compared without keeping them."""
    return digest(Label.CONTRIBUTOR_SET, *(name.encode() for name in sorted(set(names))))


@dataclass(frozen=True)
class HolderSession:
    """What a secure worker knows of a session: its own nonce and the one it answered."""

    holder: str
    owner_nonce: bytes
    nonce: bytes

    def matches(self, question: OpenRound) -> bool:
        """Whether `question` belongs to this session."""
        return (
            question.owner_nonce == self.owner_nonce
            and self.holder in question.holders
            and question.holder_nonces[question.holders.index(self.holder)] == self.nonce
        )


def check_question(charter: Charter, seats: Seats, question: OpenRound) -> None:
    """Check what any recipient of a question can check without knowing more than the charter.

    Raises:
        WrongCharter, WrongSession, WrongPlan, NotInCohort: named for what does not agree.
    """
    owner, rules = charter.model_owner.name, charter.rules
    if question.charter != charter.digest:
        raise WrongCharter("asks under another charter", party=owner)
    if question.attempt >= limits.ATTEMPTS:
        raise WrongRound(f"asks for attempt {question.attempt + 1}; there are at most {limits.ATTEMPTS}", party=owner)
    if question.session != session_id(charter.digest, question.owner_nonce, question.holder_nonces):
        raise WrongSession("names a session that its nonces do not give", party=owner)
    if question.holders != tuple(name for name in seats.workers if name in question.holders):
        raise WrongPlan("names other holders than the charter's secure workers", party=owner)
    if len(question.present) < seats.quorum:
        raise WrongPlan(f"asks {len(question.present)} holders; the scheme needs {seats.quorum}", party=owner)
    if question.plan != charter.plan or question.weight_rule is not rules.weight_rule:
        raise WrongPlan("asks with another fixed-point plan or weight rule than the charter's", party=owner)
    training, limit = question.training, rules.training
    if training.epochs > limit.max_epochs or training.batches > limit.max_batches:
        raise WrongPlan("asks for more training than the charter allows", party=owner)
    if limit.tasks and training.task not in limit.tasks:
        raise WrongPlan(f"asks for task {training.task}, which the charter does not list", party=owner)
    if question.purpose is Purpose.TRAIN:
        allowed, smallest = {party.name for party in charter.data_owners}, rules.minimum_cohort
    else:
        allowed, smallest = {party.name for party in charter.evaluators}, 1
    strangers = sorted(set(question.cohort) - allowed)
    if strangers:
        raise NotInCohort(f"asks {strangers[0]}, who has no part in that", party=owner)
    if len(question.cohort) < smallest:
        raise NotInCohort(f"asks a cohort of {len(question.cohort)}; the charter's minimum is {smallest}", party=owner)


def check_offer(
    charter: Charter, question: OpenRound, open_round: bytes, holder: str, signed: Signed
) -> tuple[RoundOffer, Abort | None]:
    """Return a holder's offer of a key for this question, and its abort of the attempt before, if there was one.

    Raises:
        the errors of `open_signed`, WrongOpenRound, SplitView, BadRecipientKey: what does not agree, naming the holder.
    """
    offer = open_signed(charter, signed, RoundOffer, Role.SECURE_WORKER)
    if holder not in question.present:
        raise WrongOpenRound("offers a key for an attempt that does without it", party=signed.signer)
    if offer.holder != holder or signed.signer != holder or offer.open_round != open_round:
        raise WrongOpenRound("offers a key for another question, or for somebody else", party=signed.signer)
    abort = None
    if (offer.aborted is None) is not (question.attempt == 0):
        raise SplitView("offers another attempt without its abort of the one before", party=holder)
    if offer.aborted is not None:
        abort = open_signed(charter, offer.aborted, Abort, Role.SECURE_WORKER)
        ended = (abort.session, abort.round, abort.attempt)
        if abort.party != holder or ended != (question.session, question.round, question.attempt - 1):
            raise SplitView("offers another attempt with the abort of something else", party=holder)
    check_public_key(offer.key, party=holder)
    return offer, abort
