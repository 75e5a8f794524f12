"""A role without input or output: messages and time go in, effects come out.

Every role machine derives from `Machine` and follows its table in `rounds.py`. The pattern of a handler is check,
record, act: all that can be refused is refused by raising before anything changes, and a raise puts the phase back.
A `Misbehaviour` from a handler means "this message was refused", never "the round is over": who sends garbage harms
nobody but itself, and deadlines end what does not come.

Drivers (`party.py`; the simulator) give events and carry out effects in order. Nothing here reads a clock.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..crypto.errors import Misbehaviour
from ..crypto.identity import Identity
from .charter import Charter, Role
from .errors import IllegalMessage
from .exchange import Exchange, Incoming, Outgoing
from .messages import Message
from .progress import Progress
from .rounds import TABLES, Input, Phase, Step
from .ticket import Ticket


@dataclass(frozen=True)
class Send:
    """Send a control message."""

    peer: str
    message: Message


@dataclass(frozen=True)
class Provide:
    """Have this envelope's body ready for `peer`; it flows once a bulk connection is up and credit is there."""

    peer: str
    outgoing: Outgoing


@dataclass(frozen=True)
class Expect:
    """Take the body of this admitted envelope from `peer`."""

    peer: str
    incoming: Incoming


@dataclass(frozen=True)
class Permit:
    """As the listening side: grant `peer` a ticket for `subject` and send it."""

    peer: str
    subject: bytes


@dataclass(frozen=True)
class Dial:
    """As the connecting side: open the bulk connection a ticket allows."""

    peer: str
    ticket: Ticket


@dataclass(frozen=True)
class Drop:
    """Forget a transfer and end its bulk connection."""

    subject: bytes


@dataclass(frozen=True)
class Work:
    """Run `job` off the event loop; its result, or the exception it raised, comes back through `Machine.worked`."""

    tag: str
    job: Callable[[], Any] = field(repr=False)


@dataclass(frozen=True)
class Tell:
    """Show progress to this party's own operator. Never leaves the site."""

    progress: Progress


@dataclass(frozen=True)
class Finish:
    """The machine is done; `error` is None after success, else one sentence."""

    error: str | None


Effect = Send | Provide | Expect | Permit | Dial | Drop | Work | Tell | Finish


class Machine(ABC):
    """The part all roles share: the table, the phase, the list of effects."""

    role: ClassVar[Role]

    def __init__(self, identity: Identity, charter: Charter, exchange: Exchange) -> None:
        self.identity = identity
        self.name = identity.name
        self.charter = charter
        self.exchange = exchange
        self.phase = Phase.IDLE
        self.finished = False
        self._effects: list[Effect] = []
        self._handlers: dict[type[Message], Callable[[str, Any, float], None]] = self.handlers()

    # --- for a role

    @abstractmethod
    def handlers(self) -> dict[type[Message], Callable[[str, Any, float], None]]:
        """Return the handler of each kind of message this role can be sent."""

    @abstractmethod
    def start(self, now: float) -> None:
        """Begin; called once."""

    def peer_up(self, peer: str, now: float) -> None:  # noqa: B027 - many roles do not mind
        """Note that `peer` is connected and has proven who it is."""

    def peer_down(self, peer: str, reason: str, now: float) -> None:  # noqa: B027
        """Note that `peer` is not connected any more."""

    def opened(self, peer: str, incoming: Incoming, sections: tuple[memoryview, ...], now: float) -> None:
        """Take the sections of an envelope whose commitment matched."""
        raise NotImplementedError

    def transfer_failed(self, peer: str, subject: bytes, error: Misbehaviour, now: float) -> None:  # noqa: B027
        """Note that a transfer ended before its end."""

    def delivered(self, peer: str, subject: bytes, now: float) -> None:  # noqa: B027
        """Note that the last record of an outgoing envelope was handed to the lane."""

    def worked(self, tag: str, result: Any, now: float) -> None:
        """Take the result of a `Work` effect, or the exception its job raised."""
        raise NotImplementedError

    @abstractmethod
    def tick(self, now: float) -> None:
        """Act on deadlines that have passed."""

    @abstractmethod
    def next_deadline(self) -> float | None:
        """Return when `tick` has something to do, or None."""

    @abstractmethod
    def interrupt(self, reason: str, now: float) -> None:
        """Stop because this party's own operator says so; say so to the others."""

    # --- for a driver

    def receive(self, peer: str, message: Message, now: float) -> None:
        """Take a message of an introduced peer; raises a named `Misbehaviour` if it is refused."""
        before = self.phase
        self.phase = self._target(type(message), peer)
        view = self.exchange.view
        try:
            view.hear(peer, message)
            self._handlers[type(message)](peer, message, now)
        except Misbehaviour:
            view.unheard()
            self.phase = before
            raise
        view.heard()

    def take_effects(self) -> list[Effect]:
        """Return the effects since the last call, in the order in which they are to be carried out."""
        effects, self._effects = self._effects, []
        return effects

    # --- for both

    def _target(self, step: Input, peer: str | None = None) -> Phase:
        target = TABLES[self.role][self.phase].get(step)
        if target is None:
            name = step.name if isinstance(step, Step) else step.__name__
            raise IllegalMessage(f"{name} has no place at a {self.role.value} that is {self.phase.value}", party=peer)
        return target

    def move(self, step: Step) -> None:
        """Follow the table for something this party concluded itself."""
        self.phase = self._target(step)

    def effect(self, effect: Effect) -> None:
        """Queue an effect."""
        self._effects.append(effect)

    def send(self, peer: str, message: Message) -> None:
        """Queue a control message, and note what it says."""
        self.exchange.view.said(peer, message)
        self._effects.append(Send(peer, message))

    def tell(self, progress: Progress) -> None:
        """Queue a line for this party's operator."""
        self._effects.append(Tell(progress))

    def finish(self, error: str | None = None) -> None:
        """End; anything queued before is still sent."""
        if not self.finished:
            self.finished = True
            self.move(Step.DONE)
            self._effects.append(Finish(error))
