"""Between the totals and the step: the sum is combined, and checked against its contributors' fingerprints.

A sum that cannot be checked, because somebody is silent, is applied and called unverified; one that fails is not, and
unless the totals show which of them lie the session ends, signed, with everybody named who can have lied. The relaying
before it (`verification.py`) runs while the totals are fetched, so that a round waits for one question and its answers.
"""

from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from ..crypto import ring
from ..crypto.errors import ImplausibleSum, Misbehaviour
from ..crypto.fingerprint import agree, fingerprint
from ..crypto.ring import Words
from ..crypto.sharing.recovery import recover_sum
from ..protocol import limits
from ..protocol.check_messages import Answered, Checked, MaskSeeds, OfferMaskKey, SumCheck, SumState
from ..protocol.codec import encode
from ..protocol.errors import TooLate, WrongSender
from ..protocol.machine import Work
from ..protocol.messages import Cause, OpenRound
from ..protocol.progress import Said
from ..protocol.rounds import Step
from ..protocol.seats import Seats
from ..protocol.statements import sign
from ..protocol.verification import open_mask_key
from .asking import Asking, Outcome
from .session import OwnerSession
from .verification import Outbox, Summed, Verification

_NAMED: Final = 8


class VerifyingOwner(OwnerSession):
    """What a model owner's machine is while it checks a sum."""

    @abstractmethod
    def _apply_sum(self, asking: Asking, total: Words, now: float) -> None:
        """Take the step, on the work thread."""

    # --- relaying, from the closed set on

    def _begin_verification(self, asking: Asking, now: float) -> None:
        """Begin the check of the set that has closed, with the keys that have come already."""
        verification = asking.verification = Verification(self.charter, asking.name, asking.contributors)
        verification.gone = {name: self._lost[name][0] for name in asking.contributors if name in self._lost}
        for signed, said in self._mask_keys.values():
            try:
                verification.take_key(signed, said)
            except Misbehaviour as error:
                # It came when nobody could know yet what it is for, so there is no message left to refuse.
                self.tell(Said(text=f"a key for masks is not used: {error}", warning=True))
        self._verify_on(asking, verification, now)

    def _on_offer_mask_key(self, peer: str, message: OfferMaskKey, now: float) -> None:
        said = open_mask_key(self.charter, message.key)
        if message.key.signer != peer:
            raise WrongSender("passes on somebody else's key", party=peer)
        checking = self._checking
        if checking is None or checking[1].open_round != said.open_round:
            # It may come before we know that the set is closed; the last one of each is kept until then.
            self._mask_keys[peer] = message.key, said
            return
        asking, verification = checking
        again = verification.again(peer) if peer in verification.keys else []
        verification.take_key(message.key, said)
        self._verify_on(asking, verification, now, again)

    def _on_mask_seeds(self, peer: str, message: MaskSeeds, now: float) -> None:
        asking, verification = self._open_verification(peer)
        verification.take_seeds(peer, message.heads)
        self._verify_on(asking, verification, now)

    def _on_answered(self, peer: str, message: Answered, now: float) -> None:
        asking, verification = self._open_verification(peer)
        verification.take_answer(peer, message.fingerprint)
        self._verify_on(asking, verification, now)

    @property
    def _checking(self) -> tuple[Asking, Verification] | None:
        """The sum that is being checked, from its closed set to the outcome."""
        asking = self._asking
        return None if asking is None or asking.verification is None else (asking, asking.verification)

    def _open_verification(self, peer: str) -> tuple[Asking, Verification]:
        if self._checking is None:
            raise TooLate("answers for a sum that nobody checks any more", party=peer)
        return self._checking

    def _note_coming_and_going(self, peer: str, now: float) -> None:
        if self._checking is not None and peer in self._checking[1].contributors:
            self._checking[1].gone[peer] = now

    # --- the sum

    def _verify(self, now: float) -> None:
        """Ask for the fingerprints, now that the totals are open."""
        self._deadline = now + self.charter.rules.deadlines.statement
        asking, verification = self._open_verification(self.name)
        verification.fix({name: asking.heads[name] for name in asking.question.present if name in asking.opened})
        self._verify_on(asking, verification, now)

    def _verify_on(self, asking: Asking, verification: Verification, now: float, again: Outbox | None = None) -> None:
        """Say what is due, and go on once nothing is missing any more."""
        asked = verification.question is not None
        for peer, message in (*(again or ()), *verification.due()):
            self.send(peer, message)
        if verification.question is not None and not asked:
            self._sum_up(asking, verification)
        self._compare(asking, verification, now)

    def _sum_up(self, asking: Asking, verification: Verification) -> None:
        """Combine the totals on the work thread, once."""
        if verification.summing:
            return
        verification.summing = True
        job = partial(_sum_up, self._seats, asking, verification.challenge)
        self.effect(Work(sum_tag(asking), job))

    def _summed(self, result: Any, now: float) -> None:
        """Take what the work thread made of the totals."""
        asking, verification = self._open_verification(self.name)
        if not isinstance(result, Summed):
            self._fail(Cause.LOCAL, f"the totals of round {asking.question.round} could not be added up: {result}")
            return
        verification.sum = result
        self._compare(asking, verification, now)

    def _compare(self, asking: Asking, verification: Verification, now: float) -> None:
        """Compare, once the sum is here and so are all answers, or no more are waited for."""
        summed, whole = verification.sum, verification.whole
        if summed is None or not (whole or verification.silent is not None):
            return
        values = tuple(verification.values.values()) if whole else None
        right = summed.total is not None and (
            values is None or (summed.fingerprint is not None and agree(values, summed.fingerprint))
        )
        if not right and not verification.recovering:
            verification.recovering, verification.sum = True, None
            job = partial(_recover, self._seats, asking.question, asking.totals, verification.challenge, values, summed)
            self.effect(Work(sum_tag(asking), job))
            return
        state = SumState.FAILED if not right else SumState.UNVERIFIED if values is None else SumState.VERIFIED
        self._end_verification(asking, verification, summed, state, now)

    def _end_verification(
        self, asking: Asking, verification: Verification, summed: Summed, state: SumState, now: float
    ) -> None:
        question = asking.question
        lying = tuple(self._seats.holders[index] for index in summed.contradicted)
        check = SumCheck(
            open_round=asking.name,
            state=state,
            challenge=verification.challenge,
            fingerprint=summed.fingerprint,
            # As they were when no more was waited for: of those, some may have spoken since, though not all.
            silent=tuple(name for name in verification.silent or () if name not in verification.values)
            if state is SumState.UNVERIFIED
            else (),
            contradicted=lying,
        )
        answers = tuple(verification.answers[name] for name in sorted(verification.answers))
        asking.verification = None
        if asking.intake is not None:
            asking.intake.forget()
        asking.outcome = outcome = Outcome(check, Checked(check=sign(self.identity, check), answers=answers))
        for name in asking.contributors:
            self.send(name, outcome.message)
        if lying:
            text = f"round {question.round}: the total of {', '.join(lying)} contradicts the sum and is not in it"
            self.tell(Said(text=text, warning=True))
        if state is not SumState.FAILED and summed.total is not None:
            self.move(Step.SUM_CHECKED)
            self._deadline = None
            self._apply_sum(asking, summed.total, now)
            return
        self._store.check(question.round, asking.name, encode(outcome.message))
        holders = [name for name in question.present if name in asking.opened]
        what = summed.wrong or "it is not what the contributors sent"
        suspects = f"{', '.join(holders)}, or a contributor ({_in_short(asking.contributors)})"
        self._fail(
            Cause.FAULT,
            f"the sum of round {question.round} is wrong: {what}; one of these lied: {suspects}",
            about=tuple(sorted({*holders, *asking.contributors})),
        )

    # --- time

    def _tick_verifying(self, now: float) -> None:
        """Go on without the answers that are missing, after the deadline or where somebody is gone for good."""
        at = self._next_verifying()
        if self._checking is None or at is None or now < at:
            return
        asking, verification = self._checking
        verification.silent = verification.missing
        self._sum_up(asking, verification)
        self._compare(asking, verification, now)

    def _next_verifying(self) -> float | None:
        """Return when no more is waited for, if something is."""
        if self._checking is None:
            return None
        _, verification = self._checking
        if verification.silent is not None or verification.whole:
            return None
        waits = [] if self._deadline is None else [self._deadline]
        missing = set(verification.missing)
        waits += [since + limits.ABSENCE for name, since in verification.gone.items() if name in missing]
        return min(waits, default=None)


def _in_short(names: tuple[str, ...]) -> str:
    """Return names for a sentence; an abort has room for few, and lists all of them apart."""
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} others"


def sum_tag(asking: Asking) -> str:
    """Return the tag of the work on a question's totals."""
    return f"sum {asking.name.hex()}"


def _sum_up(seats: Seats, asking: Asking, challenge: bytes | None) -> Summed:
    """Run on the work thread: add our own total, if we hold shares, combine, and take the sum's fingerprint."""
    question, totals = asking.question, asking.totals
    if asking.intake is not None and seats.owner is not None:
        own = asking.intake.total(asking.contributors)
        if own is not None:
            totals[seats.owner] = own
    try:
        total = seats.scheme.combiner(question.plan, question.words).combine(totals)
        ring.check_plausible(question.plan, total)
    except Misbehaviour as error:
        return Summed(None, None, wrong=error.reason)
    return Summed(total, None if challenge is None else fingerprint(total, challenge))


def _recover(
    seats: Seats,
    question: OpenRound,
    totals: Mapping[int, Words],
    challenge: bytes | None,
    values: tuple[int, ...] | None,
    summed: Summed,
) -> Summed:
    """Run on the work thread: find the totals that make the sum which the contributors' answers are of."""
    plan = question.plan

    def accept(total: Words) -> bool:
        try:
            ring.check_plausible(plan, total)
        except ImplausibleSum:
            return False
        return challenge is not None and agree(values or (), fingerprint(total, challenge))

    found = recover_sum(seats.scheme, plan, question.words, totals, None if values is None else accept)
    if found is None:
        return summed
    total, lying = found
    return Summed(total, fingerprint(total, challenge) if challenge is not None else None, lying)
