import contextlib
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tertium.protocol import charter as charters
from tertium.protocol import limits
from tertium.protocol.charter import Arithmetic, Charter, Deadlines, Mode, Party, Role, SchemeName, TrainingLimits
from tertium.protocol.errors import CharterError, NotInCharter, WrongRole
from tertium.protocol.site import addresses
from tertium.protocol.training import WeightRule

ALL = ("owner", "third", "alice", "bob", "carol", "judge")


def refused(make: Any, line: str, **changes: Any) -> None:
    with pytest.raises(CharterError) as caught:
        make(**changes)
    assert line in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_charter_survives_its_file_whole(federation: Any) -> None:
    rich = federation.charter(
        federation='Ärzte "gegen" \\ Grenzen',
        rules=federation.rules(
            stable_cohort=2,
            minimum_cohort=2,
            unsafe_small_cohort="a lesson for two",
            weight_rule=WeightRule.EXAMPLES,
            arithmetic=Arithmetic(max_weight=500, precision=1e-6, value_range=3.25),
            training=TrainingLimits(max_epochs=3, tasks=("digits", "toy")),
            deadlines=Deadlines(join=1.5),
        ),
        parties=tuple(federation.party(name, organisation="St. Anna") for name in ALL),
    )
    charters.dump(rich, federation.path)
    again = charters.load(federation.path)
    assert again == rich
    assert again.digest == rich.digest
    assert charters.text(again) == federation.path.read_text()


def test_order_zone_and_comments_do_not_change_the_digest(federation: Any) -> None:
    charter = federation.write()
    moved = federation.charter(
        parties=tuple(reversed(charter.parties)),
        not_after=charter.not_after.astimezone(timezone(timedelta(hours=5, minutes=30))),
    )
    assert moved.digest == charter.digest
    assert [party.name for party in moved.parties] == sorted(ALL)
    federation.edit("[rules]\n", "# a remark\n\n[rules]\n")
    assert charters.load(federation.path).digest == charter.digest


@pytest.mark.parametrize(
    "change",
    [
        {"serial": 2},
        {"federation": "trials"},
        {"not_after": datetime(2031, 1, 2, tzinfo=UTC)},
    ],
)
def test_every_line_is_in_the_digest(federation: Any, change: dict[str, Any]) -> None:
    assert federation.charter(**change).digest != federation.charter().digest


def test_the_digest_is_pinned() -> None:
    # An old charter must keep its name under a new release; break this only with a new format version.
    party = {"organisation": ""}
    said = []
    for index, (name, role) in enumerate(
        (
            ("a", Role.DATA_OWNER),
            ("b", Role.DATA_OWNER),
            ("c", Role.DATA_OWNER),
            ("o", Role.MODEL_OWNER),
            ("s", Role.SECURE_WORKER),
        )
    ):
        where = {"control": f"tcp://h:{index + 1}", "bulk": f"tcp://h:{index + 101}"} if role.listens else {}
        said.append(
            Party(
                name=name, role=role, signing=bytes([index + 7] * 32), curve=bytes([index + 99] * 32), **party, **where
            )
        )
    charter = Charter(
        version=1,
        federation="pinned",
        serial=7,
        not_after=datetime(2030, 1, 1, tzinfo=UTC),
        rules=charters.Rules(mode=Mode.TRUSTED, scheme=SchemeName(name="trusted"), minimum_cohort=3),
        parties=tuple(said),
    )
    assert charter.digest.hex() == PINNED


PINNED = "66efb373fe22640b6f60d55e24267c079eab16a8a4f345969a67b38b6bce67ea"


def test_roles_are_counted(federation: Any) -> None:
    def without(*gone: str) -> tuple[Party, ...]:
        return tuple(federation.party(name) for name in ALL if name not in gone)

    refused(federation.charter, "exactly one model owner, this one 0", parties=without("owner"))
    refused(federation.charter, "at least one secure worker", parties=without("third"))
    refused(federation.charter, "rules.minimum_cohort: 3 contributors can never", parties=without("bob"))
    ports = {"control": "tcp://h:1", "bulk": "tcp://h:2"}
    second = (*without("judge"), federation.party("judge", role=Role.MODEL_OWNER, **ports))
    refused(federation.charter, "exactly one model owner, this one 2", parties=second)
    third = (*without("judge"), federation.party("judge", role=Role.SECURE_WORKER, **ports))
    refused(federation.charter, "mode trusted has exactly one secure worker, this charter 2", parties=third)
    for mode in (Mode.TRUSTED, Mode.MASKED, Mode.PLAIN):
        why = {"unsafe_plain": "a lesson"} if mode is Mode.PLAIN else {}
        alone = federation.rules(mode=mode, scheme=SchemeName(name=mode.value), **why)
        sentence = f"mode {mode.value} has exactly one secure worker, this charter 2"
        refused(federation.charter, sentence, rules=alone, parties=third)
        assert federation.charter(rules=alone).rules.mode is mode
    for mode in (Mode.ADDITIVE, Mode.SHAMIR, Mode.SHARED):
        several = federation.rules(mode=mode, scheme=SchemeName(name=mode.value))
        refused(federation.charter, f"mode {mode.value} shares among at least two", rules=several)
        assert federation.charter(rules=several, parties=third).rules.mode is mode
    refused(federation.charter, "parties: expected", parties=())


def test_no_key_name_or_endpoint_stands_twice(federation: Any) -> None:
    alice = federation.identities["alice"].public

    def with_bob(**changes: Any) -> tuple[Party, ...]:
        return tuple(federation.party(name, **(changes if name == "bob" else {})) for name in ALL)

    refused(federation.charter, "parties.bob.signing: the same key stands at parties.alice.signing",
            parties=with_bob(signing=alice.signing))  # fmt: skip
    refused(federation.charter, "parties.bob.curve: the same key stands at parties.alice.curve",
            parties=with_bob(curve=alice.curve))  # fmt: skip
    refused(federation.charter, "parties.bob.curve: the same key stands at parties.alice.signing",
            parties=with_bob(curve=alice.signing))  # fmt: skip
    bob = federation.identities["bob"].public
    refused(federation.charter, "parties.bob.curve: the same key stands at parties.bob.signing",
            parties=with_bob(curve=bob.signing))  # fmt: skip
    refused(federation.charter, "parties.alice: two parties have this name", parties=with_bob(name="alice"))
    refused(
        federation.charter, "parties.bob: the curve key is a point of small order", parties=with_bob(curve=bytes(32))
    )
    twice = tuple(
        federation.party(name, **({"bulk": "tcp://127.0.0.1:7000"} if name == "third" else {})) for name in ALL
    )
    refused(federation.charter, "parties.third.bulk: the same endpoint stands at parties.owner.control", parties=twice)


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://h",
        "tcp://:5",
        "tcp://h:0",
        "tcp://h:65536",
        "tcp://h:99999",
        "tcp://h:x",
        "tcp://h:5\n",
        "tcp://0.0.0.0:5",
        "tcp://*:5",
        "tcp://a;b:5",
        "tcp://a/b:5",
        "ipc:///tmp/x",
        "inproc://x",
        "h:5",
        "tcp://h:05",
        "tcp://" + "h" * 254 + ":5",
        "tcp://[::1]:5",
        "",
        5,
    ],
)
def test_bad_endpoints_are_refused(federation: Any, endpoint: Any) -> None:
    with pytest.raises(CharterError, match="control"):
        federation.charter(
            parties=tuple(federation.party(n, **({"control": endpoint} if n == "third" else {})) for n in ALL)
        )


def test_who_listens_has_endpoints_and_nobody_else(federation: Any) -> None:
    def with_(who: str, **changes: Any) -> tuple[Party, ...]:
        return tuple(federation.party(name, **(changes if name == who else {})) for name in ALL)

    refused(
        federation.charter, "parties.third.bulk: a secure worker needs an endpoint", parties=with_("third", bulk=None)
    )
    refused(federation.charter, "parties.owner.control: a model owner needs", parties=with_("owner", control=None))
    refused(
        federation.charter, "parties.judge.bulk: an evaluator only connects", parties=with_("judge", bulk="tcp://h:1")
    )
    charter = federation.charter()
    found = addresses(charter)
    assert found["third"].control == "tcp://127.0.0.1:7100"
    assert found["third"].bulk == "tcp://127.0.0.1:7101"
    assert found["alice"].control is None
    assert {name: address.curve for name, address in found.items()} == {p.name: p.curve for p in charter.parties}


def test_small_cohorts_need_a_reason(federation: Any) -> None:
    rules = federation.rules
    refused(rules_in(federation), "rules.minimum_cohort: with 2 a contributor", minimum_cohort=2)
    refused(rules_in(federation), "rules.minimum_cohort: a sum over one", minimum_cohort=1, unsafe_small_cohort="why")
    for empty in ("", "  "):
        refused(rules_in(federation), "unsafe_small_cohort", minimum_cohort=2, unsafe_small_cohort=empty)
    refused(rules_in(federation), "nothing to excuse", minimum_cohort=3, unsafe_small_cohort="why")
    refused(rules_in(federation), "minimum_cohort: expected int >= 1", minimum_cohort=0)
    small = federation.charter(rules=rules(minimum_cohort=2, unsafe_small_cohort="a lesson"))
    assert len(small.warnings) == 1
    assert "a lesson" in small.warnings[0]
    assert federation.charter().warnings == ()


def test_plain_needs_a_reason_and_only_plain_has_one(federation: Any) -> None:
    plain = {"mode": Mode.PLAIN, "scheme": SchemeName(name="plain")}
    refused(rules_in(federation), "rules.unsafe_plain: mode plain needs", **plain)
    refused(rules_in(federation), "unsafe_plain", **plain, unsafe_plain="")
    refused(rules_in(federation), "rules.unsafe_plain: must say why", **plain, unsafe_plain=" ")
    refused(rules_in(federation), "rules.unsafe_plain: belongs to mode plain", unsafe_plain="why")
    open_one = rules_in(federation)(**plain, unsafe_plain="a lesson", minimum_cohort=1)
    assert len(open_one.warnings) == 2


def rules_in(federation: Any) -> Any:
    return lambda **changes: federation.charter(rules=federation.rules(**changes))


@pytest.mark.parametrize(
    ("table", "changes", "line"),
    [
        (Arithmetic, {"value_range": 0.0}, "value_range"),
        (Arithmetic, {"value_range": float("nan")}, "value_range"),
        (Arithmetic, {"precision": float("inf")}, "precision: must be a finite number"),
        (Arithmetic, {"max_weight": 0}, "max_weight"),
        (Arithmetic, {"max_weight": True}, "max_weight"),
        (Arithmetic, {"max_weight": 10**30}, "max_weight"),
        (TrainingLimits, {"max_epochs": -1}, "max_epochs"),
        (TrainingLimits, {"tasks": ("a b",)}, "rules.training.tasks[0]: expected a name"),
        (TrainingLimits, {"tasks": ("a\n",)}, "rules.training.tasks[0]: expected a name"),
        (Deadlines, {"join": 0.0}, "join"),
        (Deadlines, {"upload": limits.DEADLINE + 1}, "upload"),
        (SchemeName, {"name": "Trusted"}, "name"),
        (SchemeName, {"name": "trusted", "version": 0}, "version"),
        (SchemeName, {"name": "trusted", "digest": "ab"}, "digest"),
        (SchemeName, {"name": "trusted", "digest": "AB" * 32}, "digest"),
        (SchemeName, {"name": "trusted", "threshold": 0}, "threshold"),
        (SchemeName, {"name": "trusted", "threshold": 65}, "threshold"),
    ],
)
def test_no_table_can_be_built_out_of_its_bounds(table: Any, changes: dict[str, Any], line: str) -> None:
    refused(table, line, **changes)
    with pytest.raises(CharterError):
        charters.from_table(changes, table)


def test_a_charter_cannot_be_built_out_of_its_bounds(federation: Any) -> None:
    make = federation.charter
    refused(make, "serial: expected int >= 1", serial=0)
    refused(make, "serial", serial=2**63)
    refused(make, "version", version=2)
    refused(make, "not_after", not_after=datetime(2031, 1, 1))
    refused(make, "federation: expected plain text", federation="evil\x1b[2J")
    refused(make, "federation: expected plain text", federation="right\u202eleft")
    refused(make, "federation", federation="")
    refused(make, "federation", federation="x" * 401)
    refused(make, "under weight rule uniform", rules=federation.rules(arithmetic=Arithmetic(max_weight=2)))
    refused(make, "names a task twice", rules=federation.rules(training=TrainingLimits(tasks=("a", "a"))))


def test_lookups(federation: Any) -> None:
    charter = federation.charter()
    assert charter.model_owner.name == "owner"
    assert [p.name for p in charter.data_owners] == ["alice", "bob", "carol"]
    assert [p.name for p in charter.secure_workers] == ["third"]
    assert [p.name for p in charter.evaluators] == ["judge"]
    assert charter.require("alice", Role.DATA_OWNER, Role.EVALUATOR) is charter.party("alice")
    with pytest.raises(WrongRole, match="alice: is a data owner, not a secure worker"):
        charter.require("alice", Role.SECURE_WORKER)
    with pytest.raises(NotInCharter, match="mallory"):
        charter.party("mallory")
    with pytest.raises(NotInCharter) as caught:
        charter.require("x" * 10_000, Role.DATA_OWNER)
    assert len(str(caught.value)) < 120


def test_the_plan_follows_from_the_rules(federation: Any) -> None:
    plan = federation.charter().plan
    assert plan.cohort == 3
    assert plan.max_weight == 1
    assert plan.values.bound == 8.0
    hopeless = federation.charter(rules=federation.rules(arithmetic=Arithmetic(value_range=1e9, precision=1e-12)))
    with pytest.raises(CharterError, match=r"rules.arithmetic: "):
        _ = hopeless.plan


def test_diff_names_lines(federation: Any) -> None:
    old = federation.charter()
    assert charters.diff(old, federation.charter()) == []
    new = federation.charter(
        serial=2,
        rules=federation.rules(minimum_cohort=2, unsafe_small_cohort="why", training=TrainingLimits(tasks=("toy",))),
        parties=tuple(
            federation.party(name, **({"organisation": "X"} if name == "bob" else {}))
            for name in ALL
            if name != "judge"
        ),
    )
    assert charters.diff(old, new) == [
        "serial: 1 -> 2",
        "rules.minimum_cohort: 3 -> 2",
        "rules.unsafe_small_cohort: (none) -> why",
        "rules.training.tasks: [] -> [toy]",
        'parties.bob.organisation: "" -> X',
        "parties.judge: removed",
    ]
    assert "parties.judge: added" in charters.diff(new, old)


def test_equal_diff_and_digest_agree(federation: Any) -> None:
    """A line that `diff` did not show would be a change nobody reads."""
    old = federation.charter()
    shown = set(charters._lines(old))
    expected = flat(msgspec.to_builtins(old, builtin_types=(bytes, datetime)))
    assert shown == expected


def flat(value: Any, path: str = "") -> set[str]:
    if isinstance(value, dict):
        return {leaf for key, item in value.items() for leaf in flat(item, f"{path}.{key}" if path else key)}
    if path == "parties":
        return {leaf for item in value for leaf in flat(item, f"parties.{item['name']}")}
    return {path}


def test_files_that_are_no_charter(federation: Any, tmp_path: Path) -> None:
    federation.write()
    whole = federation.path.read_bytes()
    for end in range(0, len(whole) - 60, 97):
        federation.path.write_bytes(whole[:end])
        with pytest.raises(CharterError, match=r"charter\.toml"):
            charters.load(federation.path)
    for content, why in (
        (b"\xff\xfe", "UTF-8"),
        (b"version = 2\n", "version"),
        (b"version = true\n", "version"),
        (b"x = " + b"[" * 100_000, "too deeply nested"),
        (b"version = " + b"9" * 5000, "too large"),
        (whole.replace(b"version = 1", b"version = 1\nowner = 1", 1), "unknown field owner"),
        (whole.replace(b'mode = "trusted"', b'mode = "mild"'), "rules.mode: invalid enum value 'mild'"),
        (whole.replace(b'role = "evaluator"', b'role = "judge"'), "parties.judge.role"),
        (whole.replace(b"minimum_cohort = 3", b"minimum_cohort = 3\nminimum_cohort = 2"), "line"),
        (whole.replace(b"minimum_cohort = 3", b"minimum_cohort = 99999999999999999999999"), "rules.minimum_cohort: "),
        (whole.replace(b'signing = "', b'signing = "F', 1), "parties.alice.signing: expected a key"),
        (whole.replace(b"parties", b"others"), "unknown field others"),
    ):
        federation.path.write_bytes(content)
        with pytest.raises(CharterError) as caught:
            charters.load(federation.path)
        assert why in str(caught.value), str(caught.value)
        assert str(federation.path) in str(caught.value)
    for bad in (tmp_path, tmp_path / "none"):
        with pytest.raises(CharterError, match="cannot read"):
            charters.load(bad)


def test_a_huge_file_is_refused_without_being_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CHARTER_BYTES", 10_000)
    path = tmp_path / "charter.toml"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(CharterError, match="longer than 10000 bytes"):
        charters.load(path)


KEYS = st.sampled_from(["name", "rules", "parties", "signing", "curve", "mode", "scheme", "arithmetic", "version"])
toml_ish = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=40) | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner),
    max_leaves=12,
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(path=st.lists(st.integers(0, 5), min_size=1, max_size=3), value=toml_ish)
@example(path=[5, 0], value={"name": ["x"], "signing": 3})
def test_any_value_in_any_place_is_a_charter_or_a_charter_error(federation: Any, path: list[int], value: Any) -> None:
    raw: Any = charters._plain(federation.charter())
    place = raw
    for step in path[:-1]:
        keys = list(place) if isinstance(place, dict) else list(range(len(place))) if isinstance(place, list) else []
        if not keys:
            break
        place = place[keys[step % len(keys)]]
    if isinstance(place, (dict, list)) and place:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        place[keys[path[-1] % len(keys)]] = value
    for index, party in enumerate(raw["parties"] if isinstance(raw.get("parties"), list) else ()):
        try:
            charters._keys_from_hex(party, f"parties.[{index}].")
        except CharterError:
            return
    with contextlib.suppress(CharterError):
        assert charters.from_table(raw, Charter).digest


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    at=st.integers(0, 10_000),
    patch=st.binary(max_size=6)
    | st.sampled_from([b"\n[rules]\n", b"[[parties]]\n", b"= nan", b"\x00", b'"""', b"{", b"."]),
    cut=st.integers(0, 40),
)
def test_garbage_in_a_file_is_a_charter_or_a_charter_error(federation: Any, at: int, patch: bytes, cut: int) -> None:
    whole = charters.text(federation.charter()).encode()
    at %= len(whole)
    federation.path.write_bytes(whole[:at] + patch + whole[at + cut :])
    with contextlib.suppress(CharterError):
        assert charters.load(federation.path).digest
