"""What stands behind a cell, a finding or a release: entries of ledgers in words, and the panels that show them.

Rules of the file:
- A panel is a native popover: a button opens it, Escape closes it, and without support for it, and on paper, it is a
  block like any other. Nothing on the page needs a script.
- Two cells with the same proof share a panel.
- Of many entries the first are told in words and the rest by number; a list of ten thousand shows nothing to anybody.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ..protocol.ledger import Act, DataClass, LedgerEntry
from ..protocol.text import plural
from .page_html import Child, Html, el, join, name, text
from .report import Ref
from .words import where

Entries = Mapping[str, Sequence[LedgerEntry]]
"""By party: the entries of its ledger."""
_TOLD: Final = 6


def told(entry: LedgerEntry) -> Html:
    """Return in words what an entry says."""
    sealed = entry.act in (Act.SENT, Act.RECEIVED) and entry.data is not DataClass.CONTROL
    said: list[Child] = [entry.act.value, " the sealed " if sealed else " ", entry.data.value]
    if entry.part is not None:
        said += [f" {entry.part.index + 1} of {entry.part.of}"]
    if entry.whose:
        names = ", ".join(entry.whose[:4]) + (f" and {len(entry.whose) - 4} more" if len(entry.whose) > 4 else "")
        said += [" of ", el("bdi", names)]
    if entry.peer is not None:
        said += [" to " if entry.act in (Act.SENT, Act.RELEASED) else " from ", el("bdi", entry.peer)]
    if entry.round:
        said += [", ", where(entry)]
    if entry.payload:
        said += [f", {entry.payload:,} bytes"]
    if entry.code:
        said += [": ", entry.code]
    return join(*said)


class Proofs:
    """Tells entries, and keeps the panels of the page."""

    def __init__(self, entries: Entries) -> None:
        self._entries = entries
        self._panels: dict[Html, tuple[str, Html]] = {}

    def entry(self, ref: Ref) -> LedgerEntry | None:
        """Return the entry of a name, if its ledger was given."""
        ledger = self._entries.get(ref.party, ())
        return ledger[ref.entry] if 0 <= ref.entry < len(ledger) else None

    def refs(self, refs: Iterable[Ref], number: int = 0) -> Html:
        """Return entries as a list, the first in words; `number` is how many there are if `refs` has not all."""
        every = list(dict.fromkeys(refs))
        lines = []
        for ref in every[:_TOLD]:
            entry = self.entry(ref)
            said = join(": ", told(entry)) if entry is not None else None
            lines.append(el("li", name(ref.party), el("span", f" #{ref.entry}", class_="entry"), said))
        rest: dict[str, list[int]] = defaultdict(list)
        for ref in every[_TOLD:]:
            rest[ref.party].append(ref.entry)
        for party, places in rest.items():
            lines.append(el("li", name(party), el("span", " ", ranges(places), class_="entry")))
        if number > len(every):
            lines.append(el("li", f"and {number - len(every):,} more"))
        return el("ul", lines, class_="refs") if lines else el("p", "No entry is on record.", class_="quiet")

    def button(self, label: Child, title: Child, body: Html, *, bulk: bool = False) -> Html:
        """Return a button that opens a panel; `bulk` ones are not printed."""
        heading = join(title)
        key = join(heading, body)
        panel = self._panels.get(key)
        if panel is None:
            made = f"panel-{len(self._panels) + 1}"
            close = el("button", "Close", type="button", popovertarget=made, popovertargetaction="hide", class_="close")
            shown = el(
                "div",
                el("p", heading, class_="title", id=f"{made}-title"),
                body,
                close,
                id=made,
                popover="auto",
                role="dialog",
                aria_labelledby=f"{made}-title",
                class_="panel bulk" if bulk else "panel",
            )
            panel = self._panels[key] = made, shown
        return el("button", label, type="button", popovertarget=panel[0], class_="opens")

    def panels(self) -> Html:
        """Return all panels; they stand behind what opens them."""
        return join(*(panel for _, panel in self._panels.values()))


def ranges(places: Iterable[int]) -> Html:
    """Return numbers of entries, in runs: `#3, #5 to #9`."""
    runs: list[list[int]] = []
    for place in sorted(set(places)):
        if runs and runs[-1][1] == place - 1:
            runs[-1][1] = place
        else:
            runs.append([place, place])
    shown = [f"#{a}" if a == b else f"#{a} to #{b}" for a, b in runs[:40]]
    if len(runs) > 40:
        shown.append(f"and {plural(sum(b - a + 1 for a, b in runs[40:]), 'more', 'more')}")
    return text(", ".join(shown))


def short(digest: str) -> Html:
    """Return a digest that is there to be told from others, cut, with the whole in its title."""
    return el("code", f"{digest[:12]}…", title=digest) if len(digest) > 12 else el("code", digest)
