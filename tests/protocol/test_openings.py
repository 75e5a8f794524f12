"""What a party can open later: exactly what its header committed to, on nobody's disk unless its own file says so."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tertium.crypto.errors import CommitmentMismatch
from tertium.crypto.labels import Label
from tertium.protocol.charter import Role
from tertium.protocol.codec import decode_as
from tertium.protocol.errors import SiteFileError
from tertium.protocol.exchange import Exchange
from tertium.protocol.journal import Journal
from tertium.protocol.ledger import Act, Content, DataClass
from tertium.protocol.messages import Header
from tertium.protocol.openings import Opening, OpeningFiles, OpeningStore, keeps
from tertium.protocol.site import load_site
from tertium.protocol.view import View

ALICE = Content(DataClass.UPDATE, ("alice",))


@pytest.fixture
def kept(world: Any, tmp_path: Path) -> Any:
    """Parties that keep their openings, by name: exchange, store and ledger."""

    def make(name: str) -> tuple[Exchange, OpeningStore, View]:
        identity, charter = world.identities[name], world.charter
        view = View.kept_in(Journal.of(identity, charter.party(name).role), identity, charter)
        store = OpeningStore(tmp_path / name)
        return Exchange(identity, charter, view, store), store, view

    return make


def contribution(world: Any, exchange: Exchange, payload: bytes) -> Any:
    return exchange.seal(Label.CONTRIBUTION, world.context, "third", world.third_key.public, [payload], content=ALICE)


def test_what_is_kept_is_what_the_header_committed_to(world: Any, kept: Any) -> None:
    exchange, store, _ = kept("alice")
    payload = world.payload()
    sealed = contribution(world, exchange, payload)
    header = decode_as(Header, sealed.head.header)
    files = OpeningFiles({"alice": [store.folder]})
    opening = files.find("alice", header, sealed.subject)
    assert (opening.subject, opening.sections) == (sealed.subject, (payload,))
    assert files
    assert files.has("alice", header, sealed.subject)
    assert files.find("bob", header, sealed.subject) is None
    (path,) = store.folder.iterdir()
    assert path.name == f"round-000002.1.{sealed.subject[:8].hex()}.opening"
    assert path.stat().st_mode & 0o777 == 0o600
    assert store.folder.stat().st_mode & 0o777 == 0o700
    # Nothing else opens it: not other content, nor another salt, nor the same bytes cut otherwise.
    for changes in (
        {"sections": (bytes(len(payload)),)},
        {"salt": bytes(32)},
        {"sections": (payload[:8], payload[8:])},
        {"sections": (payload[:-1],)},
    ):
        with pytest.raises(CommitmentMismatch):
            msgspec.structs.replace(opening, **changes).check(header, sealed.subject)
    with pytest.raises(CommitmentMismatch):
        opening.check(header, bytes(32))


def test_a_model_owner_keeps_what_it_opened_of_a_sum(world: Any, kept: Any) -> None:
    third, _, _ = kept("third")
    owner, store, _ = kept("owner")
    content, payload = Content(DataClass.AGGREGATE, ("alice", "bob", "carol")), world.payload()
    sealed = third.seal(
        Label.AGGREGATE, world.context, "owner", world.owner_key.public, [payload], close=bytes(32), content=content
    )
    incoming = owner.open(sealed.head, world.owner_key, content=content)
    assert not store.folder.exists()
    for record in sealed.records():
        incoming.feed(record)
    incoming.finish()
    header = decode_as(Header, sealed.head.header)
    assert OpeningFiles({"owner": [store.folder]}).find("owner", header, sealed.subject).sections == (payload,)


def test_it_is_in_the_ledger_before_it_is_on_the_disk(world: Any, kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange, store, view = kept("alice")
    sizes = []
    keep = store.keep
    monkeypatch.setattr(store, "keep", lambda *given: (sizes.append(view._ledger._journal.ledger_size()), keep(*given)))
    sealed = contribution(world, exchange, world.payload())
    assert sizes == [2]
    sent, stored = (entry for _, entry in view._ledger.entries())
    assert (sent.act, stored.act) == (Act.SENT, Act.STORED)
    assert (stored.whose, stored.subject, stored.commitment) == (("alice",), sealed.subject, sealed.commitment)
    assert (stored.data, stored.derived_from, stored.payload) == (DataClass.UPDATE, (0,), world.sections[0])


def test_only_a_share_that_was_sealed_and_a_total_that_was_opened_are_kept() -> None:
    kept = {(label, sealed) for label in Label for sealed in (True, False) if keeps(label, sealed=sealed)}
    assert kept == {(Label.CONTRIBUTION, True), (Label.AGGREGATE, False)}


def test_a_disk_that_takes_no_opening_is_one_sentence_and_nothing_is_sent(world: Any, kept: Any) -> None:
    exchange, store, _ = kept("alice")
    store.folder.write_text("in the way")
    with pytest.raises(SiteFileError, match="cannot be written") as caught:
        contribution(world, exchange, world.payload())
    assert "\n" not in str(caught.value)


def test_a_file_is_read_no_further_than_its_header_says(world: Any, kept: Any) -> None:
    exchange, store, _ = kept("alice")
    sealed = contribution(world, exchange, world.payload())
    header, files = decode_as(Header, sealed.head.header), OpeningFiles({"alice": [store.folder]})
    (path,) = store.folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(400))
    with pytest.raises(SiteFileError, match="cannot be read"):
        files.find("alice", header, sealed.subject)
    for other, words in ((b"\x93", "is no opening"), (whole[:-1], "is no opening")):
        path.write_bytes(other)
        with pytest.raises(SiteFileError, match=words) as caught:
            files.find("alice", header, sealed.subject)
        assert "\n" not in str(caught.value)
    path.unlink()
    assert files.find("alice", header, sealed.subject) is None
    assert not files
    assert not OpeningFiles({"alice": [store.folder / "nowhere"]})


@pytest.mark.parametrize("name", ["third", "judge"])
def test_a_party_with_nothing_of_its_own_to_open_keeps_nothing(world: Any, tmp_path: Path, name: str) -> None:
    path = tmp_path / "site.toml"
    tasks = '[tasks.task]\nfactory = "package.module:Class"\n' if name == "judge" else ""
    path.write_text(f"[audit]\nkeep_openings = true\n{tasks}")
    role = world.charter.party(name).role
    assert role in (Role.SECURE_WORKER, Role.EVALUATOR)
    with pytest.raises(SiteFileError, match=f"audit.keep_openings: {name} is a {role.words}"):
        load_site(path).check_against(world.charter, name)
    assert load_site(path).audit.keep_openings
    path.write_text("")
    assert not load_site(path).audit.keep_openings


def test_a_repr_shows_nothing_of_what_is_opened() -> None:
    assert repr(Opening(bytes(32), b"s" * 32, (b"secret",))) == "Opening(00000000)"
