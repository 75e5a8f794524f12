"""A model owner that has the signing key of one secure worker too, and tries to get two sums of one model.

Rules of the file:
- It is the real machine, which never takes a step and asks about one model again and again: in other attempts, rounds
  and sessions, without this holder or that, over other cohorts, and with invitations that some never get.
- In its accomplice's name it signs whatever helps: lists that leave some out, other ones to other holders; and a Close
  list of every set that anybody else has signed. The accomplice's own machine is honest and knows of none of this.
- It passes on signatures in every combination that makes a quorum, and some that make none; at once, or only when the
  next attempt or another session has begun.
- What it does next is drawn from the generator it is given, so a run repeats exactly. It learns nothing from a total:
  whether one is released over a second set is for the invariants to say.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec

from ..crypto.identity import Identity
from ..owner.asking import Asking
from ..owner.questions import next_attempt
from ..protocol import limits
from ..protocol.charter import Role
from ..protocol.codec import decode_as, encode
from ..protocol.messages import (
    Abort,
    Aborted,
    Cause,
    Closed,
    CloseList,
    Closes,
    Contribution,
    Cosignature,
    HolderList,
    Listed,
    Lists,
    OfferSession,
    OpenRound,
    ProposeRound,
    Purpose,
    Refusal,
    Release,
    RequestCosignature,
    RequestSession,
    RoundRecord,
    SessionOffer,
    Signed,
)
from ..protocol.rounds import Phase, Step
from ..protocol.session import new_nonce
from ..protocol.statements import open_signed, sign

MOVES = (3, 9)
"""Least and most changes of what is asked."""
WAITS = (1.0, 4.0, 25.0)
"""Simulated seconds an attempt is given; the longest is for those whose invitation was withheld."""
SOON = 0.02
ANSWER = 5.0


@dataclass
class SignedSet:
    """One set that somebody has signed a Close list of, in one attempt."""

    open_round: bytes
    present: tuple[str, ...]
    held_back: bool
    """Whether nobody is shown it until later."""
    signatures: dict[str, Cosignature] = field(default_factory=dict)
    shown: set[tuple[str, tuple[str, ...]]] = field(default_factory=set)
    """Who was shown which signers."""


def conspires(kind: type[Any]) -> type[Any]:
    """A model owner that signs in a secure worker's name too, to have one model summed over two sets."""

    class Conspires(kind):  # type: ignore[misc]
        accomplice: Identity
        chance: Random
        _asking: Asking | None
        _unfinished: OpenRound | None
        _nonces: dict[str, bytes]
        _round: int

        def conspire(self, accomplice: Identity, chance: Random) -> None:
            """Take the accomplice's key, and the generator that decides; before the first step."""
            self.accomplice, self.chance = accomplice, chance
            self._moves = chance.randint(*MOVES)
            self._move_at: float | None = None
            self._wanted: tuple[str, ...] = ()
            self._uninvited: set[str] = set()
            self._holds_back = False
            self._sets: dict[bytes, SignedSet] = {}
            self._proposals: list[Signed] = []

        # --- a session

        def _request_session(self, now: float) -> None:
            self._nonce, self._nonces, self._session = new_nonce(), {}, None
            out = self._some_holder(0.4)
            self._wanted = tuple(name for name in self._holders if name not in out)
            self._move_at = now + ANSWER
            for holder in self._wanted:
                self.send(holder, RequestSession(owner_nonce=self._nonce))

        def _on_offer_session(self, peer: str, message: OfferSession, now: float) -> None:
            offer = open_signed(self.charter, message.offer, SessionOffer, Role.SECURE_WORKER)
            if self.phase is not Phase.OPENING or offer.owner_nonce != self._nonce:
                return
            self._nonces[peer] = offer.holder_nonce
            if set(self._nonces) >= set(self._wanted):
                self._session_opened(now)

        # --- asking

        def _next(self, now: float) -> None:
            self._asking, again = None, self._unfinished
            here = [name for name in self._data_owners if name in self._connected]
            least = self.charter.rules.minimum_cohort
            self._move_at = now + ANSWER
            if len(here) < least or (again is None and not self._nonces):
                return
            self._unfinished = None
            out = self._some_holder(0.6 if len(self._nonces) > self._seats.quorum else 0.05)
            without = tuple(name for name in self._nonces if name in out)
            if again is not None:
                asked = next_attempt(self.identity, again, without)
            else:
                size = len(here) if self.chance.random() < 0.6 else self.chance.randint(least, len(here))
                cohort = tuple(sorted(self.chance.sample(here, size)))
                asked = self._new_question(Purpose.TRAIN, self._round + 1, cohort, without)
            self._uninvited = {name for name in asked[0].cohort if self.chance.random() < 0.15}
            self._move_at = now + (WAITS[-1] if self._uninvited else self.chance.choice(WAITS))
            self._holds_back = self.chance.random() < 0.5
            self._proposals.append(asked[1])
            self._propose(asked, now)

        def _some_holder(self, share: float) -> set[str]:
            """Return nobody, or a holder to do without; in rare cases two, which is too many."""
            if self.chance.random() >= share:
                return set()
            others = [name for name in self._holders if name != self.accomplice.name or self.chance.random() < 0.3]
            return set(self.chance.sample(others, 1 if self.chance.random() < 0.95 else 2))

        def _invite(self, now: float) -> None:
            asking = self._open_question(self.name)
            for party in asking.question.cohort:
                if party not in self._uninvited:
                    self.send(party, self._invitation(asking))

        # --- lists

        def _on_listed(self, peer: str, message: Listed, now: float) -> None:
            asking = self._open_question(peer)
            asking.take_list(peer, message.list)
            ours, present = self.accomplice.name, asking.question.present
            if set(present) - {*asking.lists, ours}:
                return
            if ours in asking.lists or ours not in present or self.chance.random() < 0.3:
                self._deal_lists(asking)

        def _deal_lists(self, asking: Asking) -> None:
            ours, present = self.accomplice.name, asking.question.present
            variants = [self._variant(asking, share) for share in self.chance.sample((1.0, 0.5, 0.0), 2)]
            for holder in present:
                said = {**asking.lists, ours: self.chance.choice(variants)}
                if holder == ours and self.chance.random() < 0.7:
                    said |= asking.lists
                if self.chance.random() < 0.9:
                    self.send(holder, Lists(lists=tuple(said[name] for name in present)))

        def _variant(self, asking: Asking, share: float) -> Signed:
            """Return a list in the accomplice's name of a share of what it counted, and now and then of one more."""
            ours, chance, known = self.accomplice.name, self.chance, asking.lists.get(self.accomplice.name)
            real = (
                {}
                if known is None
                else {each.party: each for each in decode_as(HolderList, known.statement).contributions}
            )
            counted = [name for name, by in self._seats.counted_by(asking.question).items() if by == ours]
            if chance.random() < 0.05:
                real |= {name: Contribution(name, bytes(limits.DIGEST)) for name in counted if name not in real}
            listed = {name for name in real if chance.random() < share}
            rest = tuple(sorted(set(counted) - listed))
            where = chance.randrange(3)
            said = HolderList(
                open_round=asking.name,
                holder=ours,
                contributions=tuple(real[name] for name in sorted(listed)),
                declined=rest if where == 0 else (),
                missing=rest if where == 1 else (),
                added=self._beyond(asking, known),
            )
            return sign(self.accomplice, said)

        def _beyond(self, asking: Asking, known: Signed | None) -> tuple[str, ...]:
            """Say as a rule that nobody is in the accomplice's total whom it does not count, or the truth, or a lie."""
            chance = self.chance.random()
            if chance < 0.85:
                return ()
            if chance < 0.9 and known is not None:
                return decode_as(HolderList, known.statement).added
            names = self.chance.sample(asking.question.cohort, self.chance.randint(1, len(asking.question.cohort)))
            return tuple(sorted(names))

        # --- Close lists

        def _on_closed(self, peer: str, message: Closed, now: float) -> None:
            close = open_signed(self.charter, message.close, CloseList, Role.SECURE_WORKER)
            ours = msgspec.structs.replace(close, holder=self.accomplice.name)
            asking = self._asking
            known = self._sets.get(encode(ours))
            if known is None:
                if asking is None or asking.name != close.open_round:
                    return
                known = SignedSet(asking.name, asking.question.present, self._holds_back)
                known.signatures[ours.holder] = _cosignature(sign(self.accomplice, ours))
                self._sets[encode(ours)] = known
            known.signatures[peer] = _cosignature(message.close)
            if not known.held_back:
                self._pass_on(known)
            if self.chance.random() < 0.4:
                self._show_what_was_held_back(0.7, but=close.open_round)
            if self.chance.random() < 0.1:
                self._hurry(now)

        def _pass_on(self, known: SignedSet) -> None:
            """Show signatures of a set to who signed it, and now and then to who did not."""
            signers = [name for name in known.present if name in known.signatures]
            sizes = [size for size in range(2, len(signers) + 1) if self._reaches(size)]
            groups = [group for size in sizes for group in itertools.combinations(signers, size)]
            for holder in known.present:
                if self.chance.random() > (0.8 if holder in signers and holder != self.accomplice.name else 0.1):
                    continue
                for group in groups:
                    if (holder, group) in known.shown:
                        continue
                    known.shown.add((holder, group))
                    self.send(holder, Closes(signatures=tuple(known.signatures[name] for name in group)))

        def _reaches(self, size: int) -> bool:
            return size >= self._seats.quorum or self.chance.random() < 0.2

        def _show_what_was_held_back(self, share: float, but: bytes | None = None) -> None:
            for known in self._sets.values():
                if known.open_round != but and self.chance.random() < share:
                    known.held_back = False
                    self._pass_on(known)

        # --- what others say besides

        def _on_release(self, peer: str, message: Release, now: float) -> None:
            if self.chance.random() < 0.5:
                self._hurry(now)

        def _on_request_cosignature(self, peer: str, message: RequestCosignature, now: float) -> None:
            if self.chance.random() < 0.5:
                self._cosign(peer, message.statement)

        def _on_round_record(self, peer: str, message: RoundRecord, now: float) -> None:
            pass

        def _on_aborted(self, peer: str, message: Aborted, now: float) -> None:
            abort, asking = decode_as(Abort, message.abort.statement), self._asking
            asked = (
                None if asking is None else (asking.question.session, asking.question.round, asking.question.attempt)
            )
            if (abort.session, abort.round, abort.attempt) == asked and self.chance.random() < 0.3:
                self._hurry(now)

        def _on_refusal(self, peer: str, message: Refusal, now: float) -> None:
            asking = self._asking
            if self.phase is Phase.OFFERING and asking is not None and message.about == asking.name:
                self._hurry(now)

        # --- time

        def _hurry(self, now: float) -> None:
            soon = now + SOON * self.chance.choice((1, 5, 25))
            self._move_at = soon if self._move_at is None else min(self._move_at, soon)

        def tick(self, now: float) -> None:
            if self.phase is Phase.CONNECTING:
                super().tick(now)
            elif self._move_at is not None and now >= self._move_at:
                self._move(now)

        def next_deadline(self) -> float | None:
            due: float | None = super().next_deadline() if self.phase is Phase.CONNECTING else self._move_at
            return due

        def _move(self, now: float) -> None:
            """Ask something else, and show some of what was held back before, behind it, or not at all."""
            self._moves -= 1
            if self._moves <= 0:
                self._show_what_was_held_back(1.0)
                self._fail(Cause.INTERRUPTED, "it has what it came for, or not")
                return
            before = self.chance.random() < 0.2
            if before:
                self._show_what_was_held_back(0.5)
            self._move_at = now + ANSWER
            asking: Asking | None = self._asking
            if self.phase is Phase.OPENING:
                if len(self._nonces) >= self._seats.quorum:
                    self._session_opened(now)
                else:
                    self._request_session(now)
            elif self.phase is Phase.IDLE or asking is None:
                self._next(now)
            else:
                what = self.chance.random()
                if what < 0.5 and asking.question.attempt + 1 < limits.ATTEMPTS:
                    self._ask_again(asking.question, "", now)
                elif what < 0.7:
                    self._drop_asking()
                    self._unfinished, self._round = None, self._round + 1
                    self.move(Step.GIVEN_UP)
                    self._next(now)
                else:
                    self._reopen("", now)
            if self._proposals and self.chance.random() < 0.1:
                self.send(self.chance.choice(self._holders), ProposeRound(self.chance.choice(self._proposals)))
            if not before:
                self._show_what_was_held_back(0.1)

    return Conspires


def _cosignature(signed: Signed) -> Cosignature:
    return Cosignature(party=signed.signer, signature=signed.signature)


CONSPIRACIES: dict[str, Callable[[type[Any]], type[Any]]] = {"conspires": conspires}
"""What a model owner with an accomplice may do, by name."""
