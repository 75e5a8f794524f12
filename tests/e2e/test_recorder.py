"""Everything on the wire, recorded; then every long-term key stolen."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from tertium.crypto import sealing
from tertium.crypto.identity import Identity
from tertium.crypto.labels import frame
from tertium.crypto.ring import encode
from tertium.learning.registry import load_task
from tertium.learning.task import ServerOptimiser
from tertium.owner.machine import ModelOwner
from tertium.owner.store import OwnerStore
from tertium.protocol import exchange as exchanges
from tertium.protocol import limits
from tertium.protocol.charter import Role
from tertium.protocol.codec import decode_as
from tertium.protocol.exchange import Exchange
from tertium.protocol.journal import Journal
from tertium.protocol.lanes.zmq_lanes import Listen, ZmqLanes
from tertium.protocol.messages import Header
from tertium.protocol.party import Party
from tertium.protocol.site import addresses, load_site
from tertium.protocol.view import View
from tertium.secure_worker.machine import SecureWorker
from tertium.workers.data_owner import DataOwner

OWNERS = ("alice", "bob", "charlie")
PARAMETERS = 400_000
PATTERNS = {name: [0.7391 + k, -1.2345, 0.000321 * (k + 1), 3.14159] for k, name in enumerate(OWNERS)}


def run_in_threads(place):
    """Run every party of a place in a thread of this process, over real sockets; return their errors."""
    parties, errors = {}, {}
    for name, role in place.roles.items():
        identity, charter = place.identities[name], place.charter
        site = load_site(place.root / name / "site.toml")
        us = charter.party(name)
        lanes = ZmqLanes(
            name,
            identity.curve_secret,
            {peer: address for peer, address in addresses(charter).items() if peer != name},
            listen=Listen(site.listen.control, site.listen.bulk) if us.role.listens else None,
            frame_limit=limits.control_frame(len(charter.parties)),
        )
        (place.root / name / "state").mkdir(mode=0o700, exist_ok=True)
        journal = Journal.of(identity, role, place.root / name / "state")
        sealed_by_us = Exchange(identity, charter, View.kept_in(journal, identity, charter))
        if role is Role.MODEL_OWNER:
            entry = site.tasks[site.owner.task]
            model = load_task(entry.factory, entry.options).global_model(0, ServerOptimiser())
            store = OwnerStore(place.root / name / "state")
            store.prepare()
            machine = ModelOwner(identity, charter, sealed_by_us, journal, site.owner, model, store)
            to = ["third"]
        elif role is Role.SECURE_WORKER:
            machine, to = SecureWorker(identity, charter, sealed_by_us, journal), []
        else:
            trainers = {task: load_task(e.factory, e.options).trainer() for task, e in site.tasks.items()}
            machine, to = DataOwner(identity, charter, sealed_by_us, journal, site, trainers), ["owner", "third"]
        parties[name] = Party(machine, lanes, identity, charter, report=lambda progress: None)
        for peer in to:
            lanes.connect(peer)
    threads = {
        name: threading.Thread(target=lambda n=name, p=party: errors.__setitem__(n, p.run()), daemon=True)
        for name, party in parties.items()
    }
    for thread in threads.values():
        thread.start()
    for name, thread in threads.items():
        thread.join(60)
        assert not thread.is_alive(), f"{name} is still {parties[name].machine.phase}"
    return errors


@pytest.fixture
def recorded(found, planted_of, monkeypatch):
    """A recorded run, with what its processes held in memory only: heads of envelopes and private round keys."""
    keys, heads, halves = [], [], []
    made, sealed = sealing.RoundKey.__init__, Exchange.seal_head

    def remembering(kind):
        def generate():
            half = kind.generate()
            halves.append(half.private_bytes_raw())
            return half

        return SimpleNamespace(generate=generate)

    for module, private, public in (
        ("mlkem", "MLKEM768PrivateKey", "MLKEM768PublicKey"),
        ("x25519", "X25519PrivateKey", "X25519PublicKey"),
    ):
        real = getattr(sealing, module)
        fake = {private: remembering(getattr(real, private)), public: getattr(real, public)}
        monkeypatch.setattr(sealing, module, SimpleNamespace(**fake))

    def remember_key(self, secret=None):
        made(self, secret)
        keys.append((self.key_id, self._private))

    def remember_head(self, header, recipient_key, content_key, content=None):
        head = sealed(self, header, recipient_key, content_key, content)
        heads.append(head)
        return head

    monkeypatch.setattr(sealing.RoundKey, "__init__", remember_key)
    monkeypatch.setattr(Exchange, "seal_head", remember_head)
    place = found(
        {name: planted_of(PARAMETERS, PATTERNS[name]) for name in OWNERS},
        {"task": "planted", "rounds": 2, "metrics": [], "entry": planted_of(PARAMETERS)},
        relayed=True,
    )
    errors = run_in_threads(place)
    assert errors == dict.fromkeys(place.roles)
    # A fresh key a round for each recipient, and for each data owner one more, for the seeds of masks.
    assert len(halves) == 2 * len(keys) == 2 * 2 * (1 + 1 + 2 * len(OWNERS))
    return place, keys, heads, halves


def needles(place):
    """Return byte patterns of the planted updates: as float32, as float64, and as ring words."""
    plan = place.charter.plan
    out = []
    for pattern in PATTERNS.values():
        for dtype in ("<f4", "<f8"):
            out.append(np.tile(np.array(pattern, np.float32).astype(dtype), 2).tobytes())
        words = np.empty(len(pattern) * 2, plan.dtype)
        encode(plan, plan.values, np.tile(np.array(pattern, np.float32), 2), 1, words)
        out.append(words.tobytes())
    return out


def test_a_recording_holds_no_tensor_bytes_and_stolen_keys_open_nothing_of_it(recorded):
    place, keys, heads, halves = recorded
    recording = place.recorded
    payload = 2 * (3 * 4 * PARAMETERS + 3 * 4 * PARAMETERS + 4 * PARAMETERS)
    assert len(recording) > payload  # it does hold the models, contributions and aggregates of both rounds
    assert len(recording) < 1.02 * payload + 200_000  # and hardly more
    clear = updates_in_the_clear(place)
    for needle in needles(place):
        assert needle in clear  # what the data owners encoded has it, so a leak would be found
        assert needle not in recording
    # What was in memory only: with it, the recording opens. So the recording is complete, and the key is what matters.
    private = dict(keys)
    contribution = next(h for h in heads if decode_as(Header, h.header).label is exchanges.Label.CONTRIBUTION)
    header = decode_as(Header, contribution.header)
    info = frame(header.label, [contribution.subject])
    content_key = sealing._HPKE.decrypt(contribution.wrapped_key, private[header.recipient_key], info=info)
    assert opens(recording, content_key, contribution.subject, header)
    # Every long-term key, and every file that is left on every disk.
    left = b"".join(path.read_bytes() for path in sorted(place.root.rglob("*")) if path.is_file())
    assert place.identities["alice"].curve_secret.hex().encode() in left  # the theft is complete
    for head in heads:
        assert head.wrapped_key not in recording  # heads travel inside CURVE
        for name in place.roles:
            thief = Identity.load(place.root / name / "secret.toml")
            for secret in (thief.curve_secret, bytes.fromhex(seed_of(place, name))):
                assert not unwraps(head, secret)
    for key_bytes in halves:
        assert key_bytes not in left
        assert key_bytes.hex().encode() not in left
        assert key_bytes not in recording


def updates_in_the_clear(place):
    """Return the bytes of every update of round 1, as floats and as ring words."""
    plan, out = place.charter.plan, []
    for pattern in PATTERNS.values():
        update = np.resize(np.array(pattern, np.float32), PARAMETERS)
        words = np.empty(PARAMETERS, plan.dtype)
        encode(plan, plan.values, update, 1, words)
        out += [update.tobytes(), update.astype("<f8").tobytes(), words.tobytes()]
    return b"".join(out)


def opens(recording, content_key, context, header):
    """Whether some frame of the recording begins the body that `content_key` opens."""
    from cryptography.cobblestone import Cobblestone256Decryptor
    from cryptography.exceptions import InvalidTag

    at = 0
    # Records of a body start right after a ZMTP frame header; try each frame of the size the body's first record has.
    first = min(sealing.body_bytes(sum(header.sections)), limits.RECORD_PLAINTEXT)
    prefix = b"\x02"  # a long, last frame: flags, then 8 bytes of length
    while (at := recording.find(prefix, at)) >= 0:
        length = int.from_bytes(recording[at + 1 : at + 9], "big")
        if first // 2 <= length <= limits.RECORD_WIRE:
            try:
                Cobblestone256Decryptor(content_key, context).update(recording[at + 9 : at + 9 + 32 * 1024])
                return True
            except InvalidTag:
                pass
        at += 1
    return False


def seed_of(place, name):
    text = (place.root / name / "secret.toml").read_text()
    return next(line.split('"')[1] for line in text.splitlines() if line.startswith("signing"))


def unwraps(head, secret):
    """Whether a stolen 32-byte secret, used as either half of a hybrid key, opens a wrapped content key."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
    from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey

    header = decode_as(Header, head.header)
    key = MLKEM768X25519PrivateKey(
        mlkem.MLKEM768PrivateKey.from_seed_bytes(secret * 2), x25519.X25519PrivateKey.from_private_bytes(secret)
    )
    try:
        sealing._HPKE.decrypt(head.wrapped_key, key, info=frame(header.label, [head.subject]))
    except InvalidTag:
        return False
    return True
