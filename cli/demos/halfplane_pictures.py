"""The three pictures of the halfplane demo, and what its learned line is in words. From files and figures alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...learning.points import BOUNDARY, held_out_points
from ...protocol.progress import Scored
from .plots import BASELINE, BLUE, GLOBAL, VERMILION, label, panels, save, series

_SHOWN = 1000
"""Points in the picture: more hide the lines."""
_TITLE = "tertium demo halfplane"


def learned(model: Path) -> tuple[float, float, float]:
    """Return constant and two weights of the finished model: it answers 1 where they give a point more than 0."""
    from safetensors.numpy import load_file

    tensors = load_file(model)
    first, second = (float(weight) for weight in np.asarray(tensors["0.weight"], dtype=np.float64).reshape(-1))
    return float(np.asarray(tensors["0.bias"], dtype=np.float64).reshape(-1)[0]), first, second


def closing(model: Path) -> list[str]:
    """Return the true line and the learned one, scaled to the same last weight if that changes no answer."""
    line = learned(model)
    scale = BOUNDARY[2] / line[2] if line[2] > 0 else 1.0
    return [
        f"{name:<8} {_words(*values)}" for name, values in (("true", BOUNDARY), ("learned", [scale * w for w in line]))
    ]


def draw(run: Path, scores: Sequence[Scored], seed: int) -> tuple[str, ...]:
    """Draw the data with both lines, the loss and the accuracy into the run folder, and return the pictures' names.

    Raises:
        DemoError: one cannot be written.
    """
    figure, (axes,) = panels(_TITLE, 1, height=6.4, width=3.2)
    points, labels = held_out_points(seed, _SHOWN)
    for value, colour, marker in ((1.0, BLUE, "o"), (0.0, VERMILION, "x")):
        here = points[labels == value]
        axes.scatter(
            here[:, 0], here[:, 1], s=12, color=colour, marker=marker, linewidths=0.8, label=f"label {value:.0f}"
        )
    for line, colour, style, name in (
        (BOUNDARY, BASELINE, "--", "true line"),
        (learned(run / "model.safetensors"), GLOBAL, "-", "learned line"),
    ):
        ends = _ends(*line)
        if len(ends) == 2:
            (left, low), (right, high) = ends
            axes.plot((left, right), (low, high), color=colour, linestyle=style, linewidth=2.5, label=name)
    label(axes, f"{_SHOWN:,} points that nobody trained on", "x1 (no unit)", "x2 (no unit)")
    axes.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal")
    save(figure, run / "boundary.png")
    rounds = [scored.round for scored in scores]
    tested = f"on {scores[-1].examples:,} points that nobody trained on"
    figure, (axes,) = panels(_TITLE, 1, width=3.2)
    series(axes, rounds, [scored.loss for scored in scores], "federated", 0, GLOBAL)
    label(axes, f"loss {tested}", "round", "binary cross-entropy (nats)")
    save(figure, run / "loss.png")
    figure, (axes,) = panels(_TITLE, 1, width=3.2)
    series(axes, rounds, [100 * (scored.accuracy or 0.0) for scored in scores], "federated", 0, GLOBAL)
    label(axes, f"accuracy {tested}", "round", "accuracy, %", per_cent=True)
    save(figure, run / "accuracy.png")
    return "boundary", "loss", "accuracy"


def _words(constant: float, first: float, second: float) -> str:
    return f"{constant:+.3f} {first:+.3f} x1 {second:+.3f} x2 > 0"


def _ends(constant: float, first: float, second: float) -> list[tuple[float, float]]:
    """Return where the line enters and leaves the square: two points, or none where it passes it by."""
    found = []
    for side in (-1.0, 1.0):
        if second and abs(at := -(constant + first * side) / second) <= 1:
            found.append((side, at))
        if first and abs(at := -(constant + second * side) / first) <= 1:
            found.append((at, side))
    return sorted(set(found))[:: max(len(set(found)) - 1, 1)]
