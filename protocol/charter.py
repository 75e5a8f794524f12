"""The charter as files: reading, writing, signing it, and what a party checks before it runs with it.

Rules of the file:
- Signatures stand beside the charter, `charter.signatures.toml`, one line a party, over the digest. They sign the
  digest of the struct, so whoever changes one character of meaning loses every one of them.
- `admit` is the only way to a charter one may run with. Its steps are numbered; it records last, and what it records
  is what a later charter is held against.
- Every refusal of a file is a `CharterError` of one sentence with the file and, where there is one, the line.
"""

import enum
import os
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import tomli_w

from ..crypto.errors import BadSignature
from ..crypto.files import create_file, reason, replace_file
from ..crypto.identity import Identity, verify
from ..crypto.labels import Label
from . import limits
from .charter_rules import (
    ONE_WORKER,
    Arithmetic,
    Charter,
    Deadlines,
    Mode,
    Party,
    Role,
    Rules,
    SchemeName,
    TrainingLimits,
    check_party,
)
from .checked import convert, fields, load_toml, party_label
from .errors import CharterError

__all__ = [
    "ONE_WORKER",
    "Arithmetic",
    "Charter",
    "Deadlines",
    "Mode",
    "Party",
    "Role",
    "Rules",
    "SchemeName",
    "SignatureState",
    "TrainingLimits",
    "admit",
    "check_party",
    "diff",
    "dump",
    "load",
    "load_card",
    "dump_card",
    "from_table",
    "read_signatures",
    "require_signed",
    "sign",
    "signatures_path",
    "verify_signatures",
]

_HEADER = """\
# The charter of a tertium federation: who takes part, and under which rules.
# Read it, then sign it: tertium charter sign charter.toml --as YOUR_FOLDER
# Any change to a value, here or by anyone, voids every signature.
"""
_CARD_HEADER = "# A party's card for a tertium charter. Public: hand it to whoever writes the charter.\n"
_SIGNATURES_HEADER = "# Signatures over the digest of the charter beside this file, one line a party.\n"
_LAST_RUN = "charter.toml"

T = TypeVar("T", bound=msgspec.Struct)


class SignatureState(enum.Enum):
    """What stands beside a charter for one party."""

    SIGNED = "signed"
    MISSING = "missing"
    WRONG = "wrong"
    """A signature that does not verify: of another charter, another key, or altered."""


class _SignatureFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    signatures: dict[str, str] = msgspec.field(default_factory=dict)


def load(path: Path) -> Charter:
    """Read a charter. Says nothing about signatures.

    Raises:
        CharterError: it cannot be read, is over 64 MiB, is not TOML, or breaks a rule; with file, line and cause.
    """
    raw = load_toml(path, limits.CHARTER_BYTES, CharterError)
    version = raw.get("version")
    if version != 1 or isinstance(version, bool):
        raise CharterError(f"{path}: version: this release reads charter format 1, and the file does not say so")
    try:
        parties = raw.get("parties")
        for index, party in enumerate(parties if isinstance(parties, list) else ()):
            _keys_from_hex(party, f"parties.{party_label(raw, index)}.".replace(".[", "["))
        return convert(raw, Charter, CharterError)
    except CharterError as error:
        raise CharterError(f"{path}: {error}") from None


def dump(charter: Charter, path: Path) -> None:
    """Write a charter as TOML for people to read; raises `CharterError` if `path` exists or cannot be written."""
    _create(path, text(charter))


def text(charter: Charter) -> str:
    """Return the TOML that `dump` writes; `load` of it gives an equal charter."""
    return _HEADER + "\n" + tomli_w.dumps(_plain(charter))


def load_card(path: Path) -> Party:
    """Read one party's public card, as `tertium keygen` writes it; raises `CharterError`."""
    raw = load_toml(path, limits.KEY_FILE_BYTES, CharterError)
    try:
        _keys_from_hex(raw, "")
        return convert(raw, Party, CharterError)
    except CharterError as error:
        raise CharterError(f"{path}: {error}") from None


def dump_card(party: Party, path: Path) -> None:
    """Write one party's public card; raises `CharterError` if `path` exists or cannot be written."""
    _create(path, _CARD_HEADER + tomli_w.dumps(_plain(party)))


def from_table(table: dict[str, Any], kind: type[T]) -> T:
    """Return a table of a charter as its struct, with defaults for what it leaves out; raises `CharterError`."""
    return convert(table, kind, CharterError)


def diff(old: Charter, new: Charter) -> list[str]:
    """Return the lines in which two charters differ, as `rules.minimum_cohort: 5 -> 3`; empty if they are equal."""
    before, after = _lines(old), _lines(new)
    names_before, names_after = ({party.name for party in charter.parties} for charter in (old, new))
    out = [
        f"{path}: {_shown(before[path])} -> {_shown(after[path])}"
        for path in before
        if path in after and before[path] != after[path]
    ]
    out += [f"parties.{name}: removed" for name in sorted(names_before - names_after)]
    out += [f"parties.{name}: added" for name in sorted(names_after - names_before)]
    return out


def signatures_path(charter_path: Path) -> Path:
    """Return where the signatures of a charter file stand: `charter.toml` has `charter.signatures.toml`."""
    return charter_path.with_name(f"{charter_path.name.removesuffix('.toml')}.signatures.toml")


def read_signatures(charter: Charter, path: Path) -> Mapping[str, bytes]:
    """Return the 64-byte signatures beside the charter file `path`, by party; empty if there is no such file yet.

    Raises:
        CharterError: the file is malformed, or has a line for someone the charter does not name.
    """
    beside = signatures_path(path)
    if not os.path.lexists(beside):
        return {}
    raw = load_toml(beside, limits.CHARTER_BYTES, CharterError)
    try:
        lines = convert(raw, _SignatureFile, CharterError).signatures
    except CharterError as error:
        raise CharterError(f"{beside}: {error}") from None
    known = {party.name for party in charter.parties}
    out = {}
    for name, value in lines.items():
        if name not in known:
            raise CharterError(
                f"{beside}: signatures.{name[: limits.NAME_LENGTH]!r}: no party of the charter; remove it"
            )
        if not re.fullmatch(r"[0-9a-f]{128}", value):
            raise CharterError(f"{beside}: signatures.{name}: expected a signature: 128 lower-case hexadecimal digits")
        out[name] = bytes.fromhex(value)
    return out


def verify_signatures(charter: Charter, path: Path) -> Mapping[str, SignatureState]:
    """Return, for every party in name order, what stands for it beside the charter file `path`.

    Raises:
        CharterError: the signature file is malformed, or has a line for someone the charter does not name.
    """
    found = read_signatures(charter, path)
    out = {}
    for party in charter.parties:
        state = SignatureState.MISSING
        if party.name in found:
            state = SignatureState.SIGNED
            try:
                verify(party.identity.signing, Label.CHARTER, charter.digest, found[party.name], party=party.name)
            except BadSignature:
                state = SignatureState.WRONG
        out[party.name] = state
    return out


def require_signed(charter: Charter, path: Path) -> None:
    """Raise `CharterError` naming who has not signed the charter at `path`, or whose signature does not verify."""
    states = verify_signatures(charter, path)
    wrong, missing = (
        [name for name, state in states.items() if state is wanted]
        for wanted in (SignatureState.WRONG, SignatureState.MISSING)
    )
    if wrong and len(wrong) + len(missing) == len(states):
        raise CharterError(
            f"{path}: no signature verifies, so the charter is not the one that was signed ({_listed(wrong)} signed); "
            "compare it with what was agreed: tertium charter diff"
        )
    if wrong:
        raise CharterError(f"{signatures_path(path)}: the signature of {_listed(wrong)} does not verify")
    if missing:
        raise CharterError(f"{path}: not signed by {_listed(missing)}; nobody runs a charter that not all have signed")


def sign(path: Path, identity: Identity) -> Charter:
    """Put this party's signature beside the charter at `path`, keeping the others' lines; return what was signed.

    Raises:
        CharterError: the charter or the signature file is malformed, or this party does not stand in it with exactly
            these keys.
    """
    charter = load(path)
    _require_own_keys(charter, path, identity)
    lines = {name: signature.hex() for name, signature in read_signatures(charter, path).items()}
    lines[identity.name] = identity.sign(Label.CHARTER, charter.digest).hex()
    content = _SIGNATURES_HEADER + tomli_w.dumps({"signatures": dict(sorted(lines.items()))})
    _replace(signatures_path(path), content)
    return charter


def admit(
    path: Path,
    identity: Identity,
    state_dir: Path,
    now: datetime,
    *,
    fits: Callable[[Charter], None] | None = None,
) -> Charter:
    """Return the charter at `path` if this party may run with it now, and remember it in `state_dir`.

    Args:
        path: the charter file, with its signatures beside it.
        identity: this party's own keys.
        state_dir: the folder that holds the charter this party last ran with; it is made when there is one to hold.
        now: the time, with its zone.
        fits: raises what keeps the caller from running with this charter, if anything does.

    Raises:
        CharterError: with the step that failed, or what `fits` raises. Nothing is recorded then.
    """
    # 1. It is a charter: bounded, well-formed, within the rules.
    charter = load(path)
    # 2. It is about us. Before anything costly, and because nothing below means much to a stranger.
    _require_own_keys(charter, path, identity)
    # 3. It has not expired.
    if now.tzinfo is None:
        raise CharterError("the time that a charter is held against must have a zone")
    if now > charter.not_after:
        raise CharterError(f"{path}: not_after: the charter expired on {charter.not_after.isoformat()}")
    # 4. It is not older than the last one, which stops a rollback to laxer rules that all once signed; and not another
    #    of the same serial, which stops two valid charters side by side. Before the signatures, since it can say which
    #    line was changed and they cannot.
    last = _last_run(state_dir)
    if last is not None:
        _require_successor(last, charter, path)
    # 5. Every party signed exactly this.
    require_signed(charter, path)
    # 6. This release can run it, its numbers fit a word, and it fits the command and the site file of this run.
    charter.require_runnable()
    _ = charter.plan
    if fits is not None:
        fits(charter)
    # 7. Recorded, so that step 4 holds next time.
    if last is None or last.digest != charter.digest:
        state_dir.mkdir(mode=0o700, exist_ok=True)
        _replace(state_dir / _LAST_RUN, text(charter))
    return charter


def _require_own_keys(charter: Charter, path: Path, identity: Identity) -> None:
    own = next((party for party in charter.parties if party.name == identity.name), None)
    if own is None:
        raise CharterError(f"{path}: {identity.name} is not a party of this charter")
    for kind in ("signing", "curve"):
        if getattr(own.identity, kind) != getattr(identity.public, kind):
            raise CharterError(
                f"{path}: parties.{identity.name}.{kind}: not the key of {identity.name}; its card is in public.toml"
            )


def _last_run(state_dir: Path) -> Charter | None:
    path = state_dir / _LAST_RUN
    # In a folder that cannot be searched this finds nothing, and then step 7 cannot write either.
    return load(path) if os.path.lexists(path) else None


def _require_successor(last: Charter, charter: Charter, path: Path) -> None:
    if last.federation != charter.federation:
        raise CharterError(
            f"{path}: federation: this folder's state is of {last.federation!r}, not of {charter.federation!r}; "
            "give each federation its own"
        )
    changed = "; ".join(diff(last, charter)[:5])
    if charter.serial < last.serial:
        raise CharterError(
            f"{path}: serial: older than the charter last run here ({charter.serial} after {last.serial}): {changed}"
        )
    if charter.serial == last.serial and charter.digest != last.digest:
        raise CharterError(
            f"{path}: differs from the charter last run here under the same serial {charter.serial}: {changed}"
        )


def _create(path: Path, content: str) -> None:
    try:
        create_file(path, content.encode("utf-8"), mode=0o644)
    except FileExistsError:
        raise CharterError(f"{path} exists; choose another name, or move it away first") from None
    except OSError as error:
        raise CharterError(f"cannot write {path}: {reason(error)}") from None


def _replace(path: Path, content: str) -> None:
    try:
        replace_file(path, content.encode("utf-8"), mode=0o644)
    except OSError as error:
        raise CharterError(f"cannot write {path}: {reason(error)}") from None


def _keys_from_hex(party: object, line: str) -> None:
    """Put bytes in the place of the hexadecimal keys of a party as TOML gives it."""
    for kind in ("signing", "curve"):
        if isinstance(party, dict) and kind in party:
            value = party[kind]
            if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
                raise CharterError(f"{line}{kind}: expected a key: 64 lower-case hexadecimal digits")
            party[kind] = bytes.fromhex(value)


def _plain(struct: msgspec.Struct) -> dict[str, object]:
    """Return a struct as TOML takes it: no None, which TOML has no word for and the structs have as default."""

    def clean(value: object) -> object:
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items() if item is not None}
        if isinstance(value, (list, tuple)):
            return [clean(item) for item in value]
        return value.hex() if isinstance(value, bytes) else value

    cleaned = clean(msgspec.to_builtins(struct, builtin_types=(datetime, bytes)))
    return cleaned if isinstance(cleaned, dict) else {}


def _lines(charter: Charter) -> dict[str, object]:
    """Return every line of a charter under its dotted path, parties by name."""
    out: dict[str, object] = {}

    def walk(path: str, value: object) -> None:
        if isinstance(value, msgspec.Struct):
            for field in fields(type(value)):
                walk(f"{path}.{field.name}" if path else field.name, getattr(value, field.name))
        elif path == "parties":
            for party in charter.parties:
                walk(f"parties.{party.name}", party)
        else:
            out[path] = value

    walk("", charter)
    return out


def _shown(value: object) -> str:
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_shown, value)) + "]"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str):
        return value or '""'
    return "(none)" if value is None else str(value)


def _listed(names: Iterable[str]) -> str:
    """Return up to ten names, and how many more there are."""
    known = list(names)
    more = f" and {len(known) - 10} more" if len(known) > 10 else ""
    return ", ".join(known[:10]) + more
