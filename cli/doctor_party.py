"""The checks of `tertium doctor` that look at a party's own files: folder, keys, charter, site file, tasks, state.

Rules of the file:
- Nothing is written into the party's folder. What `admit` would record of a charter goes into a scratch folder that is
  thrown away, so that a look is never taken for a run.
- A check uses what a run uses (`Identity.load`, `admit`, `load_site`, `load_task`), never a rule of its own beside it.
- Loading a task runs the operator's own code, which may print, hang or end its process: it is done in a process of its
  own, with a deadline.
"""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import metadata, util
from pathlib import Path

import msgspec

from ..crypto.errors import TertiumError
from ..crypto.identity import Identity
from ..protocol import charter as charters
from ..protocol.charter import Charter, Mode, Role, SignatureState
from ..protocol.charter import Party as Line
from ..protocol.errors import CharterError, JournalError
from ..protocol.journal import FILE, look
from ..protocol.site import Site, load_site
from .doctor_finding import Answer, Finding, fail, ok, warn
from .keygen import CARD, SECRET

SOON = timedelta(days=7)
"""A charter that expires sooner is worth a warning: a new one needs every party's signature."""
ENOUGH_DISK = 1 << 30
LITTLE_DISK = 64 << 20
"""Free bytes under which a warning, or a failure, is due; a run writes checkpoints, records and its journal."""
_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_STATE = "state"


@dataclass(frozen=True)
class Setup:
    """What could be read of a party; None for what could not."""

    folder: Path
    charter_path: Path
    identity: Identity | None
    charter: Charter | None
    us: Line | None
    """Our line in the charter; None if it has none for us."""
    site: Site | None


def examine(folder: Path, charter_path: Path, now: datetime) -> tuple[Setup, list[Finding]]:
    """Read a party's files and return them with what was found about each; raises nothing for their content."""
    findings = [_folder(folder)]
    identity, found = _keys(folder)
    findings.append(found)
    charter, found = _charter(charter_path)
    findings.append(found)
    us, found_us = _membership(charter, charter_path, identity, folder)
    if found_us is not None:
        findings.append(found_us)
    if charter is not None:
        findings += _terms(charter, charter_path, now, us)
        if identity is not None:
            findings.append(_succession(charter, charter_path, identity, folder / _STATE))
    site, found = _site(folder / "site.toml", charter, us)
    findings.append(found)
    return Setup(folder, charter_path, identity, charter, us, site), findings


def state(setup: Setup) -> list[Finding]:
    """Look at the folder that runs write to, at the journal in it, and at the room on its disk."""
    folder = setup.folder
    path = folder / _STATE
    there = path if os.path.lexists(path) else folder
    findings = []
    if there is path and not path.is_dir():
        return [fail(_STATE, f"{path} is not a folder", "move it away; the next run makes the folder")]
    if not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        whose = "this user" if os.geteuid() else "anybody: the file system is read-only"
        remedy = f"run as the folder's owner, or give it to this user: chown -R {os.geteuid()} {there}"
        findings.append(fail(_STATE, f"{there} cannot be written by {whose}", remedy))
    elif there is folder:
        findings.append(ok(_STATE, f"{path} is not there yet; the first run makes it"))
    elif path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = stat.S_IMODE(path.stat().st_mode)
        sentence = f"{path} has mode {mode:04o}, so others on this machine can look into it"
        findings.append(warn(_STATE, sentence, f"chmod 700 {path}"))
    else:
        findings.append(ok(_STATE, f"{path} can be written, by this user alone"))
    if there is path:
        findings.append(_journal(path / FILE, setup.identity))
    free = shutil.disk_usage(there).free
    words = f"{free / 2**30:.1f} GiB free for {path}; {_needed(setup)}"
    if free < LITTLE_DISK:
        findings.append(fail("disk", words, "make room; a run that cannot write what it decided stops"))
    elif free < ENOUGH_DISK:
        findings.append(warn("disk", words, "make room; --out of `tertium owner run` names another disk"))
    else:
        findings.append(ok("disk", words))
    return findings


def _journal(path: Path, identity: Identity | None) -> Finding:
    """Look whether the next start can go on from what earlier runs of this party wrote; changes no byte of it."""
    if not os.path.lexists(path):
        return ok("journal", f"{path} is not there yet; the first run makes it")
    if identity is None:
        return warn("journal", f"{path} cannot be told from another party's", "mend the keys first")
    try:
        found = look(path, identity.name)
    except JournalError as error:
        remedy = "keep the file; what a party forgets without it: docs/operating.md, when a machine is restarted"
        if "is in use" in str(error):
            remedy = "leave it running, or stop it before another run: one process a party"
        elif "is the journal of" in str(error):
            remedy = "put back this party's own state folder; that journal belongs to the other party"
        return fail("journal", str(error), remedy)
    return ok("journal", f"{path} {found}")


def _needed(setup: Setup) -> str:
    """Say how much a party of this role writes: only what grows with the model counts."""
    role = setup.us.role if setup.us is not None else None
    if role is Role.SECURE_WORKER:
        word = 4
        if setup.charter is not None:
            with contextlib.suppress(TertiumError):
                word = setup.charter.plan.dtype.itemsize
        return f"a release takes twice its sum, {2 * word} bytes for each number of the model, until the next round"
    if role is Role.MODEL_OWNER:
        return "three checkpoints, each with the optimiser's state, and a record a round"
    return "digests and receipts take little"


def tasks(setup: Setup, *, load: bool, seconds: float) -> list[Finding]:
    """Say whether torch is there, and with `load` whether each task of the site file loads, within `seconds` each."""
    if setup.site is None or (setup.us is not None and setup.us.role is Role.SECURE_WORKER):
        return []
    findings = [_torch()]
    role = setup.us.role if setup.us is not None else Role.DATA_OWNER
    if not load:
        return findings
    return findings + [_task(name, role, setup.folder / "site.toml", seconds) for name in setup.site.tasks]


# --- one check each -----------------------------------------------------------------------------------------------


def _folder(folder: Path) -> Finding:
    mode = folder.stat().st_mode
    if mode & _OTHERS:
        sentence = f"{folder} has mode {stat.S_IMODE(mode):04o}: who writes there can exchange its site file"
        return warn("folder", f"{sentence}, which names the code that runs", f"chmod go-w {folder}")
    return ok("folder", f"{folder} is written by its owner only")


def _keys(folder: Path) -> tuple[Identity | None, Finding]:
    path = folder / SECRET
    try:
        identity = Identity.load(path)
    except TertiumError as error:
        if not os.path.lexists(path):
            remedy = f"make them: tertium keygen NAME --role ROLE --out {folder}; or name the right folder with --party"
        else:
            remedy = "restore it from your own backup, or make new keys in another folder and have a new charter signed"
            if "has mode" in str(error):
                remedy = f"if nobody else can have read it: chmod 600 {path}; otherwise make new keys: tertium keygen"
        return None, fail("keys", str(error), remedy)
    if path.stat().st_uid != os.geteuid() and os.geteuid() != 0:
        sentence = f"{path} belongs to another user, number {path.stat().st_uid}"
        return identity, warn("keys", sentence, f"chown {os.geteuid()} {path}")
    card = folder / CARD
    if os.path.lexists(card):
        try:
            if charters.load_card(card).identity != identity.public:
                remedy = "put back the card that was made with these keys, before a charter is written from this one"
                return identity, warn("keys", f"{card} is the card of other keys than {SECRET}", remedy)
        except CharterError as error:
            return identity, warn("keys", str(error), "put back the card that was made with these keys")
    return identity, ok("keys", f"{path}: {identity.name}, fingerprint {identity.public.fingerprint}")


def _charter(path: Path) -> tuple[Charter | None, Finding]:
    try:
        charter = charters.load(path)
    except CharterError as error:
        remedy = "get the file that all parties signed, unchanged, and name it with --charter"
        return None, fail("charter", str(error), remedy)
    words = f"{path}: {charter.federation}, serial {charter.serial}, digest {charter.digest.hex()[:16]}..."
    if charter.warnings:
        remedy = "take part only if that reason is good enough for you; it was for all who signed"
        return charter, warn("charter", f"{words}; {' '.join(charter.warnings)}", remedy)
    return charter, ok("charter", words)


def _membership(
    charter: Charter | None, path: Path, identity: Identity | None, folder: Path
) -> tuple[Line | None, Finding | None]:
    """Return our line in the charter. Without a key file the card says who we are, so that the rest is looked at."""
    if charter is None:
        return None, None
    by_name = {party.name: party for party in charter.parties}
    if identity is None:
        try:
            return by_name.get(charters.load_card(folder / CARD).name), None
        except CharterError:
            return None, None
    us = by_name.get(identity.name)
    if us is None:
        remedy = f"name the right folder with --party, or have {folder / CARD} put into a new charter"
        return None, fail("party", f"{path}: {identity.name} is not a party of this charter", remedy)
    if us.identity != identity.public:
        sentence = f"{path} names other keys for {us.name}: fingerprint {us.identity.fingerprint}"
        remedy = "use the folder whose keys it names, or have a charter of a higher serial written from your new card"
        return us, fail("party", sentence, remedy)
    return us, ok("party", f"{us.name} is the charter's {us.role.words} with exactly these keys")


def _terms(charter: Charter, path: Path, now: datetime, us: Line | None) -> list[Finding]:
    """Look at what makes a charter one that may be run, whoever we are: date, signatures, mode, arithmetic."""
    renew = "have a charter of a higher serial written and signed: tertium charter new --serial"
    until, left = charter.not_after.isoformat(), charter.not_after - now
    if left <= timedelta(0):
        findings = [fail("expiry", f"the charter expired on {until}", f"{renew}, or set this machine's clock")]
    elif left < SOON:
        findings = [warn("expiry", f"the charter expires on {until}, in {_span(left)}", renew)]
    else:
        findings = [ok("expiry", f"the charter holds until {until}")]
    findings.append(_signatures(charter, path, us))
    try:
        charter.require_runnable()
        _ = charter.plan
    except TertiumError as error:
        findings.append(fail("mode", str(error), "agree on a charter this release can run, or on another release"))
    else:
        mode, least = charter.rules.mode.value, charter.rules.minimum_cohort
        findings.append(ok("mode", f"mode {mode}, at least {least} contributors in a sum"))
    return findings


def _signatures(charter: Charter, path: Path, us: Line | None) -> Finding:
    beside = charters.signatures_path(path)
    try:
        states = charters.verify_signatures(charter, path)
    except CharterError as error:
        return fail("signatures", str(error), f"get {beside.name} again from whoever keeps the charter")
    missing = [name for name, state in states.items() if state is SignatureState.MISSING]
    wrong = [name for name, state in states.items() if state is SignatureState.WRONG]
    if wrong:
        sentence = f"{beside}: the signature of {_some(wrong)} does not verify"
        remedy = "compare the charter with what was agreed (tertium charter diff), then have it signed anew"
        if len(wrong) + len(missing) == len(states):
            sentence = f"{path}: no signature verifies, so this is not the charter that was signed"
        return fail("signatures", sentence, remedy)
    if missing:
        sign = f"tertium charter sign {path.name} --as FOLDER"
        remedy = f"ask them to run: {sign}, and to hand {beside.name} on"
        if us is not None and us.name in missing:
            remedy = f"read it, then: {sign}; {beside.name} goes to whoever signs next"
        return fail("signatures", f"not signed by {_some(missing)}", remedy)
    return ok("signatures", f"all {len(states)} parties signed exactly this charter")


def _succession(charter: Charter, path: Path, identity: Identity, state: Path) -> Finding:
    """Look whether this charter may follow the one last run here, without recording it."""
    last_path = state / "charter.toml"
    last = None
    if os.path.lexists(last_path):
        try:
            last = charters.load(last_path)
        except CharterError as error:
            remedy = "restore this file from a backup of the state folder; it is what stops a rollback"
            return fail("serial", str(error), remedy)
    with tempfile.TemporaryDirectory(prefix="tertium-doctor-") as scratch:
        new, after = Path(scratch, "new"), Path(scratch, "after")
        for place in (new, after):
            place.mkdir()
        if last is not None:
            charters.dump(last, after / "charter.toml")
        # What `admit` says without a memory is what the other checks say; what it says only with one is about that.
        here, refused = (_refusal(charter, path, identity, place) for place in (new, after))
    if refused is not None and refused != here:
        remedy = "ask for the charter now in force; if this one is to replace it, it needs a higher serial"
        return fail("serial", refused, remedy)
    if last is None:
        return ok("serial", f"serial {charter.serial}; no charter has been run from this folder yet")
    return ok("serial", f"serial {charter.serial}, after {last.serial} when this folder was last run")


def _refusal(charter: Charter, path: Path, identity: Identity, scratch: Path) -> str | None:
    try:
        # At its own last moment, so that an expired charter, which another check names, hides nothing here.
        charters.admit(path, identity, scratch, charter.not_after)
    except CharterError as error:
        return str(error)
    return None


def _site(path: Path, charter: Charter | None, us: Line | None) -> tuple[Site | None, Finding]:
    there = os.path.lexists(path)
    try:
        site = load_site(path) if there else Site()
    except TertiumError as error:
        return None, fail("site", str(error), "mend that line; docs/own-model.md lists what a site file can say")
    if charter is not None:
        try:
            site.check_against(charter, us.name if us is not None else None)
        except TertiumError as error:
            remedy = "mend that line: a site file can only be stricter than the charter, and holds what the role needs"
            return site, fail("site", f"{path}: {error}", remedy)
    if not there:
        return site, ok("site", f"there is no {path.name}: the charter's limits hold")
    if path.stat().st_mode & _OTHERS:
        sentence = f"{path} can be written by others, and it names the code that runs"
        return site, warn("site", sentence, f"chmod go-w {path}")
    if Mode.PLAIN in site.limits.modes:
        remedy = "leave plain out of limits.modes unless you mean it"
        return site, warn("site", f"{path} agrees to mode plain, which hides no update from the model owner", remedy)
    return site, ok("site", f"{path} is as strict as the charter, or stricter")


def _torch() -> Finding:
    if util.find_spec("torch") is None:
        remedy = "pip install 'tertium[torch]', if a task here needs it"
        return warn("torch", "torch is not installed; only tasks without it run here", remedy)
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        version = "of unknown version"
    return ok("torch", f"torch {version} is installed")


def _task(name: str, role: Role, site_path: Path, seconds: float) -> Finding:
    """Load one task in another process, with the search path of this one, and return what it says about its data."""
    check = f"task {name}"
    read, write = os.pipe()
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    # -B: nothing is written, so no compiled copy of the operator's own module either.
    task = ["-m", "tertium.cli.doctor_task", str(write), role.value, str(site_path), name]
    command = [sys.executable, "-P", "-B", *task]
    os.set_blocking(read, False)
    try:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                pass_fds=(write,),
                start_new_session=True,
            )
        finally:
            os.close(write)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            remedy = "look what it waits for (a download, a disk), or give it longer with --task-seconds"
            return fail(check, f"it did not load within {seconds:g} s", remedy)
        finally:
            # What the task started goes too, and with it the other end of the pipe.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said = os.read(read, 1 << 16)
    except BlockingIOError:
        # Something it started, beyond our reach, still holds the other end.
        said = b""
    finally:
        os.close(read)
    try:
        answer = msgspec.json.decode(said, type=Answer)
    except msgspec.DecodeError:
        how = f"signal {-status}" if status < 0 else f"status {status}"
        remedy = "load it by hand in python and see; signal 9 often means that memory ran out"
        return fail(check, f"its process ended with {how} while it loaded", remedy)
    if answer.error:
        return fail(check, answer.error, "mend the [tasks] entry of site.toml, its data, or what is installed")
    return ok(check, answer.line)


def _span(left: timedelta) -> str:
    hours = int(left.total_seconds() // 3600)
    return f"{hours // 24} days" if hours >= 48 else f"{hours} hours"


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:10])
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown
