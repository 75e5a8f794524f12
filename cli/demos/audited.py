"""The audit of a run folder, as `tertium audit` does it, for whoever has just finished a run there."""

from dataclasses import dataclass
from pathlib import Path

from ...audit import page
from ...audit.examine import examine
from ...audit.reading import read_run
from ...audit.summary import lines

PAGE = "audit.html"


@dataclass(frozen=True)
class Audited:
    """What an audit says."""

    verdict: str
    """`clean` or `violation`."""
    lines: tuple[str, ...]
    """What `tertium audit` prints."""


def audited(run: Path) -> Audited:
    """Audit a run folder and write the page beside its charter; raises `UnusableRun`, `CharterError`."""
    with read_run(run) as given:
        found = examine(given)
        page.write(run / PAGE, page.draw(found.report, page.entries_of(given)))
    return Audited(found.report.verdict, tuple(lines(found.report)))
