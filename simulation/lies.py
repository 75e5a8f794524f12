"""Hostile machines that lie with a plan: each a role's real machine with one thing changed, and nothing random in it.

`hostile.py` sends anything at any time; most of that is refused at the first check. These go on until a check deep in
the protocol refuses them, or nothing does and an invariant breaks.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from ..crypto.labels import Label
from ..crypto.ring import to_wire
from ..crypto.sealing import RoundKey
from ..owner.questions import next_attempt
from ..protocol.charter import Role
from ..protocol.codec import decode_as
from ..protocol.exchange import Outgoing
from ..protocol.machine import Dial, Provide, Send
from ..protocol.messages import (
    Closed,
    CloseList,
    Contribution,
    Grant,
    HolderList,
    Invitation,
    Listed,
    ProposeRound,
    Ready,
    Release,
    RoundOffer,
    Signed,
)
from ..protocol.statements import sign

if TYPE_CHECKING:
    Change = Callable[[type[Any]], type[Any]]


def uploads_twice(kind: type[Any]) -> type[Any]:
    """A data owner that seals its update a second time and announces both, before and after its receipt."""

    class UploadsTwice(kind):  # type: ignore[misc]
        _more: Outgoing | None = None

        def _seal(self, asked: Any, vector: Any) -> None:
            super()._seal(asked, vector)
            for holder in self._seats.workers:
                section = to_wire(vector.words)
                content = self._seats.content(asked.question, self.name, holder)
                self._more = self.exchange.seal(
                    Label.CONTRIBUTION, asked.context, holder, asked.holder_keys[holder], [section], content=content
                )
                self.send(holder, Ready(head=self._more.head))

        def on_grant(self, peer: str, message: Grant, now: float) -> None:
            if self._more is not None and message.ticket.subject == self._more.subject:
                self.effect(Provide(peer, self._more))
                self.effect(Dial(peer, message.ticket))
                return
            super().on_grant(peer, message, now)

        def _on_receipted(self, peer: str, message: Any, now: float) -> None:
            for upload in self._uploads.values():
                self.send(peer, Ready(head=upload.outgoing.head))
            if self._more is not None:
                self.send(peer, Ready(head=self._more.head))
            self._more = None
            super()._on_receipted(peer, message, now)

    return UploadsTwice


def stands_still(kind: type[Any]) -> type[Any]:
    """A model owner that never takes a step and asks about one model over other sets: their difference is an update."""

    class StandsStill(kind):  # type: ignore[misc]
        def _apply(self, question: Any, total: Any, contributors: int, **more: Any) -> Any:
            self._model.apply = lambda *_: None
            return super()._apply(question, total, contributors, **more)

        def _new_question(self, purpose: Any, number: int, cohort: tuple[str, ...], *rest: Any) -> Any:
            if number > 1 and len(cohort) > self.charter.rules.minimum_cohort:
                cohort = cohort[number % 2 :][: len(cohort) - 1]
            return super()._new_question(purpose, number, cohort, *rest)

    return StandsStill


def stands_still_quietly(kind: type[Any]) -> type[Any]:
    """A model owner that never takes a step and asks the same cohort, but lets one of them not hear of it."""

    class Quietly(stands_still(kind)):  # type: ignore[misc]
        def _new_question(self, purpose: Any, number: int, cohort: tuple[str, ...], *rest: Any) -> Any:
            return kind._new_question(self, purpose, number, cohort, *rest)

        def _invite(self, now: float) -> None:
            super()._invite(now)
            question = self._asking.question
            if question.round > 1:
                _withhold(self, question.cohort[-1:])

    return Quietly


def _withhold(machine: Any, names: tuple[str, ...]) -> None:
    for effect in [each for each in machine._effects if isinstance(each, Send)]:
        if isinstance(effect.message, Invitation) and effect.peer in names:
            machine._effects.remove(effect)


def asks_again(kind: type[Any]) -> type[Any]:
    """A model owner that, with a release in hand, asks for another attempt at the same round, and then goes on."""

    class AsksAgain(kind):  # type: ignore[misc]
        _asked_again = False

        def _on_release(self, peer: str, message: Release, now: float) -> None:
            super()._on_release(peer, message, now)
            if not self._asked_again and self._asking is not None:
                self._asked_again = True
                asked = self._asking.question
                again = next_attempt(self.identity, asked, asked.without)
                self.send(peer, ProposeRound(open_round=again[1]))

    return AsksAgain


def counts_only_some(kind: type[Any]) -> type[Any]:
    """A model owner that asks everybody and passes the invitation on to a few, so that the rest look absent."""

    class CountsSome(kind):  # type: ignore[misc]
        def _invite(self, now: float) -> None:
            super()._invite(now)
            _withhold(self, self._asking.question.cohort[2:])

    return CountsSome


def swaps_keys(kind: type[Any]) -> type[Any]:
    """A model owner that passes on offers with keys of its own in them, under the secure worker's name."""

    class SwapsKeys(kind):  # type: ignore[misc]
        def _invitation(self, asking: Any) -> Invitation:
            honest, offers = super()._invitation(asking), []
            for signed in honest.offers:
                offer = msgspec.structs.replace(decode_as(RoundOffer, signed.statement), key=RoundKey().public)
                forged = sign(self.identity, offer)
                offers.append(Signed(signed.signer, forged.statement, forged.signature))
            return Invitation(open_round=honest.open_round, offers=tuple(offers))

    return SwapsKeys


def withholds_its_list(kind: type[Any]) -> type[Any]:
    """A secure worker that never tells the others what it counted."""

    class WithholdsList(kind):  # type: ignore[misc]
        def send(self, peer: str, message: Any) -> None:
            if not isinstance(message, Listed):
                super().send(peer, message)

    return WithholdsList


def lists_what_another_counts(kind: type[Any]) -> type[Any]:
    """A secure worker that lists a contribution which another one counts, too."""

    class ListsMore(kind):  # type: ignore[misc]
        def send(self, peer: str, message: Any) -> None:
            intake = self._intake
            if isinstance(message, Listed) and intake is not None:
                said = decode_as(HolderList, message.list.statement)
                more = next(name for name in intake.question.cohort if not intake.counts(name))
                entries = sorted((*said.contributions, Contribution(more, bytes(32))), key=lambda each: each.party)
                said = msgspec.structs.replace(said, contributions=tuple(entries))
                self._list = sign(self.identity, said)
                message = Listed(list=self._list)
            super().send(peer, message)

    return ListsMore


def lists_less(kind: type[Any]) -> type[Any]:
    """A secure worker that keeps quiet about a contribution that has its receipt."""

    class ListsLess(kind):  # type: ignore[misc]
        def _close(self, now: float) -> None:
            intake = self._intake
            if intake is not None and intake.counted:
                dropped = intake.counted[0]
                del intake.added[dropped]
                intake._in_total.discard(dropped)
                intake._ours.discard(dropped)
            super()._close(now)

    return ListsLess


def adds_what_it_does_not_list(kind: type[Any]) -> type[Any]:
    """A secure worker that leaves a contribution off its list, and says that it is in its total all the same."""

    class AddsUnlisted(kind):  # type: ignore[misc]
        def send(self, peer: str, message: Any) -> None:
            if isinstance(message, Listed):
                said = decode_as(HolderList, message.list.statement)
                names = {*said.added, *(each.party for each in said.contributions[:1])}
                said = msgspec.structs.replace(said, contributions=said.contributions[1:], added=tuple(sorted(names)))
                self._list = sign(self.identity, said)
                message = Listed(list=self._list)
            super().send(peer, message)

    return AddsUnlisted


def closes_over_another_set(kind: type[Any]) -> type[Any]:
    """A secure worker that signs a Close list of another set than it was agreed on."""

    class ClosesOver(kind):  # type: ignore[misc]
        def send(self, peer: str, message: Any) -> None:
            if isinstance(message, Closed):
                close = decode_as(CloseList, message.close.statement)
                fewer = msgspec.structs.replace(close, contributions=close.contributions[1:])
                message = Closed(close=sign(self.identity, fewer))
            super().send(peer, message)

    return ClosesOver


def releases_too_soon(kind: type[Any]) -> type[Any]:
    """A secure worker that releases without having seen that all have closed over one set."""

    class ReleasesSoon(kind):  # type: ignore[misc]
        def _wait_for_closes(self, now: float) -> None:
            super()._wait_for_closes(now)
            kept, outgoing = self._memory.release, self._memory.outgoing()
            if kept is not None and outgoing is not None:
                self._outgoing = outgoing
                self.effect(Provide(self._owner, outgoing))
                self.send(self._owner, Release(head=kept.head))

    return ReleasesSoon


def adds_something_else(kind: type[Any]) -> type[Any]:
    """A secure worker whose total is not the sum of the shares it was given."""

    class AddsElse(kind):  # type: ignore[misc]
        def _settle_on(self, intake: Any, close: Any, now: float) -> None:
            if intake._total is not None:  # else it holds nothing, in `plain`
                intake._total += 1
            super()._settle_on(intake, close, now)

    return AddsElse


LIES: dict[Role, "dict[str, Change]"] = {
    Role.DATA_OWNER: {"uploads twice": uploads_twice},
    Role.MODEL_OWNER: {
        "stands still": stands_still,
        "stands still quietly": stands_still_quietly,
        "asks again": asks_again,
        "counts only some": counts_only_some,
        "swaps keys": swaps_keys,
    },
    Role.SECURE_WORKER: {"adds something else": adds_something_else},
}
"""What a liar of a role may do in every mode, by name; a scenario names one."""
AMONG_SEVERAL: dict[Role, "dict[str, Change]"] = {
    Role.SECURE_WORKER: {
        "withholds its list": withholds_its_list,
        "lists what another counts": lists_what_another_counts,
        "lists less": lists_less,
        "adds what it does not list": adds_what_it_does_not_list,
        "closes over another set": closes_over_another_set,
        "releases too soon": releases_too_soon,
    },
}
"""What it may do besides where several secure workers have to agree."""


def lies_of(role: Role, among: int = 2) -> "dict[str, Change]":
    """Return the lies of a role, in a federation of so many secure workers."""
    return LIES.get(role, {}) | (AMONG_SEVERAL.get(role, {}) if among > 1 else {})
