"""`tertium audit`: who saw what in a run, and did anybody do what it must not."""

from pathlib import Path

import click

from ..audit import page
from ..audit.capture import read_patterns, take
from ..audit.errors import UnusableCapture, UnusableEvidence, UnusableRun
from ..audit.evidence import require_unused
from ..audit.examine import examine
from ..audit.reading import read_run
from ..audit.report import encode
from ..audit.summary import lines
from ..audit.wire import with_capture
from ..protocol.errors import CharterError
from ..protocol.text import printable
from .errors import DIFFERENT, OK

_EXAMPLE = """\b
Example:
  tertium audit runs/digits
  tertium audit runs/digits --json > report.json
  tertium audit runs/digits --html audit.html
  tertium audit collected/ --charter charter.toml --evidence evidence/
  tertium audit runs/digits --capture run.pcap --pattern 00112233445566778899
"""


@click.command(epilog=_EXAMPLE)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--charter", type=click.Path(path_type=Path), help="The charter, where it is not RUN/charter.toml.")
@click.option("--evidence", type=click.Path(path_type=Path), help="Write what proves each violation into this folder.")
@click.option("--disclose", is_flag=True, help="With --evidence: write also what opens updates, or shares of them.")
@click.option("--capture", type=click.Path(path_type=Path), help="Packets of the run, to hold against the ledgers.")
@click.option("--pattern", "patterns", multiple=True, metavar="HEX", help="Bytes that must not be in the capture.")
@click.option("--pattern-file", "files", multiple=True, type=click.Path(path_type=Path), help="A file of such bytes.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as one JSON object.")
@click.option("--html", type=click.Path(path_type=Path), help="Write the report as one page that needs no network.")
def audit(
    *,
    run: Path,
    charter: Path | None,
    evidence: Path | None,
    disclose: bool,
    capture: Path | None,
    patterns: tuple[str, ...],
    files: tuple[Path, ...],
    as_json: bool,
    html: Path | None,
) -> int:
    """Join the ledgers of a run and say who saw whose update, and what was forbidden.

    RUN holds charter.toml with its signatures, and the journal of each party as NAME/state/journal.db, NAME/journal.db
    or NAME.db; some may be missing. The status is 0 if no violation is on record, 1 for a violation, 2 if RUN or the
    capture cannot be used. docs/audit.md says how to read what it prints.
    """
    if capture is None and (patterns or files):
        raise UnusableCapture("a pattern is looked for in a capture of packets: name one with --capture")
    if disclose and evidence is None:
        raise UnusableEvidence("--disclose is about what is written as evidence: name a folder for it with --evidence")
    if evidence is not None:
        require_unused(evidence)
    try:
        sought = read_patterns(patterns, files)
        with read_run(run, charter) as given:
            taken = take(capture, sought) if capture is not None else None
            found = examine(given)
            if taken is not None:
                found = with_capture(found, given, taken)
            if evidence is not None:
                found = found.with_evidence(evidence, disclose=disclose)
            if html is not None:
                page.write(html, page.draw(found.report, page.entries_of(given)))
    except (UnusableRun, UnusableCapture, CharterError) as error:
        if html is not None:
            page.write(html, page.draw_unusable(run.resolve().name, str(error)))
        raise
    if as_json:
        click.echo(encode(found.report).decode())
    else:
        for line in lines(found.report):
            click.echo(printable(line))
    return OK if found.report.verdict == "clean" else DIFFERENT
