"""Watchers: each role's machine and exchange, derived so that the world is told what passes; they change nothing else.

A watcher is the outermost class, around whatever change a violation or a lie is planted with, so it sees what that
really does.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..crypto.labels import Buffer, Label
from ..crypto.ring import Plan, Words
from ..crypto.sealing import RoundKey, Staging
from ..crypto.sharing.base import Dealer, Seed, Share, pieces
from ..owner.machine import ModelOwner
from ..protocol.charter import Role
from ..protocol.context import RoundContext
from ..protocol.exchange import Exchange, Incoming, Outgoing
from ..protocol.messages import OpenRound, SealedHead
from ..secure_worker.machine import SecureWorker
from ..workers.data_owner import DataOwner
from ..workers.evaluator import Evaluator

if TYPE_CHECKING:
    from .world import World

Change = Callable[[type[Any]], type[Any]]
"""Makes another class of a party's, to plant a violation."""


def watched(world: "World", name: str, role: Role) -> type[Any]:
    """Return the class of a party's machine."""
    change = world.changes.get(name, _unchanged)
    match role:
        case Role.MODEL_OWNER:
            return _watched_owner(world, change(ModelOwner))
        case Role.SECURE_WORKER:
            return _watched_worker(world, name, change(SecureWorker))
        case Role.DATA_OWNER:
            return _watched_data_owner(world, name, change(DataOwner))
        case Role.EVALUATOR:
            return change(Evaluator)


def _watched_owner(world: "World", owner: type[Any]) -> type[Any]:
    class WatchedOwner(owner):  # type: ignore[misc]
        def _apply(self, question: OpenRound, total: Words, contributors: int, **more: Any) -> Any:
            world.tell("applied", self._asking.name, question, total.copy(), contributors)
            return super()._apply(question, total, contributors, **more)

    return WatchedOwner


def _watched_worker(world: "World", name: str, third: type[Any]) -> type[Any]:
    class WatchedThird(third):  # type: ignore[misc]
        def opened(self, peer: str, incoming: Incoming, sections: Any, now: float) -> None:
            words, intake = bytes(sections[0]) if sections else b"", self._intake
            before = set(intake.added) if intake is not None else set()
            try:
                super().opened(peer, incoming, sections, now)
            finally:  # a crash behind the release must not hide what is in it
                if intake is not None and set(intake.added) - before:
                    world.was_added(name, intake.open_round, peer, intake.question, words)

    return WatchedThird


def _watched_data_owner(world: "World", name: str, data_owner: type[Any]) -> type[Any]:
    class WatchedDataOwner(data_owner):  # type: ignore[misc]
        def worked(self, tag: str, result: Any, now: float) -> None:
            # By the job's own question: its attempt may be over, and the vector kept for the next.
            question = world.jobs.get(tag)
            if question is None and self.asked is not None:
                question = self.asked.question
            if question is not None and hasattr(result, "words"):
                world.was_encoded(name, question, result)
            super().worked(tag, result, now)

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            scheme = self._seats.scheme
            scheme.dealer = _watched_dealer(world, name, scheme.dealer)

        def _seal(self, asked: Any, vector: Any) -> None:
            world.was_split(name, asked.question, asked.open_round, vector.words)
            super()._seal(asked, vector)

    return WatchedDataOwner


def _watched_dealer(world: "World", name: str, make: Callable[[Plan, int], Dealer]) -> Callable[[Plan, int], Dealer]:
    class WatchedDealer:
        def __init__(self, dealer: Dealer) -> None:
            self._dealer = dealer

        def split(self, secret: Words, turn: int = 0, *, out: Words | None = None) -> tuple[Share, ...]:
            shares = self._dealer.split(secret, turn, out=out)
            world.dealt.seeds(name, [each.seed for share in shares for each in pieces(share) if isinstance(each, Seed)])
            return shares

    return lambda plan, length: WatchedDealer(make(plan, length))


def watched_exchange(world: "World", name: str) -> type[Exchange]:
    """Return the class of a party's exchange."""
    base = world.changed_exchanges.get(name, _unchanged)(Exchange)

    class WatchedExchange(base):  # type: ignore[misc,valid-type]
        def seal(
            self,
            label: Label,
            context: RoundContext,
            recipient: str,
            recipient_key: bytes,
            sections: Sequence[Buffer],
            **more: Any,
        ) -> Outgoing:
            outgoing: Outgoing = super().seal(label, context, recipient, recipient_key, sections, **more)
            world.was_sealed(name, outgoing.head, recipient_key, [bytes(section) for section in sections])
            return outgoing

        def examine(
            self, head: SealedHead, label: Any, context: RoundContext, sender: str, key: Any, sections: Any
        ) -> Any:
            world.saw_key(name, key)
            return super().examine(head, label, context, sender, key, sections)

        def open(self, head: SealedHead, key: RoundKey, staging: Staging | None = None, **more: Any) -> Incoming:
            world.saw_key(name, key)
            if world.honest(name):
                world.tell("opens", name, head, key)
            incoming: Incoming = super().open(head, key, staging, **more)
            finish = incoming.finish

            def noted() -> tuple[memoryview, ...]:
                sections = finish()
                world.tell("opened", name, incoming.header, [bytes(section) for section in sections])
                return sections

            incoming.finish = noted  # type: ignore[method-assign]
            return incoming

    return WatchedExchange


def _unchanged(kind: type[Any]) -> type[Any]:
    return kind
