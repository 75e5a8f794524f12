"""Two families of errors: we misused it, they misbehaved. Anything else that escapes is a bug.

Every class is one named reason. `code` is what travels in a refusal and stands in logs; it is the class name in kebab
case, so the name in the documentation, the wire and the traceback of a test is one and the same.
"""

import re
from typing import ClassVar


class TertiumError(Exception):
    """The root of all errors tertium raises on purpose."""

    code: ClassVar[str] = "tertium-error"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.code = re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()


class Misuse(TertiumError):
    """This party was configured or called wrongly; its own operator can mend it."""


class Misbehaviour(TertiumError):
    """Another party, or someone on the path, sent what the protocol does not allow."""

    def __init__(self, reason: str, *, party: str | None = None) -> None:
        super().__init__(f"{party}: {reason}" if party else reason)
        self.reason = reason
        self.party = party


class KeyFileError(Misuse):
    """A key file is missing, malformed, or readable by others."""


class BadSignature(Misbehaviour):
    """A signature does not verify under the key the charter names."""


class BadWrappedKey(Misbehaviour):
    """The content key does not open: wrong recipient key, wrong header, or altered bytes."""


class BadRecipientKey(Misbehaviour):
    """A public key offered for sealing is none."""


class BadBody(Misbehaviour):
    """A sealed body was altered, truncated, extended or reordered."""


class CommitmentMismatch(Misbehaviour):
    """The opened body is not the one the signed header committed to."""


class BadPlan(Misuse, ValueError):
    """A fixed-point plan could wrap, or is coarser than was asked.

    A ValueError too, so that msgspec reports a bad plan in a file or a message as the `ValidationError` it is.
    """


class Unencodable(Misuse):
    """A value is not finite or lies outside the plan's range."""

    def __init__(self, reason: str, *, index: int | None = None) -> None:
        super().__init__(reason)
        self.index = index


class BadWeight(Misuse):
    """A contribution's weight is zero, negative, or above the plan's largest."""


class WrongArray(Misuse):
    """An array has another length, element type or shape than the plan or the call asks for."""


class BadSeed(Misuse):
    """A keystream seed is not 32 bytes."""


class ErasedKeystream(Misuse):
    """A keystream was used after it was erased."""


class UnknownScheme(Misuse):
    """No secret-sharing scheme has this name."""


class BadScheme(Misuse):
    """A secret-sharing scheme cannot be loaded, or breaks the rules of the extension point."""


class ForTestsOnly(Misuse):
    """The scheme `dummy`, which hides nothing, was asked for outside a test."""


class WrongHolders(Misuse):
    """A scheme was built for, or given partial totals of, other holders than it has or combines."""


class NotInTree(Misuse):
    """A Merkle proof was asked for a leaf or a size that the tree does not have."""


class BadProof(Misbehaviour):
    """A Merkle proof does not show what it is said to show."""


class WrongLength(Misbehaviour):
    """A vector on the wire is not as long as the plan and the layout make it."""


class WrongShare(Misbehaviour):
    """A share is of another kind than this holder of the scheme takes."""


class InconsistentTotals(Misbehaviour):
    """Partial totals contradict each other, so a holder lied or added other shares than the rest."""


class ImplausibleSum(Misbehaviour):
    """A sum, or a total weight, that no set of honest contributors could have made."""
