"""`tertium worker run` and `tertium evaluator run`: the processes at the sites that have data."""

from pathlib import Path

import click

from ..learning.registry import load_trainer
from ..protocol.charter import Role
from ..workers.data_owner import DataOwner
from ..workers.evaluator import Evaluator
from .running import exchange_of, failures_reported, of_task, open_workplace, options, printer, run_machine

_WORKER = """\b
Example:
  tertium worker run --party alice --charter charter.toml
"""
_EVALUATOR = """\b
Example:
  tertium evaluator run --party tester --charter charter.toml
"""


@click.group("worker")
def worker() -> None:
    """Run a data owner, which trains where its data is and sends one sealed update a round."""


@click.group("evaluator")
def evaluator() -> None:
    """Run an evaluator, which scores the global model on test data and never holds an update."""


@worker.command("run", epilog=_WORKER)
@options
def run_worker(*, folder: Path, charter_path: Path | None, as_json: bool, watch_stdin: bool) -> int:
    """Connect to model owner and secure worker, and take part until the session is over."""
    return _run(Role.DATA_OWNER, folder, charter_path, as_json=as_json, watch_stdin=watch_stdin)


@evaluator.command("run", epilog=_EVALUATOR)
@options
def run_evaluator(*, folder: Path, charter_path: Path | None, as_json: bool, watch_stdin: bool) -> int:
    """Connect to the model owner, and score what it sends until the session is over."""
    return _run(Role.EVALUATOR, folder, charter_path, as_json=as_json, watch_stdin=watch_stdin)


def _run(role: Role, folder: Path, charter_path: Path | None, *, as_json: bool, watch_stdin: bool) -> int:
    with (
        failures_reported(printer(as_json=as_json)),
        open_workplace(role, folder, charter_path, as_json=as_json) as workplace,
    ):
        trainers, lines = {}, []
        for name, entry in workplace.site.tasks.items():
            with of_task(name):
                trainers[name] = load_trainer(name, entry)
                lines.append(f"{name}: {trainers[name].describe()}")
        kind = DataOwner if role is Role.DATA_OWNER else Evaluator
        machine = kind(
            workplace.identity,
            workplace.charter,
            exchange_of(workplace),
            workplace.journal,
            workplace.site,
            trainers,
        )
        return run_machine(workplace, machine, "; ".join(lines), watch_stdin=watch_stdin)
