"""Key files and cards: a party with a bad one neither signs nor runs, no secret is shown, and nothing is written."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tertium.crypto.errors import KeyFileError
from tertium.crypto.identity import Identity
from tertium.protocol import charter as charters
from tertium.protocol.errors import CharterError

Place = Any
Spoil = Callable[[Place, Path], object]
NOT_ONE = "is not a key file"
CARDS = [part for name in ("bob", "carol", "owner", "third") for part in ("--party", f"{name}/public.toml")]


def swap(old: str, new: str) -> Spoil:
    return lambda place, path: place.edit(path, old, new)


def raw(content: bytes) -> Spoil:
    return lambda place, path: path.write_bytes(content)


def again(pattern: str, new: str) -> Spoil:
    def spoil(place: Place, path: Path) -> None:
        text, count = re.subn(pattern, new, path.read_text(), count=1)
        assert count == 1
        path.write_text(text)

    return spoil


def replaced(make: Callable[[Path], object]) -> Spoil:
    def spoil(place: Place, path: Path) -> None:
        path.rename(place.root / "moved")
        make(path)

    return spoil


def bytes_before(content: bytes) -> Spoil:
    return lambda place, path: path.write_bytes(content + path.read_bytes())


def bytes_after(content: bytes) -> Spoil:
    return lambda place, path: path.write_bytes(path.read_bytes() + content)


SECRETS: dict[str, tuple[Spoil, str]] = {
    "missing": (replaced(lambda path: None), "no such file"),
    "a folder": (replaced(lambda path: path.mkdir(mode=0o700)), "it is a folder"),
    "a pipe": (replaced(lambda path: os.mkfifo(path, 0o600)), "not a regular file"),
    "a device": (replaced(lambda path: path.symlink_to("/dev/zero")), "symbolic link"),
    "a link to the real one": (replaced(lambda path: path.symlink_to("../moved")), "symbolic link"),
    "a link to nothing": (replaced(lambda path: path.symlink_to("nowhere")), "symbolic link"),
    "readable by a group": (lambda place, path: path.chmod(0o640), "mode 0640"),
    "readable by all": (lambda place, path: path.chmod(0o604), "mode 0604"),
    "writable by all": (lambda place, path: path.chmod(0o602), "mode 0602"),
    "a program": (lambda place, path: path.chmod(0o700), "mode 0700"),
    "with a sticky bit": (lambda place, path: path.chmod(0o1600), "mode 1600"),
    "empty": (raw(b""), NOT_ONE),
    "longer than 4 KiB": (bytes_after(b"#" * 4096), "longer than 4096 bytes"),
    "a gigabyte": (lambda place, path: os.truncate(path, 2**30), "longer than 4096 bytes"),
    "byte order mark": (bytes_before(b"\xef\xbb\xbf"), NOT_ONE),
    "invalid UTF-8": (bytes_after(b"# \xff\n"), NOT_ONE),
    "a NUL": (bytes_after(b"\0"), NOT_ONE),
    "brackets nested deep": (raw(b"name = " + b"[" * 4000), NOT_ONE),
    "a number of 4000 digits": (raw(b"name = " + b"9" * 4000), NOT_ONE),
    "a PEM file": (raw(b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2Vw\n-----END PRIVATE KEY-----\n"), NOT_ONE),
    "a card": (lambda place, path: path.write_bytes((path.parent / "public.toml").read_bytes()), NOT_ONE),
    "cut in a key": (lambda place, path: path.write_bytes(path.read_bytes().rstrip()[:-9]), NOT_ONE),
    "cut after a key": (again(r"\ncurve = .*", ""), NOT_ONE),
    "without a name": (again(r"name = .*\n", ""), NOT_ONE),
    "without a signing key": (again(r"signing = .*\n", ""), NOT_ONE),
    "with another field": (bytes_after(b'role = "model_owner"\n'), NOT_ONE),
    "with a key twice": (bytes_after(b'name = "alice"\n'), NOT_ONE),
    "with a name in capitals": (swap('"alice"', '"Alice"'), NOT_ONE),
    "with an empty name": (swap('"alice"', '""'), NOT_ONE),
    "with a name that is a path": (swap('"alice"', '"../bob"'), NOT_ONE),
    "with a name with a line end": (swap('"alice"', '"alice\\n"'), NOT_ONE),
    "with a name that is a number": (swap('"alice"', "7"), NOT_ONE),
    "with a short signing key": (again(r'(signing = "\w{62})\w\w', r"\1"), NOT_ONE),
    "with a long signing key": (again(r'(signing = "\w{64})', r"\g<1>00"), NOT_ONE),
    "with a key of an odd length": (again(r'(curve = "\w{63})\w', r"\1"), NOT_ONE),
    "with a key with a letter beyond f": (again(r'curve = "\w', 'curve = "g'), NOT_ONE),
    "with a key that is a number": (again(r'curve = "\w*"', "curve = 7"), NOT_ONE),
    "with a key that is a list": (again(r'curve = ("\w*")', r"curve = [\1]"), NOT_ONE),
    "with an empty key": (again(r'signing = "\w*"', 'signing = ""'), NOT_ONE),
}
OF_ANOTHER: dict[str, tuple[Spoil, str]] = {
    "of a stranger": (
        lambda place, path: (path.unlink(), Identity.generate("mallory").save(path)),
        "mallory is not a party of this charter",
    ),
    "new ones of our name": (
        lambda place, path: (path.unlink(), Identity.generate("alice").save(path)),
        "parties.alice.signing: not the key of alice",
    ),
    "half of bob's": (
        lambda place, path: again(
            r'curve = "\w*"', re.search(r'curve = "\w*"', (place.root / "bob/secret.toml").read_text())[0]
        )(place, path),
        "parties.alice.curve: not the key of alice",
    ),
    "the two keys exchanged": (
        again(r'(signing = )("\w*")\n(curve = )("\w*")', r"\1\4\n\3\2"),
        "parties.alice.signing: not the key of alice",
    ),
}
PUBLIC: dict[str, tuple[Spoil, str]] = {
    "missing": (replaced(lambda path: None), "no such file"),
    "a folder": (replaced(lambda path: path.mkdir()), "it is a folder"),
    "a pipe": (replaced(lambda path: os.mkfifo(path)), "not a regular file"),
    "a link to nothing": (replaced(lambda path: path.symlink_to("nowhere")), "no such file"),
    "empty": (raw(b""), "missing required field"),
    "longer than 4 KiB": (bytes_after(b"#" * 4096), "longer than 4096 bytes"),
    "byte order mark": (bytes_before(b"\xef\xbb\xbf"), "not valid TOML"),
    "invalid UTF-8": (bytes_after(b"# \xff\n"), "not text in UTF-8"),
    "a NUL": (bytes_after(b"\0"), "not valid TOML"),
    "brackets nested deep": (raw(b"name = " + b"[" * 4000), "too deeply nested"),
    "a number of 4080 digits": (raw(b"role = " + b"9" * 4080), "role: expected str"),
    "a secret key file": (
        lambda place, path: path.write_bytes((path.parent / "secret.toml").read_bytes()),
        "missing required field role",
    ),
    "a charter": (lambda place, path: path.write_bytes(place.path.read_bytes()), "public.toml"),
    "cut in a key": (lambda place, path: path.write_text(path.read_text().split("curve")[0][:-9]), "not valid TOML"),
    "without a name": (again(r"name = .*\n", ""), "missing required field name"),
    "without a role": (again(r"role = .*\n", ""), "missing required field role"),
    "without a CURVE key": (again(r"curve = .*\n", ""), "missing required field curve"),
    "with another field": (bytes_after(b"admin = true\n"), "unknown field admin"),
    "with a field twice": (bytes_after(b'name = "alice"\n'), "not valid TOML"),
    "with a role there is not": (swap('"data_owner"', '"king"'), "role: invalid enum value"),
    "with a role of a kilobyte": (swap('"data_owner"', f'"{"k" * 2000}"'), "role: invalid enum value"),
    "with a name in capitals": (swap('"alice"', '"Alice"'), "name: expected a name"),
    "with a name that is a path": (swap('"alice"', '"../bob"'), "name: expected a name"),
    "with a name that is a number": (swap('"alice"', "7"), "name: expected str"),
    "with a key in capitals": (again(r'signing = "\w\w', 'signing = "AB'), "signing: expected a key"),
    "with a short key": (again(r'(curve = "\w{62})\w\w', r"\1"), "curve: expected a key"),
    "with a key that is a number": (again(r'curve = "\w*"', "curve = 7"), "curve: expected a key"),
    "with a CURVE key of zeros": (again(r'curve = "\w*"', f'curve = "{"0" * 64}"'), "small order"),
    "with a signing key of order one": (again(r'signing = "\w*"', f'signing = "01{"0" * 62}"'), "small order"),
    "with bob's key": (
        lambda place, path: again(r'curve = "\w*"', f'curve = "{place.identities["bob"].public.curve.hex()}"')(
            place, path
        ),
        "the same key stands at",
    ),
    "with one key for both": (
        lambda place, path: again(r'curve = "\w*"', f'curve = "{place.identities["alice"].public.signing.hex()}"')(
            place, path
        ),
        "the same key stands at",
    ),
    "of a data owner that listens": (bytes_after(b'control = "tcp://h:1"\n'), "a data owner only connects"),
    "of a secure worker without endpoints": (swap('"data_owner"', '"secure_worker"'), "needs an endpoint"),
    "with an organisation that paints": (swap('organisation = ""', 'organisation = "\\u202e"'), "organisation"),
    "with a long organisation": (swap('organisation = ""', f'organisation = "{"o" * 401}"'), "organisation"),
    "of another's name": (swap('"alice"', '"bob"'), "two parties have this name"),
}
# What a card says by itself is sound; only beside the others is it not.
AMONG_OTHERS = {
    "of another's name", "with bob's key", "with one key for both", "with a CURVE key of zeros",
    "with a signing key of order one", "of a data owner that listens", "of a secure worker without endpoints",
}  # fmt: skip
CASES = {
    **{f"a key file: {name}": case for name, case in (SECRETS | OF_ANOTHER).items()},
    **{f"a card: {name}": case for name, case in PUBLIC.items()},
}


@pytest.fixture
def shows_no_secret(place: Place, capfd: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """A traceback or a sentence that quoted a key file would show what it protects."""
    secrets = re.findall(r"[0-9a-f]{64}", (place.root / "alice/secret.toml").read_text())

    def look(text: str) -> None:
        assert len(secrets) == 2
        assert not any(secret[at : at + 16] in text for secret in secrets for at in range(48))

    return look


@pytest.mark.parametrize("name", SECRETS)
def test_a_bad_key_file_is_refused_at_every_door(
    place: Place, refused: Any, one_sentence: Any, doctor: Any, run_command: Any, shows_no_secret: Any, name: str
) -> None:
    spoil, why = SECRETS[name]
    path = place.root / "alice/secret.toml"
    spoil(place, path)
    refused(place, KeyFileError, lambda: Identity.load(path), "alice/secret.toml", why)
    for arguments in (("charter", "sign", "charter.toml", "--as", "alice"), run_command("alice")):
        shows_no_secret(one_sentence(*arguments, words=(why,)))
    one_sentence("inspect", "alice/secret.toml", words=("secret keys, which are never shown",))
    found = doctor("alice")["keys"]
    assert found["status"] == "fail"
    shows_no_secret(str(found))


@pytest.mark.parametrize("name", OF_ANOTHER)
def test_sound_keys_of_somebody_else_sign_and_run_nothing(
    place: Place, refused: Any, one_sentence: Any, doctor: Any, run_command: Any, name: str
) -> None:
    spoil, why = OF_ANOTHER[name]
    path = place.root / "alice/secret.toml"
    spoil(place, path)
    place.identities["alice"] = Identity.load(path)
    refused(place, CharterError, place.admit, why)
    refused(place, CharterError, lambda: charters.sign(place.path, place.identities["alice"]), why)
    one_sentence("charter", "sign", "charter.toml", "--as", "alice", words=(why,))
    one_sentence(*run_command("alice"), words=(why,))
    doctor("alice")


@pytest.mark.parametrize("name", PUBLIC)
def test_a_bad_card_gets_into_no_charter(place: Place, refused: Any, one_sentence: Any, doctor: Any, name: str) -> None:
    spoil, why = PUBLIC[name]
    path = place.root / "alice/public.toml"
    spoil(place, path)
    new = ("charter", "new", "--federation", "x", "--minimum-cohort", 3, *CARDS, "--out", "new.toml")
    one_sentence(*new, "--party", "alice/public.toml", words=(why,))
    assert not (place.root / "new.toml").exists()
    if name in AMONG_OTHERS:
        return
    refused(place, CharterError, lambda: charters.load_card(path), "public.toml", why)
    if name not in ("empty", "a charter"):
        one_sentence("inspect", "alice/public.toml", words=("is no file of tertium",))
    if name != "missing":
        assert doctor("alice", healthy=True)["keys"]["status"] == "warn"
