"""One line about a party's data, for its own operator: counts, never an example."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def numbers(values: Sequence[int]) -> str:
    """Return numbers in words: "0-3" for a run, "1, 5" otherwise, "none" for no number."""
    ordered = sorted(set(values))
    if not ordered:
        return "none"
    if len(ordered) > 1 and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f"{ordered[0]}-{ordered[-1]}"
    return ", ".join(str(value) for value in ordered)


def counts_line(title: str, count: int, labels: npt.NDArray[np.generic] | None = None) -> str:
    """Return "TITLE: COUNT examples (CLASS: COUNT, ...)"; without the classes where `labels` is None or empty."""
    line = f"{title}: {count} examples" if title else f"{count} examples"
    if labels is not None and labels.size:
        kinds, counts = np.unique(labels, return_counts=True)
        line += f" ({', '.join(f'{kind}: {number}' for kind, number in zip(kinds, counts, strict=True))})"
    return line
