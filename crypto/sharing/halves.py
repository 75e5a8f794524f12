"""Parts from which a scheme is made: a holder for pieces that are added in the ring, hiding a secret by seeds, checks.

A scheme may use them or not. Rules of this file:
- Both work in blocks of a keystream: a seed holder makes no vector beside its total, and a dealer none beside the one
  it returns.
- Keys and working memory are overwritten after each use (best effort, see `keystream.py`).
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from ..errors import WrongArray, WrongShare
from ..keystream import BLOCK_BYTES, Scratch
from ..ring import Plan, Words, add, check_words
from .base import Kind, Piece, Scheme, Seed, Share, kind, pieces


def hide(secret: Words, seeds: Sequence[Seed], out: Words) -> None:
    """Write `secret` less the words of all streams to `out`: what to add to those streams to get the secret back.

    Raises:
        WrongArray: `out` is not an array of the same words as `secret`.
    """
    scratch = Scratch()
    streams = [seed.keystream(scratch) for seed in seeds]
    step = BLOCK_BYTES // secret.dtype.itemsize
    try:
        for start in range(0, secret.size, step):
            block = out[start : start + step]
            np.copyto(block, secret[start : start + step])
            # All streams over one block before the next: it stays in the cache, and memory is gone through once.
            for stream in streams:
                stream.subtract_from(block, start)
    finally:
        for stream in streams:
            stream.erase()


def room(secret: Words, plan: Plan, length: int, out: Words | None) -> Words:
    """Check `secret`, and return `out` after checking that too, or fresh memory.

    Raises:
        WrongArray: `secret` is not a vector of this plan and length, `out` is no writable one, or it overlaps `secret`.
    """
    check_words(secret, plan, length)
    if out is None:
        return np.empty(length, plan.dtype)
    check_words(out, plan, length, writable=True)
    if np.may_share_memory(secret, out):
        # A second attempt splits the same secret again.
        raise WrongArray("a share must not be written over the secret")
    return out


class RingHolder:
    """A holder that adds piece i of each share to vector i of its total, modulo 2^word_bits."""

    def __init__(self, plan: Plan, length: int, forms: Collection[tuple[Kind, ...]]) -> None:
        """`forms` are all that this holder can get, at any turn."""
        self._plan, self._length = plan, length
        self._forms = frozenset(forms)
        (self._vectors,) = {len(form) for form in self._forms}
        self._scratch = Scratch()

    def zero(self) -> Words:
        """Return a new total of no shares."""
        return np.zeros(self._vectors * self._length, self._plan.dtype)

    def accumulate(self, total: Words, share: Share) -> None:
        """Add a share to `total`; see `base.Holder`."""
        given = pieces(share)
        if tuple(map(kind, given)) not in self._forms:
            raise wrong_form(self._forms, share)
        self._check(total, writable=True)
        for piece in given:
            if not isinstance(piece, Seed):
                check_words(piece, self._plan, self._length)
        for i, piece in enumerate(given):
            self._add(total[i * self._length : (i + 1) * self._length], piece)

    def merge(self, total: Words, other: Words) -> None:
        """Add another total to `total`; see `base.Holder`."""
        self._check(total, writable=True)
        self._check(other)
        add(total, other)

    def _add(self, total: Words, piece: Piece) -> None:
        if isinstance(piece, Seed):
            stream = piece.keystream(self._scratch)
            try:
                stream.add_into(total)
            finally:
                stream.erase()
        else:
            add(total, piece)

    def _check(self, total: Words, *, writable: bool = False) -> None:
        check_words(total, self._plan, self._vectors * self._length, writable=writable)


def ring_holder(scheme: Scheme, plan: Plan, length: int, index: int) -> RingHolder:
    """Return a `RingHolder` that takes what `scheme.form` gives holder `index`, at any turn.

    Raises:
        WrongHolders: there is no holder of that number.
    """
    scheme.check_index(index)
    return RingHolder(plan, length, {scheme.form(index, turn) for turn in range(scheme.holders)})


def check_totals(scheme: Scheme, plan: Plan, length: int, partials: Mapping[int, Words]) -> None:
    """Check partial totals before combining them.

    Raises:
        WrongHolders: they are too few, or one is of a holder there is not.
        WrongArray: one is not a total of this plan and length.
    """
    scheme.check_holders(frozenset(partials))
    for total in partials.values():
        check_words(total, plan, scheme.total_vectors * length)


def wrong_form(forms: Collection[tuple[Kind, ...]], share: Share) -> WrongShare:
    """Return the error for a share that has none of the forms a holder can get."""
    wanted = " or ".join(sorted(_words(form) for form in forms))
    return WrongShare(f"this holder takes {wanted}, and this share is {_words(tuple(map(kind, pieces(share))))}")


def _words(form: tuple[Kind, ...]) -> str:
    return " and ".join(f"a {each.value}" for each in form) or "nothing"
