"""`tertium charter new | sign | verify | diff`."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import msgspec

from ..crypto.errors import WrongHolders
from ..crypto.identity import Identity
from ..protocol import charter as charters
from ..protocol.charter import SignatureState
from ..protocol.errors import CharterError
from ..protocol.training import WeightRule
from .errors import DIFFERENT, OK
from .keygen import SECRET
from .ranges import FiniteRange

_FILE = click.Path(path_type=Path)
_HELP = {"help_option_names": ["-h", "--help"]}


@click.group(context_settings=_HELP)
def charter() -> None:
    """Write, sign, check and compare a federation's charter.

    \b
    Example:
      tertium charter new --federation trial --party alice.toml --party bob.toml ... --out charter.toml
      tertium charter sign charter.toml --as alice
      tertium charter verify charter.toml
    """


@charter.command(context_settings=_HELP)
@click.option("--federation", required=True, help="What the federation is called.")
@click.option("--party", "cards", type=_FILE, multiple=True, required=True, help="A party's public.toml; once a party.")
@click.option(
    "--mode", default="trusted", show_default=True, help="trusted, masked, additive, shamir, plain or a scheme."
)
@click.option("--threshold", type=click.IntRange(1, 64), help="How many holders' totals make the sum.")
@click.option("--serial", type=int, default=1, show_default=True, help="Higher than that of the charter it replaces.")
@click.option("--days", type=FiniteRange(0, 36_500), default=365.0, show_default=True, help="Until it expires.")
@click.option("--minimum-cohort", type=int, help="Fewest contributors of a release.  [default: 5]")
@click.option("--stable-cohort", type=int, help="Refuse releases that differ by fewer contributors than this.")
@click.option("--unsafe-small-cohort", metavar="WHY", help="Needed for a minimum cohort of 2.")
@click.option("--unsafe-plain", metavar="WHY", help="Needed for mode plain.")
@click.option("--weight-rule", type=click.Choice([rule.value for rule in WeightRule]), help="[default: uniform]")
@click.option("--max-weight", type=int, help="Most examples one data owner counts with (rule examples).")
@click.option("--value-range", type=float, help="Largest absolute value of a coordinate.  [default: 8]")
@click.option("--precision", type=float, help="Wanted error of the mean.  [default: 1e-5]")
@click.option("--metric-range", type=float, help="Largest absolute value of a local figure.  [default: 1000]")
@click.option("--metric-precision", type=float, help="Wanted error of a mean figure.  [default: 1e-3]")
@click.option("--max-epochs", type=int, help="Most epochs of a round.  [default: 100]")
@click.option("--max-batches", type=int, help="Most batches of a round.  [default: 10000]")
@click.option("--task", "tasks", multiple=True, help="A task that is allowed; none given allows any.")
@click.option("--deadline", "deadlines", multiple=True, metavar="STEP=SECONDS", help="join, upload, close, ...")
@click.option("--out", type=_FILE, required=True, help="The charter file to write; never overwritten.")
def new(federation: str, cards: tuple[Path, ...], serial: int, days: float, out: Path, **given: Any) -> None:
    """Write a charter from the parties' cards. It counts for nothing until every party has signed it.

    \b
    Example:
      tertium charter new --federation trial --minimum-cohort 3 --out charter.toml \\
          --party owner/public.toml --party third/public.toml \\
          --party alice/public.toml --party bob/public.toml --party carol/public.toml
    """
    parties = tuple(charters.load_card(card) for card in cards)
    not_after = (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
    made = charters.Charter(
        version=1,
        federation=federation,
        serial=serial,
        not_after=not_after,
        rules=_rules(given, parties),
        parties=parties,
    )
    # Nor would a scheme that does not fit the parties.
    made.require_runnable()
    # A charter whose numbers fit no word would be found out only after everybody had signed it.
    _ = made.plan
    charters.dump(made, out)
    _summary(made, out)
    click.echo(f"Now every party reads and signs it: tertium charter sign {out} --as FOLDER")


@charter.command(context_settings=_HELP)
@click.argument("path", type=_FILE, metavar="CHARTER")
@click.option("--as", "folder", type=_FILE, required=True, help="The party's folder, with its secret.toml.")
def sign(path: Path, folder: Path) -> None:
    """Sign a charter as one of its parties, in charter.signatures.toml beside it.

    \b
    Example:
      tertium charter sign charter.toml --as alice
    """
    identity = Identity.load(folder / SECRET)
    signed = charters.sign(path, identity)
    _summary(signed, path)
    click.echo(f"Signed as {identity.name} in {charters.signatures_path(path)}")


@charter.command(context_settings=_HELP)
@click.argument("path", type=_FILE, metavar="CHARTER")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(path: Path, as_json: bool) -> int:
    """Say who has signed a charter. Exit status 0 if all have and it has not expired, else 1.

    \b
    Example:
      tertium charter verify charter.toml --json
    """
    found = charters.load(path)
    states = charters.verify_signatures(found, path)
    expired = datetime.now(UTC) > found.not_after
    complete = all(state is SignatureState.SIGNED for state in states.values()) and not expired
    if as_json:
        facts = {
            "federation": found.federation,
            "serial": found.serial,
            "digest": found.digest.hex(),
            "not_after": found.not_after,
            "expired": expired,
            "warnings": found.warnings,
            "parties": {name: state.value for name, state in states.items()},
            "valid": complete,
        }
        click.echo(msgspec.json.encode(facts).decode())
        return OK if complete else DIFFERENT
    _summary(found, path)
    for name, state in states.items():
        party = found.party(name)
        click.echo(f"  {state.value:<8} {name} ({party.role.words}; fingerprint {party.identity.fingerprint})")
    if expired:
        click.echo(f"It expired on {found.not_after.isoformat()}.")
    signed = sum(state is SignatureState.SIGNED for state in states.values())
    click.echo(f"{signed} of {len(states)} parties have signed exactly this charter.")
    return OK if complete else DIFFERENT


@charter.command(context_settings=_HELP)
@click.argument("old", type=_FILE)
@click.argument("new", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def diff(old: Path, new: Path, as_json: bool) -> int:
    """Print the lines in which two charters differ. Exit status 1 if there are any.

    \b
    Example:
      tertium charter diff last-year.toml charter.toml
    """
    lines = charters.diff(charters.load(old), charters.load(new))
    if as_json:
        click.echo(msgspec.json.encode({"equal": not lines, "lines": lines}).decode())
    else:
        for line in lines:
            click.echo(line)
    return DIFFERENT if lines else OK


def _rules(given: dict[str, Any], parties: tuple[charters.Party, ...]) -> charters.Rules:
    """Return the rules the options say; what was not given has the default of the struct."""
    from .trust import trust  # numpy, which the other commands of a charter need not load

    said = {name: value for name, value in given.items() if value is not None}
    workers = sum(party.role is charters.Role.SECURE_WORKER for party in parties)
    try:
        trusted = trust(said["mode"], max(1, workers), said.get("threshold"))
        scheme = trusted.name
    except WrongHolders:
        # Let the charter refuse it: it names the line, and what is wrong with the parties comes first.
        trusted = trust(said["mode"])
        scheme = msgspec.structs.replace(trusted.name, threshold=said.get("threshold"))
    table = {
        "mode": trusted.mode.value,
        "scheme": {name: value for name, value in msgspec.to_builtins(scheme).items() if value is not None},
        "arithmetic": _taken(said, charters.Arithmetic),
        "training": _taken(said, charters.TrainingLimits),
        "deadlines": dict(_deadline(item) for item in said["deadlines"]),
    }
    for name in ("minimum_cohort", "stable_cohort", "unsafe_small_cohort", "unsafe_plain", "weight_rule"):
        if name in said:
            table[name] = said[name]
    return charters.from_table(table, charters.Rules)


def _taken(said: dict[str, Any], kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.name: said[field.name] for field in msgspec.structs.fields(kind) if field.name in said}


def _deadline(item: str) -> tuple[str, float]:
    step, _, seconds = item.partition("=")
    try:
        return step, float(seconds)
    except ValueError:
        raise CharterError(f"--deadline {item}: say it as STEP=SECONDS, as in upload=600") from None


def _summary(found: charters.Charter, path: Path) -> None:
    rules = found.rules
    for warning in found.warnings:
        click.echo(warning, err=True)
    click.echo(
        f"{path}: {found.federation}, serial {found.serial}, mode {rules.mode.value}, {len(found.parties)} parties, "
        f"at least {rules.minimum_cohort} contributors, until {found.not_after.isoformat()}"
    )
    click.echo(f"digest {found.digest.hex()}")
