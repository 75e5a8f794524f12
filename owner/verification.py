"""The check of one sum, as the model owner conducts it: what has come, and what is to be said next.

It relays keys and seeds between contributors, which it cannot read, while the totals are on their way; once those are
open it shows everybody one challenge and collects the answers. Nothing here waits: `verifying.py` has the deadlines.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..crypto import fingerprint
from ..crypto.errors import Misbehaviour
from ..crypto.ring import Words
from ..protocol.charter import Charter
from ..protocol.check_messages import Challenge, MaskKey, MaskKeys, MaskSeeds
from ..protocol.errors import IllegalMessage, SplitView, WrongOpenRound, WrongSender
from ..protocol.messages import Message, SealedHead, Signed
from ..protocol.session import contributor_set
from ..protocol.verification import challenge_of, earlier, later, read_answers

Outbox = list[tuple[str, Message]]
"""Messages, and to whom."""


@dataclass(frozen=True)
class Summed:
    """What the work thread says about the totals: their sum, and which of them are not in it."""

    total: Words | None = field(repr=False)
    """None if they contradict each other, or make what no honest contributors can."""
    fingerprint: int | None
    """Of the sum; None without a challenge, or without a sum."""
    contradicted: tuple[int, ...] = ()
    """Holders, by the scheme's number."""
    wrong: str = ""
    """Why there is no sum."""


@dataclass
class Verification:
    """The check of the sum of one closed set."""

    charter: Charter
    open_round: bytes
    contributors: tuple[str, ...]
    keys: dict[str, tuple[Signed, MaskKey]] = field(default_factory=dict)
    seeds: dict[str, dict[str, SealedHead]] = field(default_factory=dict)
    """By who sealed them, then by whom they are for."""
    answers: dict[str, Signed] = field(default_factory=dict)
    values: dict[str, int] = field(default_factory=dict)
    gone: dict[str, float] = field(default_factory=dict)
    """Since when a contributor owes us something over a connection that was lost, or is new."""
    question: Challenge | None = None
    challenge: bytes | None = None
    silent: tuple[str, ...] | None = None
    """Who had not answered when no more was waited for."""
    summing: bool = False
    sum: Summed | None = None
    recovering: bool = False
    """Whether the totals are searched for those that lie."""
    _releases: Mapping[str, SealedHead] | None = None
    _shown: bool = False
    _passed_on: bool = False

    # --- what comes

    def take_key(self, signed: Signed, said: MaskKey) -> None:
        """Take a contributor's key, opened and verified; one for another sum is left aside."""
        if said.open_round != self.open_round or said.party not in self.contributors:
            return
        if said.contributors != contributor_set(self.contributors):
            raise WrongOpenRound("offers a key for the masks of another sum", party=said.party)
        if self.keys.setdefault(said.party, (signed, said))[0] != signed:
            raise SplitView("offers two keys for the masks of one sum", party=said.party)
        self.gone.pop(said.party, None)

    def take_seeds(self, peer: str, heads: tuple[SealedHead, ...]) -> None:
        """Take the seeds a contributor sealed; whom they are for is known by their place, and they check them."""
        if not self._shown or peer not in self.contributors:
            raise IllegalMessage("sends seeds for masks that nobody asked for", party=peer)
        wanted = later(self.contributors, peer)
        if len(heads) != len(wanted):
            raise WrongSender("sends other seeds than one for each neighbour after it", party=peer)
        # Sent again over a new connection: those that were passed on stay.
        self.seeds.setdefault(peer, dict(zip(wanted, heads, strict=True)))
        self.gone.pop(peer, None)

    def fix(self, releases: Mapping[str, SealedHead]) -> None:
        """Note whose totals make the sum: the challenge follows from their heads."""
        self._releases = releases

    def take_answer(self, peer: str, signed: Signed) -> None:
        """Take a contributor's masked fingerprint."""
        if self.challenge is None:
            raise IllegalMessage("answers a challenge that nobody gave", party=peer)
        if signed.signer != peer:
            raise WrongSender("passes on somebody else's answer", party=peer)
        if self.answers.setdefault(peer, signed) != signed:
            raise SplitView("answers one challenge twice", party=peer)
        try:
            self.values |= read_answers(
                self.charter, self.open_round, self.challenge, self.contributors, [signed], shown_by=peer
            )
        except Misbehaviour:
            del self.answers[peer]
            raise
        self.gone.pop(peer, None)

    # --- what is next

    def due(self) -> Outbox:
        """Return what is to be said now, each once."""
        out: Outbox = []
        if self.silent is not None:
            return out
        if not self._shown and set(self.keys) == set(self.contributors):
            self._shown = True
            out += [(name, self._keys_for(name)) for name in self.contributors]
        if not self._passed_on and set(self.seeds) == set(self.contributors):
            self._passed_on = True
            out += [(name, self._seeds_for(name)) for name in self.contributors]
        if self._passed_on and self._releases is not None and self.question is None:
            nonces = tuple(self.keys[name][1].nonce for name in self.contributors)
            self.question = Challenge(tuple(self._releases), tuple(self._releases.values()), nonces)
            self.challenge = challenge_of(self.question.releases, nonces)
            out += [(name, self.question) for name in self.contributors]
        return out

    def again(self, peer: str) -> Outbox:
        """Return what a contributor was told and may have missed."""
        out: Outbox = []
        if self._shown and peer not in self.seeds:
            out.append((peer, self._keys_for(peer)))
        if self._passed_on and peer not in self.values:
            out.append((peer, self._seeds_for(peer)))
            if self.question is not None:
                out.append((peer, self.question))
        return out

    @property
    def whole(self) -> bool:
        """Whether every contributor has answered."""
        return set(self.values) == set(self.contributors)

    @property
    def missing(self) -> tuple[str, ...]:
        """Whom the check waits for, sorted."""
        come = self.values if self._passed_on else self.seeds if self._shown else self.keys
        return tuple(name for name in self.contributors if name not in come)

    def _keys_for(self, name: str) -> MaskKeys:
        return MaskKeys(keys=tuple(self.keys[each][0] for each in fingerprint.neighbours(self.contributors, name)))

    def _seeds_for(self, name: str) -> MaskSeeds:
        return MaskSeeds(heads=tuple(self.seeds[each][name] for each in earlier(self.contributors, name)))
