"""Which secure workers a session is without, and whether it can go on.

Where the scheme needs fewer secure workers than there are (`Seats.quorum` before the set is closed, `Seats.enough`
after), one that is gone is waited for as long as a data owner, and then the rest go on: before the set is closed in
another attempt, whose question names it (`OpenRound.without`), and after it in the same one. It is asked again in the
first round that begins with it here.
"""

from abc import abstractmethod

from ..crypto.identity import Identity
from ..protocol import limits
from ..protocol.charter import Charter
from ..protocol.errors import WrongOpenRound
from ..protocol.exchange import Exchange
from ..protocol.holder import HolderMachine
from ..protocol.messages import Cause, OpenRound, Purpose
from ..protocol.progress import Said
from ..protocol.rounds import Phase
from .asking import Asking

BEFORE_CLOSE = (Phase.OFFERING, Phase.COLLECTING)


class MissingHolders(HolderMachine):
    """What a model owner's machine knows of who is here and who is gone."""

    def __init__(self, identity: Identity, charter: Charter, exchange: Exchange) -> None:
        super().__init__(identity, charter, exchange)
        self._holders = tuple(party.name for party in charter.secure_workers)
        self._connected: set[str] = set()
        self._lost: dict[str, tuple[float, str]] = {}
        self._nonces: dict[str, bytes] = {}
        """Of the holders that the session was opened with, in the charter's order."""
        self._mute_holders: set[str] = set()
        """Holders that let a deadline pass over the connection that is up, where the rest could go on."""
        self._asking: Asking | None = None
        self._deadline: float | None = None

    @abstractmethod
    def _ask_again(self, asked: OpenRound, why: str, now: float) -> None:
        """Give an attempt up for another one."""

    @abstractmethod
    def _fail(self, cause: Cause, text: str, about: tuple[str, ...] = ()) -> None:
        """End the session."""

    def _open_question(self, peer: str) -> Asking:
        if self._asking is None:
            raise WrongOpenRound("answers a question that is not open", party=peer)
        return self._asking

    def _too_many_lost(self) -> list[str]:
        """Return the holders that are gone, if without them what is under way cannot go on."""
        if self.phase in (Phase.CONNECTING, Phase.ENDED):
            return []
        asking, seats = self._asking, self._seats
        asked = asking.question.present if asking is not None else tuple(self._nonces) or self._holders
        lost = [holder for holder in asked if holder in self._lost]
        needed, there = seats.quorum, len(asked) - len(lost)
        if asking is not None and self.phase not in BEFORE_CLOSE:
            needed = seats.enough
            there += len(asking.opened.intersection(lost)) if needed < len(self._holders) else 0
        return lost if there < needed else []

    def _go_on_without(self, now: float) -> bool:
        """Ask anew without holders that are gone for long, or were here until the deadline and did not close."""
        asking = self._asking
        if asking is None or self.phase not in BEFORE_CLOSE or asking.question.purpose is not Purpose.TRAIN:
            return False
        present = set(asking.question.present)
        gone = present & self._gone(now)
        if not gone and self._deadline is not None and now >= self._deadline:
            gone = self._mute_now(asking, present - set(self._lost))
        if not gone or len(present - gone) < self._seats.quorum:
            return False
        names = ", ".join(sorted(gone))
        if asking.question.attempt + 1 >= limits.ATTEMPTS:
            self._fail(Cause.TIMEOUT, f"nothing from {names} as seen by {self.name}, in {limits.ATTEMPTS} attempts")
            return True
        self._mute_holders |= gone - set(self._lost)
        self.tell(Said(text=f"round {asking.question.round}: going on without {names}", warning=True))
        self._ask_again(asking.question, f"{names} gone", now)
        return True

    def _gone(self, now: float) -> set[str]:
        """Return who is lost for `ABSENCE`; by the sum `next_deadline` gives, or rounding would part the two."""
        return {name for name, (since, _) in self._lost.items() if now >= since + limits.ABSENCE}

    def _mute_now(self, asking: Asking, here: set[str]) -> set[str]:
        """Return who of these said nothing of what the phase waits for, though others did."""
        said = set(asking.offers) if self.phase is Phase.OFFERING else set(asking.lists)
        return here - said if said else set()

    def _receives_without(self) -> bool:
        """Give up, at the deadline, waiting for the totals that are not here; False if there are too few."""
        asking = self._open_question(self.name)
        asking.failed |= set(asking.question.present) - asking.opened
        return not asking.hopeless

    def _without(self, now: float) -> tuple[str, ...] | None:
        """Return which holders of the session the next attempt does without; None while one may still come back."""
        out = []
        for name in self._nonces:
            if name in self._mute_holders:
                out.append(name)
            elif name not in self._connected:
                if name in self._lost and name not in self._gone(now):
                    return None
                out.append(name)
        return tuple(out) if len(self._nonces) - len(out) >= self._seats.quorum else None

    @property
    def _holders_here(self) -> bool:
        """Whether enough holders are connected: of the session, once there is one."""
        return len(self._connected.intersection(self._nonces or self._holders)) >= self._seats.quorum
