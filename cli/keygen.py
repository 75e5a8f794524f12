"""`tertium keygen`: two key pairs for a party, the secret half in a file of its own."""

from pathlib import Path

import click
import msgspec

from ..crypto.errors import KeyFileError
from ..crypto.files import reason
from ..crypto.identity import Identity
from ..protocol.charter import Party, Role, check_party, dump_card

SECRET = "secret.toml"  # noqa: S105 - a file name
CARD = "public.toml"

_EXAMPLE = """\b
Example:
  tertium keygen alice --role data_owner --organisation "St. Anna" --out alice
  tertium keygen third --role secure_worker --out third \\
      --control tcp://third.example.org:7100 --bulk tcp://third.example.org:7101
"""


@click.command(epilog=_EXAMPLE, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name")
@click.option("--role", type=click.Choice([role.value for role in Role]), required=True, help="What the party does.")
@click.option("--organisation", default="", help="Who the party belongs to, for people to read.")
@click.option("--control", help="Where others reach its control lane, tcp://HOST:PORT (owner, secure worker).")
@click.option("--bulk", help="Where others reach its bulk lane, tcp://HOST:PORT (owner, secure worker).")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the two files.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def keygen(
    *, name: str, role: str, organisation: str, control: str | None, bulk: str | None, out: Path, as_json: bool
) -> None:
    """Make a party's keys, and the card to hand to the others.

    Writes secret.toml (mode 0600, never overwritten) and public.toml into the folder. Read the fingerprint out to
    whoever writes the charter, over a channel you trust.
    """
    identity = Identity.generate(name)
    party = Party(
        name=name,
        role=Role(role),
        signing=identity.public.signing,
        curve=identity.public.curve,
        organisation=organisation,
        control=control,
        bulk=bulk,
    )
    check_party(party)
    # Both names are looked at before either file is made: half a party helps nobody.
    for path in (out / SECRET, out / CARD):
        if path.exists() or path.is_symlink():
            raise KeyFileError(f"{path} exists; keys are never overwritten, so choose another folder")
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise KeyFileError(f"cannot make the folder {out}: {reason(error)}") from None
    identity.save(out / SECRET)
    dump_card(party, out / CARD)
    if as_json:
        facts = {
            "name": name,
            "role": role,
            "fingerprint": identity.public.fingerprint,
            "signing": identity.public.signing.hex(),
            "curve": identity.public.curve.hex(),
            "secret": str(out / SECRET),
            "card": str(out / CARD),
        }
        click.echo(msgspec.json.encode(facts).decode())
        return
    click.echo(f"{out / SECRET}: the secret keys of {name}; they stay here")
    click.echo(f"{out / CARD}: the card of {name}; hand it to whoever writes the charter")
    click.echo(f"fingerprint {identity.public.fingerprint}")
