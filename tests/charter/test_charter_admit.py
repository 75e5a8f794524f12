from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tertium.crypto import identity as identities
from tertium.crypto.identity import Identity
from tertium.protocol import charter as charters
from tertium.protocol.charter import Mode, Role, SchemeName, SignatureState
from tertium.protocol.errors import CharterError


def refused(federation: Any, *words: str, name: str = "alice") -> None:
    """A refusal is one sentence with these words, and nothing on disk changed."""
    before = {path: path.read_bytes() for path in federation.state.iterdir()}
    with pytest.raises(CharterError) as caught:
        federation.admit(name)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in federation.state.iterdir()} == before


def test_every_party_is_admitted_to_what_all_signed_and_remembers_it(federation: Any) -> None:
    charter = federation.write()
    for name in federation.identities:
        assert federation.admit(name) == charter
    assert charters.load(federation.state / "charter.toml") == charter
    assert [path.name for path in federation.state.iterdir()] == ["charter.toml"]
    assert federation.admit() == charter


def test_a_missing_signature_is_named(federation: Any) -> None:
    federation.write(signers=["alice", "owner", "third", "judge"])
    refused(federation, "not signed by bob, carol")
    federation.write(signers=[])
    refused(federation, "not signed by alice, bob")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("minimum_cohort = 3", "minimum_cohort = 2\nunsafe_small_cohort = 'x'"),
        ("serial = 1", "serial = 2"),
        ("value_range = 8.0", "value_range = 9.0"),
        ("7101", "7102"),
        ("2031", "2032"),
    ],
)
def test_one_changed_line_voids_every_signature(federation: Any, old: str, new: str) -> None:
    federation.write()
    federation.edit(old, new)
    assert set(charters.verify_signatures(charters.load(federation.path), federation.path).values()) == {
        SignatureState.WRONG
    }
    refused(federation, "no signature verifies")


def test_the_changed_line_is_named_to_who_ran_the_charter_before(federation: Any) -> None:
    federation.write()
    federation.admit()
    federation.edit(":7101", ":7102")  # with the colon: a key may have these digits
    refused(federation, "same serial 1", "parties.third.bulk: tcp://127.0.0.1:7101 -> tcp://127.0.0.1:7102")


def test_one_flipped_digit_of_a_key_is_named_to_its_party(federation: Any) -> None:
    federation.write()
    key = federation.identities["alice"].public.curve.hex()
    federation.edit(key, ("0" if key[0] != "0" else "1") + key[1:])
    refused(federation, "parties.alice.curve: not the key of alice")
    refused(federation, "no signature verifies", name="bob")


def test_a_flipped_digit_of_a_signature_is_named(federation: Any) -> None:
    federation.write()
    beside = charters.signatures_path(federation.path)
    text = beside.read_text()
    at = text.index('bob = "') + 7
    beside.write_text(text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :])
    refused(federation, "the signature of bob does not verify")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('bob = "', 'mallory = "', "no party of the charter"),
        ('bob = "', 'bob = "0', "signatures.bob: expected a signature"),
        ('bob = "', 'bob = "Z', "signatures.bob: expected a signature"),
        ("[signatures]", "[signature]", "unknown field"),
        ("[signatures]", "[signatures", "not valid TOML"),
        ('bob = "', 'bob = 1 # "', "signatures"),
    ],
)
def test_a_malformed_signature_file_is_refused(federation: Any, old: str, new: str, why: str) -> None:
    federation.write()
    beside = charters.signatures_path(federation.path)
    beside.write_text(beside.read_text().replace(old, new))
    refused(federation, "charter.signatures.toml", why)
    with pytest.raises(CharterError, match=r"signatures\.toml"):
        charters.sign(federation.path, federation.identities["alice"])


def test_a_signature_of_another_partys_or_another_charter_counts_for_nothing(federation: Any) -> None:
    federation.write()
    beside = charters.signatures_path(federation.path)
    old = charters.read_signatures(federation.charter(), federation.path)
    beside.write_text(beside.read_text().replace(old["bob"].hex(), old["carol"].hex()))
    refused(federation, "the signature of bob does not verify")
    federation.write(federation.charter(serial=2))
    text = beside.read_text()
    new = charters.read_signatures(federation.charter(serial=2), federation.path)
    beside.write_text(text.replace(new["bob"].hex(), old["bob"].hex()))
    refused(federation, "the signature of bob does not verify")


def test_expiry_is_to_the_second(federation: Any) -> None:
    federation.write(federation.charter(not_after=federation.now))
    federation.admit()
    federation.write(federation.charter(not_after=federation.now - timedelta(seconds=1), serial=2))
    refused(federation, "not_after: the charter expired on 2029-12-31T23:59:59+00:00")
    with pytest.raises(CharterError, match="zone"):
        charters.admit(federation.path, federation.identities["alice"], federation.state, datetime(2030, 1, 1))


def test_an_older_serial_is_refused_and_a_newer_one_replaces(federation: Any) -> None:
    federation.write(federation.charter(serial=5))
    federation.admit()
    federation.write(federation.charter(serial=4))
    refused(federation, "serial: older", "4 after 5")
    newer = federation.write(federation.charter(serial=6))
    assert federation.admit() == newer
    federation.write(federation.charter(serial=5))
    refused(federation, "5 after 6")


def test_the_same_serial_with_other_content_is_refused_though_all_signed(federation: Any) -> None:
    federation.write()
    federation.admit()
    federation.write(federation.charter(rules=federation.rules(stable_cohort=2)))
    refused(federation, "same serial 1", "rules.stable_cohort: (none) -> 2")


def test_state_of_another_federation_is_refused(federation: Any) -> None:
    federation.write()
    federation.admit()
    federation.write(federation.charter(federation="other", serial=9))
    refused(federation, "'trial'", "'other'")


def test_damaged_state_is_refused_and_not_replaced(federation: Any) -> None:
    federation.write()
    federation.admit()
    (federation.state / "charter.toml").write_text("version = 1\n")
    refused(federation, str(federation.state / "charter.toml"))


def test_who_is_not_in_the_charter_or_has_other_keys_is_refused(federation: Any) -> None:
    federation.write()
    federation.identities["mallory"] = Identity.generate("mallory")
    refused(federation, "mallory is not a party", name="mallory")
    mine = federation.identities["bob"]
    federation.identities["bob"] = Identity(
        "bob", mine._signing.private_bytes_raw(), Identity.generate("bob").curve_secret
    )
    refused(federation, "parties.bob.curve: not the key of bob", name="bob")
    federation.identities["bob"] = Identity.generate("bob")
    refused(federation, "parties.bob.signing: not the key of bob", name="bob")
    for name in ("bob", "mallory"):
        before = charters.signatures_path(federation.path).read_bytes()
        with pytest.raises(CharterError, match=name):
            charters.sign(federation.path, federation.identities[name])
        assert charters.signatures_path(federation.path).read_bytes() == before


def test_a_scheme_that_does_not_fit_is_refused_last_and_not_recorded(federation: Any) -> None:
    second = federation.party("judge", role=Role.SECURE_WORKER, control="tcp://h:1", bulk="tcp://h:2")
    parties = (*(federation.party(name) for name in federation.identities if name != "judge"), second)
    rules = federation.rules(mode=Mode.SHAMIR, scheme=SchemeName(name="shamir"))
    federation.write(federation.charter(rules=rules, parties=parties))
    refused(federation, "rules.scheme: the scheme shamir has 3 to 8 holder(s), not 2")


def test_signing_keeps_other_lines_and_can_be_repeated(federation: Any) -> None:
    charter = federation.write(signers=["bob"])
    first = charters.read_signatures(charter, federation.path)
    charters.sign(federation.path, federation.identities["alice"])
    charters.sign(federation.path, federation.identities["bob"])
    again = charters.read_signatures(charter, federation.path)
    assert again["bob"] == first["bob"]
    assert list(again) == ["alice", "bob"]
    assert sorted(path.name for path in federation.folder.iterdir()) == [
        "charter.signatures.toml",
        "charter.toml",
        "state",
    ]


def test_a_charter_file_is_never_overwritten(federation: Any) -> None:
    federation.write()
    before = federation.path.read_bytes()
    with pytest.raises(CharterError, match="exists"):
        charters.dump(federation.charter(serial=2), federation.path)
    assert federation.path.read_bytes() == before


def test_a_full_disk_leaves_the_old_state_whole(federation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    federation.write()
    federation.admit()
    federation.write(federation.charter(serial=2))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(identities.os, "fsync", full)
    refused(federation, "no space left on device")


def test_cards_survive_their_file(federation: Any, tmp_path: Path) -> None:
    for name in ("alice", "third"):
        path = tmp_path / f"{name}.toml"
        charters.dump_card(federation.party(name), path)
        assert charters.load_card(path) == federation.party(name)
        path.write_text(path.read_text().replace("role =", "rule ="))
        with pytest.raises(CharterError, match=name):
            charters.load_card(path)


def test_ten_thousand_parties(federation: Any) -> None:
    many = tuple(
        federation.party(
            "alice", name=f"site-{i}", signing=bytes([7]) + i.to_bytes(31), curve=bytes([9]) + i.to_bytes(31)
        )
        for i in range(10_000)
    )
    charter = federation.charter(parties=tuple(federation.party(n) for n in federation.identities) + many)
    assert charter.party("site-9999").name == "site-9999"
    assert len(charter.data_owners) == 10_003


def test_time_is_utc_whatever_the_file_says(federation: Any) -> None:
    federation.write()
    federation.edit("2031-01-01 00:00:00+00:00", "2031-01-01T05:00:00+05:00")
    assert charters.load(federation.path).not_after == datetime(2031, 1, 1, tzinfo=UTC)
    assert federation.admit().not_after.utcoffset() == timedelta(0)
