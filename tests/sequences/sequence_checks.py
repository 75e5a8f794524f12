"""What whoever attacks says about the check of a sum: made out of what was seen, with the keys it holds."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sequence_known import HOLDS
from sequence_world import DATA_OWNERS
from tertium.crypto.fingerprint import MODULUS, neighbours
from tertium.protocol.check_messages import (
    Answered,
    Challenge,
    Checked,
    MaskedFingerprint,
    MaskKey,
    MaskKeys,
    MaskSeeds,
    OfferMaskKey,
    SumCheck,
    SumState,
)
from tertium.protocol.codec import decode_as
from tertium.protocol.context import RoundContext
from tertium.protocol.messages import CloseList, Message, Purpose, Release, Signed
from tertium.protocol.session import contributor_set
from tertium.protocol.verification import challenge_of
from tertium.simulation.federation import OWNER, THIRD

if TYPE_CHECKING:
    from sequence_attack import Attacker

Maker = Callable[[str, str], Message | None]


class Checks:
    """Makes the messages of a check for one attacker."""

    def __init__(self, attacker: "Attacker") -> None:
        self._by = attacker

    def makers(self) -> dict[type[Message], Maker]:
        """Return what makes each kind: given whom it is for, and from whom it comes."""
        return {
            OfferMaskKey: lambda _, peer: self._offer(peer),
            MaskKeys: lambda target, _: self._keys(target),
            MaskSeeds: self._seeds,
            Challenge: lambda target, _: self._challenge(),
            Answered: lambda _, peer: self._answer(peer),
            Checked: lambda target, _: self._outcome(),
        }

    def _set(self) -> tuple[str, ...]:
        """Return the set of some Close list, or one that could be."""
        closed = self._held("Closed", CloseList)
        if closed and self._by.chance.random() < 0.9:
            return tuple(closed[-1].contributors)
        return tuple(sorted(self._by.chance.sample(DATA_OWNERS, 3)))

    def _held(self, message: str, kind: Any) -> list[Any]:
        """Return the statements in all messages of this name that were said, oldest first."""
        found = []
        for each, said in self._by.seen.items():
            if each.__name__ == message:
                field = HOLDS[each][0]
                found += [decode_as(kind, getattr(one, field).statement) for _, _, one in said]
        return found

    def _signed_keys(self) -> dict[str, Signed]:
        said = self._by.seen.get(OfferMaskKey, ())
        return {one.key.signer: one.key for _, _, one in said}  # type: ignore[attr-defined]

    def _offer(self, peer: str) -> Message | None:
        asked = self._by._recent(Purpose.TRAIN)
        if asked is None:
            return None
        said = MaskKey(asked[2], contributor_set(self._set()), peer, self._by._key().public, self._by._nonce())
        return OfferMaskKey(key=self._by._signed(peer, said))

    def _keys(self, target: str) -> Message | None:
        known, names = self._signed_keys(), self._set()
        if target not in names:
            return MaskKeys(keys=tuple(known.values())[:3])
        return MaskKeys(keys=tuple(known[name] for name in neighbours(names, target) if name in known))

    def _seeds(self, target: str, peer: str) -> Message | None:
        asked, known = self._by._recent(Purpose.TRAIN), self._signed_keys()
        if asked is None or not self._by.hostile:
            return None
        context = RoundContext.of(asked[0], asked[2])
        heads = []
        for name in (each for each in self._set() if (each < target) or peer != OWNER):
            by = name if name in self._by.exchanges else self._by.chance.choice(self._by.hostile)
            to = target if target in DATA_OWNERS else self._by.chance.choice(DATA_OWNERS)
            if by in DATA_OWNERS and to in known:
                key = decode_as(MaskKey, known[to].statement).key
                heads.append(self._by.exchanges[by].seal_seed(context, to, key)[0])
        return MaskSeeds(heads=tuple(heads))

    def _challenge(self) -> Message | None:
        released = [one.head for _, _, one in self._by.seen.get(Release, ())]  # type: ignore[attr-defined]
        known = {name: decode_as(MaskKey, signed.statement) for name, signed in self._signed_keys().items()}
        if not released:
            return None
        nonces = tuple(known[name].nonce if name in known else self._by._nonce() for name in self._set())
        return Challenge((THIRD,), (released[-1],), nonces)

    def _last_challenge(self) -> bytes:
        asked = self._by.seen.get(Challenge)
        if not asked or self._by.chance.random() < 0.1:
            return self._by._nonce()
        _, _, message = asked[-1]
        return challenge_of(message.releases, message.nonces)  # type: ignore[attr-defined]

    def _answer(self, peer: str) -> Message | None:
        asked = self._by._recent(Purpose.TRAIN)
        if asked is None:
            return None
        value = self._by.chance.randrange(MODULUS)
        said = MaskedFingerprint(asked[2], self._last_challenge(), peer, value)
        return Answered(fingerprint=self._by._signed(peer, said))

    def _outcome(self) -> Message | None:
        asked, chance = self._by._recent(Purpose.TRAIN), self._by.chance
        if asked is None:
            return None
        given = {one.fingerprint.signer: one.fingerprint for _, _, one in self._by.seen.get(Answered, ())}  # type: ignore[attr-defined]
        answers = tuple(given[name] for name in sorted(given))
        values = [decode_as(MaskedFingerprint, each.statement).value for each in answers]
        state = chance.choice(list(SumState))
        silent = tuple(name for name in self._set() if name not in given)
        said = SumCheck(asked[2], state, self._last_challenge(), sum(values) % MODULUS, silent)
        if chance.random() < 0.3:
            said, answers = SumCheck(asked[2], SumState.UNVERIFIED, silent=self._set()), ()
        return Checked(check=self._by._signed(OWNER, said), answers=answers)
