import copy
import os
import pickle
import stat
import traceback
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from tertium.crypto import identity as identities
from tertium.crypto.errors import BadSignature, KeyFileError, Misuse
from tertium.crypto.identity import Identity, PublicIdentity, verify
from tertium.crypto.labels import Label
from tertium.protocol import limits
from zmq.utils import z85


def secrets_of(identity: Identity) -> list[str]:
    seed = identity._signing.private_bytes_raw()
    return [f(x) for x in (seed, identity.curve_secret) for f in (lambda b: b.hex(), repr, lambda b: repr(b)[2:20])]


def saved(folder: Path) -> tuple[Identity, Path]:
    identity, path = Identity.generate("alice"), folder / "secret.toml"
    identity.save(path)
    return identity, path


def test_a_key_file_gives_back_the_same_identity_and_is_private(tmp_path: Path) -> None:
    identity, path = saved(tmp_path)
    again = Identity.load(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (again.name, again.public, again.curve_secret) == ("alice", identity.public, identity.curve_secret)
    assert again.sign(Label.CHARTER, b"x") == identity.sign(Label.CHARTER, b"x")


def test_the_umask_does_not_widen_or_break_the_mode(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        _, path = saved(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o700, 0o4600])
def test_a_key_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    _, path = saved(tmp_path)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"mode {mode:04o}"):
        Identity.load(path)


def test_a_link_a_folder_a_pipe_and_nothing_are_refused(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    for bad, why in (
        (link, "symbolic link"),
        (pipe, "not a regular file"),
        (folder, "folder"),
        (tmp_path / "none", "no such file"),
    ):
        with pytest.raises(KeyFileError, match=why):
            Identity.load(bad)


def test_refusals_leave_no_descriptor_open(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    path.chmod(0o644)
    (tmp_path / "d").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    for bad in (path, tmp_path / "d"):
        with pytest.raises(KeyFileError):
            Identity.load(bad)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_key_file_is_never_overwritten_not_even_through_a_link(tmp_path: Path) -> None:
    identity, path = saved(tmp_path)
    before = path.read_bytes()
    with pytest.raises(KeyFileError, match="exists"):
        Identity.generate("alice").save(path)
    assert path.read_bytes() == before
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileError, match="exists"):
        identity.save(dangling)
    assert not (tmp_path / "elsewhere").exists()


def test_a_full_disk_leaves_no_half_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(identities.os, "fsync", full)
    with pytest.raises(KeyFileError, match="no space left on device"):
        Identity.generate("alice").save(tmp_path / "secret.toml")
    assert list(tmp_path.iterdir()) == []


def test_an_oversized_key_file_is_refused_by_size(tmp_path: Path) -> None:
    assert identities.KEY_FILE_BYTES == limits.KEY_FILE_BYTES
    _, path = saved(tmp_path)
    path.write_bytes(path.read_bytes() + b"#" * limits.KEY_FILE_BYTES)
    with pytest.raises(KeyFileError, match="longer than 4096"):
        Identity.load(path)


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda t: t.encode("utf-8", "surrogatepass")))
def test_garbage_is_a_key_file_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("k") / "secret.toml"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError):
        Identity.load(path)


def test_every_truncation_is_refused_and_no_traceback_shows_a_key(tmp_path: Path) -> None:
    identity, path = saved(tmp_path)
    whole = path.read_bytes().rstrip()
    bad = [whole[:end] for end in range(0, len(whole), 7)]
    bad += [whole + b"\nextra = 1", whole.replace(b"alice", b"Alice"), whole + b"\ncurve = 1"]
    bad += [whole[: whole.rindex(b'"') - 2] + b'"']
    for content in bad:
        path.write_bytes(content)
        with pytest.raises(KeyFileError) as caught:
            Identity.load(path)
        ours = caught.value.__traceback__.tb_next  # without this test's own frame, which has the keys
        frames = traceback.TracebackException(type(caught.value), caught.value, ours, capture_locals=True)
        shown = "".join(frames.format())
        shown += str(caught.value) + repr(caught.value)
        assert "load" in shown
        for secret in secrets_of(identity):
            assert secret not in shown


def test_an_identity_shows_no_secret_and_cannot_be_pickled_or_copied() -> None:
    identity = Identity.generate("alice")
    shown = repr(identity) + str(identity) + f"{identity}" + repr(vars(type(identity)))
    assert "alice" in shown
    assert identity.public.fingerprint in shown
    for secret in secrets_of(identity):
        assert secret not in shown
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(Misuse, match="neither pickled nor copied"):
            attempt(identity)
    assert not hasattr(identity, "__dict__")


def test_the_struct_of_the_file_hides_its_keys() -> None:
    assert "5ec" not in repr(identities._KeyFile(name="a", signing="5ec", curve="5ec"))


@pytest.mark.parametrize("name", ["", "Alice", "a b", "../x", "a\n", "é", "a" * 33, "-a", "a/b", 3])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(KeyFileError, match="name"):
        Identity.generate(name)


def test_a_signature_holds_for_one_key_one_label_one_payload() -> None:
    alice, bob = Identity.generate("alice"), Identity.generate("bob")
    signature = alice.sign(Label.CLOSE, b"payload")
    assert len(signature) == limits.SIGNATURE
    verify(alice.public.signing, Label.CLOSE, b"payload", signature, party="alice")
    flipped = bytes([signature[0] ^ 1]) + signature[1:]
    for key, label, payload, made in (
        (bob.public.signing, Label.CLOSE, b"payload", signature),
        (alice.public.signing, Label.ABORT, b"payload", signature),
        (alice.public.signing, Label.CLOSE, b"payloae", signature),
        (alice.public.signing, Label.CLOSE, b"payload", flipped),
        (alice.public.signing, Label.CLOSE, b"payload", signature[:-1]),
        (alice.public.signing, Label.CLOSE, b"payload", b""),
        (b"short", Label.CLOSE, b"payload", signature),
    ):
        with pytest.raises(BadSignature, match="alice"):
            verify(key, label, payload, made, party="alice")


def test_what_verified_is_remembered_for_these_very_bytes_and_nothing_that_did_not() -> None:
    alice, bob = Identity.generate("alice"), Identity.generate("bob")
    known, signature = identities._check_remembered, alice.sign(Label.CHARTER, b"x")
    good = (alice.public.signing, Label.CHARTER, b"x", signature)
    changes = (bob.public.signing, Label.HELLO, b"y", bob.sign(Label.CHARTER, b"x"))
    verify(*good, party=None)
    before = known.cache_info()
    for _ in range(2):
        for at, other in enumerate(changes):
            with pytest.raises(BadSignature):
                verify(*good[:at], other, *good[at + 1 :], party=None)
        verify(*good, party=None)
    after = known.cache_info()
    assert (after.hits - before.hits, after.currsize) == (2, before.currsize)


def test_long_data_is_not_remembered() -> None:
    alice, data = Identity.generate("alice"), bytes(identities.REMEMBERED_BYTES)
    before = identities._check_remembered.cache_info()
    verify(alice.public.signing, Label.CHARTER, data, alice.sign(Label.CHARTER, data), party=None)
    with pytest.raises(BadSignature):
        verify(alice.public.signing, Label.CHARTER, data, bytes(64), party=None)
    assert identities._check_remembered.cache_info() == before


def test_the_curve_key_is_the_one_libzmq_derives_and_takes_as_raw_bytes() -> None:
    server, client = Identity.generate("server"), Identity.generate("client")
    assert z85.encode(server.public.curve) == zmq.curve_public(z85.encode(server.curve_secret))
    with zmq.Context() as context, context.socket(zmq.REP) as bound, context.socket(zmq.REQ) as connected:
        for socket in (bound, connected):
            socket.linger = 0
            socket.rcvtimeo = 5000
        bound.curve_server = True
        bound.curve_secretkey, bound.curve_publickey = server.curve_secret, server.public.curve
        connected.curve_secretkey, connected.curve_publickey = client.curve_secret, client.public.curve
        connected.curve_serverkey = server.public.curve
        port = bound.bind_to_random_port("tcp://127.0.0.1")
        connected.connect(f"tcp://127.0.0.1:{port}")
        connected.send(b"hello")
        assert bound.recv() == b"hello"


def test_fingerprints_name_both_keys() -> None:
    public = Identity.generate("alice").public
    other = Identity.generate("bob").public
    assert len({p.fingerprint for p in (public, other, PublicIdentity(public.signing, other.curve))}) == 3
    assert len(public.fingerprint.replace(" ", "")) == 32


def test_small_order_keys_are_called_weak_and_generated_ones_not() -> None:
    public = Identity.generate("alice").public
    assert public.weakness() is None
    zero = bytes(32)
    assert "signing" in str(PublicIdentity(signing=zero, curve=public.curve).weakness())
    assert "curve" in str(PublicIdentity(signing=public.signing, curve=bytes(31) + b"\x80").weakness())
    # What the list is for: one signature, every message.
    forged = zero[:0] + bytes.fromhex("01" + "00" * 31) + bytes(32)
    order_one = bytes.fromhex("01" + "00" * 31)
    for payload in (b"yes", b"no"):
        verify(order_one, Label.CLOSE, payload, forged, party="mallory")
    assert PublicIdentity(signing=order_one, curve=public.curve).weakness() is not None
