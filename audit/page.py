"""The auditor's page: one HTML file, drawn from a report, that needs no network, no script and no other file.

Rules of the file:
- The page is what the report says; nothing is decided here. Entries of the given ledgers are told beside it.
- Its Content-Security-Policy forbids everything but the one style sheet, by its digest: what a hostile ledger might get
  past the escaping (`page_html.py`) could still neither run nor load anything.
- No time and no path of the machine: the page of one report is the same bytes wherever it is drawn.
"""

import base64
import hashlib
from pathlib import Path
from typing import Final

from ..crypto.files import reason, replace_file
from ..protocol.charter import Mode
from ..protocol.text import plural
from . import page_matrix, page_parts
from .errors import UnwritablePage
from .page_html import Child, Html, el, join
from .page_proofs import Entries, Proofs
from .page_sequence import sequences
from .page_style import CSS
from .page_wire import wire
from .reading import Run
from .report import Report, Severity
from .words import names

_VERDICTS: Final = {
    "clean": ("✓", "Clean", "good"),
    "violation": ("✗", "Violation", "bad"),
    "unusable": ("?", "Unusable", "warn"),
}


def write(path: Path, page: str) -> None:
    """Write a page; raises `UnwritablePage` where it cannot be."""
    try:
        replace_file(path, page.encode(), mode=0o644)
    except OSError as error:
        raise UnwritablePage(f"{path} cannot be written: {reason(error)}") from None


def entries_of(run: Run) -> Entries:
    """Return the entries of the ledgers that were given."""
    return {name: given.entries for name, given in run.given.items()}


def draw(report: Report, entries: Entries) -> str:
    """Return the page of a report; `entries` are of the same run."""
    proofs = Proofs(entries)
    capture = report.capture
    sections: tuple[tuple[str, str, Html | None], ...] = (
        ("run", "The run", page_parts.facts(report)),
        ("matrix", "Who has what of whom", page_matrix.matrix(report, proofs)),
        ("findings", "Violations and anomalies", page_parts.findings(report, proofs)),
        ("sequence", "A round, message by message", sequences(report, entries)),
        ("sums", "Sums", page_parts.sums(report)),
        ("releases", "Releases", page_parts.releases(report, proofs)),
        ("attempts", "Attempts", page_parts.attempts(report)),
        ("refusals", "Refusals", page_parts.refusals(report, proofs)),
        ("retention", "Retention and erasure", page_parts.retention(report, entries)),
        ("wire", "The wire", None if capture is None else wire(capture)),
        ("exposure", "Residual exposure", page_parts.exposure(report)),
        ("cannot-show", "What this audit cannot show", page_parts.cannot_show(report)),
        ("words", "What the words mean", page_parts.words()),
    )
    made = [_section(key, title, content) for key, title, content in sections if content is not None]
    contents = (("verdict", "Verdict"), *((key, title) for key, title, content in sections if content is not None))
    panels = el(
        "div",
        el("p", "The entries behind the cells", class_="appendix", aria_hidden="true"),
        proofs.panels(),
        class_="panels",
    )
    return _whole(report.run, contents, join(_verdict(report), made, panels))


def draw_unusable(run: str, why: str) -> str:
    """Return the page of a run that could not be audited."""
    said = (
        el("p", why, class_="said"),
        el(
            "p",
            "Nothing was looked at, so nothing is said of anybody. Ask for the charter with the signatures of all "
            "parties, and for the ledger of at least one of them, and audit again.",
        ),
    )
    return _whole(run, (("verdict", "Verdict"),), _banner("unusable", said))


def _verdict(report: Report) -> Html:
    violations, anomalies, notices = (report.of(each) for each in Severity)
    missing = [party.name for party in report.parties if not party.given]
    if violations:
        by = sorted({each.party for each in violations if each.party is not None})
        first = f"{plural(len(violations), 'violation')} on record" + (f", by {names(by)}." if by else ".")
    else:
        first = "No violation is on record."
    lines: list[Child] = [el("p", first, class_="said")]
    if report.mode == Mode.PLAIN.value:
        told = "Mode plain is always a violation, although the charter allows it: the model owner reads each update."
        lines.append(el("p", told))
    if missing:
        told = f"{len(missing)} of {len(report.parties)} ledgers could not be looked at: {names(missing[:12])}"
        more = f" and {len(missing) - 12} more" if len(missing) > 12 else ""
        lines.append(el("p", f"{told}{more}. What only they show is not in this verdict."))
    known = sorted({who for each in report.replays for who in each.known})
    if known:
        told = f"Sums were added up again: whoever made this audit knows updates, or shares of them, of {len(known)} "
        lines.append(el("p", told, "data owners now; ", el("a", "whose", href="#sums-replayed"), "."))
    if report.capture is not None:
        told = "A capture of packets was held against the ledgers: "
        lines.append(el("p", told, el("a", "what was on the wire", href="#wire"), "."))
    counts = f"{plural(len(anomalies), 'anomaly', 'anomalies')}, {plural(len(notices), 'notice')}"
    rounds = len({(each.session, each.round) for each in report.attempts if each.purpose == "train"})
    entries = sum(party.entries for party in report.parties)
    lines.append(
        el(
            "p",
            f"Mode {report.mode}, {plural(rounds, 'round')}, {plural(len(report.parties), 'party', 'parties')}, "
            f"{plural(entries, 'entry', 'entries')}; ",
            el("a", counts, href="#findings"),
            ". The verdict is about what the ledgers say; ",
            el("a", "what this audit cannot show", href="#cannot-show"),
            " belongs to it.",
        )
    )
    return _banner(report.verdict, tuple(lines))


def _banner(verdict: str, lines: tuple[Child, ...]) -> Html:
    sign, word, kind = _VERDICTS[verdict]
    return el(
        "section",
        el("div", sign, class_="seal", aria_hidden="true"),
        el("div", el("h2", "Verdict: ", el("strong", word), id="verdict-title"), lines),
        id="verdict",
        class_=f"verdict {kind}",
        aria_labelledby="verdict-title",
    )


def _section(key: str, title: str, content: Html) -> Html:
    return el("section", el("h2", title, id=f"{key}-title"), content, id=key, aria_labelledby=f"{key}-title")


def _whole(run: str, contents: tuple[tuple[str, str], ...], content: Html) -> str:
    digest = base64.b64encode(hashlib.sha256(CSS.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="referrer", content="no-referrer"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"Audit of {run}"),
        el("style", Html(CSS)),
    )
    links = [el("li", el("a", title, href=f"#{key}")) for key, title in contents]
    body = el(
        "body",
        el("a", "Skip to the verdict", href="#verdict", class_="skip"),
        page_matrix.shapes(),
        el("header", el("p", "tertium audit", class_="kicker"), el("h1", "Who saw what: ", el("bdi", run))),
        el(
            "div",
            el("nav", el("p", "Contents", class_="kicker", id="contents"), el("ol", links), aria_labelledby="contents"),
            el("main", content, id="main"),
            class_="columns",
        ),
        el(
            "footer",
            el(
                "p",
                "Drawn from the ledgers by tertium audit. Digests are lower-case hexadecimal; an entry is named by its "
                "party and its number, from 0.",
            ),
        ),
    )
    return f"<!doctype html>\n{el('html', head, body, lang='en')}\n"
