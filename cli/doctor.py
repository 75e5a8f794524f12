"""`tertium doctor`: look at a party's set-up before a run, and say how to mend what is wrong.

It looks and never changes: nothing is recorded, no round is joined, no secret is printed. Every wait has a deadline.
The checks stand in `doctor_party.py`, `doctor_host.py` and `doctor_network.py`.
"""

from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from ..protocol.charter import signatures_path
from . import doctor_host, doctor_network, doctor_party
from .doctor_finding import Finding, Verdict
from .errors import DIFFERENT, OK
from .keygen import SECRET
from .ranges import FiniteRange

_EXAMPLE = """\b
Example:
  tertium doctor --party alice --charter charter.toml
  tertium doctor --party third --charter charter.toml --no-network --json
"""


@click.command(epilog=_EXAMPLE, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--party",
    "folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path(),
    show_default="this folder",
    help="The party's folder: secret.toml, site.toml, state.",
)
@click.option(
    "--charter",
    "charter_path",
    type=click.Path(path_type=Path),
    help="The charter; charter.toml in the party's folder by default. Signatures stand beside it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--no-network", is_flag=True, help="Bind no address and ask no peer.")
@click.option("--no-tasks", is_flag=True, help="Load no task: neither its code nor its data.")
@click.option(
    "--task-seconds",
    type=FiniteRange(0.1, 3600),
    default=120.0,
    show_default=True,
    help="How long one task may take to load.",
)
def doctor(
    *,
    folder: Path,
    charter_path: Path | None,
    as_json: bool,
    no_network: bool,
    no_tasks: bool,
    task_seconds: float,
) -> int:
    """Check a party's set-up before a run, and say how to mend it.

    Keys, charter, signatures, site file, tasks, state folder, journal, disk, clock, core files, swap, ports, peers.
    Nothing is recorded and no secret is printed. A peer that is not started yet is a warning. Exit status 0 if nothing
    failed, else 1.
    """
    now = datetime.now(UTC)
    path = charter_path or folder / "charter.toml"
    setup, findings = doctor_party.examine(folder, path, now)
    findings += doctor_party.tasks(setup, load=not no_tasks, seconds=task_seconds)
    findings += doctor_party.state(setup)
    findings.append(doctor_host.clock(now, (folder / SECRET, path, signatures_path(path))))
    findings += doctor_host.memory()
    if not no_network and setup.us is not None and setup.charter is not None:
        if setup.site is not None:
            findings += doctor_network.listening(setup.us, setup.site.listen)
        findings += doctor_network.reachable(setup.charter, setup.us, setup.identity)
    healthy = all(finding.status is not Verdict.FAIL for finding in findings)
    if as_json:
        facts = {
            "party": setup.us.name if setup.us else None,
            "role": setup.us.role.value if setup.us else None,
            "healthy": healthy,
            "checks": findings,
        }
        click.echo(msgspec.json.encode(facts).decode())
    else:
        _print(findings)
    return OK if healthy else DIFFERENT


def _print(findings: list[Finding]) -> None:
    colours = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        status = click.style(f"{finding.status.value:<4}", fg=colours[finding.status])
        click.echo(f"{status}  {finding.name:<{width}}  {finding.sentence}")
        if finding.remedy:
            click.echo(f"{'':<{width + 8}}-> {finding.remedy}")
    counts = {verdict: sum(finding.status is verdict for finding in findings) for verdict in Verdict}
    tail = "" if not counts[Verdict.FAIL] else "; what depends on these was not looked at"
    click.echo(
        f"{len(findings)} checks: {counts[Verdict.OK]} ok, {counts[Verdict.WARN]} to read, "
        f"{counts[Verdict.FAIL]} to mend{tail}."
    )
