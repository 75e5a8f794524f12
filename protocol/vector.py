"""The summed vector: the update's coordinates, then the weight, then the local figures, all weighted alike.

What a data owner would otherwise report (its loss, how many examples it has, whether clipping cut its update) rides
inside the vector, so the model owner learns these only as sums over the whole cohort.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..crypto import ring
from ..crypto.errors import Misuse, Unencodable
from .messages import OpenRound
from .training import Layout


@dataclass(frozen=True)
class Decoded:
    """A summed vector, decoded."""

    sums: tuple[npt.NDArray[np.float64], ...]
    """One flat array an entry of the layout's update, each coordinate the sum of weight x value."""
    total_weight: int
    metrics: dict[str, float]
    """Weighted means over the contributors, by name."""

    def means(self) -> tuple[npt.NDArray[np.float64], ...]:
        """Return the weighted means, one flat array an entry."""
        return tuple(array / self.total_weight for array in self.sums)


def vector_bytes(question: OpenRound) -> int:
    """Return the length of the summed vector in bytes."""
    return question.words * question.plan.dtype.itemsize


def encode_vector(
    question: OpenRound,
    layout: Layout,
    values: Sequence[ring.Values],
    weight: int,
    metrics: Sequence[float],
) -> ring.Words:
    """Return a contribution as ring words.

    Args:
        question: fixes plan, kind and metrics.
        layout: names the entries, so that an error can.
        values: one flat float array an entry of `layout.updated(question.kind)`.
        weight: at least 1, at most the plan's largest.
        metrics: one figure a name of the training plan.

    Raises:
        Unencodable: a value or figure is not finite or out of range; names the tensor, for this site's operator only.
    """
    plan = question.plan
    entries = layout.updated(question.kind)
    if len(values) != len(entries) or len(metrics) != len(question.training.metrics):
        raise Misuse("a task returned another number of arrays or figures than the round asks for")
    words = np.empty(question.words, plan.dtype)
    at = 0
    for entry, array in zip(entries, values, strict=True):
        flat = array.reshape(-1)
        if flat.size != entry.elements:
            raise Misuse(f"a task returned {flat.size} values for {entry.name}, which has {entry.elements}")
        try:
            ring.encode(plan, plan.values, flat, weight, words[at : at + flat.size])
        except Unencodable as error:
            hint = "; the charter's line is rules.arithmetic.value_range"
            raise Unencodable(f"tensor {entry.name}: {error}{hint}", index=error.index) from None
        at += flat.size
    words[at] = ring.encode_weight(plan, weight)
    for offset, (name, figure) in enumerate(zip(question.training.metrics, metrics, strict=True), at + 1):
        try:
            ring.encode(plan, plan.metrics, np.array([figure], np.float64), weight, words[offset : offset + 1])
        except Unencodable as error:
            hint = "; the charter's line is rules.arithmetic.metric_range"
            raise Unencodable(f"local figure {name}: {error}{hint}", index=error.index) from None
    return words


def decode_vector(question: OpenRound, layout: Layout, words: ring.Words, contributors: int) -> Decoded:
    """Return what the sum of `contributors` vectors says.

    Raises:
        ImplausibleSum: no honest contributors of that number can have this sum.
    """
    plan = question.plan
    at, sums = 0, []
    for entry in layout.updated(question.kind):
        sums.append(ring.decode(plan, plan.values, words[at : at + entry.elements], contributors=contributors))
        at += entry.elements
    total = ring.decode_weight(plan, words[at], contributors=contributors)
    figures = ring.decode(plan, plan.metrics, words[at + 1 :], contributors=contributors) / total
    return Decoded(
        sums=tuple(sums),
        total_weight=total,
        metrics=dict(zip(question.training.metrics, figures.tolist(), strict=True)),
    )
