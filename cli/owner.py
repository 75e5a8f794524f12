"""`tertium owner run`: the model owner's process."""

from pathlib import Path

import click

from ..learning.registry import load_task
from ..learning.task import ServerOptimiser
from ..owner.machine import ModelOwner
from ..owner.store import OwnerStore
from ..protocol.charter import Role
from ..protocol.errors import SiteFileError
from .running import exchange_of, failures_reported, of_task, open_workplace, options, printer, run_machine

_EXAMPLE = """\b
Example:
  tertium owner run --party owner --charter charter.toml --out results
  tertium owner run --party owner --charter charter.toml --out results --resume
"""


@click.group("owner")
def owner() -> None:
    """Run the model owner, which asks for updates and gets only their sum."""


@owner.command(epilog=_EXAMPLE)
@options
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where checkpoints, records and the finished model go; state/ in the party's folder by default.",
)
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint there.")
def run(
    *,
    folder: Path,
    charter_path: Path | None,
    as_json: bool,
    watch_stdin: bool,
    out: Path | None,
    resume: bool,
) -> int:
    """Open a session, run the rounds of site.toml's [owner], and write the model."""
    with failures_reported(printer(as_json=as_json)):
        workplace = open_workplace(Role.MODEL_OWNER, folder, charter_path, as_json=as_json)
        plan = workplace.site.owner
        if plan is None:
            raise SiteFileError("site.toml has no [owner] section, which says what to train")
        entry = workplace.site.tasks[plan.task]
        optimiser = plan.optimiser
        server = ServerOptimiser(
            name=optimiser.name if optimiser else None,
            options=dict(optimiser.options) if optimiser else {},
            reduction=plan.reduction,
        )
        with of_task(plan.task):
            task = load_task(entry.factory, entry.options)
            model = task.global_model(plan.seed, server)
        for name in plan.metrics:
            if not task.measures(name):
                # Every data owner would decline every round, and could not say why.
                raise SiteFileError(
                    f'owner.metrics: task {plan.task} has no {name}; say metrics = ["loss"], for example'
                )
        store = OwnerStore(out or workplace.state)
        store.prepare()
        newest = store.newest()
        done = 0
        if newest is not None:
            if not resume:
                raise SiteFileError(
                    f"{store.folder} holds a checkpoint of round {newest[0]}: add --resume to go on from it, or name "
                    "another folder with --out"
                )
            done = newest[0]
            model.load(newest[1])
        elif resume:
            raise SiteFileError(f"{store.folder} holds no checkpoint to resume from")
        machine = ModelOwner(
            workplace.identity,
            workplace.charter,
            exchange_of(workplace),
            workplace.journal,
            plan,
            model,
            store,
            rounds_done=done,
        )
        text = (
            f"task {plan.task}, rounds {done + 1} to {plan.rounds}"
            if done
            else f"task {plan.task}, {plan.rounds} rounds"
        )
        return run_machine(workplace, machine, text, watch_stdin=watch_stdin)
