"""The one-time tickets of a listening party: granted for a subject, good for one connection, once, for a while.

- At most `limits.TICKETS_PER_PEER` grants of one peer are alive; a second grant of a subject withdraws the first.
- Presenting a wrong secret spends nothing, or a stranger who reads a subject off the path could end an honest transfer.
- The last `limits.SPENT_TICKETS` spent tickets are remembered, so that a replay is named `ReusedTicket` or
  `ExpiredTicket`; older ones are `UnknownTicket`, refused all the same.
"""

import hmac
import itertools
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from ...crypto.errors import Misbehaviour
from .. import limits
from ..errors import ExpiredTicket, LaneError, ReusedTicket, UnknownTicket
from ..ticket import Ticket


@dataclass(eq=False)
class Grant:
    """One ticket and what became of it."""

    number: int
    """Unlike the subject, never the same for two grants: it tells a withdrawn connection from its successor."""
    peer: str
    ticket: Ticket
    expires: float
    used_at: float | None = None
    connection: bytes | None = field(default=None, repr=False)
    """The lane's own handle of the open connection."""

    @property
    def subject(self) -> bytes:
        """The transfer the ticket is for."""
        return self.ticket.subject


class TicketBook:
    """All grants of one party. Times are those of `clock`, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._numbers = itertools.count(1)
        self._by_subject: dict[bytes, Grant] = {}
        self._by_number: dict[int, Grant] = {}
        self._by_peer: dict[str, dict[bytes, Grant]] = {}
        self._spent: OrderedDict[tuple[bytes, bytes], type[Misbehaviour]] = OrderedDict()

    def grant(self, peer: str, subject: bytes) -> tuple[Grant, Grant | None]:
        """Grant `subject` to `peer`; return the grant and the one it withdraws, if any.

        Raises:
            LaneError: the subject is empty or too long, or the peer has as many grants as it may have.
        """
        if not 0 < len(subject) <= limits.SUBJECT_BYTES:
            raise LaneError(f"a subject has 1 to {limits.SUBJECT_BYTES} bytes, not {len(subject)}")
        self.expire()
        theirs = self._by_peer.get(peer, {})
        if subject not in theirs and len(theirs) >= limits.TICKETS_PER_PEER:
            raise LaneError(f"{peer} has {len(theirs)} tickets already; close a transfer before granting another")
        old = self._by_subject.get(subject)
        if old is not None:
            self.end(old)
        ticket = Ticket(subject=bytes(subject), secret=os.urandom(limits.TICKET_SECRET))
        new = Grant(next(self._numbers), peer, ticket, self._clock() + limits.TICKET_LIFETIME)
        self._by_subject[subject] = self._by_number[new.number] = new
        self._by_peer.setdefault(peer, {})[subject] = new
        return new, old

    def redeem(self, subject: bytes, secret: bytes) -> Grant:
        """Use the ticket up and return its grant.

        Raises:
            UnknownTicket: never granted, or the secret is wrong.
            ExpiredTicket: past its lifetime, or withdrawn before it was used.
            ReusedTicket: used before.
        """
        self.expire()
        grant = self._by_subject.get(subject)
        if grant is not None and hmac.compare_digest(grant.ticket.secret, secret):
            if grant.used_at is not None:
                raise ReusedTicket("a bulk ticket was shown a second time")
            grant.used_at = self._clock()
            return grant
        # Spent secrets open nothing any more, so looking them up by value gives nothing away.
        if (error := self._spent.get((subject, secret))) is not None:
            raise error("a bulk ticket that is no longer good was shown")
        raise UnknownTicket("a bulk ticket that was never granted was shown")

    def by_subject(self, subject: bytes) -> Grant | None:
        """Return the live grant of `subject`."""
        return self._by_subject.get(subject)

    def by_number(self, number: int) -> Grant | None:
        """Return the live grant of that number."""
        return self._by_number.get(number)

    def alive(self) -> list[Grant]:
        """Return all live grants."""
        return list(self._by_number.values())

    def end(self, grant: Grant) -> None:
        """Withdraw a grant; its ticket is spent. Idempotent."""
        if self._by_number.pop(grant.number, None) is None:
            return
        del self._by_subject[grant.subject]
        theirs = self._by_peer[grant.peer]
        del theirs[grant.subject]
        if not theirs:
            del self._by_peer[grant.peer]
        error = ExpiredTicket if grant.used_at is None else ReusedTicket
        self._spent[(grant.subject, grant.ticket.secret)] = error
        while len(self._spent) > limits.SPENT_TICKETS:
            self._spent.popitem(last=False)

    def expire(self) -> None:
        """End every unused grant past its lifetime."""
        now = self._clock()
        for grant in [g for g in self._by_number.values() if g.used_at is None and g.expires <= now]:
            self.end(grant)
