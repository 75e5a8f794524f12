"""Shares and partial totals as the sections of an envelope's body, and back.

A section has no mark that says what it is: `form(holder, turn)` is public and follows from signed numbers, so both ends
know it, and a holder can refuse an announced length before a byte of the body has come.
"""

from collections.abc import Sequence

from ..errors import WrongShare
from ..keystream import SEED_BYTES
from ..labels import Buffer
from ..ring import Plan, Words, from_wire, to_wire
from .base import Kind, Piece, Scheme, Seed, Share, pieces


def share_sections(share: Share) -> list[memoryview]:
    """Return a share's pieces as the sections of a body; vectors are not copied."""
    return [memoryview(piece.seed) if isinstance(piece, Seed) else to_wire(piece) for piece in pieces(share)]


def share_bytes(scheme: Scheme, plan: Plan, length: int, holder: int, turn: int) -> list[int]:
    """Return how long each section of this holder's share is at this turn.

    Raises:
        WrongHolders: there is no holder of that number.
    """
    scheme.check_index(holder)
    vector = length * plan.dtype.itemsize
    return [SEED_BYTES if each is Kind.SEED else vector for each in scheme.form(holder, turn)]


def share_from_sections(
    scheme: Scheme, plan: Plan, length: int, holder: int, turn: int, sections: Sequence[Buffer]
) -> Share:
    """Return the share that a body's sections hold for this holder at this turn; vectors are not copied.

    Raises:
        WrongHolders: there is no holder of that number.
        WrongShare: there are more or fewer sections than pieces, or a seed is not 32 bytes.
        WrongLength: a vector is not as long as the plan makes it.
    """
    scheme.check_index(holder)
    form = scheme.form(holder, turn)
    if len(form) != len(sections):
        raise WrongShare(f"a share of {len(sections)} piece(s), where the scheme {scheme.name} makes {len(form)}")
    found = tuple(_piece(each, plan, length, section) for each, section in zip(form, sections, strict=True))
    return found[0] if len(found) == 1 else found


def total_bytes(scheme: Scheme, plan: Plan, length: int) -> int:
    """Return how long a partial total is on the wire."""
    return scheme.total_vectors * length * plan.dtype.itemsize


def total_from_section(scheme: Scheme, plan: Plan, length: int, section: Buffer) -> Words:
    """Return the partial total that a section holds, not copied.

    Raises:
        WrongLength: it is not as long as the scheme and the plan make it.
    """
    return from_wire(plan, section, scheme.total_vectors * length)


def _piece(kind: Kind, plan: Plan, length: int, section: Buffer) -> Piece:
    if kind is Kind.VECTOR:
        return from_wire(plan, section, length)
    if memoryview(section).nbytes != SEED_BYTES:
        raise WrongShare(f"a seed of {memoryview(section).nbytes} bytes, where it is {SEED_BYTES}")
    return Seed(bytes(section))
