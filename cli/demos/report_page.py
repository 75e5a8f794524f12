"""`report.html`: a demo's run on one page that a person would rather look at than read.

Rules of the file:
- One file that needs no network and no script: pictures are inside, as SVG; the one link that leaves is to the audit,
  which lies beside it. The Content-Security-Policy allows the one style sheet and these pictures, and nothing else.
- It looks as the audit's page does, and text becomes markup where that page's does (`audit/page_html.py`).
- Every figure on it is in the run's other files too; each picture says in words what it shows.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...audit.page_html import Html, el, join, text
from ...audit.page_style import CSS
from ...crypto.files import reason
from .audited import Audited
from .errors import DemoError
from .folder import write_text

REPORT: Final = "report.html"
_STYLE: Final = (
    CSS
    + """
main ul.figures { display: flex; flex-wrap: wrap; gap: 1rem; margin: 0 0 1.5rem; padding: 0; list-style: none;
  max-width: none; }
.figures li { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .7rem 1.1rem; }
.figures strong { display: block; font: 600 1.5rem/1.3 var(--serif); }
.picture { margin: 0 0 1.6rem; background: #ffffff; border: 1px solid var(--line); border-radius: 8px; padding: .6rem; }
.picture img { display: block; width: 100%; height: auto; }
.picture figcaption { color: #5b5852; font-size: .875rem; padding: .3rem .4rem; }
pre { overflow-x: auto; font: .85rem/1.5 var(--mono); background: var(--card); padding: .8rem 1rem; }
.single { max-width: 82rem; margin-inline: auto; padding-inline: 1.5rem; }
"""
)


@dataclass(frozen=True)
class Picture:
    """A picture of the run folder, and what it shows in words."""

    path: Path
    """Its SVG file."""
    words: str


@dataclass(frozen=True)
class Page:
    """What the page of a run shows, from top to bottom."""

    title: str
    lead: str
    figures: Sequence[tuple[str, str]]
    """What stands large: a figure, and what it is."""
    pictures: Sequence[Picture]
    notes: Sequence[str]
    """Lines as they stand on a terminal, in columns."""
    saw: Sequence[str]
    """Who saw what, in lines."""
    audits: Sequence[tuple[str, str, Audited]]
    """Of each audited part of the run: what it is, where its page lies in the run folder, and what it says."""
    files: Sequence[str]


def write(run: Path, page: Page) -> Path:
    """Write the page into the run folder; raises `DemoError`."""
    parts = [
        el("ul", [el("li", el("strong", figure), what) for figure, what in page.figures], class_="figures"),
        *[_picture(each) for each in page.pictures],
        el("pre", "\n".join(page.notes), tabindex="0") if page.notes else None,
    ]
    saw = join(*[el("p", line) for line in page.saw], *[_audit(each) for each in page.audits])
    files = el("ul", [el("li", el("code", each)) for each in page.files])
    body = join(
        el("header", el("p", "tertium demo", class_="kicker"), el("h1", page.title), el("p", page.lead)),
        el(
            "div",
            el(
                "main",
                _section("learned", "What was learned", join(*parts)),
                _section("saw", "Who saw what", saw),
                _section("files", "Files of this run", files),
            ),
            class_="single",
        ),
    )
    target = run / REPORT
    write_text(target, _whole(page.title, body))
    return target


def _section(key: str, title: str, content: Html) -> Html:
    return el("section", el("h2", title, id=f"{key}-title"), content, id=key, aria_labelledby=f"{key}-title")


def _picture(picture: Picture) -> Html:
    try:
        data = base64.b64encode(picture.path.read_bytes()).decode()
    except OSError as error:
        raise DemoError(f"cannot read {picture.path}: {reason(error)}") from None
    # `el` lets no source through; this one is the page's own bytes.
    image = Html(f'<img src="data:image/svg+xml;base64,{data}" alt="{text(picture.words)}">')
    return el("figure", image, el("figcaption", picture.words), class_="picture")


def _audit(audit: tuple[str, str, Audited]) -> Html:
    what, place, said = audit
    link = Html(f'<a href="{text(place)}">the audit of {text(what)}</a>')
    verdict = said.lines[0] if said.lines else said.verdict
    return el("p", link, f": {verdict}", class_=None if said.verdict == "clean" else "note")


def _whole(title: str, body: Html) -> str:
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    head = join(
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("title", f"{title} - tertium"),
        Html(f"<style>{_STYLE}</style>"),
    )
    return f"<!DOCTYPE html>\n{el('html', el('head', head), el('body', body), lang='en')}\n"
