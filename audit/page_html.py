"""Markup that cannot be injected into: text becomes markup in one place only, and there it is escaped.

Rules of the file:
- `el` escapes every child and every attribute that is not `Html`; `Html` is made here, and from constants of ours.
- A character that does not print becomes U+FFFD, those too that turn the direction of writing: with them a name from a
  hostile ledger could make a line read as its opposite.
- No attribute that runs or loads anything: `el` refuses `style`, `on...`, and a link that leaves the page.
"""

import html
from collections.abc import Iterable, Sequence
from typing import Final

from ..protocol.text import printable

_VOID: Final = frozenset({"meta", "br", "hr"})
_LEAVES: Final = frozenset({"href", "src", "action", "xlink:href"})
Child = object
"""`Html` as it is, a list or tuple of children, None for nothing, anything else as its text."""


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def text(value: object) -> Html:
    """Return a value as escaped text."""
    plain = str(value)
    if not plain.isprintable():
        plain = "\n".join(printable(line) for line in plain.split("\n"))
    return Html(html.escape(plain, quote=True))


def join(*children: Child) -> Html:
    """Return children one after the other."""
    return Html("".join(_each(children)))


def _each(children: Iterable[Child]) -> Iterable[str]:
    for child in children:
        if isinstance(child, Html):
            yield child
        elif isinstance(child, (list, tuple)):
            yield from _each(child)
        elif child is not None:
            yield text(child)


def el(tag: str, *children: Child, **attributes: object) -> Html:
    """Return an element.

    An underscore at the end of an attribute's name is dropped, others become hyphens; None and False leave it out, True
    stands without a value.
    """
    said = []
    for key, value in attributes.items():
        name = key.rstrip("_").replace("_", "-")
        if name == "style" or name.startswith("on") or (name in _LEAVES and not str(value).startswith("#")):
            raise AssertionError(f"no {name} in the page")
        if value is True:
            said.append(f" {name}")
        elif value is not None and value is not False:
            said.append(f' {name}="{text(value)}"')
    begin = f"<{tag}{''.join(said)}>"
    return Html(begin) if tag in _VOID else Html(f"{begin}{join(*children)}</{tag}>")


def table(
    caption: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[Child]],
    *,
    class_: str = "",
    most: int = 0,
    bulk: bool = False,
) -> Html:
    """Return a table whose first column names the row.

    With `most`, rows beyond that stand folded below it; with `bulk` those are not printed.
    """
    shown = rows[:most] if most and len(rows) > most + 2 else rows
    rest = rows[len(shown) :]
    first = _table(caption, heads, shown, class_)
    if not rest:
        return first
    more = f"{len(rest)} more of {len(rows)}"
    folded = _table(f"{caption}, the rest", heads, rest, class_)
    return join(first, el("details", el("summary", more), folded, class_="bulk" if bulk else None))


def _table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[Child]], class_: str) -> Html:
    head = el("thead", el("tr", [el("th", each, scope="col") for each in heads]))
    body = [el("tr", el("th", row[0], scope="row"), [el("td", each) for each in row[1:]]) for row in rows]
    made = el("table", el("caption", caption), head, el("tbody", body), class_=class_ or None)
    # A region that scrolls must be reachable by keyboard.
    return el("div", made, class_="scroll", tabindex="0", role="region", aria_label=caption)


def listed(names: Iterable[str], nobody: str = "nobody", most: int = 12) -> Html:
    """Return names, each in its own direction of writing, with a number in place of those past `most`."""
    every = list(names)
    told: list[Child] = []
    for place, each in enumerate(every[:most]):
        told += [", " if place else None, name(each)]
    if len(every) > most:
        rest = [piece for each in every[most:] for piece in (" ", name(each))]
        told += [" ", el("details", el("summary", f"and {len(every) - most} more"), rest, class_="inline")]
    return join(*told) if every else text(nobody)


def name(value: str) -> Html:
    """Return the name of a party, set apart from what stands around it."""
    return el("bdi", value, class_="name")
