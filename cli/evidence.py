"""`tertium evidence`: does a file of evidence hold, for somebody who has nothing but the charter?"""

from pathlib import Path

import click

from ..audit import evidence as bundles
from ..audit.words import disclosed
from ..crypto.errors import Misbehaviour
from ..protocol.charter import load, require_signed
from ..protocol.text import one_line
from .errors import DIFFERENT, OK

_EXAMPLE = """\b
Example:
  tertium evidence verify evidence/001-two-questions-owner.evidence --charter charter.toml
"""


@click.group()
def evidence() -> None:
    """Verify what an audit wrote down as evidence of a violation."""


@evidence.command(epilog=_EXAMPLE)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--charter", type=click.Path(path_type=Path), required=True, help="The charter it is about, signed by all."
)
def verify(*, file: Path, charter: Path) -> int:
    """Say whether FILE holds, with the charter alone.

    The violation is derived anew from what the parties signed. The status is 0 if it holds, 1 if it does not, and 2 if
    FILE or the charter cannot be read. Where FILE opens updates or shares, the second line says whose.
    """
    known = load(charter)
    require_signed(known, charter)
    try:
        bundle = bundles.read(file)
    except Misbehaviour as error:
        click.echo(one_line(f"does not hold: {error}"))
        return DIFFERENT
    try:
        proven = bundles.verify(known, bundle)
    except Misbehaviour as error:
        click.echo(one_line(f"does not hold: {error}"))
        if bundle.openings:
            click.echo(
                one_line(f"{file.name} has contents of sealed envelopes in it all the same: treat it as updates")
            )
        return DIFFERENT
    click.echo(one_line(f"holds: {proven.text}"))
    if proven.discloses is not None:
        opened = disclosed(proven.discloses)
        more = "" if proven.discloses.what == "updates" else " (with those of other holders, the updates)"
        click.echo(one_line(f"{file.name} opens {opened} to whoever reads it{more}"))
    return OK
