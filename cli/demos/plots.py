"""One look for every picture of a demo: the palette, the axes, and a file of each kind.

Rules of the file:
- Colours are those of Okabe and Ito, which people with any colour vision tell apart, and a series differs from its
  neighbours by its line or marker too. A party has the same colour in every picture of a run.
- Every axis says what it shows and in which unit; accuracy is in per cent and stands on 0 to 100 %.
- Each picture is written as PNG, for a person, and as SVG with its text as text, for a page and a screen reader. The
  same figures give the same bytes.
"""

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...crypto.files import reason, replace_file
from .errors import DemoError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
GLOBAL: Final = BLACK
"""The federated model."""
PARTIES: Final = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
"""Data owners, in the order of their names."""
BASELINE: Final = ORANGE
"""What the federated model is compared with."""
STYLES: Final = ("-", "--", "-.", ":")
FEW: Final = 20
"""Up to this many points each is marked."""
_DPI: Final = 120


def panels(title: str, count: int, *, height: float = 3.6, width: float = 4.5) -> "tuple[Figure, list[Axes]]":
    """Return a figure with `count` axes side by side, without any window or global state."""
    # It logs a warning about its font cache the first time, which is nobody's problem here.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * max(count, 2), height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = [figure.add_subplot(1, count, number + 1) for number in range(count)]
    for each in axes:
        each.grid(visible=True, alpha=0.3)
    return figure, axes


def series(axes: "Axes", rounds: Sequence[int], values: Sequence[float], label: str, place: int, colour: str) -> None:
    """Draw one line over rounds; `place` among its neighbours says how it is dashed."""
    marker = "o" if len(rounds) <= FEW else ""
    axes.plot(
        rounds, values, color=colour, linestyle=STYLES[place % len(STYLES)], marker=marker, markersize=4, label=label
    )


def label(axes: "Axes", title: str, x: str, y: str, *, per_cent: bool = False, beside: bool = False) -> None:
    """Say what the axes show; accuracy stands on its whole scale. `beside`: a long legend hides no line."""
    from matplotlib.ticker import MaxNLocator

    if x == "round":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.set_ylim(0, 102 if per_cent else None)
    if axes.get_legend_handles_labels()[0]:
        where: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)} if beside else {}
        axes.legend(fontsize="small", **where)


def save(figure: "Figure", path: Path) -> tuple[Path, ...]:
    """Write the picture as PNG and SVG beside each other, and return both paths; raises `DemoError`."""
    import matplotlib

    written = []
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None, "Creator": None})):
        target, data = path.with_suffix(suffix), io.BytesIO()
        options: dict[str, Any] = {"format": suffix[1:], "dpi": _DPI, "metadata": metadata}
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tertium"}):
            figure.savefig(data, **options)
        try:
            replace_file(target, data.getvalue(), mode=0o644)
        except OSError as error:
            raise DemoError(f"cannot write {target}: {reason(error)}") from None
        written.append(target)
    return tuple(written)
