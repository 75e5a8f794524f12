"""`tertium secure-worker run`: the third party's process. Imports no torch, no learning."""

from pathlib import Path

import click

from ..protocol import limits
from ..protocol.charter import Role
from ..secure_worker.machine import SecureWorker
from .running import exchange_of, failures_reported, open_workplace, options, printer, run_machine

_EXAMPLE = """\b
Example:
  tertium secure-worker run --party third --charter charter.toml
"""


@click.group("secure-worker")
def secure_worker() -> None:
    """Run the third party, which adds sealed updates and releases only their sum."""


@secure_worker.command(epilog=_EXAMPLE)
@options
@click.option("--once", is_flag=True, help="End with the first session instead of serving the next.")
@click.option(
    "--memory",
    type=click.IntRange(1),
    default=limits.VECTOR_MEMORY // limits.MIB,
    show_default=True,
    help="Largest summed vector to make room for, in MiB; an upload in flight takes as much again.",
)
def run(*, folder: Path, charter_path: Path | None, as_json: bool, watch_stdin: bool, once: bool, memory: int) -> int:
    """Listen, admit contributions, release aggregates, until stopped (or, with --once, until the session ends)."""
    with (
        failures_reported(printer(as_json=as_json)),
        open_workplace(Role.SECURE_WORKER, folder, charter_path, as_json=as_json) as workplace,
    ):
        machine = SecureWorker(
            workplace.identity,
            workplace.charter,
            exchange_of(workplace),
            workplace.journal,
            serve=not once,
            memory=memory * limits.MIB,
        )
        return run_machine(workplace, machine, "", watch_stdin=watch_stdin)
