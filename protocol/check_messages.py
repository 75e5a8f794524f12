"""What is said so that a wrong sum is noticed: the statements and messages of the verified sum.

In the order of a round; who may say what when is in `rounds.py`, what it is held to in `verification.py`:
1. a contributor that has seen the set closed offers a fresh key for the seeds of masks, with a nonce (`OfferMaskKey`)
2. the model owner shows each contributor the keys of its neighbours (`MaskKeys`)
3. each seals a fresh seed for every neighbour that comes after it, and the model owner passes them on (`MaskSeeds`)
4. with the totals open, their signed heads and all nonces give the challenge (`Challenge`)
5. each contributor answers with the masked fingerprint of its vector (`Answered`)
6. the model owner says what came of it, signed, and shows everybody all answers (`Checked`)
"""

import enum
from typing import Annotated, ClassVar

from msgspec import Meta

from ..crypto.fingerprint import MODULUS, NEIGHBOURS
from ..crypto.labels import Label
from . import limits
from .messages import Digest, Message, Names, Nonce, PublicKey, SealedHead, Signed, Statement
from .training import Name

Element = Annotated[int, Meta(ge=0, lt=MODULUS)]
"""A fingerprint, masked or of a released sum."""


class SumState(enum.Enum):
    """What came of checking a released sum."""

    VERIFIED = "verified"
    """The fingerprints of all contributors add up to that of the sum."""
    UNVERIFIED = "unverified"
    """Somebody was silent, so nothing is known."""
    FAILED = "failed"
    """They do not add up to it."""


# --- signed


class MaskKey(Statement, frozen=True):
    """A contributor's fresh key for the seeds its neighbours send it, and its part in the challenge."""

    label: ClassVar[Label] = Label.MASK_KEY
    open_round: Digest
    contributors: Digest
    """Of the closed set (`session.contributor_set`), from which everybody's neighbours follow."""
    party: Name
    key: PublicKey
    nonce: Nonce


class MaskedFingerprint(Statement, frozen=True):
    """A contributor's answer to a challenge; uniform for whoever does not know all of its masks."""

    label: ClassVar[Label] = Label.MASKED_FINGERPRINT
    open_round: Digest
    challenge: Digest
    party: Name
    value: Element


class SumCheck(Statement, frozen=True):
    """The model owner's account of a check; cites what it had got when somebody was silent."""

    label: ClassVar[Label] = Label.SUM_CHECK
    open_round: Digest
    state: SumState
    challenge: Digest | None = None
    """None where somebody was silent before there was one."""
    fingerprint: Element | None = None
    """Of the sum as it was released and combined."""
    silent: Names = ()
    contradicted: Names = ()
    """Holders whose totals are not in the sum, because they contradict it."""


# --- messages


class OfferMaskKey(Message, frozen=True, tag="offer-mask-key"):
    """Contributor to model owner; holds a `MaskKey`. Sent again over a new connection."""

    key: Signed


class MaskKeys(Message, frozen=True, tag="mask-keys"):
    """Model owner to contributor: the `MaskKey` of each of its neighbours, sorted by name."""

    keys: Annotated[tuple[Signed, ...], Meta(max_length=NEIGHBOURS)]


class MaskSeeds(Message, frozen=True, tag="mask-seeds"):
    """Contributor to model owner: a seed for each later neighbour. Model owner to contributor: those sealed for it."""

    heads: Annotated[tuple[SealedHead, ...], Meta(max_length=NEIGHBOURS)]


class Challenge(Message, frozen=True, tag="challenge"):
    """Model owner to contributor: what fixes the sum, and every contributor's nonce, in the order of their names."""

    holders: Annotated[tuple[Name, ...], Meta(max_length=64)]
    """Whose totals make the sum, in the charter's order."""
    releases: Annotated[tuple[SealedHead, ...], Meta(max_length=64)]
    """Theirs, one each."""
    nonces: Annotated[tuple[Nonce, ...], Meta(max_length=limits.PARTIES)]


class Answered(Message, frozen=True, tag="answered"):
    """Contributor to model owner; holds a `MaskedFingerprint`."""

    fingerprint: Signed


class Checked(Message, frozen=True, tag="checked"):
    """Model owner to contributors; holds a `SumCheck`, and the `MaskedFingerprint`s it is about."""

    check: Signed
    answers: Annotated[tuple[Signed, ...], Meta(max_length=limits.PARTIES)]
