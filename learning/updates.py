"""Arithmetic on updates that needs no torch: layouts compared, differences, clipping, aggregates checked.

Arrays here are flat, float32 or float64, one an entry of `layout.updated(kind)`. float16, bfloat16 and float32 tensors
are exchanged as float32, float64 and all integers as float64 (integers as the difference to the global model, exact to
2**53, under every kind that carries them).
"""

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ..protocol.errors import SiteFileError
from ..protocol.training import DType, Entry, Layout, UpdateKind
from .errors import BadUpdate
from .task import Values

TestData = TypeVar("TestData")
"""Whatever a task keeps its test data in."""


def exchange_type(entry: Entry) -> type[np.float32] | type[np.float64]:
    """Return the element type in which updates of this tensor are exchanged."""
    return np.float32 if entry.dtype.is_float and entry.dtype is not DType.FLOAT64 else np.float64


def require_same_layout(own: Layout, given: Layout) -> None:
    """Check that a model given to us is the one our task builds.

    Raises:
        SiteFileError: it is not; the message names the first tensor that differs.
    """
    for ours, theirs in zip(own.entries, given.entries, strict=False):
        if ours == theirs:
            continue
        if ours.name != theirs.name:
            raise SiteFileError(f"the model has tensor {theirs.name} where this site's task has {ours.name}")
        for field, what in (("dtype", "type"), ("shape", "shape"), ("trainable", "training"), ("aliases", "ties")):
            if getattr(ours, field) != getattr(theirs, field):
                raise SiteFileError(f"tensor {ours.name} of the model differs from this site's task in its {what}")
    longer, shorter = (own, given) if len(own.entries) > len(given.entries) else (given, own)
    if len(longer.entries) != len(shorter.entries):
        extra = longer.entries[len(shorter.entries)].name
        whose = "this site's task" if longer is own else "the model"
        raise SiteFileError(f"only {whose} has a tensor {extra}")


def require_model_length(layout: Layout, length: int) -> None:
    """Check that a model's bytes are as long as its layout says; raises `SiteFileError`."""
    if length != layout.model_bytes:
        raise SiteFileError(f"the model has {length} bytes and its layout describes {layout.model_bytes}")


def clip(differences: Sequence[Values], limit: float | None) -> tuple[list[Values], bool]:
    """Scale `differences` down so that together they are at most `limit` long in L2; return whether that was needed.

    The length is taken in float64 over all arrays. None leaves everything as it is; so does a length that is not
    finite, since the encoder refuses such values by their tensor's name.
    """
    arrays: list[Values] = list(differences)
    if limit is None:
        return arrays, False
    length = math.sqrt(sum(float(np.sum(np.square(array, dtype=np.float64))) for array in arrays))
    if not math.isfinite(length) or length <= limit:
        return arrays, False
    factor = limit / length
    return [_scaled(array, factor) for array in arrays], True


def _scaled(array: Values, factor: float) -> Values:
    scaled: Values = array * array.dtype.type(factor)
    return scaled


def require_aggregate(layout: Layout, kind: UpdateKind, aggregate: Sequence[Values]) -> list[npt.NDArray[np.float64]]:
    """Return the aggregate as float64 arrays, one an entry of `layout.updated(kind)`.

    Raises:
        BadUpdate: an array is missing, has another length, or holds something that is not finite.
    """
    entries = layout.updated(kind)
    if len(entries) != len(aggregate):
        raise BadUpdate(f"an aggregate of {len(aggregate)} arrays for a model that exchanges {len(entries)} tensors")
    checked = []
    for entry, array in zip(entries, aggregate, strict=True):
        if array.shape != (entry.elements,):
            raise BadUpdate(f"the aggregate of {entry.name} has shape {array.shape}, not ({entry.elements},)")
        if not np.isfinite(array).all():
            raise BadUpdate(f"the aggregate of {entry.name} is not finite")
        checked.append(np.asarray(array, dtype=np.float64))
    return checked


def moved_integers(
    entry: Entry, current: npt.NDArray[np.int64], mean: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Return integers moved by a mean difference, rounded half to even; raises `BadUpdate` outside the type's range."""
    bounds = np.iinfo(entry.dtype.value)
    step = np.rint(mean)
    if step.size and float(np.abs(step).max()) > 2**53:
        raise BadUpdate(f"the aggregate of {entry.name} is larger than a difference of integers can be")
    steps = step.astype(np.int64)
    # compared by subtraction on the side that cannot wrap
    over = (steps > 0) & (current > bounds.max - np.maximum(steps, 0))
    under = (steps < 0) & (current < bounds.min - np.minimum(steps, 0))
    if (over | under).any():
        raise BadUpdate(f"the aggregate of {entry.name} leaves the range of {entry.dtype.value}")
    return current + steps


def own_test(kind: UpdateKind, test: TestData | None) -> TestData:
    """Return the test data that a data owner's own model is scored on; raises `SiteFileError` if it cannot be."""
    if test is None:
        raise SiteFileError("this party's task has no test data to score its own model on")
    if kind is UpdateKind.GRADIENTS:
        raise SiteFileError("the plan asks for gradients, so no model is trained locally that could be scored")
    return test


def mean_of(updates: Iterable[Sequence[Values]]) -> list[npt.NDArray[np.float64]]:
    """Return the unweighted float64 mean of updates, array by array: the slow, obvious reference for tests and demos.

    Raises:
        BadUpdate: there are no updates, or they do not have the same shapes.
    """
    rows = [list(update) for update in updates]
    if not rows or any([array.shape for array in row] != [array.shape for array in rows[0]] for row in rows):
        raise BadUpdate("a mean needs updates, all of one shape")
    return [np.stack(column).astype(np.float64).sum(axis=0) / len(rows) for column in zip(*rows, strict=True)]
