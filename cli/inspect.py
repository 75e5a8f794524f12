"""`tertium inspect`: what a file says, in words, without trusting it.

Reads charters, signatures, cards, site files, round records, control frames and models. Nothing is executed, nothing is
sent, and no file is opened that would show a secret: key files are refused. A record's signatures are verified when
the charter is given.
"""

import json
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import click
import msgspec
from msgspec import Meta

from ..crypto.errors import KeyFileError, TertiumError
from ..crypto.files import read_bounded, reason
from ..crypto.identity import verify
from ..crypto.labels import Label
from ..protocol import limits
from ..protocol.charter import Charter, Role, load, load_card
from ..protocol.check_messages import Checked, MaskedFingerprint, MaskKey, SumCheck
from ..protocol.codec import decode_as, decode_message
from ..protocol.errors import MalformedMessage, SiteFileError
from ..protocol.ledger import Checkpoint
from ..protocol.messages import (
    Abort,
    CloseList,
    Decline,
    Evaluation,
    Header,
    HelloStatement,
    OpenRound,
    Receipt,
    RoundKeyStatement,
    RoundOffer,
    RoundRecord,
    RoundStatement,
    SealedHead,
    SessionEnd,
    SessionOffer,
    Signed,
    Statement,
)
from ..protocol.seats import Seats
from ..protocol.site import load_site
from ..protocol.statements import open_signed
from ..protocol.text import printable
from ..protocol.verification import check_outcome, read_answers
from .errors import DIFFERENT, OK

_EXAMPLE = """\b
Example:
  tertium inspect runs/digits/charter.toml
  tertium inspect runs/digits/owner/state/records/round-000001.third.record --charter runs/digits/charter.toml
"""
GOOD = "signature verifies"
VERIFIED = "verified"
_STATEMENTS: tuple[type[Statement], ...] = (
    HelloStatement,
    SessionOffer,
    OpenRound,
    RoundOffer,
    RoundKeyStatement,
    Decline,
    Receipt,
    CloseList,
    RoundStatement,
    Abort,
    SessionEnd,
    Evaluation,
    MaskKey,
    MaskedFingerprint,
    SumCheck,
    Checkpoint,
)
_SAFETENSORS_HEADER = 16 * limits.MIB
_Length = Annotated[int, Meta(ge=0, le=limits.MODEL_BYTES)]


class _Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a safetensors header says of one tensor."""

    dtype: Annotated[str, Meta(max_length=limits.NAME_LENGTH)]
    shape: tuple[_Length, ...]
    data_offsets: tuple[_Length, _Length]


@click.command(epilog=_EXAMPLE)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--charter", "charter_path", type=click.Path(path_type=Path), help="Verify signatures against this one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def inspect(*, file: Path, charter_path: Path | None, as_json: bool) -> int:
    """Show what a file of tertium says: charter, card, site file, round record, control frame, or model."""
    charter = load(charter_path) if charter_path else None
    kind, content = examine(file, charter)
    if as_json:
        click.echo(json.dumps({"file": str(file), "kind": kind, "content": content}, indent=2))
    else:
        click.echo(f"{file}: {kind}")
        for line in _lines(content, 1):
            click.echo(line)
    # Only a message has one; a tensor may be called anything.
    verdict = content.get("verdict", VERIFIED) if kind == "message" else VERIFIED
    return OK if verdict.startswith(VERIFIED) else DIFFERENT


def examine(file: Path, charter: Charter | None) -> tuple[str, Any]:
    """Return what kind of file this is and its content, plain; raises `SiteFileError` if it is none of ours."""
    if file.name == "secret.toml":
        raise KeyFileError(f"{file} holds secret keys, which are never shown; its public half is in public.toml")
    readers: tuple[tuple[str, str, Callable[[Path], Any]], ...] = (
        (".toml", "charter", lambda path: _plain(load(path))),
        (".toml", "card", lambda path: _plain(load_card(path))),
        (".toml", "site file", lambda path: _plain(load_site(path))),
        (".safetensors", "model", _model),
        ("", "message", lambda path: _message(path, charter)),
    )
    wrong: list[str] = []
    for suffix, kind, read in readers:
        if not suffix or file.suffix == suffix:
            try:
                return kind, read(file)
            except TertiumError as error:
                wrong.append(f"as a {kind}: {error}")
            except OSError as error:
                raise SiteFileError(f"{file} cannot be read: {reason(error)}") from None
            if file.suffix == ".toml" and kind == "site file":
                break
    # The reader that got furthest is the one its author meant; charters and records have the most to say.
    raise SiteFileError(f"{file} is no file of tertium ({wrong[0]})")


def _message(path: Path, charter: Charter | None) -> Any:
    data = read_bounded(path, limits.control_frame(limits.PARTIES))
    message = decode_message(data)
    content = {"message": type(message).__name__, **_plain(message, charter)}
    if isinstance(message, RoundRecord) and charter is not None:
        content["verified"] = outcome = _verified(message, charter)
        content["verdict"] = _verdict(message, charter, outcome)
    if isinstance(message, Checked) and charter is not None:
        content["verdict"] = _checked(message, charter)
    return content


def _checked(message: Checked, charter: Charter) -> str:
    """Say in one sentence whether the account of a check follows from signed answers."""
    try:
        check = open_signed(charter, message.check, SumCheck, Role.MODEL_OWNER)
        names = sorted({*(answer.signer for answer in message.answers), *check.silent})
        values: dict[str, int] = {}
        if check.challenge is not None:
            owner = charter.model_owner.name
            values = read_answers(charter, check.open_round, check.challenge, names, message.answers, shown_by=owner)
        check_outcome(charter, names, Seats(charter).holders, check, values)
    except TertiumError as error:
        return f"NOT verified: {error}"
    silent = f", silent: {', '.join(check.silent)}" if check.silent else ""
    return f"{VERIFIED}: {len(values)} signed answers say that the sum is {check.state.value}{silent}"


def _verdict(record: RoundRecord, charter: Charter, outcome: dict[str, str]) -> str:
    """Say in one sentence whether a record is what it should be: every signature good, nobody missing unsaid."""
    bad = sorted(name for name, said in outcome.items() if said != GOOD)
    if bad:
        return f"NOT verified: the signature of {', '.join(bad)} does not hold"
    statement = decode_as(RoundStatement, record.statement.statement)
    expected = {charter.model_owner.name, *statement.contributors}
    absent = sorted(expected - set(outcome))
    if absent != sorted(record.absent):
        return f"NOT verified: no cosignature of {', '.join(absent) or 'nobody'}, and the record names other absentees"
    without = f", without {', '.join(absent)}" if absent else ""
    return f"{VERIFIED}: {len(expected) - len(absent)} of {len(expected)} cosigned{without}"


def _verified(record: RoundRecord, charter: Charter) -> dict[str, str]:
    """Verify a record's every signature; returns a word a signer."""
    outcome: dict[str, str] = {}
    signed = record.statement

    def note(name: str, said: str) -> None:
        # A good signature beside a bad one of the same name must not hide it.
        if outcome.get(name, GOOD) == GOOD:
            outcome[name] = said

    try:
        open_signed(charter, signed, RoundStatement, Role.SECURE_WORKER)
        note(signed.signer, GOOD)
    except TertiumError as error:
        note(signed.signer, str(error))
    for cosignature in record.cosignatures:
        try:
            key = charter.party(cosignature.party).signing
            verify(key, Label.ROUND_STATEMENT, signed.statement, cosignature.signature, party=cosignature.party)
            note(cosignature.party, GOOD)
        except TertiumError as error:
            note(cosignature.party, str(error))
    return outcome


def _model(path: Path) -> Any:
    """Return a safetensors file's tensors by name, type and shape, from its bounded header alone."""
    wrong = SiteFileError(f"{path} is not a safetensors file")
    # Not to wait for whoever writes to a pipe of that name.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise SiteFileError(f"{path} is not a regular file")
        size = file.read(8)
        length = struct.unpack("<Q", size)[0] if len(size) == 8 else 0
        room = facts.st_size - len(size) - length
        if not 0 < length <= _SAFETENSORS_HEADER or room < 0:
            raise wrong
        try:
            header = msgspec.json.decode(file.read(length), type=dict[str, msgspec.Raw])
            about = msgspec.json.decode(header.pop("__metadata__", b"{}"), type=dict[str, str])
            tensors = {name: msgspec.json.decode(entry, type=_Tensor) for name, entry in header.items()}
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise wrong from None
    for tensor in tensors.values():
        begin, end = tensor.data_offsets
        if not begin <= end <= room:
            raise SiteFileError(f"{path} is not a whole safetensors file: a tensor lies beyond its end")
    shown: dict[str, object] = {name: f"{each.dtype} {list(each.shape)}" for name, each in tensors.items()}
    return {**shown, "__metadata__": about} if about else shown


def _plain(value: Any, charter: Charter | None = None) -> Any:
    """Return a struct as plain values: bytes in hex, signed statements opened, enums by value."""
    if isinstance(value, Signed):
        return {"signer": value.signer, **_statement(value), "signature": value.signature.hex()}
    if isinstance(value, SealedHead):
        return {"header": _plain(decode_as(Header, value.header)), "wrapped_key": f"{len(value.wrapped_key)} bytes"}
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name), charter) for name in value.__struct_fields__}
    if isinstance(value, bytes):
        return value.hex() if len(value) <= 64 else f"{len(value)} bytes"
    if isinstance(value, (list, tuple)):
        return [_plain(item, charter) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item, charter) for key, item in value.items()}
    return msgspec.to_builtins(value)


def _statement(signed: Signed) -> dict[str, Any]:
    for kind in _STATEMENTS:
        try:
            return {"statement": kind.__name__, **_plain(decode_as(kind, signed.statement))}
        except MalformedMessage:
            continue
    return {"statement": "unknown"}


def _lines(value: Any, depth: int) -> list[str]:
    pad = "  " * depth
    if isinstance(value, dict):
        out: list[str] = []
        for key, item in value.items():
            if isinstance(item, (dict, list)) and item:
                out += [f"{pad}{_scalar(key)}:", *_lines(item, depth + 1)]
            else:
                out.append(f"{pad}{_scalar(key)}: {_scalar(item)}")
        return out
    if isinstance(value, list):
        out = []
        for item in value:
            if isinstance(item, (dict, list)) and item:
                first, *rest = _lines(item, depth + 1)
                out += [f"{pad}- {first.strip()}", *rest]
            else:
                out.append(f"{pad}- {_scalar(item)}")
        return out
    return [f"{pad}{_scalar(value)}"]


def _scalar(value: Any) -> str:
    text = "(none)" if value is None or value in ([], {}) else str(value)
    return printable(text)
