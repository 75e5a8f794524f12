"""The view matrix as a table: who has what of whom, each cell a word, a shape and a tint.

Rules of the file:
- The word alone says it. The shape says it without colour (a disc that fills with what is known), so the table holds on
  paper and for every kind of sight; the tint is for the glance.
- A cell with entries behind it is a button that shows them.
- Every cell of the report is on the page, up to `MOST_CELLS` of coalitions; what is not is said.
"""

from typing import Final

from ..protocol.text import plural
from .page_html import Child, Html, el, join, listed, name
from .page_proofs import Proofs
from .report import Access, Cell, Level, Report, Row, Severity

MOST_CELLS: Final = 6_000
_MEANS: Final = {
    Level.NONE: "nothing of this data owner is in the ledgers that were given, for this party",
    Level.CIPHERTEXT: "sealed bytes went to it, and no opening is on record",
    Level.SHARE: "it opened one share, or several; they say nothing without the others",
    Level.AGGREGATE: "it knows a sum in which so many updates, this one too, are unknown to it: the fewer, the closer",
    Level.PLAINTEXT: "it could read the update: opened, put together from shares, or worked out from sums",
    Level.OWN: "the update is its own",
}
_SHAPES: Final = {
    # A disc that fills: nothing, a ring with a bar, a quarter, a half, all; and a dot for what is one's own.
    Level.NONE: '<path class="thin" d="M5 8h6"/>',
    Level.CIPHERTEXT: '<circle class="ring" cx="8" cy="8" r="6"/><path class="ring" d="M4 12 12 4"/>',
    Level.SHARE: '<circle class="ring" cx="8" cy="8" r="6"/><path class="full" d="M8 8V2a6 6 0 0 1 6 6z"/>',
    Level.AGGREGATE: '<circle class="ring" cx="8" cy="8" r="6"/><path class="full" d="M8 2a6 6 0 0 1 0 12z"/>',
    Level.PLAINTEXT: '<circle class="full" cx="8" cy="8" r="6.8"/>',
    Level.OWN: '<circle class="thin" cx="8" cy="8" r="6"/><circle class="full" cx="8" cy="8" r="2"/>',
}


def shapes() -> Html:
    """Return the shapes, once for the page."""
    made = [
        el("symbol", Html(shape), id=f"shape-{level.name.lower()}", viewBox="0 0 16 16")
        for level, shape in _SHAPES.items()
    ]
    return el("svg", made, class_="symbols", aria_hidden="true", width="0", height="0")


def shape(level: Level) -> Html:
    """Return the shape of a level; the word beside it is what is read out."""
    return el("svg", el("use", href=f"#shape-{level.name.lower()}"), class_="shape", aria_hidden="true")


def matrix(report: Report, proofs: Proofs) -> Html:
    """Return the legend, the matrix of parties, and that of coalitions."""
    if not report.matrix or not report.matrix[0].cells:
        return el("p", "The charter has no data owner, so there is nobody whose update anybody could have.")
    wrong = {each.party for each in report.of(Severity.VIOLATION) if each.party is not None}
    kinds = {party.name: party.role for party in report.parties}
    heads = ["party", *(cell.whose for cell in report.matrix[0].cells)]
    rows = [_row(row, kinds, wrong, proofs) for row in report.matrix]
    return join(
        el(
            "p",
            "Each row is a party, each column a data owner: what of this data owner's updates the party has on "
            "record, over the whole run. Press a cell to see the entries that show it.",
        ),
        _legend(),
        el("h3", "Parties", id="matrix-parties"),
        _drawn("What each party has on record of each data owner", heads, rows, "party-rows"),
        el("h3", "Coalitions", id="matrix-coalitions"),
        _coalitions(report, proofs),
    )


def _legend() -> Html:
    lines = [
        el("div", el("dt", shape(level), level.value, class_=_class(level)), el("dd", means))
        for level, means in _MEANS.items()
    ]
    return el("dl", lines, class_="legend")


def _class(level: Level) -> str:
    return f"level {level.name.lower()}"


def _row(row: Row, kinds: dict[str, str], wrong: set[str], proofs: Proofs) -> tuple[Html, list[tuple[str, Html]], bool]:
    who = row.who[0]
    bad = who in wrong
    head: list[Child] = [name(who), el("span", kinds.get(who, ""), class_="role")]
    if bad:
        head.append(el("a", "✗ violation", href="#findings", class_="flag bad"))
    if not row.given:
        head.append(el("span", "without its ledger", class_="flag"))
    cells = [(_class(cell.level), _party_cell(who, cell, proofs)) for cell in row.cells]
    return join(*head), cells, bad


def _party_cell(who: str, cell: Cell, proofs: Proofs) -> Html:
    label = join(shape(cell.level), el("span", cell.text))
    if not cell.access and not cell.entries:
        return el("span", label, class_="still")
    parts: list[Child] = []
    if cell.entries and all(set(each.entries) != set(cell.entries) for each in cell.access):
        parts += [el("p", "What decides the cell:", class_="lead"), proofs.refs(cell.entries)]
    for access in cell.access:
        parts += [el("p", _said(access), class_="lead"), proofs.refs(access.entries, access.number)]
    title = join(name(who), ": ", cell.text, " of " if cell.level is not Level.OWN else ", ", name(cell.whose))
    return proofs.button(label, title, join(*parts))


def _said(access: Access) -> Html:
    part = f" {access.part} of {access.of}" if access.part is not None else ""
    over = f" over {access.count}" if access.count else ""
    return join(f"{access.data}{part}{over}, as {access.level.value}: {plural(access.number, 'entry', 'entries')}")


def _drawn(caption: str, heads: list[str], rows: list[tuple[Html, list[tuple[str, Html]], bool]], kind: str) -> Html:
    head = el(
        "thead",
        el("tr", el("th", heads[0], scope="col"), [el("th", name(each), scope="col") for each in heads[1:]]),
    )
    body = [
        el("tr", el("th", who, scope="row"), [el("td", cell, class_=level) for level, cell in cells], class_=_bad(bad))
        for who, cells, bad in rows
    ]
    made = el("table", el("caption", caption), head, el("tbody", body), class_=f"matrix {kind}")
    return el("div", made, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _bad(bad: bool) -> str | None:
    return "wrong" if bad else None


def _coalitions(report: Report, proofs: Proofs) -> Html:
    """Return the coalitions by size, each size folded; what they can read stands in the residual exposure."""
    if not report.coalitions:
        return el("p", "No coalition was looked at.")
    columns = len(report.matrix[0].cells)
    shown = report.coalitions[: max(1, MOST_CELLS // columns)]
    by_size: dict[int, list[Row]] = {}
    for row in shown:
        by_size.setdefault(len(row.who), []).append(row)
    heads = ["together", *(cell.whose for cell in report.matrix[0].cells)]
    parts: list[Child] = [
        el(
            "p",
            "What parties have if they put all they have on record together. The smallest groups that can work out an ",
            "update stand under ",
            el("a", "residual exposure", href="#exposure"),
            ".",
        )
    ]
    for size, rows in by_size.items():
        drawn = [
            (
                join(
                    listed(row.who), None if row.given else el("span", "without some of their ledgers", class_="flag")
                ),
                [(_class(cell.level), _group_cell(cell, proofs)) for cell in row.cells],
                False,
            )
            for row in rows
        ]
        title = f"Groups of {size}: {plural(len(rows), 'group')}"
        readers = sum(any(cell.level is Level.PLAINTEXT for cell in row.cells) for row in rows)
        parts.append(
            el(
                "details",
                el("summary", title, el("span", f", {readers} can read an update of somebody else", class_="quiet")),
                _drawn(f"What groups of {size} have together", heads, drawn, "group-rows"),
                class_="fold",
            )
        )
    if len(shown) < len(report.coalitions):
        left = len(report.coalitions) - len(shown)
        parts.append(el("p", f"{plural(left, 'larger group')} are in the JSON of this report only.", class_="note"))
    return join(*parts)


def _group_cell(cell: Cell, proofs: Proofs) -> Html:
    label = join(shape(cell.level), el("span", cell.text))
    if not cell.entries:
        return el("span", label, class_="still")
    return proofs.button(label, join(cell.text, " of ", name(cell.whose)), proofs.refs(cell.entries), bulk=True)
