"""Which scheme fits which mode, who gets which share and in which order, and which secure worker counts it."""

import itertools
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from tertium.crypto.sharing import registry
from tertium.crypto.sharing.additive import Additive
from tertium.crypto.sharing.base import Kind, Seed
from tertium.crypto.sharing.masked import Masked
from tertium.crypto.sharing.naming import scheme_digest
from tertium.protocol.charter import Charter, Mode, Role, SchemeName
from tertium.protocol.errors import CharterError
from tertium.protocol.seats import Seats, scheme_of

SCHEME = {
    Mode.TRUSTED: "trusted",
    Mode.MASKED: "masked",
    Mode.ADDITIVE: "additive",
    Mode.SHARED: "replicated",
    Mode.SHAMIR: "shamir",
    Mode.PLAIN: "plain",
}
FEWEST = {Mode.TRUSTED: 1, Mode.MASKED: 1, Mode.ADDITIVE: 2, Mode.SHARED: 3, Mode.SHAMIR: 3, Mode.PLAIN: 1}


class Elsewhere(Additive):
    """A scheme as of another package: additive under another name."""

    name = "elsewhere"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a package be installed that has the scheme `elsewhere`."""
    entry = SimpleNamespace(name="elsewhere", value="a:B", dist=None, load=lambda: Elsewhere)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])


@pytest.fixture
def charter(federation: Any) -> Any:
    """Make a charter of a mode with so many secure workers; names and order are first to fifth."""

    def make(mode: Mode, workers: int | None = None, **named: Any) -> Charter:
        count = FEWEST.get(mode, 2) if workers is None else workers
        parties = [federation.party(name) for name in federation.identities if name not in ("third", "judge")]
        for number in range(count):
            key = bytes([number + 1]) * 31
            parties.append(
                federation.party(
                    "third",
                    name=f"w{number}",
                    role=Role.SECURE_WORKER,
                    signing=key + b"s",
                    curve=key + b"c",
                    control=f"tcp://127.0.0.1:{8000 + 2 * number}",
                    bulk=f"tcp://127.0.0.1:{8001 + 2 * number}",
                )
            )
        rules = federation.rules(
            mode=mode,
            scheme=SchemeName(**{"name": SCHEME.get(mode, mode.value), **named}),
            unsafe_plain="a lesson" if mode is Mode.PLAIN else None,
        )
        return federation.charter(rules=rules, parties=tuple(parties))

    return make


def refused(charter: Charter, *words: str) -> None:
    """A refusal is one sentence with these words, whoever asks."""
    for ask in (scheme_of, Seats, Charter.require_runnable):
        with pytest.raises(CharterError) as caught:
            ask(charter)
        for word in words:
            assert word in str(caught.value), str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", SCHEME)
def test_every_mode_runs_its_scheme(charter: Any, mode: Mode) -> None:
    assert scheme_of(charter(mode)).name == SCHEME[mode]
    assert Seats(charter(mode)).workers == tuple(f"w{number}" for number in range(FEWEST[mode]))


@pytest.mark.parametrize(
    ("mode", "name"), [(mode, name) for mode in SCHEME for name in SCHEME.values() if SCHEME[mode] != name]
)
def test_no_mode_runs_the_scheme_of_another(charter: Any, mode: Mode, name: str) -> None:
    if mode is Mode.SHARED:
        refused(charter(mode, name=name), f"rules.mode: the scheme {name} has a mode of its own, {name}")
    else:
        refused(charter(mode, name=name), f"rules.scheme: mode {mode.value} runs the scheme {SCHEME[mode]}, not {name}")


class Beside(Masked):
    """A scheme as of another package that seats the model owner."""

    name = "elsewhere"


def test_a_scheme_that_seats_the_model_owner_does_not_run_among_secure_workers(
    charter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = SimpleNamespace(name="elsewhere", value="a:B", dist=None, load=lambda: Beside)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    digest = scheme_digest(registry.scheme("elsewhere", 2)).hex()
    sentence = "rules.mode: in mode shared the scheme elsewhere seats other holders"
    refused(charter(Mode.SHARED, 2, name="elsewhere", digest=digest), sentence)


@pytest.mark.parametrize(
    ("mode", "workers", "threshold", "quorum", "enough"),
    [
        (Mode.TRUSTED, 1, None, 1, 1),
        (Mode.MASKED, 1, None, 1, 1),
        (Mode.PLAIN, 1, None, 1, 1),
        (Mode.ADDITIVE, 2, None, 2, 2),
        (Mode.ADDITIVE, 5, None, 5, 5),
        (Mode.SHARED, 3, None, 3, 2),
        (Mode.SHAMIR, 3, 2, 3, 2),
        (Mode.SHAMIR, 4, 2, 3, 2),
        (Mode.SHAMIR, 4, 3, 4, 3),
        (Mode.SHAMIR, 5, 3, 4, 3),
        (Mode.SHAMIR, 8, 2, 5, 2),
    ],
)
def test_two_sets_that_a_quorum_signs_have_an_honest_signer_in_common(
    charter: Any, mode: Mode, workers: int, threshold: int | None, quorum: int, enough: int
) -> None:
    seats = Seats(charter(mode, workers, threshold=threshold))
    assert (seats.quorum, seats.enough) == (quorum, enough)
    assert enough <= quorum <= workers
    # Of two sets of q among m, 2q - m sign both; t - 1 of them may lie.
    assert 2 * quorum - workers > enough - 1
    assert quorum == 1 or 2 * (quorum - 1) <= workers + enough - 1


def test_what_takes_part_counts_and_nobody_else_gets_a_share(charter: Any) -> None:
    seats = Seats(charter(Mode.SHAMIR, 4))
    for number, out in itertools.product(range(1, 9), seats.workers):
        asked = question(number, present=tuple(name for name in seats.workers if name != out))
        counting, before = seats.counting(asked, "alice"), seats.before(asked, "alice")
        assert {counting, *before} == set(seats.workers) - {out}
        assert Kind.VECTOR in seats.scheme.form(seats.workers.index(counting), seats.turn(asked, "alice"))


@pytest.mark.parametrize("mode", SCHEME)
def test_another_version_or_digest_is_refused(charter: Any, mode: Mode) -> None:
    refused(charter(mode, version=2), "rules.scheme: the charter names version 2 of the scheme", "and here is 1")
    ours = scheme_digest(scheme_of(charter(mode))).hex()
    assert scheme_of(charter(mode, digest=ours)).name == SCHEME[mode]
    other = ("0" if ours[0] != "0" else "1") + ours[1:]
    refused(charter(mode, digest=other), "rules.scheme: ", f"digest {other[:16]}", ours[:16])


def test_a_threshold_the_scheme_has_not_is_refused(charter: Any) -> None:
    assert scheme_of(charter(Mode.ADDITIVE, 3, threshold=3)).threshold == 3
    refused(charter(Mode.ADDITIVE, 3, threshold=2), "rules.scheme: ", "has the threshold 3, not 2")


def test_a_scheme_of_another_package_needs_its_digest(charter: Any, elsewhere: None) -> None:
    refused(charter(Mode.SHARED, 2, name="elsewhere"), "rules.scheme: ", "another package", "must give its digest")
    digest = scheme_digest(registry.scheme("elsewhere", 2)).hex()
    assert scheme_of(charter(Mode.SHARED, 2, name="elsewhere", digest=digest)).holders == 2
    # For three holders it is declared otherwise.
    refused(charter(Mode.SHARED, 3, name="elsewhere", digest=digest), f"digest {digest[:16]}")


def test_a_scheme_that_is_not_here_or_never_in_a_charter_is_refused(charter: Any) -> None:
    refused(charter(Mode.SHARED, name="nowhere"), "rules.scheme: no scheme is called 'nowhere'")
    refused(charter(Mode.SHARED, name="dummy"), "rules.scheme: the scheme dummy hides nothing")


@pytest.mark.parametrize(
    ("mode", "workers", "why"),
    [
        (Mode.SHARED, 2, "the scheme replicated has 3 holder(s), not 2"),
        (Mode.SHARED, 4, "the scheme replicated has 3 holder(s), not 4"),
        (Mode.ADDITIVE, 17, "the scheme additive has 2 to 16 holder(s), not 17"),
    ],
)
def test_other_numbers_of_secure_workers_are_refused(charter: Any, mode: Mode, workers: int, why: str) -> None:
    refused(charter(mode, workers), f"rules.scheme: {why}")


@pytest.mark.parametrize(("mode", "workers"), [(Mode.ADDITIVE, 2), (Mode.ADDITIVE, 16), (Mode.SHARED, 3)])
def test_several_secure_workers_hold_in_the_order_of_the_charter(charter: Any, mode: Mode, workers: int) -> None:
    seats = Seats(charter(mode, workers))
    assert seats.holders == seats.workers
    assert seats.workers == tuple(sorted(f"w{number}" for number in range(workers)))
    assert (seats.owner, seats.index("owner")) == (None, None)


def test_a_model_owner_has_the_seat_that_is_for_it(charter: Any) -> None:
    masked = Seats(charter(Mode.MASKED))
    assert (masked.holders, masked.owner) == (("w0", "owner"), 1)
    plain = Seats(charter(Mode.PLAIN))
    assert (plain.holders, plain.owner, plain.index("w0")) == (("owner",), 0, None)
    assert Seats(charter(Mode.TRUSTED)).owner is None


def question(number: int = 1, words: int = 8, plan: Any = None, present: tuple[str, ...] = ("w0",)) -> Any:
    return SimpleNamespace(cohort=("alice", "bob", "carol"), round=number, words=words, plan=plan, present=present)


@pytest.mark.parametrize("mode", SCHEME)
def test_who_counts_gets_its_share_last_and_everybody_gets_one(charter: Any, mode: Mode) -> None:
    seats = Seats(charter(mode))
    for number in range(1, 5):
        for name in question().cohort:
            counting = seats.counting(question(number, present=seats.workers), name)
            before = seats.before(question(number, present=seats.workers), name)
            assert counting in seats.workers
            assert {*before, counting} == {*seats.holders, *seats.workers}
            assert len(before) == len({*before, counting}) - 1
            order = [(*seats.holders, *seats.workers).index(each) for each in before]
            assert order == sorted(order)


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_who_counts_has_a_vector_and_goes_round(charter: Any, workers: int) -> None:
    made = charter(Mode.ADDITIVE, workers)
    seats = Seats(made)
    asked = [question(number, plan=made.plan, present=seats.workers) for number in range(1, 2 * workers + 1)]
    counted = [seats.counting(each, "alice") for each in asked]
    assert {name: counted.count(name) for name in seats.workers} == dict.fromkeys(seats.workers, 2)
    assert all(one != other for one, other in pairwise(counted))
    vector = 8 * made.plan.dtype.itemsize
    for each, name in zip(asked, counted, strict=True):
        assert seats.share_bytes(each, "alice", name) == [vector]
        assert [seats.share_bytes(each, "alice", other) for other in seats.before(each, "alice")] == [
            [32] for _ in range(workers - 1)
        ]


def test_where_two_have_a_vector_counting_goes_round_among_all(charter: Any) -> None:
    seats = Seats(charter(Mode.SHARED))
    counted = [seats.counting(question(number, present=seats.workers), "alice") for number in range(1, 7)]
    assert {name: counted.count(name) for name in seats.workers} == dict.fromkeys(seats.workers, 2)


def test_a_secure_worker_that_holds_nothing_gets_an_empty_share(charter: Any) -> None:
    made = charter(Mode.PLAIN)
    seats, asked = Seats(made), question(plan=made.plan)
    assert seats.share_bytes(asked, "bob", "w0") == []
    assert seats.total_bytes(asked, "w0") == []
    assert seats.share(asked, "bob", "w0", []) is None
    assert seats.share_bytes(asked, "bob", "owner") == [8 * made.plan.dtype.itemsize]


def test_a_share_is_read_as_the_form_of_its_holder_and_turn(charter: Any) -> None:
    made = charter(Mode.MASKED)
    seats, asked = Seats(made), question(plan=made.plan)
    assert seats.share(asked, "bob", "owner", [bytes(32)]) == Seed(bytes(32))
    vector = seats.share(asked, "bob", "w0", [bytes(8 * made.plan.dtype.itemsize)])
    assert getattr(vector, "size", None) == 8
