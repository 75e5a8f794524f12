"""The auditor's page in a real browser: it shows, in light, in dark, on a telephone and on paper, and runs nothing.

Needs `chromium` on the path, as Debian packs it. With TERTIUM_ARTEFACTS the pictures and the PDF stay in that folder.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tertium.audit import page
from tertium.audit.examine import examine
from tertium.audit.reading import read_run

CHROMIUM = shutil.which("chromium")
DEADLINE = 60.0
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the path")
# Scripts of the page itself are what is forbidden; this one asks from outside, in a frame around it.
FRAME = """<!doctype html><title>waiting</title><iframe src="{name}" width="{width}" height="900"></iframe><script>
onload = () => {{
  const frame = document.querySelector('iframe'), inner = frame.contentDocument, root = inner.documentElement;
  const button = inner.querySelector('.matrix .opens');
  const panel = inner.getElementById(button.getAttribute('popovertarget'));
  const style = frame.contentWindow.getComputedStyle(inner.body), before = panel.matches(':popover-open');
  button.click();
  document.title = ['wide', root.scrollWidth, 'of', root.clientWidth, style.backgroundColor.replaceAll(' ', ''),
    inner.title.startsWith('Audit of') ? 'own-title' : 'title-changed', before, panel.matches(':popover-open'),
    [...inner.querySelectorAll('.party-rows .opens')].every(each => each.scrollWidth <= each.clientWidth + 1),
  ].join(' ');
}};
</script>"""

pytestmark = [needs_chromium, pytest.mark.xdist_group("chromium")]


def chromium(folder: Path, *words: str) -> str:
    """Run a browser once, and return what it prints."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--no-first-run",
        "--disable-background-networking",
        "--allow-file-access-from-files",
        f"--user-data-dir={folder / 'profile'}",
        *words,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def drawn(make_once: Any) -> Path:
    folder = make_once.export(make_once.ran("masked"))
    with read_run(folder) as run:
        page.write(folder / "audit.html", page.draw(examine(run).report, page.entries_of(run)))
    return Path(folder) / "audit.html"


@pytest.fixture
def artefacts(tmp_path: Path) -> Path:
    named = os.environ.get("TERTIUM_ARTEFACTS")
    folder = Path(named) if named else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def colours(picture: Path) -> tuple[int, float]:
    """Return how many colours a picture has, 1,000 at most, and how bright it is, from 0 to 1."""
    import numpy as np
    from matplotlib.image import imread

    pixels = (imread(picture)[::3, ::3, :3] * 255).astype(np.uint32)
    packed = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
    return min(len(np.unique(packed)), 1000), float(pixels.mean()) / 255


def test_the_page_shows_in_light_and_dark_and_narrow(drawn: Path, artefacts: Path, tmp_path: Path) -> None:
    dark = ("--force-dark-mode", "--blink-settings=preferredColorScheme=0")
    shots = {"light": ("1300,2400", ()), "dark": ("1300,2400", dark), "narrow": ("400,2400", ())}
    found = {}
    for name, (size, more) in shots.items():
        to = artefacts / f"audit-{name}.png"
        chromium(tmp_path, f"--window-size={size}", *more, f"--screenshot={to}", drawn.as_uri())
        assert to.stat().st_size > 20_000
        found[name] = colours(to)
    assert all(number > 20 for number, _ in found.values()), found
    assert found["light"][1] > 0.8
    assert found["narrow"][1] > 0.7
    assert found["dark"][1] < 0.3


def test_on_paper_everything_is_open(drawn: Path, artefacts: Path, tmp_path: Path) -> None:
    to = artefacts / "audit.pdf"
    chromium(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={to}", drawn.as_uri())
    pages = leaves(to)
    text = drawn.read_text(encoding="utf-8")
    # The same page without a rule for paper that opens things must be shorter, or the rule does nothing.
    rules = (
        r"details:not\(\.bulk\)::details-content \{[^}]*\}",
        r"\.panel \{ display: block; position: static;[^}]*\}",
    )
    for rule in rules:
        closed, number = re.subn(rule, "", text)
        assert number == 1, rule
        closed, number = re.subn(r"style-src &#x27;sha256-[^&]*&#x27;", "style-src 'unsafe-inline'", closed)
        assert number == 1
        (tmp_path / "closed.html").write_text(closed, encoding="utf-8")
        to = tmp_path / "closed.pdf"
        chromium(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={to}", (tmp_path / "closed.html").as_uri())
        assert 3 <= leaves(to) < pages, rule


def leaves(pdf: Path) -> int:
    """Return how many pages a file has."""
    data = pdf.read_bytes()
    assert data.startswith(b"%PDF-")
    return len(re.findall(rb"/Type\s*/Page\b", data))


@pytest.mark.parametrize("width", [400, 1300])
def test_a_cell_opens_nothing_overflows_and_no_script_runs(drawn: Path, tmp_path: Path, width: int) -> None:
    text = drawn.read_text(encoding="utf-8")
    assert text.count("</main>") == 1
    # As if something had got past the escaping.
    hostile = "<script>document.title = 'ran'</script><img src=x onerror=\"document.title = 'ran'\"></main>"
    (tmp_path / "audit.html").write_text(text.replace("</main>", hostile), encoding="utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(name="audit.html", width=width), encoding="utf-8")
    said = chromium(tmp_path, "--window-size=1400,1000", "--virtual-time-budget=4000", "--dump-dom", frame.as_uri())
    (title,) = re.findall(r"<title>(.*?)</title>", said)
    assert title == f"wide {width} of {width} rgb(250,249,246) own-title false true true"
