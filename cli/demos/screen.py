"""How a person sees a demo: one pane a party on a terminal, prefixed lines in a pipe, nothing but problems with --json.

Nothing that a party printed is taken as markup or reaches a terminal unprintable.
"""

import os
import textwrap
import time
from abc import ABC, abstractmethod
from collections import deque

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ...protocol.charter import Role
from ...protocol.progress import (
    Ended,
    Opened,
    RefusedProgress,
    RoundClosed,
    RoundDone,
    RoundOpened,
    Said,
    Scored,
    ScoredOwn,
    Sealed,
    Started,
    SumChecked,
    TrainedLocally,
)
from ...protocol.progress import Progress as Reported
from ...protocol.text import printable
from .launcher import Line
from .recipes import Member, Recipe

FEW = 20
"""Up to this many rounds a pipe shows each; of more, the first, every tenth and the last."""
EVERY = 10
_CHATTER = (Sealed, Opened, RoundOpened)
"""What a pipe shows of the first round only, unless asked for more."""
_PER_ROUND = (*_CHATTER, TrainedLocally, RoundClosed, RoundDone, SumChecked, Scored)
_REFRESH = 0.125
_PANE = (4, 12)
_NARROW = 60
_CROWD = ""
"""The pane of data owners that are too many for one each: no party has this name."""


class Screen(ABC):
    """Shows a demo while it runs."""

    def __enter__(self) -> "Screen":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def line(self, line: Line) -> None:
        """Show what a party printed; a line of no party is the launcher's own."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Show a line of the launcher's own."""

    def warn(self, text: str) -> None:
        """Show a line that must not be missed."""
        self.note(text)

    def close(self) -> None:  # noqa: B027 - lines need no end
        """Leave the terminal as it was found, with the last state on it."""


class Quiet(Screen):
    """With --json: standard output is for the one object, warnings go to standard error."""

    def line(self, line: Line) -> None:
        """Show nothing: what a party did wrong is in its log and, if it mattered, in the error at the end."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def warn(self, text: str) -> None:
        """Show a line on standard error."""
        click.echo(printable(text), err=True)


class Plain(Screen):
    """Lines in a pipe, each with its party in front."""

    def __init__(self, recipe: Recipe, rounds: int, *, verbose: bool) -> None:
        self._holders = {member.name for member in recipe.named(Role.SECURE_WORKER)}
        self._warnings: set[str] = set()
        self._width = max(len(member.name) for member in recipe.members)
        self._crowd = recipe.crowd
        self._rounds = rounds
        self._seldom = recipe.own_models
        """Whether the model is scored after a few rounds only, each of which is shown."""
        self._verbose = verbose

    def line(self, line: Line) -> None:
        """Print a line, unless it is one of many like it."""
        if not line.party:
            self.note(line.text)
        elif self._verbose or self._wanted(line):
            click.echo(f"{line.party:<{self._width}} | {printable(line.text)}")

    def note(self, text: str) -> None:
        """Print a line."""
        click.echo(printable(text))

    def warn(self, text: str) -> None:
        """Print a line; a party that says the same is not shown, its log has it."""
        self._warnings.add(text)
        self.note(text)

    def _wanted(self, line: Line) -> bool:
        progress = line.progress
        if isinstance(progress, Said) and progress.text in self._warnings:
            return False
        of_one = isinstance(progress, (*_CHATTER, Said)) or (line.party in self._crowd and progress is not None)
        if self._crowd and of_one and not _loud(progress):
            return False  # a line for each of so many would hide the rounds; the logs have it
        if not isinstance(progress, _PER_ROUND) or (isinstance(progress, Scored) and self._seldom):
            return True
        number = progress.round
        if number != 1 and (
            isinstance(progress, _CHATTER) or (isinstance(progress, RoundClosed) and line.party not in self._holders)
        ):
            return False
        return self._rounds <= FEW or number in (1, self._rounds) or number % EVERY == 0


class Panes(Screen):
    """One pane a party, in its colour, over a bar of rounds, drawn on a terminal."""

    def __init__(self, recipe: Recipe, rounds: int, console: Console) -> None:
        self._holders = {member.name for member in recipe.named(Role.SECURE_WORKER)}
        self._subtitles = {member.name: "starting" for member in recipe.members}
        shown = [member for member in recipe.members if member.role is not Role.DATA_OWNER]
        self._titles = {member.name: f"{member.name}, {member.role.words}" for member in recipe.members}
        self._crowd, owners = recipe.crowd, list(recipe.named(Role.DATA_OWNER))
        if self._crowd:
            owners = [Member(_CROWD, Role.DATA_OWNER, owners[0].colour, "")]
            self._titles[_CROWD] = f"{len(self._crowd)} data owners"
            self._subtitles[_CROWD] = f"{min(self._crowd)} to {max(self._crowd)}"
        self._rows = [shown, owners]
        self._width = console.width
        low, high = _PANE
        self._height = max(low, min(high, (console.height - 4) // len(self._rows)))
        self._texts: dict[str, deque[Text]] = {
            member.name: deque(maxlen=self._height - 2) for member in (*shown, *owners)
        }
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[accuracy]}"),
            TimeElapsedColumn(),
            console=console,
            expand=True,
        )
        self._rounds: TaskID = self._bar.add_task("rounds", total=rounds, accuracy="")
        self._status = Text()
        self._live = Live(self._drawn(), console=console, auto_refresh=False, vertical_overflow="crop")
        self._drawn_at = 0.0

    def __enter__(self) -> "Panes":
        self._live.start()
        return self

    def line(self, line: Line) -> None:
        """Put a line into its party's pane."""
        if not line.party:
            self.note(line.text)
            return
        progress, pane = line.progress, _CROWD if line.party in self._crowd else line.party
        text = compact(line, holder=line.party in self._holders)
        if pane == line.party and isinstance(progress, Started):
            self._subtitles[line.party] = f"pid {progress.pid}" + (f", {progress.text}" if progress.text else "")
        if not text:
            return
        style = "bold" if isinstance(progress, TrainedLocally | Scored | ScoredOwn) else ""
        if _loud(progress):
            style = "bold red"
        if pane != line.party:
            text = f"{line.party} {text}"
        for piece in self._wrapped(pane, text) if isinstance(progress, Started) else [text]:
            self._texts[pane].append(Text(printable(piece), style=style, no_wrap=True, overflow="ellipsis"))
        if isinstance(progress, RoundDone):
            self._bar.update(self._rounds, completed=progress.round)
        if isinstance(progress, Scored):
            figure = f"accuracy {progress.accuracy:.1%}" if progress.accuracy is not None else ""
            self._bar.update(self._rounds, accuracy=figure or f"loss {progress.loss:.4f}")
        self._draw()

    def _wrapped(self, party: str, text: str) -> list[str]:
        """Return what a party says it holds in lines as wide as its pane: nobody scrolls there for the rest of it."""
        row = next(row for row in self._rows if any(member.name == party for member in row))
        return textwrap.wrap(text, max(20, self._width // len(row) - 4))

    def note(self, text: str) -> None:
        """Show a line under the panes."""
        self._status = Text(printable(text), no_wrap=True, overflow="ellipsis")
        self._draw(now=True)

    def warn(self, text: str) -> None:
        """Print a line above the panes, where it stays."""
        self._live.console.print(Text(printable(text), style="bold red"))

    def close(self) -> None:
        """Draw the last state and let go of the terminal."""
        self._draw(now=True)
        self._live.stop()

    def _draw(self, *, now: bool = False) -> None:
        at = time.monotonic()
        if now or at - self._drawn_at >= _REFRESH:
            self._drawn_at = at
            self._live.update(self._drawn(), refresh=True)

    def _drawn(self) -> RenderableType:
        rows: list[RenderableType] = []
        for members in self._rows:
            grid = Table.grid(expand=True)
            panes = []
            for member in members:
                grid.add_column(ratio=1)
                title = Text(self._titles[member.name], style=f"bold {member.colour}")
                below = Text(printable(self._subtitles[member.name]), style=member.colour)
                body = Group(*self._texts[member.name])
                panes.append(Panel(body, title=title, subtitle=below, height=self._height, border_style=member.colour))
            grid.add_row(*panes)
            rows.append(grid)
        return Group(*rows, self._bar, self._status)


def _loud(progress: Reported | None) -> bool:
    """Whether a line must not be missed."""
    return (
        (isinstance(progress, Said) and progress.warning)
        or isinstance(progress, RefusedProgress)
        or (isinstance(progress, Ended) and progress.error is not None)
    )


def compact(line: Line, *, holder: bool) -> str:
    """Return a line short enough for a pane a third as wide as a terminal; nothing for one others show as well."""
    match line.progress:
        case TrainedLocally(round=number, metrics=metrics):
            figures = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            return f"{number}: trained, {figures}"
        case Sealed(round=number, label=label, peer=peer):
            return f"{number}: {label} sealed for {peer}"
        case Opened(round=number, label=label, peer=peer):
            return f"{number}: {label} of {peer} opened"
        case RoundOpened():
            return ""
        case RoundClosed(round=number, contributors=contributors):
            return f"{number}: closed with {', '.join(contributors)}" if holder else ""
        case RoundDone(round=number, contributors=contributors, metrics=metrics, check=check):
            figures = "".join(f", mean {name} {value:.4f}" for name, value in metrics.items())
            return f"{number}: sum of {contributors} {check or 'applied'}{figures}"
        case SumChecked(round=number, state=state):
            return f"{number}: sum {state}"
        case Scored(round=number, examples=examples, loss=loss, accuracy=accuracy):
            figure = f", accuracy {accuracy:.2%}" if accuracy is not None else ""
            return f"{number}: test loss {loss:.4f}{figure}, on {examples}"
        case ScoredOwn(round=number, loss=loss, accuracy=accuracy):
            figure = f"{accuracy:.2%}, " if accuracy is not None else ""
            return f"{number}: own model {figure}loss {loss:.4f}"
        case _:
            return line.text


def screen_for(recipe: Recipe, rounds: int, *, as_json: bool, verbose: bool) -> Screen:
    """Return the screen that fits where standard output goes."""
    if as_json:
        return Quiet()
    console = Console()
    dumb = os.environ.get("TERM", "") in ("", "dumb", "unknown")
    low, _ = _PANE
    if console.is_terminal and not dumb and not verbose and console.height >= 2 * low + 4 and console.width >= _NARROW:
        return Panes(recipe, rounds, console)
    return Plain(recipe, rounds, verbose=verbose)
