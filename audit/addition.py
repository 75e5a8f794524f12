"""The one addition that a replay and a piece of evidence both do: opened shares, by the scheme's own halves.

Rules of the file:
- Nothing is looked up and nothing is believed here: whoever calls has held each opening to the commitment in a signed
  header, and knows why these are the shares that count. Only numbers are made and compared.
- Room is asked for once, for as many words as the question says, so a caller bounds `vector_bytes` before. Time is that
  of the addition itself: contributors times words, since a seed of 32 bytes stands for a whole vector.
- Whatever a share or a total is, a peer's error comes out and no other: what is added was signed by those who may lie.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..crypto.errors import WrongHolders, WrongShare
from ..crypto.labels import Buffer
from ..crypto.ring import Words
from ..crypto.sharing.wire import total_from_section
from ..protocol.messages import OpenRound
from ..protocol.seats import Seats

Sections = Callable[[str], Sequence[Buffer]]
"""What a contributor opens of its share for the holder whose total is made: the sections of the body."""


def total_of_shares(
    seats: Seats, question: OpenRound, holder: str, contributors: Sequence[str], sections: Sections
) -> Words:
    """Return a holder's total over the shares of these contributors, asked for one by one: words of the plan.

    Which word a number stands for is unique in every scheme, in a ring and in a field, so the order of the contributors
    makes no difference and two totals of the same shares are equal bit for bit.

    Raises:
        WrongShare, WrongLength: a share is none that this holder gets of a contributor of this question.
        what `sections` raises.
    """
    index = seats.index(holder)
    if index is None:
        raise WrongShare(f"{holder} holds nothing that could be added")
    half = seats.scheme.holder(question.plan, question.words, index)
    total, cohort = half.zero(), frozenset(question.cohort)
    for contributor in contributors:
        if contributor not in cohort:
            raise WrongShare(f"{contributor} was not asked, and has no share")
        share = seats.share(question, contributor, holder, sections(contributor))
        if share is None:
            raise WrongShare(f"{holder} holds nothing of {contributor}")
        half.accumulate(total, share)
    return total


def opened_total(seats: Seats, question: OpenRound, sections: Sequence[Buffer]) -> Words:
    """Return the total in the body of a release.

    Raises:
        WrongLength: it is not as long as the scheme and the plan make it.
    """
    section = memoryview(sections[0]) if len(sections) == 1 else memoryview(b"".join(sections))
    return total_from_section(seats.scheme, question.plan, question.words, section)


def sum_of_totals(seats: Seats, question: OpenRound, totals: Mapping[str, Words]) -> Words:
    """Return the sum that holders' totals make: words of the plan.

    Raises:
        WrongShare: they are too few, or of somebody who holds nothing.
        InconsistentTotals: they contradict each other.
    """
    numbered: dict[int, Words] = {}
    for holder, total in totals.items():
        index = seats.index(holder)
        if index is None:
            raise WrongShare(f"{holder} holds nothing that could be added")
        numbered[index] = total
    try:
        return seats.scheme.combiner(question.plan, question.words).combine(numbered)
    except WrongHolders as error:
        # In a role this is a bug of ours; here it is a file that names the holders.
        raise WrongShare(str(error)) from None


def same(one: Words, other: Words) -> bool:
    """Return whether two totals are equal, bit for bit."""
    return np.array_equal(one, other)
