"""How the sentences of an audit name things: parties, rounds, numbers, what was signed, who could work out what."""

from collections.abc import Sequence
from typing import Final, Protocol

from ..crypto.labels import Label
from .report import Disclosure, How


class Placed(Protocol):
    """What belongs to a round: a question, the header of an envelope, an entry."""

    @property
    def round(self) -> int:
        """Which round."""

    @property
    def attempt(self) -> int:
        """Which attempt at it, from 0."""


def where(about: Placed) -> str:
    """Return round and attempt."""
    again = f", attempt {about.attempt + 1}" if about.attempt else ""
    return f"round {about.round}{again}"


def names(who: Sequence[str]) -> str:
    """Return names as a list."""
    return ", ".join(who) or "nobody"


def together(who: Sequence[str]) -> str:
    """Return names as those of a group."""
    return who[0] if len(who) == 1 else f"{', '.join(who[:-1])} with {who[-1]}"


def spoken(label: Label) -> str:
    """Return what is signed under a label, without the protocol's name."""
    return str(label.value).removeprefix("tertium/1 ")


def disclosed(opened: Disclosure) -> str:
    """Return what a piece of evidence opens of whom."""
    if opened.what == "updates":
        return f"the updates of {names(opened.whose)}"
    return f"the shares of {names(opened.whose)} for {names(opened.holders)}"


_WORKED_OUT: Final = {
    How.MODE: "can read each update of {whose}: {why}",
    How.OTHERS: "can work out {what} of {whose}: all others of a released sum, and the sum",
    How.SUMS: "can work out {what} of {whose} from several released sums over one model",
    How.ACROSS: "could estimate {what} of {whose} from sums over different models, if updates of one party are alike",
    How.TWO_LEFT: "can reduce a released sum to {what} of {whose} and one other",
}


def worked_out(who: Sequence[str], whose: Sequence[str], how: How, *, allowed: bool) -> str:
    """Return whose update a group can work out, and by which way."""
    why = "the mode lets it" if allowed else "it has what the mode does not give it"
    what = "the update" if len(whose) == 1 else "an update"
    return f"{together(who)} {_WORKED_OUT[how].format(what=what, whose=names(whose), why=why)}"
