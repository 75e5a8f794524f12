"""The plot of a demo: loss and accuracy of the global model per round, and where centralised training ended."""

import logging
from collections.abc import Sequence
from pathlib import Path

from ...crypto.files import reason
from ...protocol.progress import Scored
from ...protocol.training import Score
from .errors import DemoError


def draw(path: Path, title: str, scores: Sequence[Scored], centralised: Score | None) -> None:
    """Write the plot as PNG; raises `DemoError` if the file cannot be written."""
    # It logs a warning about its font cache the first time, which is nobody's problem here.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    rounds = [scored.round for scored in scores]
    marker = "o" if len(scores) <= 20 else ""
    left.plot(rounds, [scored.loss for scored in scores], color="tab:blue", marker=marker, label="federated")
    left.set(title="loss on test data", xlabel="round", ylim=(0, None))
    accuracies = [scored.accuracy for scored in scores if scored.accuracy is not None]
    if len(accuracies) == len(scores):
        right.plot(rounds, [100 * value for value in accuracies], color="tab:blue", marker=marker, label="federated")
    right.set(title="accuracy on test data, %", xlabel="round", ylim=(0, 102))
    if centralised is not None:
        left.axhline(centralised.loss, color="tab:orange", linestyle="--", label="centralised, at the end")
        if centralised.accuracy is not None:
            right.axhline(
                100 * centralised.accuracy, color="tab:orange", linestyle="--", label="centralised, at the end"
            )
    for axes in (left, right):
        axes.grid(visible=True, alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    figure.suptitle(title)
    try:
        figure.savefig(path, dpi=120, metadata={"Software": None})
    except OSError as error:
        raise DemoError(f"cannot write {path}: {reason(error)}") from None
