"""The page of a run: what it shows, what it lets load, and what cannot get into it."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tertium.cli.demos.audited import Audited
from tertium.cli.demos.errors import DemoError
from tertium.cli.demos.report_page import Page, Picture, write

HOSTILE = "<script>alert(1)</script>\u202e"


def page(run: Path, **other: object) -> Page:
    (run / "progress.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'></svg>")
    fields: dict[str, object] = {
        "title": "tertium demo numbers",
        "lead": "A lead.",
        "figures": [("97.2%", "accuracy on test data")],
        "pictures": [Picture(run / "progress.svg", "Loss, round by round.")],
        "notes": ["row  target", f"1    {HOSTILE}"],
        "saw": ["owner got 3 sums"],
        "audits": [("the run", "audit.html", Audited("clean", ("clean: nothing",)))],
        "files": ["summary.json"],
    }
    return Page(**{**fields, **other})  # type: ignore[arg-type]


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.seen if name == tag]


def test_the_page_stands_alone_and_links_to_the_audit(tmp_path: Path) -> None:
    text = write(tmp_path, page(tmp_path)).read_text()
    tags = Tags(text)
    (image,) = tags.of("img")
    assert (image["src"] or "").startswith("data:image/svg+xml;base64,")
    assert image["alt"] == "Loss, round by round."
    assert [link["href"] for link in tags.of("a")] == ["audit.html"]
    assert not tags.of("script")
    assert not re.findall(r"https?://", re.sub(r"http://www\.w3\.org/\S+", "", text))
    (policy,) = [each["content"] for each in tags.of("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert (policy or "").startswith("default-src 'none'; style-src 'sha256-")
    assert [tag for tag, _ in tags.seen if tag in ("h1", "h2")] == ["h1", "h2", "h2", "h2"]
    for words in ("97.2%", "owner got 3 sums", "clean: nothing", "summary.json"):
        assert words in text


def test_what_a_party_printed_is_no_markup(tmp_path: Path) -> None:
    text = write(tmp_path, page(tmp_path, title=HOSTILE, saw=[HOSTILE], files=[HOSTILE])).read_text()
    assert "<script" not in text
    assert "\u202e" not in text
    assert text.count("&lt;script&gt;") >= 4


def test_a_picture_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    made = page(tmp_path)
    (tmp_path / "progress.svg").unlink()
    with pytest.raises(DemoError, match=r"cannot read .*progress\.svg"):
        write(tmp_path, made)
