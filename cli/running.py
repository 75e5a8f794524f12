"""What the four `run` commands share: open a party's folder, admit the charter, drive the machine to its end.

A party's folder holds `secret.toml`, `public.toml`, optionally `site.toml`, and `state/`, which runs write to. Nothing
here decides anything about the protocol. Exit status: 0 done, 2 for what this operator can mend (a full disk in the
middle of a run too), 3 when others or the network ended it, 130 after an interrupt, 143 after a request to terminate.
"""

import contextlib
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from ..crypto.errors import TertiumError
from ..crypto.identity import Identity
from ..crypto.labels import Label
from ..protocol import limits
from ..protocol.charter import Charter, Role, admit
from ..protocol.errors import CharterError, SiteFileError
from ..protocol.exchange import Exchange
from ..protocol.journal import Journal
from ..protocol.lanes.zmq_lanes import Listen, ZmqLanes
from ..protocol.machine import Machine
from ..protocol.openings import FOLDER as OPENINGS
from ..protocol.openings import OpeningStore
from ..protocol.party import Party, Report
from ..protocol.progress import Ended, Opened, Progress, Said, Sealed, Started
from ..protocol.site import Site, addresses, load_site
from ..protocol.text import printable
from ..protocol.view import Handled, View
from .errors import INTERRUPTED, MISBEHAVIOUR, MISUSE, OK
from .keygen import SECRET

TERMINATED = 143
_WORDS = {Label.MODEL: "model", Label.CONTRIBUTION: "contribution", Label.AGGREGATE: "aggregate"}


@dataclass(frozen=True)
class Workplace:
    """A party's folder, opened and checked, ready to run."""

    folder: Path
    identity: Identity
    charter: Charter
    site: Site
    report: Report
    journal: Journal

    @property
    def state(self) -> Path:
        """Where this party's runs write."""
        return self.folder / "state"

    def __enter__(self) -> "Workplace":
        return self

    def __exit__(self, *_: object) -> None:
        self.journal.close()


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options every `run` command has."""
    for option in reversed(
        [
            click.option(
                "--party",
                "folder",
                type=click.Path(path_type=Path, file_okay=False, exists=True),
                default=Path(),
                show_default="this folder",
                help="The party's folder: secret.toml, site.toml, state.",
            ),
            click.option(
                "--charter",
                "charter_path",
                type=click.Path(path_type=Path, dir_okay=False),
                help="The charter; charter.toml in the party's folder by default. Signatures stand beside it.",
            ),
            click.option("--json", "as_json", is_flag=True, help="Print progress as one JSON object a line."),
            click.option(
                "--until-stdin-closes",
                "watch_stdin",
                is_flag=True,
                help="Stop when standard input ends: for a launcher that may die.",
            ),
        ]
    ):
        command = option(command)
    return command


def open_workplace(role: Role, folder: Path, charter_path: Path | None, *, as_json: bool) -> Workplace:
    """Load keys, site file and charter; raises the `TertiumError` that says what is wrong with them.

    Until all of them are sound nothing is written, and no folder made.
    """
    _no_core_dumps()
    identity = Identity.load(folder / SECRET)
    state, path = folder / "state", folder / "site.toml"
    # A link to nothing counts as there: a secure worker would else run on without the file it was given.
    site = load_site(path) if os.path.lexists(path) else None

    def fits(charter: Charter) -> None:
        actual = charter.party(identity.name).role
        if actual is not role:
            raise CharterError(
                f"{identity.name} stands in the charter as a {actual.words}; this command runs a {role.words}"
            )
        check_site(site, path, charter, identity.name)

    charter = admit(charter_path or folder / "charter.toml", identity, state, datetime.now(UTC), fits=fits)
    report = printer(as_json=as_json)
    for warning in charter.warnings:
        report(Said(text=warning, warning=True))
    return Workplace(folder, identity, charter, site or Site(), report, Journal.of(identity, role, state))


def check_site(site: Site | None, path: Path, charter: Charter, name: str) -> None:
    """Raise `SiteFileError`, with the file's name in it, where a party's site file does not fit charter and role."""
    role = charter.party(name).role
    if site is None:
        if role is Role.SECURE_WORKER:
            return
        sections = "[owner] and [tasks.NAME]" if role is Role.MODEL_OWNER else "[tasks.NAME]"
        raise SiteFileError(f"{path} does not exist; a {role.words} needs it, with {sections}")
    try:
        site.check_against(charter, name)
    except SiteFileError as error:
        raise SiteFileError(f"{path}: {error}") from None


@contextlib.contextmanager
def of_task(name: str) -> Iterator[None]:
    """Turn whatever this site's own class raises while it is set up into one sentence that says where."""
    try:
        yield
    except TertiumError:
        raise
    except (Exception, SystemExit) as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise SiteFileError(f"task {name} cannot be set up: {what} ({at.filename}, line {at.lineno})") from error


def printer(*, as_json: bool) -> Report:
    """Return a report that prints each line at once: sentences, or JSON objects."""

    def show(progress: Progress) -> None:
        text = msgspec.json.encode(progress).decode() if as_json else progress.line()
        # A launcher that has gone must not take this party's protocol with it; stdin tells us that it has.
        with contextlib.suppress(BrokenPipeError):
            click.echo(text if as_json else printable(text))

    return show


def observer(report: Report) -> Callable[[Handled], None]:
    """Return an observer that shows the operator what is sealed and opened."""

    def observe(handled: Handled) -> None:
        kind = Sealed if handled.sealed else Opened
        label = _WORDS.get(handled.label, handled.label.value)
        report(kind(round=handled.round, label=label, peer=handled.peer, size=handled.payload))

    return observe


def exchange_of(workplace: Workplace) -> Exchange:
    """Return the one exchange of this process."""
    identity, charter = workplace.identity, workplace.charter
    view = View.kept_in(workplace.journal, identity, charter, observer(workplace.report))
    keeps = workplace.site.audit.keep_openings
    return Exchange(identity, charter, view, OpeningStore(workplace.state / OPENINGS) if keeps else None)


def lanes_of(workplace: Workplace) -> ZmqLanes:
    """Return the lanes of this process, listening where its role does; raises `LaneError`, `SiteFileError`."""
    charter, identity = workplace.charter, workplace.identity
    return ZmqLanes(
        identity.name,
        identity.curve_secret,
        {name: address for name, address in addresses(charter).items() if name != identity.name},
        listen=_listen(workplace),
        frame_limit=limits.control_frame(len(charter.parties)),
    )


def begin(workplace: Workplace, lanes: ZmqLanes, text: str) -> None:
    """Say that this party runs, and connect it to whom it has business with."""
    us = workplace.charter.party(workplace.identity.name)
    bound = f"{lanes.bound.control} and {lanes.bound.bulk}" if lanes.bound else ""
    workplace.report(Started(party=us.name, role=us.role.words, pid=os.getpid(), text=text, listening=bound))
    for peer in _to_connect(workplace.charter, us.role):
        lanes.connect(peer)


def run_machine(workplace: Workplace, machine: Machine, text: str, *, watch_stdin: bool) -> int:
    """Connect, drive the machine to its end, and return the exit status."""
    lanes = lanes_of(workplace)
    party = Party(machine, lanes, workplace.identity, workplace.charter, report=workplace.report)
    with _signals(party) as received:
        if watch_stdin:
            threading.Thread(target=_watch_stdin, args=(party,), name="stdin", daemon=True).start()
        begin(workplace, lanes, text)
        try:
            error = party.run()
        finally:
            workplace.journal.close()
    if received:
        return _leave(party, INTERRUPTED if received[0] == signal.SIGINT else TERMINATED)
    if error is not None:
        click.echo(f"tertium: {printable(error)}", err=True)
        return _leave(party, MISUSE if party.mendable else MISBEHAVIOUR)
    return _leave(party, OK)


def _leave(party: Party, status: int) -> int:
    """Return the status; while a job still runs, end here: the interpreter would abort (SIGABRT) under torch's feet."""
    if party.working:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    return status


@contextlib.contextmanager
def failures_reported(report: Report) -> Iterator[None]:
    """Show a failure before the run as the last line of progress too, so that a launcher has one place to look."""
    try:
        yield
    except TertiumError as error:
        report(Ended(error=str(error)))
        raise


def _to_connect(charter: Charter, role: Role) -> list[str]:
    """Return whom a party of this role connects to: whoever listens and has business with it."""
    holders = [party.name for party in charter.secure_workers]
    match role:
        case Role.MODEL_OWNER:
            return holders
        case Role.DATA_OWNER:
            return [charter.model_owner.name, *holders]
        case Role.EVALUATOR:
            return [charter.model_owner.name]
        case Role.SECURE_WORKER:
            return []


def _listen(workplace: Workplace) -> Listen | None:
    us = workplace.charter.party(workplace.identity.name)
    own = workplace.site.listen
    control, bulk = own.control or us.control, own.bulk or us.bulk
    if not us.role.listens:
        return None
    if control is None or bulk is None:
        raise SiteFileError(f"{us.name} needs two addresses to listen on, control and bulk")
    return Listen(control=control, bulk=bulk)


@contextlib.contextmanager
def _signals(party: Party) -> Iterator[list[int]]:
    """Turn the first SIGINT or SIGTERM into an orderly end; a second one ends the process at once."""
    received: list[int] = []

    def handle(number: int, _frame: object) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        party.interrupt("stopped by its operator")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch_stdin(party: Party) -> None:
    # Not `sys.stdin.buffer`, whose lock this thread would hold while the interpreter ends, which aborts it.
    with contextlib.suppress(OSError, ValueError):
        while os.read(sys.stdin.fileno(), 4096):
            pass
    party.interrupt("its launcher is gone")


def _no_core_dumps() -> None:
    """Keep keys in memory out of core files; swap is the operator's to turn off, and the documentation says so."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
