"""What a scheme costs a word: time in each half, measured here and now, and bytes on the wire.

Times are the best of several rounds over vectors of 2^20 bytes, without sealing or sockets; compare them with each
other and not with another machine's.
"""

import time
from collections.abc import Callable
from functools import partial

import msgspec
import numpy as np

from .base import Kind, Scheme
from .conformance_aids import PLANS, copied, secrets
from .naming import declare
from .wire import share_bytes

_BYTES = 2**20
_ROUNDS = 7


class Cost(msgspec.Struct, frozen=True):
    """Cost for one size of words."""

    word_bits: int
    dealer_ns: float
    """Nanoseconds a word to split a secret, into memory that is there."""
    vector_holder_ns: float | None
    """Nanoseconds a word to add a share with a vector in it; None if there is none."""
    seed_holder_ns: float | None
    """Nanoseconds a word to add a share of seeds alone; None if there is none."""
    combiner_ns: float
    """Nanoseconds a word to combine all holders' totals."""
    upload_bytes: float
    """Bytes a data owner sends for each word of a long vector: the mean over the turns."""
    total_bytes: float
    """Bytes all holders together release for each word."""


def wire_bytes(scheme: Scheme, word_bits: int = 32) -> tuple[float, int]:
    """Return what a data owner sends: bytes for each word (the mean over turns), and the most bytes of seeds.

    A float32 weight is one word of 32 bits, where the plan's precision allows.
    """
    forms = declare(scheme).forms
    vectors = sum(each.count(Kind.VECTOR) for turn in forms for each in turn) / len(forms)
    seeds = max(sum(each.count(Kind.SEED) for each in turn) for turn in forms)
    return vectors * word_bits / 8, 32 * seeds


def measure(scheme: Scheme) -> tuple[Cost, ...]:
    """Return the cost for 32-bit and for 64-bit words."""
    found = []
    for plan in PLANS:
        length = _BYTES // plan.dtype.itemsize
        secret, out = secrets(plan, length, 1, scheme.domain), np.zeros(length, plan.dtype)
        dealer, combiner = scheme.dealer(plan, length), scheme.combiner(plan, length)
        shares = copied(dealer.split(secret, 0))
        sums = {index: scheme.holder(plan, length, index).zero() for index in range(scheme.holders)}
        adding: dict[bool, Callable[[], object]] = {}
        for index, share in enumerate(shares):
            holder = scheme.holder(plan, length, index)
            holder.accumulate(sums[index], share)
            adding[_all_seeds(scheme, index)] = partial(holder.accumulate, sums[index].copy(), share)
        sent = [
            sum(sum(share_bytes(scheme, plan, length, index, turn)) for index in range(scheme.holders))
            for turn in range(scheme.holders)
        ]
        found.append(
            Cost(
                word_bits=plan.word_bits,
                dealer_ns=_best(partial(dealer.split, secret, 0, out=out), length),
                vector_holder_ns=_best(adding[False], length) if False in adding else None,
                seed_holder_ns=_best(adding[True], length) if True in adding else None,
                combiner_ns=_best(partial(combiner.combine, sums), length),
                upload_bytes=sum(sent) / len(sent) / length,
                total_bytes=scheme.holders * scheme.total_vectors * plan.dtype.itemsize,
            )
        )
    return tuple(found)


def _all_seeds(scheme: Scheme, index: int) -> bool:
    return Kind.VECTOR not in scheme.form(index, 0)


def _best(step: Callable[[], object], length: int) -> float:
    best = float("inf")
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        step()
        best = min(best, time.perf_counter() - begun)
    return round(best * 1e9 / length, 3)
