"""`tertium owner run`: the model owner's process."""

from pathlib import Path

import click

from ..learning.registry import load_task
from ..learning.task import GlobalModel, ServerOptimiser
from ..owner.machine import ModelOwner
from ..owner.memory import Memory
from ..owner.store import OwnerStore
from ..protocol.charter import Role
from ..protocol.errors import SiteFileError
from ..protocol.progress import Said
from ..protocol.site import OwnerPlan
from ..protocol.text import plural
from ..protocol.training import model_digest
from .running import Workplace, exchange_of, failures_reported, of_task, open_workplace, options, printer, run_machine

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
@click.option(
    "--resume", is_flag=True, help="Go on where an earlier run ended, from its newest checkpoint; else from the start."
)
@click.option("--new-session", is_flag=True, help="Give up a session that an earlier run left unfinished.")
def run(
    *,
    folder: Path,
    charter_path: Path | None,
    as_json: bool,
    watch_stdin: bool,
    out: Path | None,
    resume: bool,
    new_session: bool,
) -> int:
    """Open a session, run the rounds of site.toml's [owner], and write the model."""
    report = printer(as_json=as_json)
    with (
        failures_reported(report),
        open_workplace(Role.MODEL_OWNER, folder, charter_path, as_json=as_json) as workplace,
    ):
        plan = workplace.site.owner
        if plan is None:
            raise SiteFileError("site.toml has no [owner] section, which says what to train")
        model = first_model(workplace, plan)
        store = OwnerStore(out or workplace.state)
        done = resumed(workplace, store, model, resume=resume, new_session=new_session)
        store.prepare()
        if resume and not done:
            report(Said(text=f"{store.folder} holds no checkpoint: beginning with the first round"))
        machine = ModelOwner(
            workplace.identity,
            workplace.charter,
            exchange_of(workplace),
            workplace.journal,
            plan,
            model,
            store,
            rounds_done=done,
            anew=new_session,
        )
        text = (
            f"task {plan.task}, rounds {done + 1} to {plan.rounds}"
            if done
            else f"task {plan.task}, {plural(plan.rounds, 'round')}"
        )
        with of_task(plan.task):
            text += f"; {described}" if (described := model.describe()) else ""
        return run_machine(workplace, machine, text, watch_stdin=watch_stdin)


def first_model(workplace: Workplace, plan: OwnerPlan) -> GlobalModel:
    """Return the model the first round is asked about; raises `SiteFileError` for a task or plan that cannot be run."""
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
            raise SiteFileError(f'owner.metrics: task {plan.task} has no {name}; say metrics = ["loss"], for example')
    return model


def resumed(workplace: Workplace, store: OwnerStore, model: GlobalModel, *, resume: bool, new_session: bool) -> int:
    """Load the newest checkpoint into `model` and return its round, or 0.

    Raises:
        SiteFileError: going on, or not, would lose or mix what an earlier run left.
    """
    memory, newest = Memory(workplace.charter, workplace.journal), store.newest()
    left = None if new_session else memory.unfinished()
    if left is not None and not resume:
        raise SiteFileError(
            f"an earlier run left its session unfinished after round {left.round}, with its checkpoints in "
            f"{left.folder}: add --resume to go on, or --new-session to give it up"
        )
    if newest is None:
        done = 0
    elif resume:
        done = newest[0]
        model.load(newest[1])
    else:
        raise SiteFileError(
            f"{store.folder} holds a checkpoint of round {newest[0]}: add --resume to go on from it, or name "
            "another folder with --out"
        )
    digest = model_digest(model.layout, model.to_bytes())
    if left is not None and not memory.goes_on_from(done, digest, store.place):
        raise SiteFileError(
            f"the session that an earlier run left unfinished after round {left.round} goes on from the checkpoints in "
            f"{left.folder}, and {store.folder} is at another model: name that folder with --out, or give the session "
            "up with --new-session"
        )
    return done
