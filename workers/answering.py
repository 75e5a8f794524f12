"""What a data owner answers when the sum it is in is checked, and what it holds the outcome to.

Its vector stays here until the outcome, or until it is invited anew; the numbered steps are in `check_messages.py`.
What it sends says nothing of its vector to whoever lacks one of its masks: each is drawn from a seed that it shares
with one neighbour, sealed for that neighbour's key, and never used for two challenges. So a model owner that challenges
twice, or with nonces of its own choice, learns no more; it can only spoil its own check.

What a challenge is held to, numbered; each failure refuses it, and nothing is computed before the last:
 1. the heads in it are of enough holders, signed, for this attempt, over the very set that was closed
 2. it has one nonce a contributor, and ours in our place
 3. every neighbour before us has sealed a seed for us, with its signature
 4. it is not one too many for this sum
"""

from abc import abstractmethod
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from ..crypto.fingerprint import fingerprint, masked
from ..crypto.identity import Identity
from ..crypto.ring import Words
from ..crypto.sealing import RoundKey
from ..protocol import limits
from ..protocol.charter import Charter, Role
from ..protocol.check_messages import (
    Answered,
    Challenge,
    Checked,
    MaskedFingerprint,
    MaskKey,
    MaskKeys,
    MaskSeeds,
    OfferMaskKey,
    SumCheck,
)
from ..protocol.context import RoundContext
from ..protocol.errors import IllegalMessage, SplitView, WrongOpenRound, WrongSender
from ..protocol.ledger import DataClass
from ..protocol.machine import Work
from ..protocol.messages import CloseList, Signed
from ..protocol.progress import Said, SumChecked
from ..protocol.session import contributor_set, new_nonce
from ..protocol.statements import open_signed, sign
from ..protocol.verification import (
    challenge_of,
    check_outcome,
    check_releases,
    earlier,
    later,
    neighbours_keys,
    passed_on_by,
    read_answers,
)
from .memory import SentKept
from .witness import Sent, Witness


@dataclass
class Answering:
    """One sum that we are in, until it is checked."""

    kept: SentKept
    close: CloseList
    context: RoundContext
    words: Words = field(repr=False)
    key: RoundKey
    nonce: bytes
    offer: OfferMaskKey
    made: list[bytes] = field(default_factory=list, repr=False)
    """Seeds of the masks we add."""
    heads: MaskSeeds | None = None
    """Those seeds, sealed: sent again as they are."""
    given: list[bytes] | None = field(default=None, repr=False)
    """Seeds of the masks we take off."""
    answers: dict[bytes, Signed | None] = field(default_factory=dict)
    """By challenge; None while the fingerprint is being computed."""

    @classmethod
    def of(cls, identity: Identity, charter: Charter, kept: SentKept, close: CloseList, words: Words) -> "Answering":
        """Draw a key and a nonce for the check of the sum over this closed set."""
        key, nonce = RoundKey(), new_nonce()
        said = MaskKey(
            open_round=kept.open_round,
            contributors=contributor_set(close.contributors),
            party=identity.name,
            key=key.public,
            nonce=nonce,
        )
        context = RoundContext(charter.digest, kept.session, kept.round, kept.attempt, kept.open_round)
        return cls(kept, close, context, words, key, nonce, OfferMaskKey(key=sign(identity, said)))

    @property
    def contributors(self) -> tuple[str, ...]:
        """Who is in the sum, sorted."""
        return self.close.contributors

    def forget(self) -> None:
        """Erase key and seeds; the vector goes with its last reference."""
        self.key.erase()
        self.made.clear()
        self.given = None


class AnsweringOwner(Witness):
    """What a data owner's machine is once the set is closed."""

    role: ClassVar[Role] = Role.DATA_OWNER
    _answering: Answering | None = None

    @abstractmethod
    def holders_of(self, sent: SentKept) -> tuple[str, ...]:
        """Return the secure workers that got a share of a contribution, in the charter's order."""

    def begin_answering(self, sent: Sent, close: CloseList, words: Words) -> None:
        """Keep the vector for the check of its sum, and offer a key for it."""
        self.stop_answering()
        self._answering = Answering.of(self.identity, self.charter, sent.kept, close, words)
        self.exchange.view.drew(self._answering.key)
        self._offer_mask_key()

    def stop_answering(self) -> None:
        """Forget the sum that is being checked."""
        if self._answering is not None:
            self._answering.forget()
            self.exchange.view.erased(DataClass.UPDATE, (self.name,))
        self._answering = None

    def peer_up(self, peer: str, now: float) -> None:
        """Offer the key again over a new connection: the model owner answers with what we missed."""
        super().peer_up(peer, now)
        if peer == self.owner:
            self._offer_mask_key()

    def _offer_mask_key(self) -> None:
        if self._answering is not None and self.owner in self._connected:
            self.send(self.owner, self._answering.offer)

    # --- masks

    def _asked_about(self, peer: str) -> Answering:
        if peer != self.owner:
            raise WrongSender("checks a sum, and is not the model owner", party=peer)
        if self._answering is None:
            raise WrongOpenRound("checks a sum that this party waits for no check of", party=peer)
        return self._answering

    def _on_mask_keys(self, peer: str, message: MaskKeys, now: float) -> None:
        ours = self._asked_about(peer)
        keys = neighbours_keys(self.charter, ours.kept.open_round, ours.contributors, self.name, message.keys)
        if ours.heads is None:
            after = later(ours.contributors, self.name)
            sealed = [self.exchange.seal_seed(ours.context, neighbour, keys[neighbour]) for neighbour in after]
            ours.made = [seed for _, seed in sealed]
            ours.heads = MaskSeeds(heads=tuple(head for head, _ in sealed))
        self.send(self.owner, ours.heads)

    def _on_mask_seeds(self, peer: str, message: MaskSeeds, now: float) -> None:
        ours = self._asked_about(peer)
        before = earlier(ours.contributors, self.name)
        if len(message.heads) != len(before):
            raise IllegalMessage("passes on other seeds than one of each neighbour before us", party=peer)
        if ours.given is None:
            sealed = zip(before, message.heads, strict=True)
            with passed_on_by(peer):
                ours.given = self.exchange.open_seeds(sealed, ours.context, ours.key)
            ours.key.erase()

    # --- the challenge

    def _on_challenge(self, peer: str, message: Challenge, now: float) -> None:
        ours = self._asked_about(peer)
        present = self.holders_of(ours.kept)
        check_releases(self.charter, self.exchange, self._seats, ours.context, ours.close, present, message)  # 1
        place = ours.contributors.index(self.name)
        if len(message.nonces) != len(ours.contributors) or message.nonces[place] != ours.nonce:  # 2
            raise WrongSender("challenges without our nonce in our place", party=peer)
        if ours.given is None or ours.heads is None:  # 3
            raise IllegalMessage("challenges before it has passed on the seeds of our masks", party=peer)
        challenge = challenge_of(message.releases, message.nonces)
        answer = ours.answers.get(challenge)
        if answer is not None:
            self.send(peer, Answered(fingerprint=answer))
        elif challenge not in ours.answers:
            if len(ours.answers) >= limits.CHALLENGES:  # 4
                raise IllegalMessage(f"challenges one sum more than {limits.CHALLENGES} times", party=peer)
            ours.answers[challenge] = None
            self.effect(Work(_tag(challenge), partial(fingerprint, ours.words, challenge)))

    def _fingerprinted(self, tag: str, result: Any) -> bool:
        """Answer with a fingerprint that was computed; False if `tag` is of other work."""
        ours = self._answering
        challenge = next((each for each in (ours.answers if ours is not None else ()) if _tag(each) == tag), None)
        if ours is None or challenge is None:
            return tag.startswith(_PREFIX)
        if isinstance(result, int) and ours.given is not None:
            value = masked(result, ours.made, ours.given, challenge)
            said = MaskedFingerprint(open_round=ours.kept.open_round, challenge=challenge, party=self.name, value=value)
            answer = ours.answers[challenge] = sign(self.identity, said)
            self.send(self.owner, Answered(fingerprint=answer))
        else:
            text = f"round {ours.kept.round}: the fingerprint of our vector could not be computed: {result}"
            self.tell(Said(text=text, warning=True))
        return True

    # --- the outcome

    def _on_checked(self, peer: str, message: Checked, now: float) -> None:
        ours = self._asked_about(peer)
        check = open_signed(self.charter, message.check, SumCheck, Role.MODEL_OWNER)
        if check.open_round != ours.kept.open_round:
            raise WrongOpenRound("says what came of checking another sum", party=peer)
        values: dict[str, int] = {}
        if check.challenge is not None:
            open_round, contributors = ours.kept.open_round, ours.contributors
            values = read_answers(
                self.charter, open_round, check.challenge, contributors, message.answers, shown_by=peer
            )
        elif message.answers:
            raise IllegalMessage("shows answers to no challenge", party=peer)
        check_outcome(self.charter, ours.contributors, self._seats.holders, check, values)
        given = ours.answers.get(check.challenge) if check.challenge is not None else None
        if self.name in values and given not in message.answers:
            raise SplitView("shows an answer of ours that we did not give", party=peer)
        self.memory.check_sum(ours.kept, message.check)
        self.stop_answering()
        if self.name in check.silent and any(ours.answers.values()):
            text = f"{self.owner} says that we did not answer; our answer was late, or kept back"
            self.tell(Said(text=f"round {ours.kept.round}: {text}", warning=True))
        self.tell(SumChecked(ours.kept.round, check.state.value, check.silent, check.contradicted))


_PREFIX = "fingerprint "


def _tag(challenge: bytes) -> str:
    return _PREFIX + challenge.hex()
