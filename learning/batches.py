"""Which examples form which batch: an order anyone can repeat from a stream, with or without torch.

The order of a pass is the sort of one 64-bit key an example, drawn from BLAKE3 in its extendable-output mode, so it
does not depend on a library's generator or on the order of calls. It is public and protects nothing.
Each pass over the data is shuffled anew and ends with a smaller batch where the size does not divide the number of
examples, as torch's DataLoader does by default; the next batch begins the next pass.
"""

import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ..crypto.labels import Label, hasher
from ..protocol.training import TrainingPlan

Indices = npt.NDArray[np.int64]


def shuffled(count: int, *parts: bytes) -> Indices:
    """Return the numbers 0 to count - 1 in the order that the byte strings `parts` fix."""
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    keys = np.frombuffer(hasher(Label.BATCH_ORDER, *parts).digest(length=8 * count), dtype="<u8")
    return np.argsort(keys, kind="stable").astype(np.int64)


def batch_order(count: int, plan: TrainingPlan, stream: bytes) -> Iterator[Indices]:
    """Yield, batch by batch, which of a party's `count` examples to train on; nothing where there are none."""
    if count == 0:
        return
    size = plan.batch_size or count
    left = plan.batches or plan.epochs * -(-count // size)
    for turn in range(left):
        order = shuffled(count, stream, struct.pack(">Q", turn))
        for start in range(0, count, size):
            yield order[start : start + size]
            left -= 1
            if left == 0:
                return


def examples_touched(count: int, plan: TrainingPlan) -> int:
    """Return how many different examples the plan's batches reach: the weight under the rule `examples`."""
    if plan.epochs and not plan.batches:
        return count
    return min(count, plan.batches * (plan.batch_size or count))
