"""Structs that cannot be built invalid, and the sentences in which a party's own files are refused.

Rules of the file:
- `Checked` holds every field to the bounds of its type however the struct is built; msgspec alone does that only when
  it decodes.
- Whatever a TOML file holds, `load_toml` and `convert` return a valid struct or raise the one error their caller names,
  with a sentence that starts with the line's dotted path.
"""

import functools
import math
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec
from msgspec import Meta

from ..crypto.errors import Misuse
from ..crypto.files import read_bounded, reason
from ..crypto.identity import KEY_BYTES
from . import limits
from .text import printable

# Text keeps out control characters and the marks that turn the
# direction of writing: a charter is read by people in terminals, and must not be able to paint another one there.
_NAME = r"^[a-z0-9][a-z0-9._-]*\Z"
_TEXT = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]*\Z"
_HOST = r"(?=[^:]{1,253}:)[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?"
_ENDPOINT = rf"^tcp://{_HOST}:[1-9][0-9]{{0,4}}\Z"
_BIND = rf"^tcp://(\*|{_HOST}):(0|[1-9][0-9]{{0,4}})\Z"
_FACTORY = r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*\Z"
# A key of that many parts takes tomllib time that grows with their square, and no key of ours has more than four. No
# text, name or host of a valid file holds as many parts either, so this need not know where a string begins.
_PART = r"(?:[A-Za-z0-9_-]++|\"[^\"\n]*+\"|'[^'\n]*+')"
_ENDLESS_KEY = re.compile(rf"(?<![A-Za-z0-9_-])(?:{_PART}[ \t]*+\.[ \t]*+){{{limits.TEXT_LENGTH}}}")
_IN_WORDS = {
    _NAME: "a name: lower-case letters, digits, dots, dashes and underscores, a letter or digit first",
    _TEXT: "plain text without control characters",
    _ENDPOINT: "an endpoint: tcp://HOST:PORT",
    _BIND: "an address to listen on: tcp://ADDRESS:PORT",
    _FACTORY: "a factory: package.module:Class",
}

Text = Annotated[str, Meta(max_length=limits.TEXT_LENGTH, pattern=_TEXT)]
Title = Annotated[str, Meta(min_length=1, max_length=limits.TEXT_LENGTH, pattern=_TEXT)]
Key = Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
Endpoint = Annotated[str, Meta(max_length=limits.ENDPOINT_LENGTH, pattern=_ENDPOINT)]
BindAddress = Annotated[str, Meta(max_length=limits.ENDPOINT_LENGTH, pattern=_BIND)]
Factory = Annotated[str, Meta(max_length=limits.TEXT_LENGTH, pattern=_FACTORY)]
Positive = Annotated[float, Meta(gt=0.0)]
Seconds = Annotated[float, Meta(gt=0.0, le=limits.DEADLINE)]

S = TypeVar("S")


class Checked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A struct whose fields are held to their bounds however it is built; the subclass says which error it raises."""

    error: ClassVar[type[Misuse]] = Misuse
    table: ClassVar[str] = ""
    """The dotted path of the struct in its file, where it stands at one place only."""

    def __post_init__(self) -> None:
        for field in fields(type(self)):
            value, line = getattr(self, field.name), f"{self.table}.{field.name}".lstrip(".")
            try:
                checked = msgspec.convert(value, field.type)
            except msgspec.ValidationError as error:
                raise self.error(sentence(error, line)) from None
            except (ValueError, OverflowError, RecursionError):
                # msgspec, for integers beyond 64 bits and nesting beyond its stack.
                raise self.error(f"{line}: a value is too large or too deeply nested") from None
            if isinstance(checked, float) and not math.isfinite(checked):
                raise self.error(f"{line}: must be a finite number")
            if checked is not value:
                msgspec.structs.force_setattr(self, field.name, checked)


@functools.cache
def fields(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """Return the fields of a struct type, in order."""
    return msgspec.structs.fields(kind)


def check_port(line: str, endpoint: str, error: type[Misuse]) -> None:
    """Raise `error` if the port of an endpoint of valid form is beyond 65535."""
    port = endpoint.rpartition(":")[2]
    if int(port) > 65535:
        raise error(f"{line}: there is no port {port}")


def load_toml(path: Path, limit: int, error: type[Misuse]) -> dict[str, Any]:
    """Read a TOML file of at most `limit` bytes; raises `error` with file and cause for anything else."""
    try:
        text = read_bounded(path, limit).decode("utf-8")
        if _ENDLESS_KEY.search(text):
            raise error(f"{path} is not valid TOML: a key is too deeply nested")
        return tomllib.loads(text)
    except OSError as cause:
        raise error(f"cannot read {path}: {reason(cause)}") from None
    except UnicodeDecodeError as cause:
        raise error(f"{path} is not text in UTF-8 (byte {cause.start})") from None
    except tomllib.TOMLDecodeError as cause:
        raise error(f"{path} is not valid TOML: {_brief(_first_lower(str(cause)))}") from None
    except (ValueError, RecursionError):
        # tomllib, for integers of thousands of digits and brackets nested as deep.
        raise error(f"{path} is not valid TOML: a value is too large or too deeply nested") from None


def convert(raw: dict[str, Any], kind: type[S], error: type[Misuse]) -> S:
    """Return `raw`, as TOML gives it, as a struct; raises `error` naming the line."""
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as cause:
        raise error(sentence(cause, getattr(kind, "table", ""), raw)) from None
    except (ValueError, OverflowError, RecursionError):
        raise error("a value is too large or too deeply nested") from None


def sentence(error: msgspec.ValidationError, prefix: str, raw: dict[str, Any] | None = None) -> str:
    """Turn a decoder's complaint into `dotted.path: what was expected`; `raw` gives parties their names back."""
    text, _, path = str(error).partition(" - at `$")

    def named(match: re.Match[str]) -> str:
        return f".parties.{party_label(raw or {}, int(match[1]))}"

    path = re.sub(r"^\.parties\[(\d+)\]", named, path.rstrip("`")).strip(".")
    for pattern, words in _IN_WORDS.items():
        text = text.replace(f"`str` matching regex {pattern!r}", words)
    text = _brief(_first_lower(text.replace("`", "")))
    where = ".".join(part for part in (prefix, path) if part).replace(".[", "[")
    return f"{where}: {text}" if where else text


def party_label(raw: dict[str, Any], index: int) -> str:
    """Return the name of the party at `index` of a charter as TOML gives it, or `[index]` where that is no name."""
    parties = raw.get("parties")
    party = parties[index] if isinstance(parties, list) and index < len(parties) else None
    name = party.get("name") if isinstance(party, dict) else None
    if isinstance(name, str) and len(name) <= limits.NAME_LENGTH and re.match(_NAME, name):
        return name
    return f"[{index}]"


def _brief(text: str) -> str:
    """Return a complaint on one line and no longer than a sentence: it quotes what the file holds."""
    text = printable(text)
    return text if len(text) <= limits.TEXT_LENGTH else f"{text[: limits.TEXT_LENGTH]}..."


def _first_lower(text: str) -> str:
    return text[:1].lower() + text[1:]
