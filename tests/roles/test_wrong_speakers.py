"""What is said in another's name, by the wrong role, about another round or against what was said before.

Each case is one statement with one thing wrong, well signed by somebody of the charter, given to a role machine of a
federation that stands still in the middle of a round. It is refused by name, and nothing is answered or changed.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tertium.crypto.errors import BadRecipientKey, BadSignature
from tertium.crypto.labels import Label
from tertium.crypto.sealing import RoundKey
from tertium.learning.numpy_task import NumpyTask
from tertium.protocol.errors import (
    IllegalMessage,
    NotInCohort,
    SplitView,
    TooLate,
    WrongOpenRound,
    WrongRole,
    WrongRound,
    WrongSender,
    WrongSession,
)
from tertium.protocol.ledger import Content, DataClass
from tertium.protocol.messages import (
    Abort,
    Aborted,
    Acceptance,
    Cause,
    Closed,
    CloseList,
    Contribution,
    Cosign,
    Cosignature,
    Decline,
    Declined,
    Fetch,
    Grant,
    Invitation,
    OfferRound,
    ProposeRound,
    Receipt,
    Receipted,
    RequestCosignature,
    RoundKeyStatement,
    RoundOffer,
    RoundRecord,
    RoundStatement,
    SealedHead,
    SendModel,
    SessionEnd,
    SessionOver,
)
from tertium.protocol.rounds import Phase
from tertium.protocol.statements import statement_digest
from tertium.protocol.ticket import Ticket

Maker = Any
Still = Any
Case = tuple[str, str, Callable[[Any], Any], type[Exception]]
NAMES = ("alice", "bob", "carol", "dave")
ELSEWHERE = bytes(range(32))
HEAD = SealedHead(header=b"x", wrapped_key=bytes(1168), signature=bytes(64))


def cases(**named: Case) -> Any:
    return pytest.mark.parametrize("case", list(named.values()), ids=[name.replace("_", " ") for name in named])


# --- statements


def decline(signer: str, party: str, where: bytes | None = None) -> Callable[[Still], Declined]:
    return lambda at: Declined(decline=at.by(signer, Decline(open_round=where or at.name, party=party)))


def abort(signer: str, party: str, session: bytes | None = None) -> Callable[[Still], Aborted]:
    return lambda at: Aborted(
        abort=at.by(
            signer,
            Abort(
                session=session or at.session, round=1, attempt=0, party=party, cause=Cause.INTERRUPTED, text="stopped"
            ),
        )
    )


def over(signer: str, session: bytes | None = None) -> Callable[[Still], SessionOver]:
    return lambda at: SessionOver(end=at.by(signer, SessionEnd(session=session or at.session, rounds=0)))


def proposes(signer: str, **changes: Any) -> Callable[[Still], ProposeRound]:
    return lambda at: ProposeRound(open_round=at.by(signer, msgspec.structs.replace(at.asking.question, **changes)))


def accepts(signer: str, party: str, where: bytes | None = None, key: bytes | None = None) -> Callable[[Still], Any]:
    return lambda at: Acceptance(
        key=at.by(signer, RoundKeyStatement(open_round=where or at.name, party=party, key=key or at.key))
    )


def closes(
    signer: str, holder: str, where: bytes | None = None, names: tuple[str, ...] = NAMES
) -> Callable[[Still], Closed]:
    def made(at: Still) -> Closed:
        contributions = tuple(Contribution(name, ELSEWHERE) for name in names)
        close = CloseList(
            open_round=where or at.name, holder=holder, contributions=contributions, declined=(), missing=()
        )
        return Closed(close=at.by(signer, close))

    return made


def offers(signer: str, holder: str) -> Callable[[Still], OfferRound]:
    return lambda at: OfferRound(offer=at.by(signer, RoundOffer(open_round=at.name, holder=holder, key=at.key)))


def states(signer: str, **changes: Any) -> Callable[[Still], RequestCosignature]:
    return lambda at: RequestCosignature(
        statement=at.again(signer, at.asking.statements["third"], RoundStatement, **changes)
    )


def receipts(signer: str, **changes: Any) -> Callable[[Still], Receipted]:
    def made(at: Still) -> Receipted:
        upload = at.run.machines["bob"]._uploads["third"]
        outgoing = upload.outgoing
        receipt = Receipt(
            open_round=at.name,
            holder="third",
            contributor="bob",
            header=outgoing.subject,
            commitment=outgoing.commitment,
            shares=upload.listed,
        )
        return Receipted(receipt=at.by(signer, msgspec.structs.replace(receipt, **changes)))

    return made


def cosigns(party: str, signer: str, name: bytes | None = None) -> Callable[[Still], Cosign]:
    def made(at: Still) -> Cosign:
        signed = at.asking.statements["third"]
        signature = at.run.identities[signer].sign(Label.ROUND_STATEMENT, signed.statement)
        return Cosign(
            statement=name or statement_digest(RoundStatement, signed), cosignature=Cosignature(party, signature)
        )

    return made


def grant(subject: bytes) -> Callable[[Still], Grant]:
    return lambda at: Grant(ticket=Ticket(subject=subject, secret=bytes(16)))


# --- while contributions are collected


@pytest.fixture(scope="module")
def collecting(make_once: Maker, still: Any) -> Still:
    """All but dave, who still trains, have their receipts."""
    run = make_once(4, machines={"dave": make_once.slow}, evaluators={"judge": NumpyTask(test_examples=10)})
    run.run(until=lambda: all(run.machines[name].phase is Phase.CONTRIBUTED for name in NAMES[:3]))
    for machine in run.machines.values():
        machine.take_effects()
    return still(run)


@cases(
    a_decline_for_somebody_else=("third", "dave", decline("dave", "bob"), WrongSender),
    a_decline_signed_by_somebody_else=("third", "dave", decline("bob", "dave"), WrongSender),
    a_decline_by_the_model_owner=("third", "owner", decline("owner", "owner"), WrongRole),
    a_decline_of_another_round=("third", "dave", decline("dave", "dave", ELSEWHERE), WrongOpenRound),
    an_abort_signed_by_a_data_owner=("third", "owner", abort("alice", "owner"), WrongSender),
    an_abort_of_a_data_owners_own=("third", "alice", abort("alice", "alice"), WrongSender),
    an_abort_of_another_session=("third", "owner", abort("owner", "owner", ELSEWHERE), WrongSession),
    an_end_passed_on_by_a_data_owner=("third", "alice", over("owner"), WrongRole),
    an_end_signed_by_a_data_owner=("third", "owner", over("alice"), WrongRole),
    an_end_of_another_session=("third", "owner", over("owner", ELSEWHERE), WrongSession),
    a_question_passed_on_by_a_data_owner=("third", "alice", proposes("owner"), WrongRole),
    a_question_signed_by_a_data_owner=("third", "owner", proposes("alice"), WrongRole),
    the_same_question_with_another_key=("third", "owner", proposes("owner", owner_key=RoundKey().public), SplitView),
    another_model_in_another_attempt=("third", "owner", proposes("owner", attempt=1, model=ELSEWHERE), SplitView),
    a_cosignature_before_the_release=(
        "third",
        "alice",
        lambda _: Cosign(statement=ELSEWHERE, cosignature=Cosignature("alice", bytes(64))),
        TooLate,
    ),
    a_fetch_before_the_release=("third", "owner", lambda _: Fetch(subject=ELSEWHERE), IllegalMessage),
)
def test_a_secure_worker_that_collects_refuses(collecting: Still, case: Case) -> None:
    collecting.refuses(case)


@cases(
    an_acceptance_for_somebody_else=("owner", "bob", accepts("bob", "alice"), WrongSender),
    an_acceptance_signed_by_somebody_else=("owner", "bob", accepts("alice", "bob"), WrongSender),
    an_acceptance_by_the_secure_worker=("owner", "third", accepts("third", "third"), WrongRole),
    an_acceptance_of_another_question=("owner", "bob", accepts("bob", "bob", ELSEWHERE), WrongOpenRound),
    an_acceptance_by_one_who_was_not_asked=("owner", "judge", accepts("judge", "judge"), NotInCohort),
    a_fetch_of_anothers_model=(
        "owner",
        "bob",
        lambda at: Fetch(subject=next(each for each, (to, _) in at.asking.outgoing.items() if to == "alice")),
        IllegalMessage,
    ),
    a_fetch_of_nothing=("owner", "bob", lambda _: Fetch(subject=ELSEWHERE), IllegalMessage),
    a_decline_for_somebody_else=("owner", "dave", decline("dave", "bob"), WrongOpenRound),
    a_decline_signed_by_somebody_else=("owner", "dave", decline("bob", "dave"), WrongOpenRound),
    a_decline_by_the_secure_worker=("owner", "third", decline("third", "third"), WrongRole),
    a_decline_of_another_round=("owner", "dave", decline("dave", "dave", ELSEWHERE), WrongOpenRound),
    a_list_in_somebody_elses_name=("owner", "third", closes("third", "alice"), WrongOpenRound),
    a_list_signed_by_somebody_else=("owner", "alice", closes("third", "alice"), WrongOpenRound),
    a_list_of_a_data_owners_own=("owner", "alice", closes("alice", "alice"), WrongRole),
    a_list_of_another_round=("owner", "third", closes("third", "third", ELSEWHERE), WrongOpenRound),
    a_list_with_a_stranger=("owner", "third", closes("third", "third", names=(*NAMES, "judge")), NotInCohort),
    a_list_below_the_minimum=("owner", "third", closes("third", "third", names=NAMES[:2]), NotInCohort),
    an_offer_in_somebody_elses_name=("owner", "third", offers("third", "alice"), WrongOpenRound),
    an_offer_signed_by_somebody_else=("owner", "alice", offers("third", "alice"), WrongOpenRound),
    an_offer_by_a_data_owner=("owner", "alice", offers("alice", "alice"), WrongRole),
    an_offer_of_a_second_key=("owner", "third", offers("third", "third"), SplitView),
    an_abort_in_somebody_elses_name=("owner", "third", abort("third", "alice"), WrongSender),
    an_abort_signed_by_somebody_else=("owner", "alice", abort("third", "alice"), WrongSender),
    an_abort_by_a_data_owner=("owner", "alice", abort("alice", "alice"), WrongRole),
    an_abort_of_another_session=("owner", "third", abort("third", "third", ELSEWHERE), WrongSession),
)
def test_a_model_owner_that_waits_for_the_close_refuses(collecting: Still, case: Case) -> None:
    collecting.refuses(case)


@pytest.mark.parametrize("renewed", [True, False], ids=["a second key", "the first key"])
def test_a_key_that_is_none_is_refused_and_changes_nothing(collecting: Still, renewed: bool) -> None:
    asking = dataclasses.replace(
        collecting.asking,
        accepted=dict(collecting.asking.accepted) if renewed else {},
        outgoing=dict(collecting.asking.outgoing) if renewed else {},
        renewable={"bob"},
    )
    before = dict(asking.accepted), dict(asking.outgoing)
    with pytest.raises(BadRecipientKey) as raised:
        asking.address("bob", accepts("bob", "bob", key=bytes(1216))(collecting).key)
    assert raised.value.party == "bob"
    assert (asking.accepted, asking.outgoing) == before


def test_a_party_that_came_back_may_give_one_other_key(collecting: Still) -> None:
    asking = dataclasses.replace(
        collecting.asking,
        accepted=dict(collecting.asking.accepted),
        outgoing=dict(collecting.asking.outgoing),
        renewable={"bob"},
    )
    ((old, _),) = [(each, to) for each, (to, _) in asking.outgoing.items() if to == "bob"]
    outgoing, replaced = asking.address("bob", accepts("bob", "bob")(collecting).key)
    assert replaced == [old]
    assert [each for each, (to, _) in asking.outgoing.items() if to == "bob"] == [outgoing.subject]
    with pytest.raises(SplitView):
        asking.address("bob", accepts("bob", "bob", key=RoundKey().public)(collecting).key)


@cases(
    an_invitation_by_somebody_else=(
        "alice",
        "third",
        lambda at: Invitation(open_round=at.asking.signed, offers=tuple(at.asking.offers.values())),
        WrongSender,
    ),
    a_list_in_somebody_elses_name=("alice", "third", closes("third", "bob"), WrongSender),
    a_list_signed_by_somebody_else=("alice", "bob", closes("third", "bob"), WrongSender),
    a_list_of_a_data_owners_own=("alice", "bob", closes("bob", "bob"), WrongRole),
    a_list_of_a_round_unknown=("alice", "third", closes("third", "third", ELSEWHERE, NAMES[1:]), WrongOpenRound),
    a_list_of_a_round_unknown_with_us=("alice", "third", closes("third", "third", ELSEWHERE), WrongOpenRound),
    a_list_before_anything_was_asked=("judge", "third", closes("third", "third"), IllegalMessage),
    a_statement_of_a_round_unknown=(
        "alice",
        "third",
        lambda at: RequestCosignature(
            statement=at.by(
                "third",
                RoundStatement(
                    open_round=ELSEWHERE,
                    holder="third",
                    close=ELSEWHERE,
                    contributors=NAMES,
                    release=ELSEWHERE,
                    commitment=ELSEWHERE,
                ),
            )
        ),
        WrongOpenRound,
    ),
    an_abort_in_somebody_elses_name=("alice", "third", abort("third", "owner"), WrongSender),
    an_abort_signed_by_somebody_else=("alice", "owner", abort("third", "owner"), WrongSender),
    an_abort_by_a_data_owner=("alice", "bob", abort("bob", "bob"), WrongRole),
    an_abort_of_another_session=("alice", "owner", abort("owner", "owner", ELSEWHERE), WrongSession),
    an_abort_without_our_contribution=("alice", "third", abort("third", "third"), SplitView),
    an_end_passed_on_by_the_secure_worker=("alice", "third", over("owner"), WrongSender),
    an_end_signed_by_the_secure_worker=("alice", "owner", over("third"), WrongRole),
    an_end_of_another_session=("alice", "owner", over("owner", ELSEWHERE), WrongSession),
)
def test_a_data_owner_that_contributed_refuses(collecting: Still, case: Case) -> None:
    collecting.refuses(case)


def test_an_abort_lists_what_was_sent_and_nothing_else(collecting: Still) -> None:
    """A receipted contribution that is listed with another commitment is as good as left out."""

    def lists(at: Still) -> Aborted:
        said = Abort(
            session=at.session,
            round=1,
            attempt=0,
            party="third",
            cause=Cause.LOCAL,
            text="lost",
            receipted=(Contribution("alice", ELSEWHERE),),
        )
        return Aborted(abort=at.by("third", said))

    collecting.refuses(("alice", "third", lists, SplitView))


# --- while an upload is under way


@pytest.fixture(scope="module")
def uploading(make_once: Maker, still: Any) -> Still:
    """Bob has announced his contribution."""
    run = make_once(4, machines={"dave": make_once.slow})
    run.run(until=lambda: run.machines["bob"].phase is Phase.UPLOADING)
    run.machines["bob"].take_effects()
    return still(run)


@cases(
    a_receipt_in_somebody_elses_name=("bob", "third", receipts("third", holder="owner"), WrongSender),
    a_receipt_signed_by_somebody_else=("bob", "owner", receipts("third", holder="owner"), IllegalMessage),
    a_receipt_by_the_model_owner=("bob", "third", receipts("owner"), WrongRole),
    a_receipt_for_somebody_else=("bob", "third", receipts("third", contributor="alice"), WrongSender),
    a_receipt_of_another_round=("bob", "third", receipts("third", open_round=ELSEWHERE), WrongOpenRound),
    a_receipt_of_another_head=("bob", "third", receipts("third", header=ELSEWHERE), WrongOpenRound),
    a_receipt_of_another_commitment=("bob", "third", receipts("third", commitment=ELSEWHERE), WrongOpenRound),
    a_receipt_of_another_list=("bob", "third", receipts("third", shares=ELSEWHERE), WrongOpenRound),
    a_grant_of_what_was_not_announced=("bob", "third", grant(ELSEWHERE), IllegalMessage),
    a_grant_by_one_without_an_upload=("bob", "owner", grant(ELSEWHERE), IllegalMessage),
    a_list_of_what_was_not_sent=("bob", "third", closes("third", "third"), SplitView),
    a_list_of_what_was_never_sealed=("dave", "third", closes("third", "third"), SplitView),
)
def test_a_data_owner_that_uploads_refuses(uploading: Still, case: Case) -> None:
    uploading.refuses(case)


# --- once the aggregate is released


@pytest.fixture(scope="module")
def released(make_once: Maker, still: Any) -> Still:
    """A round of three out of four is released and nobody has cosigned yet."""

    def hold(delivery: Any) -> Any:
        late = delivery.target == "third" and run.machines["third"].phase is Phase.RELEASED
        return None if late and delivery.wire.subject is None else delivery

    def declines(at: int) -> int:
        return 0 if at == 3 else 20

    run = make_once(4, network=make_once.wire(lambda delivery: hold(delivery)), examples=declines)

    def ready() -> bool:
        asking = run.machines["owner"]._asking
        contributor = run.machines["alice"]
        stated = asking is not None and "third" in asking.statements and run.machines["owner"].phase is Phase.RECEIVING
        return stated and contributor.phase is Phase.CLOSED and bool(contributor._sent[-1].statements)

    run.run(until=ready)
    for machine in run.machines.values():
        machine.take_effects()
    return still(run)


@cases(
    a_cosignature_of_another_statement=("third", "alice", cosigns("alice", "alice", ELSEWHERE), TooLate),
    a_cosignature_for_somebody_else=("third", "alice", cosigns("bob", "bob"), WrongSender),
    a_cosignature_by_one_who_took_no_part=("third", "dave", cosigns("dave", "dave"), WrongSender),
    a_forged_cosignature=("third", "alice", cosigns("alice", "bob"), BadSignature),
    a_fetch_of_something_else=("third", "owner", lambda _: Fetch(subject=ELSEWHERE), IllegalMessage),
    the_same_round_again=("third", "owner", proposes("owner", attempt=1), WrongRound),
)
def test_a_secure_worker_that_released_refuses(released: Still, case: Case) -> None:
    released.refuses(case)


@cases(
    a_statement_in_somebody_elses_name=("owner", "third", states("third", holder="alice"), WrongOpenRound),
    a_statement_signed_by_somebody_else=("owner", "alice", states("third", holder="alice"), WrongOpenRound),
    a_statement_of_a_data_owners_own=("owner", "alice", states("alice", holder="alice"), WrongRole),
    a_statement_of_another_round=("owner", "third", states("third", open_round=ELSEWHERE), WrongOpenRound),
    a_statement_of_another_list=("owner", "third", states("third", close=ELSEWHERE), SplitView),
    a_statement_of_another_set=("owner", "third", states("third", contributors=NAMES), SplitView),
    a_statement_of_another_release=("owner", "third", states("third", release=ELSEWHERE), SplitView),
    a_statement_of_another_sum=("owner", "third", states("third", commitment=ELSEWHERE), SplitView),
    a_second_list=("owner", "third", closes("third", "third", names=NAMES[:3]), SplitView),
    a_grant_of_another_transfer=("owner", "third", grant(ELSEWHERE), IllegalMessage),
    a_grant_by_one_that_released_nothing=("owner", "alice", grant(ELSEWHERE), IllegalMessage),
    a_record_of_another_statement=(
        "owner",
        "third",
        lambda at: RoundRecord(
            statement=states("third", release=ELSEWHERE)(at).statement, cosignatures=(), absent=(*NAMES[:3], "owner")
        ),
        WrongOpenRound,
    ),
)
def test_a_model_owner_that_receives_refuses(released: Still, case: Case) -> None:
    released.refuses(case)


@pytest.mark.parametrize("missing", ["headers", "closes"])
def test_no_outcome_is_stated_before_it_is_released(released: Still, missing: str) -> None:
    asking = dataclasses.replace(released.asking, **{missing: {}})
    # Nobody is accused: after our restart, what was sent before may be all that comes for a while.
    with pytest.raises(IllegalMessage):
        asking.take_statement("third", released.asking.statements["third"])


@pytest.mark.parametrize("wrong", ["close", "contributors"])
def test_a_sum_over_another_list_than_it_closed_with_is_refused(released: Still, wrong: str) -> None:
    asking, close = released.asking, released.asking.closes["third"]
    said = {"close": close[0], "contributors": len(close[1].contributions)}
    said |= {"close": ELSEWHERE} if wrong == "close" else {"contributors": 4}
    section = bytes(asking.question.words * asking.question.plan.dtype.itemsize)
    outgoing = released.run.machines["third"].exchange.seal(
        Label.AGGREGATE,
        asking.context,
        "owner",
        asking.key.public,
        [section],
        content=Content(DataClass.AGGREGATE, asking.contributors),
        **said,
    )
    with pytest.raises(SplitView):
        dataclasses.replace(asking, heads={}, releases={}).take_release("third", outgoing.head)


@cases(
    a_list_below_the_minimum=("alice", "third", closes("third", "third", names=NAMES[:2]), SplitView),
    a_second_list=("alice", "third", closes("third", "third", names=NAMES[:3]), SplitView),
    a_statement_in_somebody_elses_name=("alice", "third", states("third", holder="bob"), WrongSender),
    a_statement_signed_by_somebody_else=("alice", "bob", states("third", holder="bob"), WrongSender),
    a_statement_of_a_data_owners_own=("alice", "bob", states("bob", holder="bob"), WrongRole),
    a_statement_of_another_set=("alice", "third", states("third", contributors=NAMES), SplitView),
    a_statement_of_another_list=("alice", "third", states("third", close=ELSEWHERE), SplitView),
    a_second_statement=("alice", "third", states("third", release=ELSEWHERE), SplitView),
    a_record_by_a_data_owner=(
        "alice",
        "bob",
        lambda at: RoundRecord(statement=states("bob")(at).statement, cosignatures=(), absent=()),
        WrongRole,
    ),
    a_record_of_another_statement=(
        "alice",
        "third",
        lambda at: RoundRecord(statement=states("third", release=ELSEWHERE)(at).statement, cosignatures=(), absent=()),
        SplitView,
    ),
    a_model_by_the_secure_worker=("alice", "third", lambda _: SendModel(head=HEAD), IllegalMessage),
)
def test_a_data_owner_that_was_summed_refuses(released: Still, case: Case) -> None:
    released.refuses(case)


def test_a_first_statement_is_of_the_list_we_were_shown(released: Still, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(released.run.machines["alice"]._sent[-1], "statements", {})
    released.refuses(("alice", "third", states("third", close=ELSEWHERE), SplitView))


def test_a_record_whose_statement_an_earlier_process_signed_is_of_the_set_that_was_written_down(
    released: Still, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = released.run.machines["alice"]._sent[-1]
    monkeypatch.setattr(sent, "statements", {})
    monkeypatch.setattr(sent, "kept", msgspec.structs.replace(sent.kept, recorded=()))

    def record(**changes: Any) -> Callable[[Still], RoundRecord]:
        return lambda at: RoundRecord(statement=states("third", **changes)(at).statement, cosignatures=(), absent=())

    released.refuses(("alice", "third", record(contributors=NAMES), SplitView))
    assert not sent.kept.recorded
    monkeypatch.setattr(released.run.machines["alice"], "asked", None)
    released.say("alice", "third", record()(released))
    assert sent.kept.recorded == ("third",)


@pytest.mark.parametrize("change", ["too few", "a stranger"])
def test_a_first_list_over_a_set_the_question_does_not_allow_is_not_recorded(collecting: Still, change: str) -> None:
    alice = collecting.run.machines["alice"]
    (ours,) = alice._sent[-1].kept.commitments["third"]
    others = {"too few": ("bob",), "a stranger": ("bob", "carol", "judge")}[change]

    def made(at: Still) -> Closed:
        contributions = (Contribution("alice", ours), *(Contribution(name, ELSEWHERE) for name in others))
        close = CloseList(open_round=at.name, holder="third", contributions=contributions, declined=(), missing=())
        return Closed(close=at.by("third", close))

    collecting.refuses(("alice", "third", made, NotInCohort))
    assert alice.memory.summed(alice._sent[-1].kept.model) is None
