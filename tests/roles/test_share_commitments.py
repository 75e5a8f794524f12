"""The header of each share lists the commitments to all: a data owner that tells two holders two things is named.

Its round goes on without it, or, where a share that cannot be taken back went first, is asked once more.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tertium.crypto.labels import Label
from tertium.protocol.charter import Deadlines, Mode, SchemeName
from tertium.protocol.codec import decode_as
from tertium.protocol.exchange import Exchange
from tertium.protocol.messages import Closed, CloseList, Header, Receipt, Receipted, share_list
from tertium.protocol.progress import RefusedProgress, Said, SumChecked
from tertium.workers.data_owner import DataOwner

Maker = Any
Run = Any
Lists = dict[str, list[bytes]]
NAMES = ("alice", "bob", "carol", "dave")
OTHERS = ("alice", "carol", "dave")
SOON = Deadlines(join=10, upload=50, close=10)
OTHER = bytes(range(32))
TRUSTED = (Mode.TRUSTED, SchemeName(name="trusted"), ("third",))
MASKED = (Mode.MASKED, SchemeName(name="masked"), ("third",))
ADDITIVE = (Mode.ADDITIVE, SchemeName(name="additive"), ("first", "second", "third"))
SHAMIR = (Mode.SHAMIR, SchemeName(name="shamir", threshold=2), ("first", "second", "third", "fourth"))


def among(make: Maker, mode: tuple[Mode, SchemeName, tuple[str, ...]]) -> dict[str, Any]:
    kind, scheme, workers = mode
    return {"rules": make.rules(mode=kind, scheme=scheme, deadlines=SOON), "workers": workers}


def lists(change: Callable[[Lists], None], *, then_honest: bool = False) -> dict[str, Any]:
    """Bob, and an exchange of bob's that lists to each holder what `change` makes of the honest lists.

    In another attempt it takes no part, or, if `then_honest`, does as it should.
    """

    class Changed(Exchange):
        def seal(self, label: Any, context: Any, recipient: str, key: bytes, sections: Any, **more: Any) -> Any:
            if label is Label.CONTRIBUTION and not (then_honest and context.attempt):
                told = {name: list(more["shares"]) for name in self.recipients}
                change(told)
                more["shares"] = told[recipient]
            return super().seal(label, context, recipient, key, sections, **more)

    class Liar(DataOwner):
        def _seal(self, asked: Any, vector: Any) -> None:
            if asked.question.attempt and not then_honest:
                self.decline(asked, "was found out")
                self.give_up(None)
                return
            self.exchange.recipients = self._seats.recipients(asked.question, self.name)
            super()._seal(asked, vector)
            for upload in self._uploads.values():
                # It takes the receipts for its lie as an honest one would take others.
                upload.listed = share_list(decode_as(Header, upload.outgoing.head.header).shares)

    return {"hostile": Liar, "exchanges": {"bob": Changed}}


def at(place: int, entry: int) -> Callable[[Lists], None]:
    """Tell the holder at one place of something else at the place of another, or of itself."""

    def change(told: Lists) -> None:
        told[list(told)[place]][entry] = OTHER

    return change


def one_less(told: Lists) -> None:
    for listed in told.values():
        del listed[1]


def one_more(told: Lists) -> None:
    for listed in told.values():
        listed.append(OTHER)


def out_of_order(told: Lists) -> None:
    for listed in told.values():
        listed.reverse()


def named(run: Run, name: str = "bob") -> dict[str, list[str]]:
    """What every party that refused something said about it, if it is the data owner that it names."""
    said = {who: run.said(who, RefusedProgress) for who in run.progress if who != name}
    return {
        who: [f"{each.code}: {each.text}" for each in refused if each.text.startswith(f"{name}:")]
        for who, refused in said.items()
        if refused
    }


def recipients(run: Run, name: str = "bob") -> tuple[str, ...]:
    machine = run.machines[name]
    question = next(iter(machine._sent)).kept
    counting = question.counting
    return (*(holder for holder in question.commitments if holder != counting), counting)


LISTED = "lists other shares here than it listed to first"
SENT = "sent first a share other than the one it lists here"
OWN = "sends a share other than the one its own header lists"
TOLD: dict[str, tuple[Callable[[Lists], None], int, str]] = {
    "the first of another second": (at(0, 1), 2, LISTED),
    "the first of another last": (at(0, 2), 2, LISTED),
    "the second of another first": (at(1, 0), 2, "lists other shares here than it listed to second"),
    "the second of another last": (at(1, 2), 2, "lists other shares here than it listed to second"),
    "the last of another first": (at(2, 0), 2, SENT),
    "the last of another second": (at(2, 1), 2, LISTED),
    "the first of another own": (at(0, 0), 0, OWN),
    "the second of another own": (at(1, 1), 1, OWN),
    "the last of another own": (at(2, 2), 2, OWN),
}


@pytest.mark.parametrize(("change", "place", "says"), TOLD.values(), ids=TOLD)
def test_two_lists_of_one_contribution_are_refused_by_who_sees_both(
    against: Any, make: Maker, change: Any, place: int, says: str
) -> None:
    run = against(**lists(change), **among(make, ADDITIVE))
    refused = named(run)
    (said,) = refused.pop(recipients(run)[place])
    assert said.startswith("split-view: bob: ")
    assert says in said
    assert not refused


@pytest.mark.parametrize("change", [one_less, one_more, out_of_order])
def test_a_list_that_is_not_one_entry_a_holder_is_refused_by_the_first(against: Any, make: Maker, change: Any) -> None:
    run = against(**lists(change), **among(make, ADDITIVE))
    refused = named(run)
    assert refused
    assert all(said.startswith("split-view: bob: ") for each in refused.values() for said in each)
    assert recipients(run)[-1] not in refused


def test_a_model_owner_that_holds_shares_checks_its_own(against: Any, make: Maker) -> None:
    run = against(**lists(at(0, 0)), **among(make, MASKED))
    assert [each.partition(",")[0] for each in named(run)["owner"]] == [
        "split-view: bob: sends a share other than the one its own header lists"
    ]


@pytest.mark.parametrize("mode", [TRUSTED, MASKED, ADDITIVE, SHAMIR], ids=["trusted", "masked", "additive", "shamir"])
def test_every_share_of_an_honest_contribution_lists_the_same(make: Maker, plain_sum: Any, mode: Any) -> None:
    sealed: dict[str, list[Header]] = {name: [] for name in NAMES}
    receipts: list[Receipt] = []
    closes: list[CloseList] = []

    class Noted(Exchange):
        def seal(self, label: Any, *args: Any, **more: Any) -> Any:
            outgoing = super().seal(label, *args, **more)
            if label is Label.CONTRIBUTION:
                sealed[self._identity.name].append(decode_as(Header, outgoing.head.header))
            return outgoing

    class Noting(DataOwner):
        def receive(self, peer: str, message: Any, now: float) -> None:
            if isinstance(message, Receipted):
                receipts.append(decode_as(Receipt, message.receipt.statement))
            elif isinstance(message, Closed):
                closes.append(decode_as(CloseList, message.close.statement))
            super().receive(peer, message, now)

    machines = {"owner": make.sums, **dict.fromkeys(NAMES, Noting)}
    run = make(4, machines=machines, exchanges=dict.fromkeys(NAMES, Noted), **among(make, mode))
    assert set(run.run().values()) == {None}
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 1, NAMES))
    (counted,) = {tuple((each.party, each.commitment) for each in close.contributions) for close in closes}
    last = dict(counted)
    for name, headers in sealed.items():
        (listed,) = {header.shares for header in headers}
        assert listed == tuple(header.commitment for header in headers)
        assert len(set(listed)) == len(headers) == len(recipients(run, name))
        assert last[name] == listed[-1]
        signed = [receipt for receipt in receipts if receipt.contributor == name]
        assert {receipt.commitment for receipt in signed} == set(listed)
        assert {receipt.shares for receipt in signed} == {share_list(listed)}


def test_points_that_went_first_cost_an_attempt_and_who_lied_is_named(against: Any, make: Maker) -> None:
    """A vector cannot be taken back out of a total, so the others are asked once more."""
    run = against(**lists(at(3, 0)), **among(make, SHAMIR))
    assert {text for said in named(run).values() for text in said if text.startswith("split-view: bob: sent first")}
    assert max(sent.kept.attempt for sent in run.machines["alice"]._sent) == 1


def test_who_was_found_out_with_its_points_in_totals_and_comes_back_is_in_the_next_attempt(
    make: Maker, plain_sum: Any
) -> None:
    """A secure worker that could sum without it signs no set that the others cannot, so its release gate is free."""
    lie = lists(at(3, 0), then_honest=True)
    machines = {"owner": make.sums, "bob": lie["hostile"]}
    run = make(4, machines=machines, exchanges=lie["exchanges"], **among(make, SHAMIR))
    assert set(run.run().values()) == {None}
    assert any("bob: is not listed, and its share is in the total" in each.text for each in run.said("owner", Said))
    assert max(sent.kept.attempt for sent in run.machines["alice"]._sent) == 1
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 1, NAMES))


def test_points_of_no_polynomial_show_in_the_totals_alone_and_put_an_honest_holder_under_suspicion(
    make: Maker, plain_sum: Any
) -> None:
    """Each share opens against its commitment and all headers list the same, so no message of bob's is refused."""

    class Odd(Exchange):
        def commit(self, label: Any, context: Any, recipient: str, key: bytes, sections: Any) -> Any:
            return super().commit(label, context, recipient, key, self.changed(recipient, sections))

        def seal(self, label: Any, context: Any, recipient: str, key: bytes, sections: Any, **more: Any) -> Any:
            return super().seal(label, context, recipient, key, self.changed(recipient, sections), **more)

        @staticmethod
        def changed(recipient: str, sections: Any) -> Any:
            if recipient != "second":
                return sections
            words = np.frombuffer(sections[0], np.uint32).copy()
            words[0] = (int(words[0]) + 1) % (2**32 - 5)
            return [words.tobytes()]

    run = make(4, machines={"owner": make.sums}, exchanges={"bob": Odd}, **among(make, SHAMIR))
    assert set(run.run().values()) == {None}
    assert not run.all_refused
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 1, NAMES))
    (checked,) = run.said("alice", SumChecked)
    assert (checked.state, checked.contradicted) == ("verified", ("second",))
