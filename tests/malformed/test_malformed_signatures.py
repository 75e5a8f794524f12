"""Signature files beside a sound charter: whatever is wrong with one, nobody runs, and nobody's line is lost."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from tertium.crypto.identity import Identity
from tertium.crypto.labels import Label
from tertium.protocol import charter as charters
from tertium.protocol import limits
from tertium.protocol.errors import CharterError

Place = Any
Spoil = Callable[[Place], object]


def swap(old: str, new: str) -> Spoil:
    return lambda place: place.edit(place.beside, old, new)


def raw(content: bytes) -> Spoil:
    return lambda place: place.beside.write_bytes(content)


def of_bob(change: Callable[[str], str]) -> Spoil:
    """Change bob's signature as the file has it."""

    def spoil(place: Place) -> None:
        value = charters.read_signatures(charters.load(place.path), place.path)["bob"].hex()
        place.edit(place.beside, f'"{value}"', change(value))

    return spoil


def by(identity: Callable[[Place], Identity], label: Label = Label.CHARTER, payload: bytes | None = None) -> Spoil:
    """Put another signature in the place of bob's."""

    def spoil(place: Place) -> None:
        said = charters.load(place.path).digest if payload is None else payload
        of_bob(lambda _: f'"{identity(place).sign(label, said).hex()}"')(place)

    return spoil


def bobs(place: Place) -> Identity:
    return place.identities["bob"]


def of_text(place: Place) -> None:
    """Signed over the file's bytes, and not over what they mean."""
    by(bobs, payload=place.path.read_bytes())(place)


def replaced(make: Callable[[Place], object]) -> Spoil:
    def spoil(place: Place) -> None:
        place.beside.unlink()
        make(place)

    return spoil


def swapped(place: Place) -> None:
    found = charters.read_signatures(charters.load(place.path), place.path)
    text = place.beside.read_text()
    for one, other in (("bob", "carol"), ("carol", "bob")):
        text = text.replace(f'{one} = "{found[one].hex()}"', f'{one} = "{found[other].hex()}"')
    place.beside.write_text(text)


def malleable(place: Place) -> None:
    """The same signature with the group's order added to its second half: RFC 8032 refuses it."""
    order = 2**252 + 27742317777372353535851937790883648493

    def add(value: str) -> str:
        half = int.from_bytes(bytes.fromhex(value)[32:], "little") + order
        return f'"{value[:64]}{half.to_bytes(32, "little").hex()}"'

    of_bob(add)(place)


MALFORMED: dict[str, tuple[Spoil, str]] = {
    "a folder": (replaced(lambda p: p.beside.mkdir()), "it is a folder"),
    "a pipe": (replaced(lambda p: os.mkfifo(p.beside)), "not a regular file"),
    "a link to nothing": (replaced(lambda p: p.beside.symlink_to("nowhere")), "no such file"),
    "a link to itself": (replaced(lambda p: p.beside.symlink_to(p.beside.name)), "too many levels"),
    "a terabyte": (lambda p: os.truncate(p.beside, 2**40), "longer than"),
    "byte order mark": (lambda p: p.beside.write_bytes(b"\xef\xbb\xbf" + p.beside.read_bytes()), "not valid TOML"),
    "invalid UTF-8": (swap("bob", "b\udcffb"), "not text in UTF-8"),
    "a NUL": (swap("bob", "b\0b"), "not valid TOML"),
    "cut in a signature": (lambda p: p.beside.write_bytes(p.beside.read_bytes()[:-20]), "not valid TOML"),
    "brackets nested deep": (raw(b"signatures = " + b"[" * 100_000), "too deeply nested"),
    "a key nested deep": (raw(b"signatures" + b".a" * 100_000 + b" = 1"), "too deeply nested"),
    "a head that is not closed": (swap("[signatures]", "[signatures"), "not valid TOML"),
    "a table of another name": (swap("[signatures]", "[signature]"), "unknown field signature"),
    "a table beside": (swap("[signatures]", "[more]\n[signatures]"), "unknown field more"),
    "signatures as a list": (raw(b"signatures = []\n"), "signatures: expected object"),
    "signatures as text": (raw(b'signatures = "all"\n'), "signatures: expected object"),
    "a list of tables": (swap("[signatures]", "[[signatures]]"), "signatures: expected object"),
    "a line twice": (swap("bob = ", 'alice = "00"\nbob = '), "not valid TOML"),
    "a line of a stranger": (swap("bob = ", "mallory = "), "signatures.'mallory': no party of the charter"),
    "a line of nobody": (swap("bob = ", '"" = '), "signatures.'': no party of the charter"),
    "a line of a long name": (swap("bob = ", f"{'m' * 2**16} = "), "no party of the charter"),
    "a line of a name that paints": (swap("bob = ", '"\\u001b[2J" = '), "no party of the charter"),
    "a line in capitals": (swap("bob = ", "Bob = "), "signatures.'Bob': no party of the charter"),
    "a signature too short": (of_bob(lambda v: f'"{v[:-2]}"'), "signatures.bob: expected a signature"),
    "a signature too long": (of_bob(lambda v: f'"{v}00"'), "signatures.bob: expected a signature"),
    "an empty signature": (of_bob(lambda _: '""'), "signatures.bob: expected a signature"),
    "a signature in capitals": (of_bob(lambda v: f'"AB{v[2:]}"'), "signatures.bob: expected a signature"),
    "a signature with a line end": (of_bob(lambda v: f'"{v}\\n"'), "signatures.bob: expected a signature"),
    "a signature with a blank": (of_bob(lambda v: f'" {v[1:]}"'), "signatures.bob: expected a signature"),
    "a signature in base64": (of_bob(lambda _: f'"{"Zm9v" * 22}"'), "signatures.bob: expected a signature"),
    "a signature that is a number": (of_bob(lambda _: "5"), "signatures"),
    "a signature that is a list": (of_bob(lambda v: f'["{v}"]'), "signatures"),
    "a signature that is true": (of_bob(lambda _: "true"), "signatures"),
}
WRONG: dict[str, Spoil] = {
    "a digit flipped": of_bob(lambda v: f'"{"0" if v[0] != "0" else "1"}{v[1:]}"'),
    "the last digit flipped": of_bob(lambda v: f'"{v[:-1]}{"0" if v[-1] != "0" else "1"}"'),
    "all zeros": of_bob(lambda _: f'"{"0" * 128}"'),
    "all ones": of_bob(lambda _: f'"{"f" * 128}"'),
    "another party's": by(lambda place: place.identities["carol"]),
    "a stranger's of the same name": by(lambda _: Identity.generate("bob")),
    "two parties' swapped": swapped,
    "under the label of a Close list": by(bobs, Label.CLOSE),
    "under the label of a Hello": by(bobs, Label.HELLO),
    "over the file's text": of_text,
    "over another charter": by(bobs, payload=bytes(32)),
    "over nothing": by(bobs, payload=b""),
    "with the order added": malleable,
    "the halves exchanged": of_bob(lambda v: f'"{v[64:]}{v[:64]}"'),
}
CASES = {**MALFORMED, **WRONG}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    # A file without end is refused at its bound; a lower one spares reading 64 MiB of it again and again.
    monkeypatch.setattr(limits, "CHARTER_BYTES", 4 * limits.MIB)


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_signature_file_is_refused_at_every_door(
    place: Place, refused: Any, one_sentence: Any, doctor: Any, run_command: Any, name: str
) -> None:
    spoil, why = MALFORMED[name]
    spoil(place)
    refused(place, CharterError, place.admit, "charter.signatures.toml", why)
    # Whoever signs now would write a new file over what it could not read.
    refused(place, CharterError, lambda: charters.sign(place.path, place.identities["alice"]), why)
    one_sentence("charter", "verify", "charter.toml", words=("charter.signatures.toml",))
    one_sentence("charter", "sign", "charter.toml", "--as", "carol", words=("charter.signatures.toml",))
    for party in ("alice", "owner", "third"):
        one_sentence(*run_command(party), words=("charter.signatures.toml",))
    assert doctor("alice")["signatures"]["status"] == "fail"


@pytest.mark.parametrize("name", WRONG)
def test_a_signature_that_does_not_verify_is_named(
    place: Place, refused: Any, tertium: Any, one_sentence: Any, doctor: Any, run_command: Any, name: str
) -> None:
    WRONG[name](place)
    refused(place, CharterError, place.admit, "the signature of bob")
    assert "wrong    bob" in tertium("charter", "verify", "charter.toml", status=1).out
    assert '"bob":"wrong"' in tertium("charter", "verify", "charter.toml", "--json", status=1).out
    one_sentence(*run_command("third"), words=("the signature of bob",))
    assert doctor("owner")["signatures"]["status"] == "fail"
