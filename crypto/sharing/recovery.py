"""Which totals make the right sum, where more are here than are needed and some of them lie.

It asks nothing of a scheme but its combiner, so it serves every scheme whose threshold is below its holders. Whoever
knows a fingerprint of the right sum takes the largest set of totals that has it. Without one, a set says something only
if it is larger than the threshold: then its totals agree with each other, and if fewer lie than it exceeds that by, so
do they with the truth. Two such sets without a fingerprint name different liars, so they name nobody.
"""

import itertools
from collections.abc import Callable, Mapping

from ..errors import Misbehaviour
from ..ring import Plan, Words
from .base import Scheme

Accept = Callable[[Words], bool]
"""Whether a sum is the right one."""


def recover_sum(
    scheme: Scheme, plan: Plan, length: int, totals: Mapping[int, Words], accept: Accept | None
) -> tuple[Words, tuple[int, ...]] | None:
    """Return the sum of the largest set of totals that make the right one, and the holders that are in no such set.

    None if there is no such set; without `accept` also if there are several. At most 2^m sums are made (m <= 8), and
    only after a lie.
    """
    combiner, given = scheme.combiner(plan, length), sorted(totals)
    least = scheme.threshold if accept is not None else scheme.threshold + 1
    for size in range(len(given) - 1, least - 1, -1):
        found = []
        for some in itertools.combinations(given, size):
            try:
                total = combiner.combine({index: totals[index] for index in some})
            except Misbehaviour:
                continue
            if accept is None or accept(total):
                found.append((total, some))
        if found:
            right = set().union(*(some for _, some in found))
            several = accept is None and len(found) > 1
            return None if several else (found[0][0], tuple(index for index in given if index not in right))
    return None
