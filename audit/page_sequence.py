"""One attempt as a sequence diagram: parties as lines, messages as arrows, what was let go and erased as marks.

Rules of the file:
- The order is that of the ledgers (`order.py`), and a message stands where it was sent.
- One arrow can have several heads: what one party said to several without hearing anything between.
- Checkpoints travel on other messages and are in the table only. Of many data owners the first have a line of their
  own and the others share one; the table, which stands beside every diagram, has all.
"""

import bisect
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from ..protocol.ledger import Act, DataClass, LedgerEntry
from ..protocol.text import plural
from .order import Place, in_order
from .page_html import Child, Html, el, join, table
from .page_proofs import Entries, ranges
from .report import Attempt, Ref, Report, Severity, Step
from .words import where

MOST_STEPS: Final = 2_000
"""Steps of all diagrams together."""
_LANES: Final = 12
_WIDE: Final = 168
_NARROW: Final = 118
_ROOM: Final = 830
"""A page as wide as most has room for so much between the first line and the last."""
_HIGH: Final = 30
_TOP: Final = 64
_STRANGERS: Final = "strangers"
_ALONE: Final = (Act.RELEASED, Act.ERASED, Act.REFUSED)


@dataclass
class _Line:
    """One line of the diagram: a message to one party or several, or marks of one act on one party's line."""

    party: str
    steps: list[Step] = field(default_factory=list)
    marks: list[LedgerEntry] = field(default_factory=list)
    places: list[int] = field(default_factory=list)


def selection(report: Report) -> tuple[list[Attempt], int]:
    """Return the attempts to draw, the first complete one first, and how many are left out.

    After it come those in which something went wrong, then the last, then the others in their order.
    """
    drawn = [each for each in report.attempts if each.steps]
    found = {
        (each.session, each.round, each.attempt)
        for severity in (Severity.VIOLATION, Severity.ANOMALY)
        for each in report.of(severity)
    }

    def wanted(pair: tuple[int, Attempt]) -> tuple[int, int]:
        place, each = pair
        if each is first:
            return 0, 0
        if each.aborts or (each.session, each.round, each.attempt) in found:
            return 1, place
        return (2 if place == len(drawn) - 1 else 3), place

    whole = [each for each in drawn if each.purpose == "train" and each.releases and each.contributors]
    first = whole[0] if whole else next(iter(drawn), None)
    chosen: list[tuple[int, Attempt]] = []
    room = MOST_STEPS
    for place, each in sorted(enumerate(drawn), key=wanted):
        if each is first or len(each.steps) <= room:
            chosen.append((place, each))
            room -= len(each.steps)
    rest = [each for _, each in sorted(chosen, key=lambda pair: pair[0]) if each is not first]
    return ([first, *rest] if first is not None else []), len(report.attempts) - len(chosen)


def sequences(report: Report, entries: Entries) -> Html:
    """Return the first complete round drawn, the others folded, one open at a time."""
    chosen, left = selection(report)
    if not chosen:
        return el("p", "No attempt has a message on record.")
    marks: dict[str, list[tuple[Ref, LedgerEntry]]] = defaultdict(list)
    wanted = {each.open_round for each in chosen}
    passed: Counter[str] = Counter()
    for party, ledger in entries.items():
        for place, entry in enumerate(ledger):
            if entry.open_round is None or entry.act not in _ALONE or entry.open_round.hex() not in wanted:
                continue
            found = marks[entry.open_round.hex()]
            if len(found) < MOST_STEPS:
                found.append((Ref(party, place), entry))
            else:
                passed[party] += 1
    parts: list[Child] = [
        el(
            "p",
            "Time runs down. An arrow is a message, drawn where it was sent; thick ones carry something sealed. The "
            "table under each diagram says the same, with the numbers of the entries. ",
            el("a", "What the marks mean", href="#sequence-key"),
            " stands at the end.",
        )
    ]
    for place, attempt in enumerate(chosen):
        figure = _figure(report, attempt, marks[attempt.open_round], place)
        parts.append(
            el(
                "details",
                el("summary", titled(attempt), el("span", _state(attempt), class_="quiet")),
                figure,
                # One name: opening one closes the others.
                name="sequence",
                open=not place,
                class_="fold" if not place else "fold bulk",
            )
        )
    if passed:
        told = ", ".join(f"{number:,} of {party}" for party, number in passed.items())
        parts.append(el("p", f"Releases, erasures and refusals that are not drawn: {told}.", class_="note"))
    if left:
        parts.append(el("p", f"{plural(left, 'more attempt')} are not drawn; the JSON report has them.", class_="note"))
    parts.append(_key())
    return join(*parts)


def titled(attempt: Attempt) -> str:
    """Return which attempt this is."""
    return where(attempt).capitalize() + (" (evaluation)" if attempt.purpose == "evaluate" else "")


def _state(attempt: Attempt) -> str:
    if attempt.aborts:
        return f", given up: {attempt.aborts[0].cause}"
    over = f", a sum over {len(attempt.contributors)}" if attempt.contributors else ""
    return f"{over}, {plural(len(attempt.steps), 'message')}"


def _key() -> Html:
    signs = (
        ("●▶", "sent; the head stands at who noted it as received"),
        ("╌╌\N{MULTIPLICATION SIGN}", "sent, and nobody noted it as received"),
        ("◉", "opened: what was sealed was read"),
        ("◆", "released: a sum was let go, for good"),
        ("□", "erased"),
        ("⊘", "refused"),
    )
    lines = [el("div", el("dt", sign), el("dd", means)) for sign, means in signs]
    return el("dl", lines, class_="legend", id="sequence-key")


def _figure(report: Report, attempt: Attempt, marks: list[tuple[Ref, LedgerEntry]], number: int) -> Html:
    lines = _lines(attempt, marks)
    lanes, shared = _lanes_of(report, attempt, lines)
    drawing = _drawing(attempt, lines, lanes, shared, number)
    rows = [_told(place, line, step) for place, (line, step) in enumerate(_flat(lines), 1)]
    heads = ["step", "what", "class", "from", "to", "bytes", "entries"]
    title = f"{titled(attempt)}, every message and mark in order"
    # A diagram gets small on paper: the table of the first is printed with it.
    text = el(
        "details",
        el("summary", "The same as a table, with checkpoints"),
        table(title, heads, rows, class_="steps"),
        class_="fold bulk" if number else "fold",
    )
    scroll = el(
        "div", drawing, class_="scroll drawing", tabindex="0", role="region", aria_label=f"Diagram of {titled(attempt)}"
    )
    return el("figure", scroll, text)


def _lines(attempt: Attempt, marks: list[tuple[Ref, LedgerEntry]]) -> list[_Line]:
    """Return messages and marks in an order that agrees with every ledger."""
    at: dict[Place, Step | LedgerEntry] = {}
    messages: list[tuple[Place, Place]] = []
    by_party: dict[str, set[int]] = defaultdict(set)
    for step in attempt.steps:
        ends = [ref for ref in (step.sent, step.received, step.opened) if ref is not None]
        for one in ends:
            by_party[one.party].add(one.entry)
        at.setdefault((ends[0].party, ends[0].entry), step)
        if step.sent is not None and step.received is not None:
            messages.append(((step.sent.party, step.sent.entry), (step.received.party, step.received.entry)))
    for ref, entry in marks:
        by_party[ref.party].add(ref.entry)
        at.setdefault((ref.party, ref.entry), entry)
    return _grouped([(place, at[place]) for place in in_order(by_party, messages) if place in at], by_party)


def _grouped(found: list[tuple[tuple[str, int], Step | LedgerEntry]], heard: dict[str, set[int]]) -> list[_Line]:
    """Return lines: messages of one kind from one party with nothing heard between are one, erasures in a row too."""
    sent: dict[str, set[int]] = defaultdict(set)
    for (party, place), each in found:
        if isinstance(each, LedgerEntry) or (each.sent is not None and each.sent.party == party):
            sent[party].add(place)
    came = {party: sorted(places - sent[party]) for party, places in heard.items()}
    lines: list[_Line] = []
    last: dict[tuple[str, str, str], _Line] = {}
    for (party, place), each in found:
        mark = isinstance(each, LedgerEntry)
        kind = (party, each.act.value, "") if isinstance(each, LedgerEntry) else (party, each.what, each.data)
        line = last.get(kind)
        alone = not mark and (each.sent is None if isinstance(each, Step) else True)
        joins = line is not None and not alone and not _between(came[party], line.places[-1], place)
        if line is None or not joins or (isinstance(each, LedgerEntry) and each.act is not Act.ERASED):
            line = last[kind] = _Line(party)
            lines.append(line)
        line.places.append(place)
        if isinstance(each, LedgerEntry):
            line.marks.append(each)
        else:
            line.steps.append(each)
    return lines


def _between(places: Sequence[int], low: int, high: int) -> bool:
    """Whether one of these places, which rise, lies between two others."""
    at = bisect.bisect_right(places, low)
    return at < len(places) and places[at] < high


def _flat(lines: Sequence[_Line]) -> Iterator[tuple[_Line, Step | None]]:
    for line in lines:
        if line.marks:
            yield line, None
        for step in line.steps:
            yield line, step


def _told(place: int, line: _Line, step: Step | None) -> list[Child]:
    if step is None:
        data = ", ".join(dict.fromkeys(mark.data.value for mark in line.marks))
        return [place, line.marks[0].act.value, data, line.party, "", "", join(line.party, " ", ranges(line.places))]
    ends = (("sent", step.sent), ("received", step.received), ("opened", step.opened))
    entries = join("; ".join(f"{word} {ref.party} #{ref.entry}" for word, ref in ends if ref is not None))
    size = f"{step.payload or step.wire:,}"
    return [place, step.what, step.data, step.sender, step.recipient, size, entries]


def _lanes_of(report: Report, attempt: Attempt, lines: list[_Line]) -> tuple[list[str], dict[str, str]]:
    """Return the names of the lines from left to right, and by party which it is drawn on."""
    active = {name for line in lines for step in line.steps for name in (step.sender, step.recipient)}
    active |= {line.party for line in lines} | set(attempt.holders) | set(attempt.cohort)
    order = {"model owner": 1, "secure worker": 2, "data owner": 0, "evaluator": 3}
    roles = {party.name: party.role for party in report.parties}
    known = [party.name for party in report.parties if party.name in active]
    known.sort(key=lambda name: order.get(roles[name], 9))
    many = [name for name in known if roles[name] == "data owner"]
    others = [name for name in known if roles[name] != "data owner"]
    lane = {name: name for name in known}
    # A hostile ledger can name anybody as a peer.
    lane |= dict.fromkeys(active - roles.keys(), _STRANGERS)
    room = max(_LANES - len(others), 4)
    if len(many) > room:
        hidden = many[room - 1 :]
        lane |= dict.fromkeys(hidden, f"{len(hidden)} more owners")
    return list(dict.fromkeys(lane[name] for name in (*many, *others, *sorted(active - roles.keys())))), lane


def _drawing(attempt: Attempt, lines: list[_Line], lanes: list[str], shared: dict[str, str], number: int) -> Html:
    lane = max(_NARROW, min(_WIDE, _ROOM // max(1, len(lanes) - 1)))
    at = {name: 70 + place * lane for place, name in enumerate(lanes)}
    letters = lane // 8
    shown = [line for line in lines if line.marks or line.steps[0].what != "checkpoint"]
    wide, high = 140 + (len(lanes) - 1) * lane, _TOP + (len(shown) + 1) * _HIGH
    title, told = f"sequence-{number}-title", f"sequence-{number}-desc"
    parts: list[Child] = [
        el("title", f"{titled(attempt)} as a sequence diagram", id=title),
        el(
            "desc",
            f"{plural(len(lanes), 'line')}: {', '.join(lanes)}. {plural(len(shown), 'row')}. "
            "The table below says the same in words.",
            id=told,
        ),
    ]
    for each, x in at.items():
        cut = each if len(each) <= letters else each[: letters - 1] + "…"
        box = el("rect", x=x - lane // 2 + 8, y=14, width=lane - 16, height=30, rx=6, class_="head")
        parts += [box, el("text", cut, el("title", each), x=x, y=34, class_="who")]
        parts.append(el("line", x1=x, x2=x, y1=44, y2=high - 8, class_="life"))
    for place, line in enumerate(shown):
        y = _TOP + (place + 1) * _HIGH - 8
        parts.append(_mark(line, at[shared[line.party]], y, wide) if line.marks else _arrow(line, at, shared, y))
    return el(
        "svg",
        parts,
        viewBox=f"0 0 {wide} {high}",
        width=wide,
        height=high,
        role="img",
        aria_labelledby=f"{title} {told}",
        class_="sequence",
    )


def _arrow(line: _Line, at: dict[str, int], shared: dict[str, str], y: int) -> Html:
    first = line.steps[0]
    begin = at[shared[first.sender]]
    ends: dict[int, list[Step]] = defaultdict(list)
    for step in line.steps:
        ends[at[shared[step.recipient]]].append(step)
    many = f" \N{MULTIPLICATION SIGN}{len(line.steps)}" if len(line.steps) > 1 else ""
    label = f"{first.what}{many}" + (f", {_bytes(first.payload)}" if first.payload else "")
    whole = [
        f"{step.what} ({step.data}) from {step.sender} to {step.recipient}: {_numbers(step)}" for step in line.steps
    ]
    parts: list[Child] = [el("title", "\n".join(whole))]
    lost = all(step.received is None and step.opened is None for step in line.steps)
    style = " lost" if lost else " sealed" if first.data != DataClass.CONTROL.value else ""
    left, right = min(begin, *ends), max(begin, *ends)
    parts.append(el("line", x1=left, x2=right, y1=y, y2=y, class_=f"arrow{style}"))
    parts.append(el("circle", cx=begin, cy=y, r=3, class_="dot"))
    for x, steps in ends.items():
        turn = 1 if x > begin else -1
        if all(step.received is None and step.opened is None for step in steps):
            parts.append(el("path", d=f"M{x - 4} {y - 4}l8 8m0 -8l-8 8", class_="cross"))
            continue
        opened = any(step.opened is not None for step in steps)
        if opened:
            parts.append(el("circle", cx=x, cy=y, r=6, class_="opened"))
            parts.append(el("circle", cx=x, cy=y, r=2.4, class_="dot"))
        tip = x - turn * 6 if opened else x
        parts.append(el("path", d=f"M{tip} {y}l{-8 * turn} -4.5v9z", class_="tip"))
    middle = (left + right) / 2
    if len(ends) > 1 or right - left > 2 * _NARROW:
        nearest = min((x for x in ends if x != begin), key=lambda x: abs(x - begin), default=begin)
        middle = (begin + nearest) / 2
    if left == right:
        # To itself, or within those that share a line.
        middle = left
    parts.append(el("text", label, x=middle, y=y - 7, class_=f"said{style}"))
    return el("g", parts)


def _mark(line: _Line, x: int, y: int, wide: int) -> Html:
    mark, data = line.marks[0], dict.fromkeys(each.data.value for each in line.marks)
    whose = sorted({name for each in line.marks for name in each.whose})
    of = f" of {len(whose)}" if len(whose) > 1 else f" of {whose[0]}" if whose else ""
    what = mark.code if mark.act is Act.REFUSED else f"{' and '.join(data)}{of}"
    said = f"{mark.act.value}: {what}"
    sign: Html
    match mark.act:
        case Act.RELEASED:
            sign = el("path", d=f"M{x} {y - 7}l7 7l-7 7l-7 -7z", class_="released")
        case Act.ERASED:
            sign = el("rect", x=x - 5, y=y - 5, width=10, height=10, class_="erased")
        case _:
            circle = el("circle", cx=x, cy=y, r=6, class_="erased")
            sign = join(circle, el("path", d=f"M{x - 4} {y + 4}l8 -8", class_="cross"))
    right = x + 12 + 6.4 * len(said) < wide
    anchor = {"x": x + 12, "class_": "noted"} if right else {"x": x - 12, "class_": "noted before"}
    return el(
        "g",
        el("title", join(f"{line.party} {said}, entries ", ranges(line.places))),
        sign,
        el("text", said, y=y + 4, **anchor),
    )


def _numbers(step: Step) -> str:
    ends = (("sent", step.sent), ("received", step.received), ("opened", step.opened))
    return ", ".join(f"{word} as #{ref.entry}" for word, ref in ends if ref is not None) or "no entry"


def _bytes(size: int) -> str:
    if size < 10_000:
        return f"{size:,} B"
    return f"{size / 1000:,.0f} kB" if size < 10_000_000 else f"{size / 1_000_000:,.0f} MB"
