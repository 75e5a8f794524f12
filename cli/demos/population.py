"""Every party of a demo in this process: for a population that is too large for a process each.

The rules of `simulation/federation.py` hold: keys, charter, envelopes, machines and ledgers are the ones of a run over
the network; only lanes, executor and clock are others. Beside that:
- A party is admitted as its own command would admit it, with the keys, charter and site file of its folder.
- What it tells its operator is shown and logged as it happens; seconds in it are seconds of this machine, not the
  simulated ones.
- Journals are in memory while it runs, and in the parties' folders afterwards, whatever came of the run.
"""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import msgspec

from ...crypto.identity import Identity
from ...crypto.labels import Buffer
from ...learning.registry import load_task
from ...learning.task import GlobalModel, LocalUpdate, ServerOptimiser, Task, Trainer
from ...owner.store import OwnerStore
from ...protocol.charter import Charter, Role, admit
from ...protocol.errors import CharterError
from ...protocol.progress import Progress, RoundDone, RoundOpened, Started, TrainedLocally
from ...protocol.site import Site, load_site
from ...protocol.training import Layout, Score, TrainingPlan
from ...protocol.view import Handled
from ...simulation.exported import export_journals
from ...simulation.federation import Federation
from ..keygen import SECRET
from ..running import check_site, observer
from .errors import PartyFailed
from .launcher import LOG, Launcher, Line, Watch
from .recipes import Member

_SECONDS = 600.0
"""Simulated seconds a round may take, beside those of joining: its deadlines end it before."""
_SITE = "site.toml"


class Population(Launcher):
    """Runs every party of a demo in this process, one act."""

    def act(self, watch: Watch, *, resume: bool) -> None:
        """Run every party to its end, and show `watch` what they say.

        Raises:
            CharterError: a party would not admit the charter, or this is a second act.
            PartyFailed: a party ended before its work was done; names it.
            StoppedByOperator: a signal asked for an end.
        """
        if resume:
            raise CharterError("a population in one process goes on from nothing; run it in one act")
        self.pids = {member.name: os.getpid() for member in self._members}
        with contextlib.ExitStack() as held:
            logs = {member.name: held.enter_context(_log(self._folder / member.name)) for member in self._members}
            federation = _federation(self._members, self._folder, self._folder / self._charter, watch, logs)
            try:
                for member in self._members:
                    federation.started(member)
                errors = federation.run(until=lambda: self._over(federation), most_seconds=federation.patience)
            except TimeoutError as error:
                raise PartyFailed(str(error)) from None
            finally:
                export_journals(federation, self._folder)
                for journal in federation.journals.values():
                    journal.close()
        for member in self._members:
            if errors.get(member.name) is not None:
                raise PartyFailed(
                    f"{member.name} ({member.role.words}) failed: {errors[member.name]}", party=member.name
                )

    def _over(self, federation: Federation) -> bool:
        self.check()
        return all(party.done for party in federation.parties.values())


def _federation(
    members: Sequence[Member], folder: Path, charter_path: Path, watch: Watch, logs: Mapping[str, TextIO]
) -> "_Shown":
    """Return the parties of a run folder, each admitted to the charter by what lies in its own folder."""
    now = datetime.now(UTC)
    identities = {member.name: Identity.load(folder / member.name / SECRET) for member in members}
    sites: dict[str, Site] = {}
    charter: Charter | None = None
    for member in members:
        path = folder / member.name / _SITE
        sites[member.name] = site = load_site(path)
        state = folder / member.name / "state"
        charter = admit(
            charter_path,
            identities[member.name],
            state,
            now,
            fits=functools.partial(check_site, site, path, name=member.name),
        )
    if charter is None:
        raise CharterError("a demo without parties has nothing to run")
    return _Shown(
        members, charter, identities, sites, OwnerStore(folder / charter.model_owner.name / "state"), watch, logs
    )


class _Shown(Federation):
    """A federation whose parties' lines are shown and logged."""

    def __init__(
        self,
        members: Sequence[Member],
        charter: Charter,
        identities: Mapping[str, Identity],
        sites: Mapping[str, Site],
        store: OwnerStore,
        watch: Watch,
        logs: Mapping[str, TextIO],
    ) -> None:
        self._watch, self._logs, self._begun = watch, logs, time.monotonic()
        self._asked_at = self._begun
        plan = sites[charter.model_owner.name].owner
        if plan is None:
            raise CharterError("the model owner's site file has no [owner]")
        self.patience = charter.rules.deadlines.join + _SECONDS * (plan.rounds + 1)
        loaded = {
            member.name: load_task(entry.factory, entry.options)
            for member in members
            if (entry := sites[member.name].tasks.get(plan.task)) is not None
        }
        self._trainers = {owner.name: _Timed(loaded[owner.name].trainer()) for owner in charter.data_owners}
        super().__init__(
            {name: _Ready(trainer) for name, trainer in self._trainers.items()},
            loaded[charter.model_owner.name],
            plan,
            store,
            limits_of={name: sites[name].limits for name in self._trainers},
            workers=[worker.name for worker in charter.secure_workers],
            charter=charter,
            identities=identities,
        )

    def reporter(self, name: str) -> Callable[[Progress], None]:
        """Return what shows and logs a party's progress."""
        return lambda progress: self._show(name, progress)

    def observer(self, name: str) -> Callable[[Handled], None]:
        """Return what shows and logs each envelope that a party seals or opens, as its command does."""
        return observer(self.reporter(name))

    def started(self, member: Member) -> None:
        """Show that a party is here, and what it holds."""
        trainer = self._trainers.get(member.name)
        text = f"{self.plan.task}: {trainer.describe()}" if trainer is not None else ""
        self._show(member.name, Started(party=member.name, role=member.role.words, pid=os.getpid(), text=text))

    def _show(self, name: str, progress: Progress) -> None:
        now = time.monotonic()
        match progress:
            case RoundOpened():
                if self.roles[name] is Role.MODEL_OWNER:
                    self._asked_at = now
            case RoundDone():
                progress = msgspec.structs.replace(progress, seconds=now - self._asked_at)
            case TrainedLocally():
                progress = msgspec.structs.replace(progress, seconds=self._trainers[name].seconds)
            case _:
                pass
        text = progress.line()
        # A full disk ends the log, not the demo.
        with contextlib.suppress(OSError, ValueError):
            self._logs[name].write(f"{now - self._begun:9.3f} {text}\n")
        self._watch(Line(name, progress, text))


class _Timed(Trainer):
    """A trainer, and how long its last training took."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.seconds = 0.0

    def describe(self) -> str:
        """Return one line about the party's data."""
        return self._trainer.describe()

    def train(self, layout: Layout, model: Buffer, plan: TrainingPlan, stream: bytes) -> LocalUpdate:
        """Train, and note how long it took."""
        begun = time.monotonic()
        update = self._trainer.train(layout, model, plan, stream)
        self.seconds = time.monotonic() - begun
        return update

    def evaluate(self, layout: Layout, model: Buffer) -> Score:
        """Return how a model does on the party's data."""
        return self._trainer.evaluate(layout, model)


class _Ready(Task):
    """A task whose data are loaded already."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def trainer(self) -> Trainer:
        """Return the trainer."""
        return self._trainer

    def global_model(self, seed: int, optimiser: ServerOptimiser) -> GlobalModel:
        """Refuse: this is a data owner's side."""
        raise CharterError("a data owner has no global model")


@contextlib.contextmanager
def _log(folder: Path) -> Iterator[TextIO]:
    descriptor = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8", buffering=1) as log:
        yield log
