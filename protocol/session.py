"""A session: nonces of the model owner and of every secure worker, and the questions that hang on them.

A session id is a digest over all the nonces, so nobody can open a session twice: a secure worker that was restored from
an old disk gives a new nonce, and every signed message of the old session is refused by number. `check_question` is
what every recipient of a question, secure worker and data owner alike, holds it to; `docs/protocol.md` lists it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ..crypto.labels import Label, digest
from .charter import Charter
from .errors import NotInCohort, WrongCharter, WrongPlan, WrongSession
from .messages import OpenRound, Purpose


def new_nonce() -> bytes:
    """Return 32 bytes of the operating system's randomness."""
    return os.urandom(32)


def session_id(charter: bytes, owner_nonce: bytes, holder_nonces: Sequence[bytes]) -> bytes:
    """Return the 32-byte id of the session these nonces open."""
    return digest(Label.SESSION, charter, owner_nonce, *holder_nonces)


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


def check_question(charter: Charter, question: OpenRound) -> None:
    """Check what any recipient of a question can check without knowing more than the charter.

    Raises:
        WrongCharter, WrongSession, WrongPlan, NotInCohort: named for what does not agree.
    """
    owner, rules = charter.model_owner.name, charter.rules
    if question.charter != charter.digest:
        raise WrongCharter("asks under another charter", party=owner)
    if question.session != session_id(charter.digest, question.owner_nonce, question.holder_nonces):
        raise WrongSession("names a session that its nonces do not give", party=owner)
    if question.holders != tuple(party.name for party in charter.secure_workers):
        raise WrongPlan("names other holders than the charter's secure workers", party=owner)
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
