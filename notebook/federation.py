"""A federation seen from its model owner's notebook: opened here or joined, asked round by round, and closed.

Rules of the file:
- The model owner's machine runs on a thread of its own, which owns its sockets and its journal; a cell asks it for a
  round and waits. It needs no event loop, and does not mind one that runs.
- What `launch` starts are the public commands, one process a party, below a folder that stays. Their standard input is
  a pipe of this process: they end when it ends, however it does.
- Every wait ends by the charter's deadlines, since the machine that is waited for does.
"""

import atexit
import contextlib
import dataclasses
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import tomli_w

from ..cli.demos.audited import audited
from ..cli.demos.folder import CHARTER, default_folder, make_folder, write_parties
from ..cli.demos.launcher import Launcher, Line
from ..cli.demos.recipes import Member, Recipe, in_trust
from ..cli.owner import first_model, resumed
from ..cli.running import Workplace, begin, exchange_of, lanes_of, open_workplace
from ..cli.trust import trust
from ..learning.registry import load_task
from ..owner.stepped import SteppedOwner, Waiting, Wish
from ..owner.store import OwnerStore
from ..protocol.charter import Arithmetic, Charter, Mode, Role, TrainingLimits
from ..protocol.errors import SiteFileError
from ..protocol.party import Party
from ..protocol.progress import Progress, RoundClosed, RoundDone, Said, Scored
from ..protocol.site import OwnerPlan
from ..protocol.training import Score
from .errors import NotebookError
from .verbs import Mean, Model, planned

if TYPE_CHECKING:
    from torch import nn

Show = Callable[[str], None]
TASK: Final = "notebook"
"""What the task of a federation that `launch` opens is called in its charter."""
OWNER: Final = "owner"
_LINES: Final = 10_000
_POLL: Final = 0.1


class Federation:
    """A session whose model owner is this process. `launch` and `connect` make one; it is a context manager."""

    def __init__(self, workplace: Workplace, store: OwnerStore, *, resume: bool, show: Show, run: Path | None) -> None:
        """Open the model owner's side; `Federation` is not made by hand."""
        charter, plan = workplace.charter, workplace.site.owner
        if plan is None:
            raise SiteFileError("site.toml has no [owner] section, which says what to train")
        self.folder = run
        """The run folder of a federation that was launched here."""
        self.plan = plan
        """What a copy is asked for where `train` does not say otherwise."""
        self.charter: Charter = charter
        self._show = show
        self._done: RoundDone | None = None
        self._closed: RoundClosed | None = None
        self._scores: dict[int, Score] = {}
        self._warnings: deque[str] = deque(maxlen=3)
        self._told, self._ended = threading.Event(), threading.Event()
        self._waited: int | None = None
        """After which round the machine last said that nothing is open: what it had to tell before is told."""
        self._came_up = False
        self._error: str | None = None
        self._workplace = dataclasses.replace(workplace, report=self._take)
        self._global = first_model(self._workplace, plan)
        rounds = resumed(self._workplace, store, self._global, resume=resume, new_session=True)
        store.prepare()
        entry = workplace.site.tasks[plan.task]
        self._task: Any = load_task(entry.factory, entry.options)
        self._machine = SteppedOwner(
            workplace.identity,
            charter,
            exchange_of(self._workplace),
            workplace.journal,
            plan,
            self._global,
            store,
            rounds_done=rounds,
            anew=True,
        )
        score = self._global.evaluate()
        if score is not None:
            self._scores[rounds] = score
        self.model: Model = self._model_after(rounds)
        """The model the federation is at."""
        self._lanes = lanes_of(self._workplace)
        self._party = Party(self._machine, self._lanes, workplace.identity, charter, report=self._take)
        self._thread = threading.Thread(target=self._run, name="model owner", daemon=True)
        self._launcher: Launcher | None = None
        self._pump: threading.Thread | None = None
        self._logs: dict[str, deque[str]] = {}

    # --- what a person sees

    @property
    def data_owners(self) -> tuple[str, ...]:
        """The data owners of the charter."""
        return tuple(party.name for party in self.charter.data_owners)

    @property
    def secure_workers(self) -> tuple[str, ...]:
        """Who holds updates, or shares of them."""
        return tuple(party.name for party in self.charter.secure_workers)

    @property
    def minimum_cohort(self) -> int:
        """The fewest data owners a sum is over."""
        return self.charter.rules.minimum_cohort

    @property
    def opens_updates(self) -> bool:
        """Whether the model owner opens each single update: mode `plain`, and no other."""
        return self.charter.rules.mode is Mode.PLAIN

    @property
    def training_limits(self) -> TrainingLimits:
        """The most that a round may ask of a data owner."""
        return self.charter.rules.training

    def log(self, party: str) -> list[str]:
        """Return what a party of a federation that was launched here has printed, on its own screen as it were.

        Raises:
            NotebookError: it runs elsewhere.
        """
        if party not in self._logs:
            raise NotebookError(
                f"{party}'s screen is where it runs; launched here are {', '.join(self._logs) or 'none'}"
            )
        return list(self._logs[party])

    def audit(self) -> str:
        """Return who saw what, as `tertium audit` prints it; audit.html beside the charter has all of it.

        Raises:
            NotebookError: the federation is open still, or its other parties run elsewhere.
        """
        if self.folder is None:
            raise NotebookError("the other parties' ledgers are where they run: collect them, and run `tertium audit`")
        if not self._ended.is_set():
            raise NotebookError("close() the federation first: an audit reads the ledgers of parties that have ended")
        return "\n".join(audited(self.folder).lines)

    def require_data_owner(self, name: str) -> None:
        """Raise `NotebookError` unless this is a data owner of the charter."""
        if name not in self.data_owners:
            raise NotebookError(f"there is no data owner {name[:40]!r} here: {', '.join(self.data_owners)}")

    # --- rounds

    def run(self, plan: OwnerPlan, cohort: tuple[str, ...]) -> Mean:
        """Run one round over a cohort and wait for it: what `mean` does.

        Raises:
            NotebookError: the session has ended, or this round ended it; the sentence says why.
        """
        self._wait()
        before = self.model.round
        if self._done is not None and self._done.round != before:
            self.model = self._model_after(self._done.round)
            raise NotebookError(
                f"round {self._done.round}, whose cell was interrupted, has been run since: send federation.model"
            )
        self._machine.ask(Wish(plan, cohort))
        self._lanes.wake()
        self._wait()
        done, closed = self._done, self._closed
        if done is None or closed is None or not done.round == closed.round == before + 1:
            raise NotebookError(f"round {before + 1} was not run: {self._why()}")
        self.model = self._model_after(done.round)
        return Mean(self.model, closed.contributors, done.check)

    def close(self) -> None:
        """End the session for everybody, and every process that was launched here. Idempotent."""
        atexit.unregister(self.close)
        if self._thread.is_alive():
            if self._came_up:
                self._machine.end()
                self._lanes.wake()
                self._ended.wait(self.charter.rules.deadlines.statement)
            # Before all are connected there is no session to end in order: an end would wait for whoever is absent.
            if not self._ended.is_set():
                self._party.interrupt("its notebook closes")
                self._ended.wait(self.charter.rules.deadlines.statement)
        elif self._thread.ident is None:
            self._lanes.close()
            self._workplace.journal.close()
        self._ended.set()
        if self._pump is not None:
            self._pump.join()
            self._pump = None

    def __enter__(self) -> "Federation":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- below

    def open(self, launcher: Launcher | None) -> None:
        """Start everything, and wait until a round can be asked for; raises `NotebookError` where that fails."""
        atexit.register(self.close)
        try:
            begin(self._workplace, self._lanes, f"task {self.plan.task}, a notebook's rounds")
            if launcher is not None:
                self._launcher = launcher
                self._logs = {member: deque(maxlen=_LINES) for member in launcher.names}
                self._pump = threading.Thread(target=self._follow, args=(launcher,), name="parties", daemon=True)
                launcher.start()
                self._pump.start()
            self._thread.start()
            self._wait()
        except BaseException:
            self.close()
            if launcher is not None and self._pump is None:
                launcher.stop(_nobody)
            raise

    def _wait(self) -> None:
        """Wait until the machine has nothing to do; raises `NotebookError` where it has ended, or a party here has."""
        # No state of ours says that something is open: a cell may be interrupted between any two lines.
        while not (self._machine.at_rest and self._waited == self._machine.rounds_done):
            self._told.wait(_POLL)
            self._told.clear()
            if self._ended.is_set():
                break
            failure = self._launcher.failure if self._launcher is not None else None
            if failure is not None and self._party.done:
                break
            if failure is not None and self.model.round == 0 and self._done is None:
                # Before the first round nobody has anything to lose, and the join deadline is a minute.
                raise NotebookError(f"the federation did not come up: {failure}")
        if self._ended.is_set() or self._party.done:
            raise NotebookError(f"the session is over: {self._why()}")

    def _why(self) -> str:
        failure = self._launcher.failure if self._launcher is not None else None
        reasons = [each for each in (self._error, failure) if each]
        why = "; ".join(dict.fromkeys(reasons)) or "; ".join(self._warnings)
        if not why:
            return "it was closed"
        return f"{why} (federation.log(NAME) has what a party here printed)" if self._logs and self._came_up else why

    def _model_after(self, number: int) -> Model:
        return Model(self, number, self._module(), self._scores.get(number))

    def _module(self) -> "nn.Module":
        """Return a module of its own at the model the federation is at; raises `NotebookError` for another task."""
        from ..learning.tensors import load_model
        from ..learning.torch_task import TorchTask

        if not isinstance(self._task, TorchTask):
            raise NotebookError(f"a notebook's task is a TorchTask, not a {type(self._task).__name__}")
        module = self._task.build_model()
        load_model(module, self._global.layout, self._global.to_bytes())
        return module

    def _run(self) -> None:
        """Drive the machine to its end: the thread's whole work."""
        try:
            self._error = self._party.run()
        except Exception as error:  # shown to the cell that waits, whatever it is
            self._error = f"{type(error).__name__}: {error}"
        finally:
            self._workplace.journal.close()
            self._ended.set()

    def _take(self, progress: Progress) -> None:
        match progress:
            case Waiting():
                self._came_up, self._waited = True, progress.round
                self._told.set()
                return
            case RoundDone():
                self._done = progress
            case RoundClosed():
                self._closed = progress
            case Scored(by=by) if by == self.charter.model_owner.name:
                self._scores[progress.round] = Score(
                    progress.examples, progress.loss, progress.accuracy, tuple(progress.shares)
                )
            case Said(warning=True):
                self._warnings.append(progress.text)
            case _:
                pass
        self._show(f"{self.charter.model_owner.name} | {progress.line()}")

    def _follow(self, launcher: Launcher) -> None:
        """Take what the parties here print until the session is over, then see them end."""

        def watch(line: Line) -> None:
            self._logs[line.party].append(line.text)
            self._show(f"{line.party} | {line.text}")

        with contextlib.suppress(Exception):
            while not self._ended.is_set():
                launcher.take(watch, _POLL)
        launcher.stop(watch)

    def __repr__(self) -> str:
        state = "over" if self._ended.is_set() else "open"
        return f"Federation({self.charter.federation}, {state}, after round {self.model.round})"


def connect(
    party: str | Path,
    charter: str | Path | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    show: Show | None = None,
) -> Federation:
    """Join, as its model owner, a federation whose other parties run elsewhere, and wait until all are connected.

    Args:
        party: the model owner's folder, with secret.toml and site.toml, as `tertium owner run` takes it.
        charter: the charter, with its signatures beside it; charter.toml in that folder by default.
        out: where checkpoints and records go; state/ in the party's folder by default.
        resume: go on from the newest checkpoint there.
        show: what each line of progress is given to; nothing by default.

    Raises:
        TertiumError: one sentence: what is wrong with the files, or who did not come.
    """
    path = Path(charter) if charter is not None else None
    workplace = open_workplace(Role.MODEL_OWNER, Path(party), path, as_json=False)
    return _opened(workplace, OwnerStore(Path(out) if out else workplace.state), None, None, resume=resume, show=show)


def launch(
    task: str,
    data_owners: Mapping[str, Mapping[str, Any]],
    *,
    owner: Mapping[str, Any] | None = None,
    mode: str = "trusted",
    secure_workers: int | None = None,
    minimum_cohort: int | None = None,
    unsafe_small_cohort: str | None = None,
    value_range: float | None = None,
    folder: str | Path | None = None,
    show: Show | None = None,
    **plan: Any,
) -> Federation:
    """Open a federation on this machine, each party a process of its own, and wait until all are connected.

    Args:
        task: a `TorchTask` as "module:Class", in a module that the other processes can import.
        data_owners: by name, the options of the task at each: where its data are.
        owner: the options of the task at the model owner, which has no training data; `{"test": True}`, say.
        mode: `trusted`, `masked`, `additive`, `shamir`, or a scheme.
        secure_workers: how many; the fewest of the mode by default.
        minimum_cohort: the fewest a sum is over; all data owners by default, and at most 5.
        unsafe_small_cohort: why a sum may be over only 2.
        value_range: the largest number that an update may hold, 8 by default; a data owner with a larger one declines.
        folder: the run folder, new or empty; below `runs/` by default.
        show: what each line of every party is given to (`print`, say); nothing by default.
        plan: settings of `[owner]`: `learning_rate`, `seed`, `optimiser`.

    Raises:
        TertiumError: one sentence: what cannot be done, or which process failed. No process is left.
    """
    if not isinstance(task, str):
        raise NotebookError(
            'the task is named, as "my_task:Mine": the other processes import the class Mine from the file my_task.py'
        )
    if task.startswith("__main__:"):
        raise NotebookError(
            f"the other processes cannot import {task.partition(':')[2]} from this notebook: write it to a file beside "
            "it (%%writefile my_task.py) and name it my_task:Class"
        )
    # All of it before anything is written.
    load_task(task, _options(OWNER, owner or {}))
    chosen = trust(mode, secure_workers)
    if not isinstance(data_owners, Mapping):
        raise NotebookError('data_owners is the options of the task by name, as {"bob": {}, "alice": {}, "carol": {}}')
    names = tuple(sorted(data_owners))
    _require_settings(plan)
    wanted = planned(OwnerPlan(task=TASK), {"metrics": ["loss"], **plan})
    recipe = in_trust(
        Recipe(
            name=TASK,
            title="",
            task=TASK,
            factory=task,
            members=(
                Member(OWNER, Role.MODEL_OWNER, "", "The model owner", _options(OWNER, owner or {})),
                *(Member(name, Role.DATA_OWNER, "", name, _options(name, data_owners[name])) for name in names),
                Member("third", Role.SECURE_WORKER, "", "A third party that both sides trust"),
            ),
            pooled={},
            federation=TASK,
            rounds=1,
            acts=_no_acts,
            minimum_cohort=minimum_cohort or min(5, len(names)),
            unsafe_small_cohort=unsafe_small_cohort,
            arithmetic=_arithmetic(value_range),
        ),
        chosen,
    )
    for member in recipe.members:
        if member.role is not Role.DATA_OWNER and member.name in names:
            raise NotebookError(f"a data owner cannot be called {member.name}: the {member.role.words} is")
    run = Path(folder) if folder is not None else default_folder(TASK, datetime.now().astimezone())
    make_folder(run)
    write_parties(recipe, chosen, run, wanted)
    workplace = open_workplace(Role.MODEL_OWNER, run / OWNER, run / CHARTER, as_json=False)
    others = tuple(member for member in recipe.members if member.role is not Role.MODEL_OWNER)
    launcher = Launcher(others, run, CHARTER, modules=_modules(task))
    return _opened(workplace, OwnerStore(workplace.state), run, launcher, resume=False, show=show)


def _options(party: str, options: object) -> dict[str, Any]:
    """Return the options of a party's task; raises `NotebookError` unless a site file can hold them."""
    if not isinstance(options, Mapping):
        raise NotebookError(f"the options of {party} are a dict of what its task takes, not a {type(options).__name__}")
    for key, value in options.items():
        try:
            tomli_w.dumps({str(key): value})
        except (TypeError, ValueError):
            raise NotebookError(
                f"{party}'s option {key} is a {type(value).__name__}, which its site file cannot hold: give numbers, "
                "text, or lists of them, and load the rest in load_data()"
            ) from None
    return dict(options)


def _arithmetic(value_range: float | None) -> Arithmetic:
    """Return the charter's arithmetic for numbers up to so much; raises `NotebookError`."""
    try:
        return msgspec.convert({} if value_range is None else {"value_range": value_range}, Arithmetic)
    except msgspec.ValidationError:
        raise NotebookError(f"value_range is a number above 0, not {value_range!r}") from None


def _require_settings(plan: Mapping[str, object]) -> None:
    """Raise `NotebookError` for a setting that there is not, or that a cell decides round by round."""
    by_cells = ("task", "rounds", "cohort", "cohort_most", "turns")
    known = [name for name in OwnerPlan.__struct_fields__ if name not in by_cells]
    asked = [name for name in by_cells if name in plan]
    if asked:
        raise NotebookError(
            f"launch() does not take {', '.join(asked)}: each mean() is a round of the copies it is given"
        )
    unknown = [name for name in plan if name not in known]
    if unknown:
        raise NotebookError(f"launch() takes {', '.join(known)}, not {', '.join(unknown)}")


def _modules(factory: str) -> Path | None:
    """Return the folder from which this process imported the module of a task; the others import it from there."""
    name = factory.partition(":")[0]
    origin = getattr(sys.modules.get(name.partition(".")[0]), "__file__", None)
    if origin is None or name.startswith("tertium."):
        return None
    path = Path(origin).resolve()
    return path.parent.parent if path.name == "__init__.py" else path.parent


def _nobody(_: object) -> None:
    pass


def _no_acts(_: int, __: int) -> tuple[()]:
    return ()


def _opened(
    workplace: Workplace,
    store: OwnerStore,
    run: Path | None,
    launcher: Launcher | None,
    *,
    resume: bool,
    show: Show | None,
) -> Federation:
    try:
        federation = Federation(workplace, store, resume=resume, show=show or _nobody, run=run)
    except BaseException:
        workplace.journal.close()
        raise
    federation.open(launcher)
    return federation
