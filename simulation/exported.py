"""A simulated run as the folder an auditor is handed: the charter, signed by all, and every party's journal."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from ..protocol.charter import dump, sign
from ..protocol.journal import FILE
from ..protocol.openings import FOLDER as OPENINGS
from .federation import Federation


def export(federation: Federation, folder: Path, *, without: Iterable[str] = ()) -> Path:
    """Write what `tertium audit` reads into `folder`, and return it; `without` names parties that hand nothing over.

    Raises:
        CharterError, JournalError: a file is there already, or cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "charter.toml"
    dump(federation.charter, path)
    for identity in federation.identities.values():
        sign(path, identity)
    export_journals(federation, folder, without=without)
    return folder


def export_journals(federation: Federation, folder: Path, *, without: Iterable[str] = ()) -> None:
    """Write every party's journal, and what it keeps to open, into its folder in `folder`, which has a charter.

    Raises:
        JournalError: a file is there already, or cannot be written.
    """
    for name, journal in federation.journals.items():
        if name not in without:
            state = folder / name / "state"
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            journal.copy_to(state / FILE)
            if federation.openings is not None and (federation.openings / name).is_dir():
                shutil.copytree(federation.openings / name, state / OPENINGS)
