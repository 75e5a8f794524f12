"""Charters that are none, and charters that nobody may run with: every door refuses each, and no file changes."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from tertium.crypto.identity import Identity
from tertium.protocol import charter as charters
from tertium.protocol import limits
from tertium.protocol.charter import SchemeName
from tertium.protocol.errors import CharterError

# `place` is the fixture of conftest.py; conftest cannot be imported for its types.
Place = Any
Spoil = Callable[[Place], object]


def swap(old: str, new: str) -> Spoil:
    return lambda place: place.edit(place.path, old, new)


def raw(content: bytes) -> Spoil:
    return lambda place: place.path.write_bytes(content)


def upto(mark: str, *, more: int = 0) -> Spoil:
    """Cut the file off at the first place where `mark` stands, and `more` bytes further."""

    def spoil(place: Place) -> None:
        whole = place.path.read_text()
        place.path.write_text(whole[: whole.index(mark) + more])

    return spoil


def key_of(name: str, kind: str, change: Callable[[str], str]) -> Spoil:
    """Change a key of a party as the file has it."""

    def spoil(place: Place) -> None:
        key = getattr(place.identities[name].public, kind).hex()
        place.edit(place.path, f'"{key}"', change(key))

    return spoil


def without(name: str) -> Spoil:
    def spoil(place: Place) -> None:
        blocks = place.path.read_text().split("[[parties]]\n")
        kept = [block for block in blocks if f'name = "{name}"\n' not in block]
        assert len(kept) == len(blocks) - 1
        place.path.write_text("[[parties]]\n".join(kept))

    return spoil


def again(name: str, *changes: tuple[str, str]) -> Spoil:
    """A second table for a party, changed."""

    def spoil(place: Place) -> None:
        text = place.path.read_text()
        block = next(block for block in text.split("[[parties]]\n") if f'name = "{name}"\n' in block)
        for old, new in changes:
            assert old in block
            block = block.replace(old, new)
        place.path.write_text(f"{text.rstrip()}\n\n[[parties]]\n{block}")

    return spoil


def link(place: Place) -> None:
    place.path.rename(place.root / "elsewhere.toml")
    place.path.symlink_to(place.root / "nowhere.toml")


def loop(place: Place) -> None:
    place.path.unlink()
    place.path.symlink_to(place.path.name)


def pipe(place: Place) -> None:
    place.path.unlink()
    os.mkfifo(place.path)


def folder(place: Place) -> None:
    place.path.unlink()
    place.path.mkdir()


def device(place: Place) -> None:
    place.path.unlink()
    place.path.symlink_to("/dev/zero")


def giant(place: Place) -> None:
    os.truncate(place.path, 2**40)


def many(place: Place) -> None:
    """More parties than a charter may have, each of them as short as a line can be."""
    place.path.write_bytes(place.path.read_bytes() + b"[[parties]]\n" * 100_001)


ALICE, THIRD = 'name = "alice"\nrole = "data_owner"', 'name = "third"\nrole = "secure_worker"'
SMALL_POINT = "ec" + "ff" * 30 + "7f"
NINES = "9" * 5000

MALFORMED: dict[str, tuple[Spoil, str]] = {
    # not a file of text
    "empty": (raw(b""), "version: this release reads charter format 1"),
    "only white space": (raw(b"\n \t\n"), "version"),
    "only a comment": (raw(b"# a charter\n"), "version"),
    "missing": (lambda place: place.path.unlink(), "no such file"),
    "a folder": (folder, "it is a folder"),
    "a pipe": (pipe, "not a regular file"),
    "a device": (device, "not a regular file"),
    "a link to nothing": (link, "no such file"),
    "a link to itself": (loop, "too many levels"),
    "a terabyte": (giant, "longer than"),
    "byte order mark": (lambda p: p.path.write_bytes(b"\xef\xbb\xbf" + p.path.read_bytes()), "not valid TOML"),
    "UTF-16": (lambda p: p.path.write_bytes(p.path.read_text().encode("utf-16")), "not text in UTF-8"),
    "Latin-1 in a name": (swap("trial", "tri\udce4l"), "not text in UTF-8"),
    "an overlong NUL": (swap("trial", "tri\udcc0\udc80l"), "not text in UTF-8"),
    "a lone surrogate in UTF-8": (swap("trial", "\udced\udca0\udc80"), "not text in UTF-8"),
    "a NUL in a comment": (swap("# Read it", "# \0Read it"), "not valid TOML"),
    "a NUL in a text": (swap("trial", "tri\0al"), "not valid TOML"),
    "a NUL after the end": (lambda p: p.path.write_bytes(p.path.read_bytes() + b"\0"), "not valid TOML"),
    "line ends of a Mac": (lambda p: p.path.write_bytes(p.path.read_bytes().replace(b"\n", b"\r")), "not valid TOML"),
    "JSON": (raw(b'{"version": 1, "federation": "trial"}'), "not valid TOML"),
    "YAML": (raw(b"version: 1\nfederation: trial\n"), "not valid TOML"),
    "an archive": (raw(b"PK\x03\x04" + bytes(40)), "not valid TOML"),
    # cut off
    "cut in the first comment": (upto("# The charter", more=8), "version"),
    "cut in a key": (upto("serial", more=4), "not valid TOML"),
    "cut after an equals sign": (upto("serial = ", more=9), "not valid TOML"),
    "cut before the rules": (upto("[rules]"), "missing required field"),
    "cut in a table's head": (upto("[rules]", more=4), "not valid TOML"),
    "cut before the parties": (upto("[[parties]]"), "missing required field parties"),
    "cut in a party's keys": (upto("signing = ", more=40), "not valid TOML"),
    "cut after the first party": (upto('name = "bob"', more=-13), "exactly one model owner, this one 0"),
    "cut before the last party's endpoints": (upto("control = ", more=-1), "parties.owner.control"),
    # nested and giant
    "brackets nested a hundred thousand deep": (raw(b"x = " + b"[" * 100_000), "too deeply nested"),
    "tables nested in a key": (raw(b"version = 1\n[" + b"a." * 200_000 + b"a]\n"), "a key is too deeply nested"),
    "tables nested in a quoted key": (raw(b"version = 1\n" + b'"a" . ' * 200_000 + b"b = 1\n"), "too deeply nested"),
    "inline tables nested deep": (raw(b"x = " + b"{a=" * 50_000), "too deeply nested"),
    "a number of 5000 digits": (swap("serial = 5", f"serial = {NINES}"), "too large"),
    "a serial beyond 64 bits": (swap("serial = 5", f"serial = {2**70}"), "serial"),
    "a serial beyond 53 bits": (swap("serial = 5", f"serial = {2**53 + 1}"), "serial"),
    "a cohort beyond 64 bits": (swap("cohort = 3", f"cohort = {2**65}"), "rules.minimum_cohort"),
    "a range of 10 to the 400": (swap("range = 8.0", "range = 1e400"), "rules.arithmetic.value_range"),
    "more parties than there may be": (many, "parties"),
    "a federation's name of a megabyte": (swap("trial", "x" * 2**20), "federation"),
    "a mode of a megabyte": (swap('mode = "trusted"', f'mode = "{"m" * 2**20}"'), "rules.mode"),
    "an unknown field of a megabyte": (swap("version = 1", f"version = 1\n{'u' * 2**20} = 1"), "unknown field"),
    "a party's name of a megabyte": (swap('"alice"', f'"{"a" * 2**20}"'), "name"),
    # TOML's own rules
    "a key twice": (swap("serial = 5", "serial = 5\nserial = 5"), "not valid TOML"),
    "a table twice": (swap("[rules.scheme]", "[rules]\n[rules.scheme]"), "not valid TOML"),
    "a table over a value": (swap("serial = 5", "serial = 5\n[serial]\nx = 1"), "not valid TOML"),
    "a duplicate key of a megabyte": (
        swap("serial = 5", f"{'k' * 2**20} = 1\n[{'k' * 2**20}]\nx = 1"),
        "not valid TOML",
    ),
    "an unclosed text": (swap('"trial"', '"trial'), "not valid TOML"),
    "a bare word": (swap('"trial"', "trial"), "not valid TOML"),
    "an escape there is not": (swap("trial", "tri\\qal"), "not valid TOML"),
    "an escaped surrogate": (swap("trial", "tri\\uD800al"), "not valid TOML"),
    "an hour 25": (swap("not_after = ", "not_after = 2031-01-01T25:00:00Z # "), "not valid TOML"),
    "a thirteenth month": (swap("not_after = ", "not_after = 2031-13-01T00:00:00Z # "), "not valid TOML"),
    # fields that are missing or too many
    "no version": (swap("version = 1\n", ""), "version"),
    "no federation": (swap('federation = "trial"\n', ""), "missing required field federation"),
    "no serial": (swap("serial = 5\n", ""), "missing required field serial"),
    "no expiry": (swap("not_after = ", "# "), "missing required field not_after"),
    "no mode": (swap('mode = "trusted"\n', ""), "rules: object missing required field mode"),
    "no scheme": (swap('[rules.scheme]\nname = "trusted"\nversion = 1\n', ""), "missing required field scheme"),
    "no name of the scheme": (swap('[rules.scheme]\nname = "trusted"\n', "[rules.scheme]\n"), "rules.scheme"),
    "no name of a party": (swap('name = "alice"\n', ""), "parties[0]"),
    "no role of a party": (swap(ALICE, 'name = "alice"'), "parties.alice"),
    "no signing key": (
        lambda p: p.edit(p.path, f'signing = "{p.identities["alice"].public.signing.hex()}"\n', ""),
        "parties.alice: object missing required field signing",
    ),
    "no CURVE key": (
        lambda p: p.edit(p.path, f'curve = "{p.identities["alice"].public.curve.hex()}"\n', ""),
        "parties.alice: object missing required field curve",
    ),
    "an unknown field": (swap("version = 1", "version = 1\nowner = 1"), "unknown field owner"),
    "an unknown field that paints": (
        swap("version = 1", 'version = 1\n"\\u001b[2J\\n" = 1'),
        "unknown field \ufffd[2J\ufffd",
    ),
    "an unknown rule": (swap("minimum_cohort", "minimum_cohorts"), "rules: object contains unknown field"),
    "an unknown field of a party": (swap(ALICE, f"{ALICE}\nadmin = true"), "parties.alice: object contains unknown"),
    "an unknown deadline": (swap("join = 60.0", "tea = 60.0"), "rules.deadlines: object contains unknown field tea"),
    "an unknown limit": (swap("max_epochs", "max_epoch"), "rules.training: object contains unknown field"),
    "a signature inside": (swap("version = 1", 'version = 1\nsignatures = ""'), "unknown field signatures"),
    "a field in other letters": (swap("serial = 5", "Serial = 5"), "unknown field Serial"),
    # types
    "version 2": (swap("version = 1", "version = 2"), "version"),
    "version true": (swap("version = 1", "version = true"), "version"),
    "version 1.0": (swap("version = 1", "version = 1.0"), "version"),
    "version as text": (swap("version = 1", 'version = "1"'), "version"),
    "federation as a number": (swap('"trial"', "7"), "federation: expected str"),
    "federation as a list": (swap('"trial"', '["trial"]'), "federation: expected str"),
    "an empty federation": (swap('"trial"', '""'), "federation"),
    "a federation of control characters": (swap("trial", "\\u001b[2J"), "federation: expected plain text"),
    "a federation written backwards": (swap("trial", "a\\u202eb"), "federation: expected plain text"),
    "serial 0": (swap("serial = 5", "serial = 0"), "serial: expected int >= 1"),
    "serial -1": (swap("serial = 5", "serial = -1"), "serial: expected int >= 1"),
    "serial as text": (swap("serial = 5", 'serial = "5"'), "serial: expected int"),
    "serial 5.5": (swap("serial = 5", "serial = 5.5"), "serial: expected int"),
    "serial true": (swap("serial = 5", "serial = true"), "serial: expected int"),
    "an expiry without a zone": (swap("not_after = ", "not_after = 2031-01-01T00:00:00 # "), "not_after"),
    "an expiry that is a day": (swap("not_after = ", "not_after = 2031-01-01 # "), "not_after"),
    "an expiry that is a time": (swap("not_after = ", "not_after = 12:00:00 # "), "not_after"),
    "an expiry that is a number": (swap("not_after = ", "not_after = 4102444800 # "), "not_after"),
    "an expiry before all time": (swap("not_after = ", "not_after = 0001-01-01T00:00:00+05:00 # "), "not_after"),
    "an expiry after all time": (swap("not_after = ", "not_after = 9999-12-31T23:59:59-05:00 # "), "not_after"),
    "rules as a list": (swap("[rules]", "[[rules]]"), "rules"),
    "rules as text": (
        lambda p: p.path.write_text('rules = "all"\n' + p.path.read_text().split("[rules]")[0]),
        "rules: expected object",
    ),
    "a mode there is not": (swap('mode = "trusted"', 'mode = "mild"'), "rules.mode"),
    "a mode in capitals": (swap('mode = "trusted"', 'mode = "TRUSTED"'), "rules.mode"),
    "a mode as a number": (swap('mode = "trusted"', "mode = 1"), "rules.mode"),
    "a weight rule there is not": (swap('"uniform"', '"fair"'), "rules.weight_rule"),
    "a scheme of version 0": (swap('name = "trusted"\nversion = 1', 'name = "trusted"\nversion = 0'), "rules.scheme"),
    "a scheme with a capital": (swap('name = "trusted"', 'name = "Trusted"'), "rules.scheme.name"),
    "parties as one table": (
        lambda p: p.path.write_text(
            p.path.read_text().split("[[parties]]")[0] + '[parties]\nname = "alice"\nrole = "data_owner"\n'
        ),
        "parties: expected array",
    ),
    "parties as numbers": (
        lambda p: p.path.write_text("parties = [1, 2]\n" + p.path.read_text().split("[[parties]]")[0]),
        "parties",
    ),
    "no party at all": (
        lambda p: p.path.write_text("parties = []\n" + p.path.read_text().split("[[parties]]")[0]),
        "parties",
    ),
    "tasks as text": (swap('tasks = [\n    "line",\n    "other",\n]', 'tasks = "line"'), "rules.training.tasks"),
    "a task that is no name": (swap('    "line"', '    "a line"'), "rules.training.tasks[0]: expected a name"),
    "a task twice": (swap('    "other"', '    "line"'), "rules.training.tasks: names a task twice"),
    "an organisation that paints": (swap('organisation = ""', 'organisation = "\\u001b[31m"'), "organisation"),
    "an organisation that is a number": (swap('organisation = ""', "organisation = 1"), "organisation"),
    # numbers that are no bound
    "a range of nothing": (swap("range = 8.0", "range = 0.0"), "rules.arithmetic.value_range"),
    "a range below nothing": (swap("range = 8.0", "range = -8.0"), "rules.arithmetic.value_range"),
    "a range that is no number": (swap("range = 8.0", "range = nan"), "rules.arithmetic.value_range"),
    "a range without end": (swap("range = 8.0", "range = inf"), "rules.arithmetic.value_range"),
    "a precision that is no number": (swap("precision = 1e-05", "precision = nan"), "rules.arithmetic.precision"),
    "a weight of nothing": (swap("max_weight = 1", "max_weight = 0"), "rules.arithmetic.max_weight"),
    "a weight above one under uniform": (swap("max_weight = 1", "max_weight = 2"), "rules.arithmetic.max_weight"),
    "a deadline of nothing": (swap("join = 60.0", "join = 0"), "rules.deadlines.join"),
    "a deadline without end": (swap("join = 60.0", "join = inf"), "rules.deadlines.join"),
    "a deadline of a year": (swap("upload = 600.0", "upload = 31536000"), "rules.deadlines.upload"),
    "epochs below nothing": (swap("max_epochs = 5", "max_epochs = -1"), "rules.training.max_epochs"),
    # cohorts
    "a cohort of none": (swap("cohort = 3", "cohort = 0"), "rules.minimum_cohort: expected int >= 1"),
    "a cohort of one": (swap("cohort = 3", "cohort = 1"), "rules.minimum_cohort: a sum over one"),
    "a cohort of two without a reason": (swap("cohort = 3", "cohort = 2"), "unsafe_small_cohort"),
    "a cohort of two for an empty reason": (
        swap("cohort = 3", 'cohort = 2\nunsafe_small_cohort = " "'),
        "rules.unsafe_small_cohort: must say why",
    ),
    "a cohort of more than there are": (swap("cohort = 3", "cohort = 4"), "can never come together"),
    "a reason with nothing to excuse": (
        swap("cohort = 3", 'cohort = 3\nunsafe_small_cohort = "why"'),
        "nothing to excuse",
    ),
    "a stable cohort of one": (swap("cohort = 3", "cohort = 3\nstable_cohort = 1"), "rules.stable_cohort"),
    "plain without a reason": (swap('mode = "trusted"', 'mode = "plain"'), "rules.unsafe_plain"),
    "a reason for plain in another mode": (swap("cohort = 3", 'cohort = 3\nunsafe_plain = "why"'), "unsafe_plain"),
    # names and keys
    "a name with a capital": (swap('"alice"', '"Alice"'), "parties[0].name: expected a name"),
    "a name with a space": (swap('"alice"', '"al ice"'), "parties[0].name"),
    "a name with a slash": (swap('"alice"', '"../alice"'), "parties[0].name"),
    "a name with a line end": (swap('"alice"', '"alice\\n"'), "parties[0].name"),
    "a name that begins with a dot": (swap('"alice"', '".alice"'), "parties[0].name"),
    "an empty name": (swap('"alice"', '""'), "parties[0].name"),
    "a name of 33 letters": (swap('"alice"', f'"{"a" * 33}"'), "parties[0].name"),
    "a name in Cyrillic letters": (swap('"alice"', '"\u0430lice"'), "parties[0].name"),
    "a name that is a list": (swap('"alice"', '["alice"]'), "parties[0].name"),
    "a name twice": (swap('"bob"', '"alice"'), "parties.alice: two parties have this name"),
    "a whole party twice": (again("alice"), "parties.alice: two parties have this name"),
    "one party's keys under two names": (again("alice", ("alice", "mallory")), "the same key stands at"),
    "a role there is not": (swap(ALICE, 'name = "alice"\nrole = "king"'), "parties.alice.role"),
    "a role in words": (swap(ALICE, 'name = "alice"\nrole = "data owner"'), "parties.alice.role"),
    "a key too short": (key_of("alice", "signing", lambda k: f'"{k[:-2]}"'), "parties.alice.signing: expected a key"),
    "a key too long": (key_of("alice", "curve", lambda k: f'"{k}00"'), "parties.alice.curve: expected a key"),
    "a key of an odd length": (key_of("alice", "curve", lambda k: f'"{k[:-1]}"'), "parties.alice.curve"),
    "a key in capitals": (key_of("alice", "signing", lambda k: f'"AB{k[2:]}"'), "parties.alice.signing"),
    "a key with a letter beyond f": (key_of("alice", "signing", lambda k: f'"g{k[1:]}"'), "parties.alice.signing"),
    "a key with a line end": (key_of("alice", "signing", lambda k: f'"{k}\\n"'), "parties.alice.signing"),
    "a key in full-width digits": (key_of("bob", "curve", lambda k: f'"\uff11{k[1:]}"'), "parties.bob.curve"),
    "a key that is a number": (key_of("alice", "curve", lambda _: "7"), "parties.alice.curve: expected a key"),
    "a key that is a list": (key_of("alice", "curve", lambda k: f'["{k}"]'), "parties.alice.curve: expected a key"),
    "a bad key of a party without a name": (
        lambda p: (
            p.edit(p.path, 'name = "alice"\n', ""),
            p.edit(p.path, f'"{p.identities["alice"].public.signing.hex()}"', "5"),
        ),
        "parties[0].signing: expected a key",
    ),
    "an empty key": (key_of("alice", "curve", lambda _: '""'), "parties.alice.curve: expected a key"),
    "a CURVE key of zeros": (key_of("alice", "curve", lambda _: f'"{"0" * 64}"'), "small order"),
    "a CURVE key of small order": (key_of("alice", "curve", lambda _: f'"{SMALL_POINT}"'), "small order"),
    "a CURVE key of small order, top bit set": (
        key_of("alice", "curve", lambda _: f'"{SMALL_POINT[:-2]}ff"'),
        "small order",
    ),
    "a signing key of small order": (key_of("alice", "signing", lambda _: f'"01{"00" * 31}"'), "small order"),
    "a signing key of zeros": (key_of("alice", "signing", lambda _: f'"{"0" * 64}"'), "small order"),
    "one key for both": (
        lambda p: p.edit(p.path, p.identities["alice"].public.curve.hex(), p.identities["alice"].public.signing.hex()),
        "parties.alice.curve: the same key stands at parties.alice.signing",
    ),
    "another party's key": (
        lambda p: p.edit(p.path, p.identities["bob"].public.curve.hex(), p.identities["alice"].public.curve.hex()),
        "parties.bob.curve: the same key stands at parties.alice.curve",
    ),
    # endpoints
    "an endpoint without a port": (swap("tcp://127.0.0.1:7100", "tcp://127.0.0.1"), "parties.third.control"),
    "an endpoint of port 0": (swap(":7100", ":0"), "parties.third.control"),
    "an endpoint of port 65536": (swap(":7100", ":65536"), "there is no port 65536"),
    "an endpoint of a port in letters": (swap(":7100", ":http"), "parties.third.control"),
    "an endpoint of port -1": (swap(":7100", ":-1"), "parties.third.control"),
    "an endpoint without a host": (swap("tcp://127.0.0.1:7100", "tcp://:7100"), "parties.third.control"),
    "an endpoint of every host": (swap("tcp://127.0.0.1:7100", "tcp://*:7100"), "parties.third.control"),
    "an endpoint of no host": (swap("tcp://127.0.0.1:7100", "tcp://0.0.0.0:7100"), "0.0.0.0"),
    "an endpoint of another transport": (swap("tcp://127.0.0.1:7100", "ipc:///tmp/x"), "parties.third.control"),
    "an endpoint inside a process": (swap("tcp://127.0.0.1:7100", "inproc://x"), "parties.third.control"),
    "an endpoint of a web site": (swap("tcp://127.0.0.1:7100", "https://h:7100"), "parties.third.control"),
    "an endpoint with a source address": (swap("tcp://127.0.0.1:7100", "tcp://h:1;h:7100"), "parties.third.control"),
    "an endpoint with a line end": (swap(":7100", ":7100\\n"), "parties.third.control"),
    "an endpoint that is a number": (swap('"tcp://127.0.0.1:7100"', "7100"), "parties.third.control"),
    "an endpoint of a long host": (swap("127.0.0.1:7100", f"{'h' * 254}:7100"), "parties.third.control"),
    "an endpoint twice": (swap(":7101", ":7100"), "parties.third.bulk: the same endpoint stands at"),
    "another party's endpoint": (swap(":7100", ":7000"), "parties.third.control: the same endpoint stands at"),
    "a secure worker without endpoints": (
        swap('control = "tcp://127.0.0.1:7100"\n', ""),
        "parties.third.control: a secure worker needs an endpoint",
    ),
    "a data owner with an endpoint": (
        swap(ALICE, f'{ALICE}\ncontrol = "tcp://127.0.0.1:9"'),
        "parties.alice.control: a data owner only connects",
    ),
    # roles that do not fit together
    "no model owner": (without("owner"), "exactly one model owner, this one 0"),
    "no secure worker": (without("third"), "at least one secure worker"),
    "too few data owners": (without("alice"), "can never come together"),
    "an additive mode with one secure worker": (swap('mode = "trusted"', 'mode = "additive"'), "at least two secure"),
    "a shamir mode with one secure worker": (swap('mode = "trusted"', 'mode = "shamir"'), "at least two secure"),
}


def changed(**changes: Any) -> Spoil:
    """Another charter than the one that was run, signed by all."""
    return lambda place: place.write(place.charter(**changes))


def signed_by(*names: str, **changes: Any) -> Spoil:
    return lambda place: place.write(place.charter(serial=6, **changes), names)


def past(place: Place) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=2)


def rules(place: Place, **changes: Any) -> Any:
    return msgspec.structs.replace(place.charter().rules, **changes)


def rekeyed(name: str, kind: str) -> Spoil:
    """A charter that all signed, with a key of one party that is another's secret."""

    def spoil(place: Place) -> None:
        other = place.party(name, **{kind: getattr(Identity.generate(name).public, kind)})
        parties = tuple(other if each.name == name else each for each in place.charter().parties)
        place.write(place.charter(serial=6, parties=parties), tuple(set(place.identities) - {name}))

    return spoil


def renamed(place: Place) -> None:
    mallory = Identity.generate("mallory")
    place.identities["mallory"] = mallory
    parties = tuple(
        place.party("alice", name="mallory", signing=mallory.public.signing, curve=mallory.public.curve)
        if each.name == "alice"
        else each
        for each in place.charter().parties
    )
    place.write(place.charter(serial=6, parties=parties), ("bob", "carol", "judge", "mallory", "owner", "third"))


def rolled_back(place: Place) -> None:
    """The state of a party is from a later charter than the one that lies beside it."""
    place.write(place.charter(serial=9))
    place.admit()
    place.write(place.charter(serial=8))


def damaged_memory(place: Place) -> None:
    (place.root / "alice/state/charter.toml").write_text("version = 1\n")


def memory_is_a_pipe(place: Place) -> None:
    path = place.root / "alice/state/charter.toml"
    path.unlink()
    os.mkfifo(path)


UNWELCOME: dict[str, tuple[Spoil, str, int]] = {
    # name: what is wrong, what alice says when it is to run, what `charter verify` says
    "unsigned": (signed_by(), "not signed by alice, bob, carol, judge, owner, third", 1),
    "without its signature file": (lambda p: p.beside.unlink(), "not signed by alice", 1),
    "half signed": (signed_by("alice", "owner", "third"), "not signed by bob, carol, judge", 1),
    "unsigned by one": (signed_by("alice", "bob", "carol", "judge", "third"), "not signed by owner", 1),
    "unsigned by ourselves": (signed_by("bob", "carol", "judge", "owner", "third"), "not signed by alice", 1),
    "edited by hand": (swap("max_epochs = 5", "max_epochs = 4"), "max_epochs: 5 -> 4", 1),
    "edited by hand, with a new serial": (swap("serial = 5", "serial = 6"), "no signature verifies", 1),
    "edited to another port": (swap(":7101", ":7102"), "parties.third.bulk", 1),
    "edited to last longer": (
        lambda p: p.edit(p.path, "not_after = 20", "not_after = 21"),
        "differs from the charter last run here under the same serial 5: not_after",
        1,
    ),
    "edited to pay an organisation": (swap('organisation = ""', 'organisation = "X"'), "organisation", 1),
    "expired": (
        lambda p: p.write(p.charter(serial=6, not_after=datetime.now(UTC) - timedelta(seconds=2))),
        "not_after: the charter expired",
        1,
    ),
    "expired an age ago": (
        lambda p: p.write(p.charter(serial=6, not_after=datetime(1, 1, 2, tzinfo=UTC))),
        "not_after: the charter expired",
        1,
    ),
    "older than the last": (changed(serial=4), "serial: older than the charter last run here (4 after 5)", 0),
    "rolled back": (rolled_back, "8 after 9", 0),
    "another of the same serial": (
        lambda p: p.write(msgspec.structs.replace(charters.load(p.path), rules=rules(p, stable_cohort=2))),
        "same serial 5: rules.stable_cohort",
        0,
    ),
    "of another federation": (changed(serial=6, federation="other"), "federation", 0),
    "another CURVE key of ours": (rekeyed("alice", "curve"), "parties.alice.curve: not the key of alice", 1),
    "another signing key of ours": (rekeyed("alice", "signing"), "parties.alice.signing: not the key of alice", 1),
    "another key of somebody else": (rekeyed("bob", "signing"), "not signed by bob", 1),
    "without us": (renamed, "alice is not a party of this charter", 0),
    "of a scheme with too few holders": (
        lambda p: p.write(p.too_few_holders()),
        "rules.scheme: the scheme shamir has 3 to 8 holder(s), not 2",
        0,
    ),
    "of a scheme that is unknown": (
        lambda p: p.write(p.charter(serial=6, rules=rules(p, scheme=SchemeName(name="trusted", version=2)))),
        "rules.scheme",
        0,
    ),
    "of a scheme of another mode": (
        lambda p: p.write(p.charter(serial=6, rules=rules(p, scheme=SchemeName(name="additive")))),
        "rules.scheme",
        0,
    ),
    "of numbers that fit no word": (
        lambda p: p.write(
            p.charter(
                serial=6,
                rules=rules(p, arithmetic=charters.Arithmetic(value_range=1e15, precision=1e-12)),
            )
        ),
        "rules.arithmetic",
        0,
    ),
    "with a damaged memory of the last": (damaged_memory, "state/charter.toml", 0),
    "with a memory that is a pipe": (memory_is_a_pipe, "not a regular file", 0),
}

# What another kind of file could be too: an empty site file is one.
EMPTY = {"empty", "only white space", "only a comment", "cut in the first comment"}
# These take a good part of a second to read; one command shows what the others would.
HEAVY = {name for name in MALFORMED if "megabyte" in name} | {"a terabyte", "more parties than there may be"}
CASES = {**MALFORMED, **UNWELCOME}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    # A file without end is refused at its bound; a lower one spares reading 64 MiB of it again and again.
    monkeypatch.setattr(limits, "CHARTER_BYTES", 4 * limits.MIB)


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_charter_is_refused_at_every_door(
    place: Place, refused: Any, tertium: Any, one_sentence: Any, doctor: Any, run_command: Any, name: str
) -> None:
    spoil, why = MALFORMED[name]
    (place.root / "good.toml").write_bytes(place.path.read_bytes())
    spoil(place)
    # the four ways into the code, and every command that reads a charter
    refused(place, CharterError, lambda: charters.load(place.path), "charter.toml", why)
    one_sentence("charter", "verify", "charter.toml", words=("charter.toml",))
    if name in HEAVY:
        return
    refused(place, CharterError, place.admit, why)
    refused(place, CharterError, lambda: charters.sign(place.path, place.identities["alice"]), why)
    for arguments in (
        ("charter", "sign", "charter.toml", "--as", "bob"),
        ("charter", "diff", "charter.toml", "good.toml"),
        ("charter", "diff", "good.toml", "charter.toml", "--json"),
        ("inspect", "good.toml", "--charter", "charter.toml"),
    ):
        one_sentence(*arguments, words=("charter.toml",))
    if name in EMPTY:
        assert "charter.toml: site file" in tertium("inspect", "charter.toml", status=0).out
    else:
        one_sentence("inspect", "charter.toml", words=("is no file of tertium (as a charter: ",))
    if name != "a folder":
        # All four go through the same door; each case tries one of them.
        party = ("alice", "judge", "owner", "third")[list(MALFORMED).index(name) % 4]
        one_sentence(*run_command(party), words=("charter.toml",))
    assert doctor("alice")["charter"]["status"] == "fail"


@pytest.mark.parametrize("name", UNWELCOME)
def test_a_charter_that_may_not_be_run_is_refused(
    place: Place, refused: Any, tertium: Any, one_sentence: Any, doctor: Any, run_command: Any, name: str
) -> None:
    spoil, why, verified = UNWELCOME[name]
    spoil(place)
    refused(place, CharterError, place.admit, why)
    one_sentence(*run_command("alice"), words=(why,))
    assert tertium("charter", "verify", "charter.toml", status=verified).err == ""
    doctor("alice")


def test_the_charter_that_these_spoil_is_welcome(place: Place, tertium: Any, doctor: Any) -> None:
    assert place.admit().serial == 5
    tertium("charter", "verify", "charter.toml", status=0)
    doctor("alice", healthy=True)
