"""A model owner that asks different people different things gets no aggregate."""

import os
from typing import Any

import msgspec
import pytest
from tertium.crypto.labels import Label
from tertium.crypto.sealing import RoundKey
from tertium.learning.numpy_task import NumpyTask
from tertium.owner.machine import ModelOwner
from tertium.protocol.messages import Invitation, ProposeRound, Purpose, RoundOffer
from tertium.protocol.session import session_id
from tertium.protocol.statements import sign
from tertium.protocol.training import WeightRule

Maker = Any
Run = Any


def variant(owner: Any, **changes: Any) -> Any:
    """The question of now with other fields, signed by the owner itself."""
    return sign(owner.identity, msgspec.structs.replace(owner._asking.question, **changes))


class AsksBobSomethingElse(ModelOwner):
    """Sends bob an OpenRound of its own, signed, with the holder's offer for everybody else's."""

    changes: Any = None

    def other(self) -> dict[str, Any]:
        return self.changes

    def send(self, peer: str, message: Any) -> None:
        if peer == "bob" and isinstance(message, Invitation):
            message = Invitation(open_round=variant(self, **self.other()), offers=message.offers)
        super().send(peer, message)


def asking(**changes: Any) -> type[AsksBobSomethingElse]:
    return type("Asks", (AsksBobSomethingElse,), {"changes": changes})


def nothing_came_of_it(run: Run) -> None:
    errors = run.run()
    assert set(errors) == {"owner", "third", "alice", "bob", "carol"}
    assert all(errors.values())
    run.no_trace_of_an_aggregate()


def plan_of(make: Maker, **changes: Any) -> Any:
    return make.plan(**changes).training_plan(0)


@pytest.mark.parametrize("what", ["model", "layout", "plan of training", "cohort", "attempt"])
def test_one_question_for_bob_and_another_for_the_rest(make: Maker, what: str) -> None:
    changes: dict[str, Any] = {
        "model": {"model": os.urandom(32)},
        "layout": {"layout": os.urandom(32)},
        "plan of training": {"training": plan_of(make, learning_rate=9.0)},
        "cohort": {"cohort": ("alice", "bob", "carol")},
        "attempt": {"attempt": 1},
    }[what]
    parties = 4 if what == "cohort" else 3
    run = make(parties, minimum=3 if parties == 3 else 4, machines={"owner": asking(**changes)})
    if what == "cohort":
        # Too small a cohort for the charter; the rest were asked as four.
        run.run()
        assert run.refused("bob") == ["not-in-cohort"]
        run.no_trace_of_an_aggregate()
        return
    nothing_came_of_it(run)
    assert run.refused("bob") == ["wrong-open-round"]


def test_another_weight_rule_is_refused(make: Maker) -> None:
    run = make(machines={"owner": asking(weight_rule=WeightRule.EXAMPLES)})
    nothing_came_of_it(run)
    assert run.refused("bob") == ["wrong-plan"]


def test_two_questions_to_one_secure_worker_are_a_split_view(make: Maker) -> None:
    class Twice(ModelOwner):
        def send(self, peer: str, message: Any) -> None:
            super().send(peer, message)
            if isinstance(message, ProposeRound):
                super().send(peer, ProposeRound(open_round=variant(self, model=os.urandom(32))))

    run = make(machines={"owner": Twice})
    run.run()
    assert run.refused("third") == ["split-view"]


def test_two_questions_to_one_data_owner_are_a_split_view(make: Maker) -> None:
    class Twice(ModelOwner):
        def send(self, peer: str, message: Any) -> None:
            super().send(peer, message)
            if peer == "bob" and isinstance(message, Invitation):
                other = variant(self, model=os.urandom(32))
                super().send(peer, Invitation(open_round=other, offers=message.offers))

    run = make(machines={"owner": Twice})
    run.run()
    # The first question was answered and is the one of everybody: the second is evidence, and changes nothing.
    assert run.refused("bob") == ["split-view"]
    assert run.released == [1]


def test_a_question_asked_again_is_answered_the_same(make: Maker) -> None:
    class Again(ModelOwner):
        def send(self, peer: str, message: Any) -> None:
            super().send(peer, message)
            if peer == "bob" and isinstance(message, Invitation):
                super().send(peer, message)

    run = make(machines={"owner": Again})
    run.run()
    # A connection may have been lost between question and answer: the same answer, and one contribution.
    assert not run.all_refused
    assert [name for name, _ in run.encoded].count("bob") == 1
    assert run.released == [1]


def test_a_round_of_the_past_is_refused(make: Maker) -> None:
    class Old(ModelOwner):
        kept: Any = None

        def send(self, peer: str, message: Any) -> None:
            if peer == "bob" and isinstance(message, Invitation):
                type(self).kept = type(self).kept or message
                if self._round == 1:
                    super().send(peer, type(self).kept)
            super().send(peer, message)

    run = make(machines={"owner": Old}, plan=make.plan(rounds=2))
    run.run()
    assert run.refused("bob") == ["wrong-round"]
    assert run.released == [1, 2]


@pytest.mark.parametrize("all_of_them", [False, True], ids=["to bob", "to all"])
def test_other_model_bytes_under_the_same_question(make: Maker, all_of_them: bool) -> None:
    """The question is the same for all, and signed; the model that comes is not the one it names."""

    class Swaps(ModelOwner):
        def _on_acceptance(self, peer: str, message: Any, now: float) -> None:
            asking = self._asking
            assert asking is not None
            honest = asking.model
            if peer == "bob" or all_of_them:
                layout = self._model.layout.encode()
                trap = bytes(len(self._model.to_bytes()))
                asking.model = self.exchange.broadcast(Label.MODEL, asking.context, [layout, trap])
            super()._on_acceptance(peer, message, now)
            asking.model = honest

    run = make(machines={"owner": Swaps})
    nothing_came_of_it(run)
    assert [line.text for line in run.said("bob") if "sent another model" in line.text]
    assert ("bob", 1) not in run.encoded
    # Why is not told to the owner: it learns "declined", and no more.
    assert not [line for line in run.said("owner") if "model" in line.text]


def test_another_layout_under_the_same_question(make: Maker) -> None:
    class Swaps(ModelOwner):
        def _on_acceptance(self, peer: str, message: Any, now: float) -> None:
            asking = self._asking
            assert asking is not None
            if peer == "bob":
                layout = bytearray(self._model.layout.encode())
                layout[layout.index(b"weight")] ^= 1
                asking.model = self.exchange.broadcast(Label.MODEL, asking.context, [layout, self._model.to_bytes()])
            super()._on_acceptance(peer, message, now)

    run = make(machines={"owner": Swaps})
    nothing_came_of_it(run)
    assert [line.text for line in run.said("bob") if "sent another layout" in line.text]


def test_the_offer_of_another_question_is_refused(make: Maker) -> None:
    class Passes(ModelOwner):
        old: Any = None

        def send(self, peer: str, message: Any) -> None:
            if isinstance(message, Invitation):
                if self._round == 0:
                    type(self).old = message.offers
                elif peer == "bob":
                    message = Invitation(open_round=message.open_round, offers=type(self).old)
            super().send(peer, message)

    run = make(machines={"owner": Passes}, plan=make.plan(rounds=2))
    errors = run.run()
    assert run.refused("bob") == ["wrong-open-round"]
    assert run.released == [1]
    assert all(errors.values())


@pytest.mark.parametrize("offers", ["none", "two", "by a data owner"])
def test_offers_of_others_than_the_holders_are_refused(make: Maker, offers: str) -> None:
    class Passes(ModelOwner):
        def send(self, peer: str, message: Any) -> None:
            if peer == "bob" and isinstance(message, Invitation):
                (offer,) = message.offers
                other = msgspec.structs.replace(offer, signer="alice")
                instead = {"none": (), "two": (offer, offer), "by a data owner": (other,)}[offers]
                message = Invitation(open_round=message.open_round, offers=instead)
            super().send(peer, message)

    run = make(machines={"owner": Passes})
    nothing_came_of_it(run)
    assert run.refused("bob") == ["wrong-open-round"]


def test_a_holder_key_of_the_owners_own_is_refused(make: Maker) -> None:
    """The owner would read every update, were the offer not signed by the holder."""

    class Reads(ModelOwner):
        def send(self, peer: str, message: Any) -> None:
            if isinstance(message, Invitation):
                asking = self._asking
                assert asking is not None
                own = RoundOffer(open_round=asking.name, holder="third", key=RoundKey().public)
                forged = msgspec.structs.replace(sign(self.identity, own), signer="third")
                message = Invitation(open_round=message.open_round, offers=(forged,))
            super().send(peer, message)

    run = make(machines={"owner": Reads})
    nothing_came_of_it(run)
    assert [run.refused(name) for name in make.names[:3]] == [["bad-signature"]] * 3
    assert not run.encoded


def test_a_cohort_below_the_minimum_is_refused_by_the_secure_worker(make: Maker) -> None:
    class Isolates(ModelOwner):
        def send(self, peer: str, message: Any) -> None:
            if isinstance(message, ProposeRound):
                message = ProposeRound(open_round=variant(self, cohort=("alice",)))
            super().send(peer, message)

    run = make(machines={"owner": Isolates})
    nothing_came_of_it(run)
    assert run.refused("third") == ["not-in-cohort"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"charter": bytes(32)}, "wrong-charter"),
        ({"session": bytes(32)}, "wrong-session"),
        ({"round": 0}, "wrong-round"),
        ({"holder_nonces": (bytes(32),)}, "wrong-session"),
        ({"coordinates": 2**31}, "oversized-claim"),
        ({"owner_key": bytes(1216)}, "bad-recipient-key"),
        ({"purpose": Purpose.EVALUATE, "cohort": ("judge",)}, "illegal-message"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_secure_worker_consents_to_no_such_question(make: Maker, changes: dict[str, Any], code: str) -> None:
    class Proposes(ModelOwner):
        def send(self, peer: str, message: Any) -> None:
            if isinstance(message, ProposeRound):
                message = ProposeRound(open_round=variant(self, **changes))
            super().send(peer, message)

    run = make(machines={"owner": Proposes}, evaluators={"judge": NumpyTask(party=9)})
    run.run()
    assert set(run.refused("third")) == {code}
    run.no_trace_of_an_aggregate()


def test_a_question_no_session_was_opened_for_is_refused(make: Maker) -> None:
    class Invents(ModelOwner):
        def send(self, peer: str, message: Any) -> None:
            if isinstance(message, ProposeRound):
                nonces = (os.urandom(32),)
                name = session_id(self.charter.digest, self._nonce, nonces)
                message = ProposeRound(open_round=variant(self, holder_nonces=nonces, session=name))
            super().send(peer, message)

    run = make(machines={"owner": Invents})
    nothing_came_of_it(run)
    # Once for the question, once more in the session that was opened because of it.
    assert run.refused("third") == ["wrong-session"] * 2


def test_a_data_owner_is_not_asked_to_evaluate(make: Maker) -> None:
    class Asks(ModelOwner):
        def send(self, peer: str, message: Any) -> None:
            if peer == "bob" and isinstance(message, Invitation):
                other = variant(self, purpose=Purpose.EVALUATE, cohort=("judge",))
                message = Invitation(open_round=other, offers=())
            super().send(peer, message)

    run = make(machines={"owner": Asks}, evaluators={"judge": NumpyTask(party=9)})
    run.run()
    assert run.refused("bob") == ["illegal-message"]
    run.no_trace_of_an_aggregate()


def test_a_party_the_question_does_not_name_is_not_asked(make: Maker) -> None:
    class Asks(ModelOwner):
        def _invite(self, now: float) -> None:
            super()._invite(now)
            asking = self._asking
            assert asking is not None
            self.send("dave", Invitation(open_round=asking.signed, offers=tuple(asking.offers.values())))

    run = make(4, machines={"owner": Asks}, plan=make.plan(cohort=3, seed=3))
    run.run()
    cohort = run.statement(1).contributors
    assert run.refused("dave") == ([] if "dave" in cohort else ["not-in-cohort"])
