"""The picture every demo has: loss and accuracy of the global model per round, beside training in one place."""

from collections.abc import Sequence
from pathlib import Path

from ...protocol.progress import Scored
from ...protocol.training import Score
from .plots import BASELINE, GLOBAL, label, panels, save, series


def draw(path: Path, title: str, scores: Sequence[Scored], centralised: Score | None) -> tuple[Path, ...]:
    """Write the picture, and return its files; raises `DemoError` if one cannot be written."""
    figure, (left, right) = panels(title, 2)
    rounds = [scored.round for scored in scores]
    series(left, rounds, [scored.loss for scored in scores], "federated", 0, GLOBAL)
    accuracies = [100 * scored.accuracy for scored in scores if scored.accuracy is not None]
    if len(accuracies) == len(scores):
        series(right, rounds, accuracies, "federated", 0, GLOBAL)
    if centralised is not None:
        words = "in one place, at the end"
        left.axhline(centralised.loss, color=BASELINE, linestyle="--", label=words)
        if centralised.accuracy is not None:
            right.axhline(100 * centralised.accuracy, color=BASELINE, linestyle="--", label=words)
    label(left, "loss on test data", "round", "loss")
    label(right, "accuracy on test data", "round", "accuracy, %", per_cent=True)
    return save(figure, path)
