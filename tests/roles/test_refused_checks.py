"""What model owner and contributors refuse of each other while a sum is checked, each by name, changing nothing."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tertium.crypto import errors as crypto_errors
from tertium.crypto.fingerprint import MODULUS
from tertium.crypto.labels import Label, frame
from tertium.crypto.sealing import RoundKey
from tertium.owner.machine import ModelOwner
from tertium.protocol import errors as protocol_errors
from tertium.protocol import limits
from tertium.protocol.charter import Deadlines, Mode, SchemeName
from tertium.protocol.check_messages import (
    Answered,
    Challenge,
    Checked,
    MaskedFingerprint,
    MaskKeys,
    MaskSeeds,
    OfferMaskKey,
    SumCheck,
    SumState,
)
from tertium.protocol.codec import decode_as
from tertium.protocol.ledger import Content, DataClass
from tertium.protocol.machine import Send
from tertium.protocol.messages import Header, SealedHead
from tertium.protocol.rounds import Phase
from tertium.protocol.verification import read_answers

Maker = Any
Run = Any
NAMES = ("alice", "bob", "carol", "dave")
WORKERS = ("first", "second", "third")
SOON = Deadlines(join=10, upload=30, close=10, release=10, statement=5, absence=20)


def checking(make: Maker, machines: Any, *, workers: Any = WORKERS[:1], rounds: int = 1) -> Run:
    """A federation in mode `trusted`, or with several secure workers in `additive`."""
    mode = Mode.TRUSTED if len(workers) == 1 else Mode.ADDITIVE
    rules = make.rules(mode=mode, scheme=SchemeName(name=mode.value), deadlines=SOON)
    return make(4, plan=make.plan(rounds=rounds), rules=rules, workers=workers, machines=machines)


# --- what is refused


@pytest.fixture(scope="module")
def asked(make_once: Maker, still: Any) -> Any:
    """A sum that is being checked: everybody but bob has answered the challenge."""
    run = checking(make_once, {"bob": make_once.silent_about(Answered)}, workers=WORKERS)
    run.run(until=lambda: checked(run) is not None and set(checked(run).values) == {"alice", "carol", "dave"})
    at = still(run)
    at.check = checked(run)
    at.carols = run.machines["carol"]._answering
    return at


@pytest.fixture(scope="module")
def keyed(make_once: Maker, still: Any) -> Any:
    """A set that has closed, and contributors that have seen their neighbours' keys; bob sealed no seeds."""
    run = checking(make_once, {"bob": make_once.silent_about(MaskSeeds)})
    run.run(until=lambda: checked(run) is not None and set(checked(run).seeds) == {"alice", "carol", "dave"})
    at = still(run)
    at.check = checked(run)
    return at


def checked(run: Run) -> Any:
    asking = run.machines["owner"]._asking
    return asking.verification if asking is not None else None


def offers(signer: str, **changes: Any) -> Any:
    def make(at: Any) -> OfferMaskKey:
        said = msgspec.structs.replace(at.check.keys["bob"][1], **changes)
        return OfferMaskKey(key=at.by(signer, said))

    return make


def answers(signer: str, **changes: Any) -> Any:
    def make(at: Any) -> Answered:
        said = MaskedFingerprint(at.name, at.check.challenge, "bob", 7)
        return Answered(fingerprint=at.by(signer, msgspec.structs.replace(said, **changes)))

    return make


def seeds(count: int) -> Any:
    return lambda at: MaskSeeds(heads=tuple(at.check.seeds["alice"].values())[:1] * count)


@pytest.mark.parametrize(
    "case",
    [
        ("bob", offers("carol"), "WrongSender"),
        ("bob", offers("carol", party="carol"), "WrongSender"),
        ("bob", offers("bob", key=RoundKey().public), "SplitView"),
        ("bob", offers("bob", contributors=bytes(32)), "WrongOpenRound"),
        ("bob", offers("bob", key=bytes(1216)), "BadRecipientKey"),
        ("first", offers("first", party="first"), "WrongRole"),
        ("bob", seeds(3), "WrongSender"),
        ("first", seeds(0), "IllegalMessage"),
        ("bob", answers("carol"), "WrongSender"),
        ("bob", answers("bob", party="carol"), "NotInCohort"),
        ("bob", answers("bob", challenge=bytes(32)), "WrongOpenRound"),
        ("bob", answers("bob", open_round=bytes(32)), "WrongOpenRound"),
        ("carol", answers("carol", party="carol"), "SplitView"),
        ("first", answers("first", party="first"), "WrongRole"),
    ],
    ids=[
        "a key signed by another",
        "a key in the name of another",
        "a second key",
        "a key for another set",
        "a key that is none",
        "a key of a secure worker",
        "a seed too many",
        "seeds of a secure worker",
        "an answer signed by another",
        "an answer in the name of another",
        "an answer to another challenge",
        "an answer for another round",
        "a second answer",
        "an answer of a secure worker",
    ],
)
def test_a_model_owner_refuses(asked: Any, case: Any) -> None:
    peer, message, error = case
    asked.refuses(("owner", peer, message, errors_by_name(error)))


def test_a_model_owner_refuses_an_answer_before_its_challenge_and_seeds_before_their_keys(
    keyed: Any, make: Maker, still: Any
) -> None:
    said = MaskedFingerprint(keyed.name, bytes(32), "bob", 7)
    keyed.refuses(
        ("owner", "bob", lambda at: Answered(fingerprint=at.by("bob", said)), errors_by_name("IllegalMessage"))
    )
    run = checking(make, {"bob": make.silent_about(OfferMaskKey)})
    run.run(until=lambda: checked(run) is not None and len(checked(run).keys) == 3)
    still(run).refuses(("owner", "alice", lambda _: MaskSeeds(heads=()), errors_by_name("IllegalMessage")))


def keys_for(*names: str, **changes: Any) -> Any:
    def make(at: Any) -> MaskKeys:
        found = {name: at.by(name, msgspec.structs.replace(at.check.keys[name][1], **changes)) for name in names}
        return MaskKeys(keys=tuple(found.values()))

    return make


def challenges(**changes: Any) -> Any:
    return lambda at: msgspec.structs.replace(
        at.check.question, **{k: v(at.check.question) for k, v in changes.items()}
    )


def closes_otherwise(at: Any) -> Challenge:
    """A head that the first secure worker signed, and that names another Close list."""
    return released_otherwise(at, close=bytes(32))


def counts_otherwise(at: Any) -> Challenge:
    """One that names another number of contributors."""
    head = at.check.question.releases[0]
    return released_otherwise(at, contributors=3, close=decode_as(Header, head.header).close)


def released_otherwise(at: Any, close: bytes, contributors: int = 4) -> Challenge:
    first = at.run.machines["first"]
    asking = at.asking
    head = first.exchange.seal(
        Label.AGGREGATE,
        asking.context,
        "owner",
        asking.question.owner_key,
        [],
        contributors=contributors,
        close=close,
        content=Content(DataClass.AGGREGATE, asking.contributors),
    ).head
    question = at.check.question
    return msgspec.structs.replace(question, releases=(head, *question.releases[1:]))


def outcome(signer: str = "owner", shown: Callable[[Any], Any] = lambda at: at, **changes: Any) -> Any:
    """What would come of this check, had bob answered 7."""

    def make(at: Any) -> Checked:
        said = {name: at.check.answers[name] for name in ("alice", "carol", "dave")}
        said["bob"] = answers("bob")(at).fingerprint
        total = (sum(at.check.values.values()) + 7) % MODULUS
        right = SumCheck(at.name, SumState.VERIFIED, at.check.challenge, total)
        given = shown(tuple(said[name] for name in sorted(said)))
        return Checked(check=at.by(signer, msgspec.structs.replace(right, **changes)), answers=given)

    return make


def by_fewer(at: Any) -> Checked:
    """An account of the answers of three, which add up to what it claims."""
    given = tuple(at.check.answers[name] for name in ("alice", "carol", "dave"))
    check = SumCheck(at.name, SumState.VERIFIED, at.check.challenge, sum(at.check.values.values()) % MODULUS)
    return Checked(check=at.by("owner", check), answers=given)


def without(place: int) -> Any:
    return lambda given: given[:place] + given[place + 1 :]


@pytest.mark.parametrize(
    "case",
    [
        ("first", keys_for("alice", "bob", "dave"), "WrongSender"),
        ("owner", keys_for("alice", "bob"), "WrongSender"),
        ("owner", keys_for("alice", "bob", "dave", open_round=bytes(32)), "WrongOpenRound"),
        ("owner", keys_for("alice", "bob", "dave", contributors=bytes(32)), "WrongOpenRound"),
        ("owner", keys_for("alice", "bob", "dave", party="erin"), "WrongSender alice"),
        ("owner", lambda at: MaskSeeds(heads=()), "IllegalMessage"),
        ("owner", challenges(nonces=lambda asked: asked.nonces[:-1]), "WrongSender"),
        ("owner", challenges(nonces=lambda asked: (*asked.nonces[:2], bytes(32), asked.nonces[3])), "WrongSender"),
        (
            "owner",
            challenges(holders=lambda asked: asked.holders[:2], releases=lambda asked: asked.releases[:2]),
            "IllegalMessage",
        ),
        ("owner", challenges(holders=lambda asked: asked.holders[::-1]), "IllegalMessage"),
        ("owner", challenges(holders=lambda asked: (*asked.holders[:2], "alice")), "IllegalMessage"),
        ("owner", challenges(releases=lambda asked: asked.releases[:2]), "IllegalMessage"),
        ("owner", challenges(releases=lambda asked: asked.releases[::-1]), "BadSignature"),
        ("owner", closes_otherwise, "SplitView first"),
        ("owner", counts_otherwise, "SplitView first"),
        ("first", challenges(), "WrongSender"),
        ("owner", outcome("alice"), "WrongRole"),
        ("owner", outcome(open_round=bytes(32)), "WrongOpenRound"),
        ("owner", outcome(challenge=bytes(32)), "WrongOpenRound"),
        ("owner", outcome(challenge=None), "IllegalMessage"),
        ("owner", outcome(fingerprint=3), "SplitView"),
        ("owner", outcome(fingerprint=None), "SplitView"),
        ("owner", outcome(state=SumState.FAILED), "SplitView"),
        ("owner", outcome(shown=without(0)), "SplitView"),
        ("owner", by_fewer, "SplitView"),
        ("owner", outcome(silent=("alice",)), "SplitView"),
        ("owner", outcome(state=SumState.UNVERIFIED), "SplitView"),
        ("owner", outcome(state=SumState.UNVERIFIED, silent=("bob",)), "SplitView"),
        ("owner", outcome(state=SumState.UNVERIFIED, shown=without(1)), "SplitView"),
        ("owner", outcome(state=SumState.UNVERIFIED, shown=without(1), silent=("erin",)), "SplitView"),
        ("owner", outcome(contradicted=("alice",)), "SplitView"),
        ("owner", outcome(shown=lambda given: (given[0], *given[:3])), "NotInCohort"),
    ],
    ids=[
        "keys shown by a secure worker",
        "a neighbour missing",
        "keys of another round",
        "keys for another set",
        "a key in a strangers name",
        "a seed missing",
        "a nonce missing",
        "another nonce than ours",
        "too few releases",
        "releases in another order",
        "a release of a data owner",
        "a release missing",
        "releases swapped",
        "a release over another set",
        "a release over another number",
        "a challenge of a secure worker",
        "an outcome signed by another",
        "an outcome of another round",
        "an outcome of another challenge",
        "answers to no challenge",
        "a wrong fingerprint",
        "no fingerprint",
        "failed though they agree",
        "an answer missing",
        "verified by fewer than all",
        "verified though somebody was silent",
        "unverified though nobody was silent",
        "unverified with all answers",
        "unverified without a name",
        "unverified with a strangers name",
        "the total of no holder left out",
        "an answer twice",
    ],
)
def test_a_contributor_refuses(asked: Any, case: Any) -> None:
    peer, message, error = case
    error, _, liar = error.partition(" ")
    asked.refuses(("carol", peer, message, errors_by_name(error)))
    # What the model owner passes on may be of another round, or spoilt: unless a signature shows more, it is to blame.
    with pytest.raises(errors_by_name(error)) as raised:
        asked.say("carol", peer, message(asked))
    assert raised.value.party in ((liar,) if liar else (peer, None))


def test_a_contributor_refuses_an_answer_in_its_name_that_it_did_not_give(asked: Any) -> None:
    def forged(at: Any) -> Checked:
        said = MaskedFingerprint(at.name, at.check.challenge, "carol", 5)
        given = [
            at.check.answers["alice"],
            answers("bob")(at).fingerprint,
            at.by("carol", said),
            at.check.answers["dave"],
        ]
        total = sum(decode_as(MaskedFingerprint, each.statement).value for each in given) % MODULUS
        check = SumCheck(at.name, SumState.VERIFIED, at.check.challenge, total)
        return Checked(check=at.by("owner", check), answers=tuple(given))

    asked.refuses(("carol", "owner", forged, errors_by_name("SplitView")))


def test_a_contributor_answers_no_challenge_before_it_has_its_masks(keyed: Any) -> None:
    owner = keyed.run.machines["owner"]
    nonces = tuple(keyed.check.keys[name][1].nonce for name in NAMES)
    question = Challenge(("first",), (owner._asking.heads["first"],), nonces)
    keyed.refuses(("carol", "owner", lambda _: question, errors_by_name("IllegalMessage")))


def test_a_seed_that_is_not_ours_is_refused(keyed: Any) -> None:
    # Of alice's seeds carol gets the one for bob: signed by alice, sealed for somebody else.
    heads = keyed.check.seeds["alice"]
    message = MaskSeeds(heads=(heads["bob"], heads["bob"]))
    keyed.refuses(("carol", "owner", lambda _: message, errors_by_name("WrongRecipient")))


def test_one_answer_a_challenge_and_no_more_challenges_than_a_few(make: Maker, still: Any) -> None:
    run = checking(make, {"bob": make.silent_about(Answered)})
    run.run(until=lambda: checked(run) is not None and set(checked(run).values) == {"alice", "carol", "dave"})
    at, carol = still(run), run.machines["carol"]
    question = checked(run).question
    at.say("carol", "owner", question)
    (again,) = [effect.message for effect in carol.take_effects() if isinstance(effect, Send)]
    assert again.fingerprint == checked(run).answers["carol"]
    place = NAMES.index("alice")
    for number in range(limits.CHALLENGES):
        nonces = list(question.nonces)
        nonces[place] = bytes([number]) * 32
        other = msgspec.structs.replace(question, nonces=tuple(nonces))
        if number < limits.CHALLENGES - 1:
            at.say("carol", "owner", other)
            assert carol.take_effects()
        else:
            at.refuses(("carol", "owner", lambda _, other=other: other, errors_by_name("IllegalMessage")))


def test_what_is_kept_for_a_check_ends_with_it(make: Maker) -> None:
    run = checking(make, {"bob": make.silent_about(OfferMaskKey)}, rounds=2)
    kept = []
    run.run(until=lambda: run.machines["carol"]._answering is not None)
    kept.append(run.machines["carol"]._answering)
    run.run(until=lambda: run.released == [1])
    run.run(until=lambda: run.machines["carol"]._answering not in (None, kept[0]))
    kept.append(run.machines["carol"]._answering)
    run.run()
    assert all(each.key.erased and not each.made and each.given is None for each in kept)
    assert run.machines["carol"]._answering is None
    carol = run.machines["carol"]
    assert "SumCheck" not in repr(carol)
    assert "words" not in repr(kept[0])


def test_a_key_for_another_sum_is_left_aside(asked: Any) -> None:
    before = dict(asked.check.keys)
    said = msgspec.structs.replace(asked.check.keys["bob"][1], open_round=bytes(32), key=RoundKey().public)
    asked.say("owner", "bob", OfferMaskKey(key=asked.by("bob", said)))
    assert not asked.run.machines["owner"].take_effects()
    asked.check.take_key(asked.by("bob", said), said)
    assert asked.check.keys == before


def test_a_key_of_somebody_who_is_not_in_the_sum_is_left_aside(make: Maker, still: Any) -> None:
    run = make(4, machines={"dave": make.slow, "bob": make.silent_about(Answered)}, rules=make.rules(deadlines=SOON))
    run.run(until=lambda: run.machines["dave"].phase is Phase.TRAINING)
    run.lose("dave")
    run.run(until=lambda: checked(run) is not None and len(checked(run).values) == 2)
    at = still(run)
    said = msgspec.structs.replace(checked(run).keys["bob"][1], party="dave", key=RoundKey().public)
    at.say("owner", "dave", OfferMaskKey(key=at.by("dave", said)))
    assert set(checked(run).keys) == set(NAMES[:3])


def test_an_answer_of_somebody_who_is_not_in_the_sum_is_refused(asked: Any) -> None:
    given = [asked.check.answers["alice"]]
    with pytest.raises(protocol_errors.NotInCohort) as raised:
        read_answers(asked.run.charter, asked.name, asked.check.challenge, ("bob", "carol"), given, shown_by="owner")
    assert raised.value.party == "owner"


def test_what_comes_after_the_check_is_too_late(make: Maker, still: Any) -> None:
    run = checking(make, {"dave": make.hesitant})
    run.run(until=lambda: run.machines["owner"].phase is Phase.RELEASED)
    at = still(run)
    answer = at.by("bob", MaskedFingerprint(at.name, bytes(32), "bob", 7))
    for message in (MaskSeeds(heads=()), Answered(fingerprint=answer)):
        at.refuses(("owner", "bob", lambda _, message=message: message, protocol_errors.TooLate))


def test_totals_are_added_up_once(asked: Any) -> None:
    owner = asked.run.machines["owner"]
    owner._sum_up(owner._asking, asked.check)
    assert not owner.take_effects()


def test_totals_that_cannot_be_added_up_end_the_session(make: Maker) -> None:
    class Broken(ModelOwner):
        def worked(self, tag: str, result: Any, now: float) -> None:
            super().worked(tag, MemoryError("no room") if tag.startswith("sum") else result, now)

    run = checking(make, {"owner": Broken})
    run.run()
    assert "the totals of round 1 could not be added up: no room" in str(run.errors["owner"])
    assert run.clock.now < SOON.statement


def test_nothing_is_due_once_no_more_is_waited_for(make: Maker) -> None:
    class Thinks(ModelOwner):
        def worked(self, tag: str, result: Any, now: float) -> None:
            """Never hears what the totals came to."""

    for silent in (0, 1):
        machines = {"owner": Thinks, **({"bob": make.silent_about(Answered)} if silent else {})}
        run = checking(make, machines)
        run.run(until=lambda run=run, n=4 - silent: checked(run) is not None and len(checked(run).values) == n)
        owner = run.machines["owner"]
        if silent:
            assert owner.next_deadline() is not None
            owner.tick(run.clock.now + SOON.statement)
            assert checked(run).silent == ("bob",)
        assert owner.phase is Phase.VERIFYING
        assert owner.next_deadline() is None


def test_who_waits_for_no_check_refuses_one(keyed: Any) -> None:
    judge_of = keyed.run.machines["carol"]
    ours, judge_of._answering = judge_of._answering, None
    try:
        for message in (MaskKeys(keys=()), MaskSeeds(heads=())):
            keyed.refuses(("carol", "owner", lambda _, message=message: message, protocol_errors.WrongOpenRound))
    finally:
        judge_of._answering = ours


def test_the_key_for_seeds_ends_with_them(asked: Any) -> None:
    assert all(asked.run.machines[name]._answering.key.erased for name in NAMES)


def test_a_neighbour_that_seals_what_does_not_open_is_named(keyed: Any) -> None:
    run = keyed.run
    context = run.machines["carol"]._answering.context
    heads = []
    for name in ("alice", "bob"):
        head, _ = run.machines[name].exchange.seal_seed(context, "carol", keyed.check.keys["carol"][1].key)
        wrapped = head.wrapped_key[:-1] + bytes([head.wrapped_key[-1] ^ 1])
        signature = run.identities[name].sign(Label.HEADER, frame(Label.MASK_SEED, [head.header, wrapped]))
        heads.append(SealedHead(head.header, wrapped, signature))
    for message, party in ((MaskSeeds(heads=tuple(heads)), "alice"),):
        with pytest.raises(crypto_errors.BadWrappedKey) as raised:
            keyed.say("carol", "owner", message)
        assert raised.value.party == party


def errors_by_name(name: str) -> type[Exception]:
    return getattr(crypto_errors, name, None) or getattr(protocol_errors, name)
