"""Invariants about what parties could work out together from everything they ever held.

Held is what a party opened, and what was sealed to a key it has, whether or not it was let open it; what is in clear
anywhere is `UpdatesStayHome`'s. A total counts once it is on its way. Rules of the file:
- Coalitions are all there are, but for those that a scheme declares: one that holds a collusion set of `Scheme`, and,
  for an update in a released set, one of all other contributors of it.
- Whoever is hostile is in every coalition: it could tell the others what it holds.
- What is known stays known, so only the largest coalitions are tried: all parties without some holders, as few as it
  takes, and without two data owners, one of them the one that is asked about. Of all others those know a part.
- Every released sum is known to everybody: the next model shows it.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..crypto.labels import Label
from ..crypto.sealing import RoundKey, key_id
from ..protocol.codec import decode_as
from ..protocol.lanes.memory_lanes import Delivery
from ..protocol.messages import Header, Message, OpenRound, Release
from .shares import PRIME, Form, Unknown, reaches

if TYPE_CHECKING:
    from .world import World
from .invariant import Invariant


class NoUpdateDerivable(Invariant):
    """No parties without a declared collusion set among them hold what, combined, says anything of one update alone."""

    why = "no single party, and no coalition but the declared ones: that is what a scheme is chosen for"

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._keys: dict[bytes, set[str]] = defaultdict(set)
        """Who has a round key, by its name."""
        self._pieces: list[tuple[bytes | str, bytes]] = []
        """A key or a party that can read it, and a piece."""
        self._held: list[tuple[bytes | str, Form]] = []
        self._sealed: dict[bytes, tuple[bytes, list[Form]]] = {}
        """By subject: totals that are not on their way yet."""
        self._totals: dict[bytes, frozenset[Unknown]] = {}
        """By subject: what honest secure workers have added up."""
        self._public: list[Form] = []
        self._released: list[frozenset[Unknown]] = []
        self._checked: set[bytes] = set()

    # --- what is held

    def has_key(self, name: str, key: RoundKey) -> None:
        """Note who has a key; once it is there it may have been kept."""
        self._keys[key.key_id].add(name)

    def seals(self, name: str, header: Header, subject: bytes, key: bytes, sections: list[bytes]) -> None:
        """Note what whoever has the key can read."""
        if header.label is Label.CONTRIBUTION:
            self._pieces += [(key_id(key), piece) for piece in sections]
        elif header.label is Label.AGGREGATE and sections:
            dealt, total = self.world.dealt, b"".join(sections)
            splits = dealt.total(header.open_round, name, total)
            if splits is None and self.world.honest(name):
                self.broken(f"{name} seals a total that no shares it was given add up to")
            self._sealed[subject] = (key_id(key), dealt.total_forms(header.open_round, name, total))
            if splits is not None and self.world.honest(name):
                self._totals[subject] = frozenset(split.update for split in splits)

    def carried(self, delivery: Delivery) -> None:
        """A total of which a record is on its way is in the hands of whoever has the key."""
        if delivery.end is None and delivery.wire.subject in self._sealed:
            key, forms = self._sealed.pop(delivery.wire.subject)
            self._held += [(key, form) for form in forms]

    def opened(self, name: str, header: Header, sections: list[bytes]) -> None:
        """Note what a party really read, whatever was sealed."""
        if header.label is Label.CONTRIBUTION:
            self._pieces += [(name, piece) for piece in sections]
        elif header.label is Label.AGGREGATE and sections:
            forms = self.world.dealt.total_forms(header.open_round, header.sender, b"".join(sections))
            self._held += [(name, form) for form in forms]

    def applied(self, open_round: bytes, question: OpenRound, total: Any, contributors: int) -> None:
        """The next model shows the sum to everybody."""
        summed = self.world.dealt.summed(open_round, total)
        self._public.append(dict.fromkeys(summed, 1))
        self._release(summed)

    def _release(self, summed: frozenset[Unknown]) -> None:
        # Of fewer than the minimum nothing is declared.
        if len(summed) >= self.world.scenario.minimum and summed not in self._released:
            self._released.append(summed)

    # --- what follows from it

    def said(self, name: str, peer: str, message: Message) -> None:
        """Before the first byte of a release: it must not be the first that shows too much."""
        if isinstance(message, Release):
            self._release(self._totals.get(message.head.subject, frozenset()))
            question = decode_as(Header, message.head.header).open_round
            if question not in self._checked:
                self._checked.add(question)
                self._check()

    def over(self) -> None:
        """Try everything that anybody held."""
        self._check()

    def _check(self) -> None:
        self._settle()
        for coalition in self.coalitions():
            for victim in self.derives(coalition):
                self.broken(f"{', '.join(sorted(coalition))} together can work out something of {victim}'s update")
                return

    def coalitions(self) -> Iterator[frozenset[str]]:
        """Yield the largest coalitions in which nothing may be derivable but what is declared."""
        world = self.world
        everybody, liars = frozenset(world.roles), world.scenario.liars
        honest = [name for name in world.scenario.data_owners if name not in liars]
        holders = frozenset(world.seats.holders)
        for some in self._unprivileged():
            if liars.isdisjoint(holders - some):
                for two in itertools.combinations(honest, 2):
                    yield everybody - (holders - some) - set(two)

    def allowed(self, coalition: frozenset[str]) -> bool:
        """Whether a coalition holds no declared collusion set, and has whoever is hostile in it."""
        liars = self.world.scenario.liars
        return not any(each <= coalition for each in self._sets()) and liars <= coalition

    def _sets(self) -> list[frozenset[str]]:
        seats = self.world.seats
        return [frozenset(seats.holders[index] for index in each) for each in seats.scheme.collusion_sets]

    def _unprivileged(self) -> list[frozenset[str]]:
        holders = self.world.seats.holders
        sizes = range(len(holders) + 1)
        some = [frozenset(each) for size in sizes for each in itertools.combinations(holders, size)]
        some = [each for each in some if not any(declared <= each for declared in self._sets())]
        return [each for each in some if not any(each < other for other in some)]

    def derives(self, coalition: frozenset[str]) -> list[str]:
        """Return of whose updates outside a coalition it can work out something that is not declared."""
        self._settle()
        known = [form for who, form in self._held if coalition & ({who} if isinstance(who, str) else self._keys[who])]
        rows: list[Form] = []
        seen = set()
        for form in known + self._public:
            row = {unknown: factor for unknown, factor in form.items() if unknown.party not in coalition}
            if row and (name := frozenset(row.items())) not in seen:
                seen.add(name)
                rows.append(row)
        victims = sorted({unknown.party for row in rows for unknown in row} - self.world.scenario.liars)
        return [name for name in victims if self._derives(rows, name, coalition)]

    def _derives(self, rows: list[Form], name: str, coalition: frozenset[str]) -> bool:
        declared = {
            update
            for summed in self._released
            for update in summed
            if update.party == name and {each.party for each in summed} - {name} <= coalition
        }
        left = [{unknown: factor for unknown, factor in row.items() if unknown not in declared} for row in rows]
        about = frozenset(each for row in left for each in row if each.update and each.party == name)
        return reaches(left, about, next((split.prime for split in self.world.dealt.splits if split.prime), PRIME))

    def _settle(self) -> None:
        """Find out what the pieces are made of, once all that were dealt with them are there."""
        pieces, self._pieces = dict.fromkeys(self._pieces), []
        for who, piece in pieces:
            split = self.world.dealt.origin(piece)
            form = None if split is None else split.form(piece)
            if form is not None:
                self._held.append((who, form))
            elif split is not None and self.world.honest(split.party):
                self.broken(
                    f"a share of {split.party} is nothing that its vector and the seeds dealt with it would make"
                )


class FreshRandomness(Invariant):
    """No seed is in two splits of an honest data owner, of different rounds or of two attempts at one."""

    why = "two vectors hidden by one stream show their difference; a scheme hides a split only with streams of its own"

    def over(self) -> None:
        """Compare all splits."""
        used: set[bytes] = set()
        for split in self.world.dealt.splits:
            if self.world.honest(split.party):
                seeds = split.seeds()
                if seeds & used:
                    self.broken(f"{split.party} hides two splits with one seed")
                used |= seeds
