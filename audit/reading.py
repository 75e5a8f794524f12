"""A run as an auditor is handed it: a folder with the charter, and the ledgers of all parties or of some.

Where things lie: `charter.toml` with its signatures, and for a party NAME one of `NAME/state/journal.db` (as a demo and
`tertium ... run` leave it), `NAME/journal.db`, `NAME.db`; what it opens of its commitments, if it does, in `openings`
beside it.

Rules of the file:
- Nothing is believed: the charter must be signed by all, a ledger passes the checks of `ledger_file.py`, an exhibit
  those of `exhibits.py`. What fails there becomes a note about one party, never the end of the audit.
- Only a charter that cannot be used, or not one usable ledger, is an `UnusableRun`.
- A file is named by its place in the folder: a report is sent to others, and says nothing of the auditor's machine.
- A journal goes on under the next charter. What is of another one than was given is neither believed nor held against
  anybody; its entries are counted, and stand for nothing but that something was sent.
- An exhibit that is of no entry is none: it was put there by whoever had the file. It still counts where it is signed,
  since it is the signature that shows something.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..crypto.errors import Misbehaviour
from ..crypto.labels import Label
from ..protocol.charter import Charter, load, require_signed
from ..protocol.errors import BrokenLedger, JournalError, WrongCharter
from ..protocol.ledger import Checkpoint, Exhibit, LedgerEntry
from ..protocol.ledger_file import LedgerFile
from ..protocol.messages import Signed
from ..protocol.openings import OpeningFiles
from .errors import UnusableRun
from .exhibits import Shown, is_of
from .words import spoken

PLACES = ("{name}/state/journal.db", "{name}/journal.db", "{name}.db")
OPENINGS = ("{name}/state/openings", "{name}/openings")
NOT_GIVEN = "its ledger was not given"


@dataclass
class Given:
    """One party's ledger, read and checked."""

    party: str
    file: LedgerFile
    entries: list[LedgerEntry] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What lies beside it as an exhibit of this charter and shows nothing, in words."""
    checkpoint: tuple[Signed, Checkpoint] | None = None
    """The last that the party signed and this file is."""
    contradicted: Signed | None = None
    """The last that the party signed by its own file, where that is another ledger."""


@dataclass
class Run:
    """A charter, and what was given."""

    name: str
    charter: Charter
    given: dict[str, Given]
    missing: dict[str, str]
    """Parties whose ledger was not given or cannot be used, and why."""
    broken: dict[str, str]
    """Parties whose ledger contradicts itself, and how."""
    openings: OpeningFiles
    """What parties open of their commitments."""


@contextlib.contextmanager
def read_run(folder: Path, charter_path: Path | None = None) -> Iterator[Run]:
    """Read a run; its files are open while the context is.

    Raises:
        UnusableRun: there is no folder, or no ledger that can be used.
        CharterError: the charter cannot be used, or not all have signed it.
    """
    if not folder.is_dir():
        raise UnusableRun(f"{folder} is not a folder: name the one that holds charter.toml and a folder a party")
    path = charter_path or folder / "charter.toml"
    if charter_path is None and not path.exists():
        raise UnusableRun(f"{folder} has no charter.toml: name the folder that holds it, or it with --charter")
    charter = load(path)
    require_signed(charter, path)
    openings = {each.name: [folder / place.format(name=each.name) for place in OPENINGS] for each in charter.parties}
    run = Run(folder.resolve().name, charter, {}, {}, {}, OpeningFiles(openings))
    known: dict[Exhibit, Shown | Misbehaviour] = {}
    with contextlib.ExitStack() as files:
        for party in charter.parties:
            try:
                file = _find(folder, party.name)
                if file is None:
                    run.missing[party.name] = NOT_GIVEN
                    continue
                files.enter_context(file)
                given = run.given[party.name] = _read(charter, file, known)
                given.wrong = [_within(folder, each) for each in given.wrong]
            except JournalError as error:
                run.missing[party.name] = _within(folder, str(error))
            except BrokenLedger as error:
                run.missing[party.name] = run.broken[party.name] = _within(folder, error.reason)
        if not run.given and not run.broken:
            raise UnusableRun(f"{folder} has no ledger of this charter's parties: {_first(run.missing)}")
        yield run


def _find(folder: Path, name: str) -> LedgerFile | None:
    for place in PLACES:
        path = folder / place.format(name=name)
        if path.exists():
            return LedgerFile(path, name)
    return None


def _read(charter: Charter, file: LedgerFile, known: dict[Exhibit, Shown | Misbehaviour]) -> Given:
    given = Given(file.party, file)
    given.entries = [entry for _, entry in file.entries()]
    of_others = {entry.subject for entry in given.entries if entry.charter != charter.digest}
    for exhibit in file.exhibits():
        if exhibit is None:
            given.wrong.append("a row that is no exhibit")
            continue
        found = known.get(exhibit)
        if found is None:
            # The same statement lies beside the ledgers of all who have it.
            found = known[exhibit] = is_of(charter, exhibit)
        if isinstance(found, Shown):
            given.shown.append(found)
        elif exhibit.subject not in of_others and not isinstance(found, WrongCharter):
            given.wrong.append(f"{spoken(exhibit.label)} of {exhibit.signer[:32]}: {found}")
    _take_checkpoint(charter, given)
    return given


def _take_checkpoint(charter: Charter, given: Given) -> None:
    try:
        signed = given.file.last_signed()
    except BrokenLedger as error:
        given.wrong.append(error.reason)
        return
    if signed is None:
        return
    try:
        given.checkpoint = signed, given.file.accept(charter, signed)
    except BrokenLedger:
        given.contradicted = signed
    except WrongCharter:
        return  # from before this charter was in force
    except Misbehaviour as error:
        given.wrong.append(f"its last {spoken(Label.CHECKPOINT)}: {error}")


def _within(folder: Path, said: str) -> str:
    """Return a sentence with the files below `folder` named by their place in it."""
    return said.replace(f"{folder}{os.sep}", "")


def _first(missing: dict[str, str]) -> str:
    told = [f"{name}: {why}" for name, why in missing.items() if why != NOT_GIVEN]
    return told[0] if told else "expected NAME/state/journal.db"
