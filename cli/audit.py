"""`tertium audit`: who saw what in a run, and did anybody do what it must not."""

from pathlib import Path

import click

from ..audit import page
from ..audit.errors import UnusableRun
from ..audit.examine import examine
from ..audit.reading import read_run
from ..audit.report import encode
from ..audit.summary import lines
from ..protocol.errors import CharterError
from .errors import DIFFERENT, OK

_EXAMPLE = """\b
Example:
  tertium audit runs/digits
  tertium audit runs/digits --json > report.json
  tertium audit runs/digits --html audit.html
  tertium audit collected/ --charter charter.toml --evidence evidence/
"""


@click.command(epilog=_EXAMPLE)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--charter", type=click.Path(path_type=Path), help="The charter, where it is not RUN/charter.toml.")
@click.option("--evidence", type=click.Path(path_type=Path), help="Write what proves each violation into this folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as one JSON object.")
@click.option("--html", type=click.Path(path_type=Path), help="Write the report as one page that needs no network.")
def audit(*, run: Path, charter: Path | None, evidence: Path | None, as_json: bool, html: Path | None) -> int:
    """Join the ledgers of a run and say who saw whose update, and what was forbidden.

    RUN holds charter.toml with its signatures, and the journal of each party as NAME/state/journal.db, NAME/journal.db
    or NAME.db; some may be missing. The status is 0 if nothing is wrong, 1 for a violation, 2 if RUN cannot be used.
    """
    try:
        with read_run(run, charter) as given:
            found = examine(given)
            if evidence is not None:
                found = found.with_evidence(evidence)
            if html is not None:
                page.write(html, page.draw(found.report, page.entries_of(given)))
    except (UnusableRun, CharterError) as error:
        if html is not None:
            page.write(html, page.draw_unusable(run.resolve().name, str(error)))
        raise
    if as_json:
        click.echo(encode(found.report).decode())
    else:
        for line in lines(found.report):
            click.echo("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line))
    return OK if found.report.verdict == "clean" else DIFFERENT
