"""Invariants about what nobody may hold, open, keep or be accused of."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..crypto.errors import Misbehaviour
from ..crypto.identity import verify
from ..crypto.labels import Label, frame
from ..crypto.sealing import RoundKey, key_id
from ..protocol import limits
from ..protocol.charter import Role
from ..protocol.codec import decode_as, encode
from ..protocol.exchange import MAY_SEND, TO_AN_OWNER_THAT_HOLDS
from ..protocol.journal import Entry, Write
from ..protocol.lanes.memory_lanes import Delivery
from ..protocol.messages import (
    Abort,
    Aborted,
    Header,
    Message,
    OfferRound,
    OpenRound,
    Ready,
    Release,
    RoundOffer,
    SealedHead,
)
from ..protocol.progress import RefusedProgress
from .crashes import FaultyJournal
from .federation import OWNER

if TYPE_CHECKING:
    from .world import World
from .invariant import Invariant

SCRAP = 16
"""Bytes of a secret vector that are looked for: four weights of float32 or two of float64 do not occur by chance."""


class UpdatesStayHome(Invariant):
    """No plaintext of one update, or of a share of one, in any frame, record, journal entry, checkpoint or body."""

    why = "one update may stand open at its owner, and in what is sealed for who may read it alone, and nowhere else"

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._updates: dict[bytes, str] = {}
        self._needles: dict[bytes, str] = {}

    def encodes(self, name: str, question: OpenRound, words: bytes, update: Sequence[Any]) -> None:
        """Remember what to look for: the encoded words, and the numbers they were made of."""
        flat = np.concatenate([np.asarray(each).reshape(-1) for each in update])
        for secret in (words, flat.astype("<f4").tobytes(), flat.astype("<f8").tobytes()):
            self._remember(self._updates, secret, f"the update of {name}")

    def seals(self, name: str, header: Header, subject: bytes, key: bytes, sections: list[bytes]) -> None:
        """Remember an honest data owner's shares: vectors, and the seeds of streams."""
        if header.label is Label.CONTRIBUTION and self.world.honest(name):
            for section in sections:
                self._remember(self._needles, section, f"a share of {name}")

    def _remember(self, needles: dict[bytes, str], secret: bytes, what: str) -> None:
        if secret[:SCRAP].count(0) < SCRAP // 2 and len(secret) >= SCRAP:
            needles.setdefault(secret[:SCRAP], what)
            self._needles[secret[:SCRAP]] = needles[secret[:SCRAP]]

    def opened(self, name: str, header: Header, sections: list[bytes]) -> None:
        """Search what is opened: a share for an update, but at who can read one alone; anything else for both."""
        share = header.label is Label.CONTRIBUTION
        index = self.world.seats.index(name)
        if share and frozenset({index}) in self.world.seats.scheme.collusion_sets:
            return
        for section in sections:
            for needle, what in (self._updates if share else self._needles).items():
                if needle in section:
                    self.broken(f"{what} stands in a {header.label.value} that {name} opens")

    def _search(self, data: bytes, where: str) -> None:
        if any(map(data.__contains__, self._needles)):
            for needle, what in self._needles.items():
                if needle in data:
                    self.broken(f"{what} stands in {where}")

    def carried(self, delivery: Delivery) -> None:
        """Search what travels."""
        if self._needles and delivery.end is None:
            self._search(bytes(delivery.data), f"what {delivery.source} sends to {delivery.target}")

    def wrote(self, name: str, write: Write, entries: tuple[Entry, ...]) -> None:
        """Search what is written."""
        for entry in entries:
            self._search(encode(entry), f"{name}'s journal ({write.value})")

    def checkpointed(self, number: int, model: bytes) -> None:
        """Search the model: an aggregate over one would be it."""
        self._search(model, f"checkpoint {number}")

    def over(self) -> None:
        """Search what is left in the journals, bodies too."""
        for name, journal in self.world.journals.items():
            if isinstance(journal, FaultyJournal):
                for value in journal.contents():
                    self._search(value, f"{name}'s journal at the end")


class OnlyWhoMayOpens(Invariant):
    """A share is opened by a holder (the model owner too, if it is one), an aggregate by the model owner alone."""

    why = "what a role may hold is a table; no message may make an honest party open anything else"

    def opens(self, name: str, head: SealedHead, key: RoundKey) -> None:
        """Hold the header to the table."""
        header = decode_as(Header, head.header)
        sender, ours = self.world.roles.get(header.sender), self.world.roles[name]
        seated = {TO_AN_OWNER_THAT_HOLDS} if self.world.seats.owner is not None else set()
        if sender is None or (header.label, sender, ours) not in MAY_SEND | seated or header.recipient != name:
            self.broken(f"{name} opens a {header.label.value} of {header.sender} for {header.recipient}")


class SealedToTheOffered(Invariant):
    """An honest data owner seals only to the key that this very holder offered for that very question."""

    why = "whoever could put a key of its own in between would read the update"

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._offered: dict[tuple[bytes, str], set[bytes]] = {}

    def applies(self) -> bool:
        """Only honest secure workers: another may give its keys away."""
        return self.world.honest_workers()

    def asked(self, name: bytes, question: OpenRound) -> None:
        """A model owner with a seat offers its key with the question."""
        if self.world.seats.owner is not None:
            self._offered.setdefault((name, OWNER), set()).add(key_id(question.owner_key))

    def said(self, name: str, peer: str, message: Message) -> None:
        """Compare the key in a contribution's header with those that were offered."""
        if isinstance(message, OfferRound) and name in self.world.workers:
            offer = decode_as(RoundOffer, message.offer.statement)
            self._offered.setdefault((offer.open_round, name), set()).add(key_id(offer.key))
        elif isinstance(message, Ready):
            header = decode_as(Header, message.head.header)
            offers = self.world.honest(peer)  # a hostile model owner's questions are not known here
            if offers and header.recipient_key not in self._offered.get((header.open_round, peer), set()):
                self.broken(f"{name} seals its update to a key that {peer} did not offer")


class SignedBeforeOpened(Invariant):
    """Whatever is unwrapped bears its sender's signature over header and wrapped key, and is of the round it is in."""

    why = "a decryption is an answer to whoever can ask for it; only a signature of a party may"

    def opens(self, name: str, head: SealedHead, key: RoundKey) -> None:
        """Verify independently of the code that is about to open it."""
        header = decode_as(Header, head.header)
        party = self.world.charter.party(header.sender)
        try:
            data = frame(header.label, [head.header, head.wrapped_key])
            verify(party.signing, Label.HEADER, data, head.signature, party=header.sender)
        except Misbehaviour:
            self.broken(f"{name} opens what {header.sender} did not sign")
        if header.recipient_key != key.key_id or header.charter != self.world.charter.digest:
            self.broken(f"{name} opens an envelope for another key, or of another charter")


class KeysErased(Invariant):
    """Round keys are gone when their use is: the secure worker's before it releases, everybody's when they end."""

    why = "forward secrecy: a recording and every long-term key must open no past round"

    def has_key(self, name: str, key: RoundKey) -> None:
        """Nothing to do: the world keeps the list."""

    def said(self, name: str, peer: str, message: Message) -> None:
        """Before a release leaves, no key that opened a contribution may be left."""
        if name in self.world.workers and isinstance(message, Release):
            self._require(name, "when it releases")

    def ended(self, name: str, error: str | None) -> None:
        """At the end of a party none of its keys may be left."""
        self._require(name, "at its end")

    def _require(self, name: str, when: str) -> None:
        life = self.world.lives.get(name, 0)
        for party, of, key in self.world.keys:
            if (party, of) == (name, life) and not key.erased:
                self.broken(f"{name} still has a round key {when}")


class JournalKeepsNoSecret(Invariant):
    """No round key in any journal, but the model owner's until its aggregate is checkpointed."""

    why = "what is on a disk is found by whoever takes the disk; the one exception has an end"

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._secrets: dict[bytes, str] = {}

    def has_key(self, name: str, key: RoundKey) -> None:
        """Remember the private halves, before they are erased."""
        if not key.erased:
            self._secrets[key.secret] = name

    def wrote(self, name: str, write: Write, entries: tuple[Entry, ...]) -> None:
        """Search what is written, but for the model owner."""
        if self.world.roles[name] is not Role.MODEL_OWNER:
            for entry in entries:
                self._search(encode(entry), f"{name} writes a round key ({write.value})")

    def checkpointed(self, number: int, model: bytes) -> None:
        """Nothing yet: the key may go with the write that follows."""

    def ended(self, name: str, error: str | None) -> None:
        """At the end of a party its journal must hold none, unless a restart could still need the model owner's."""
        journal = self.world.journals.get(name)
        if isinstance(journal, FaultyJournal) and (name != OWNER or error is None):
            for value in journal.contents():
                self._search(value, f"{name}'s journal holds a round key at its end")

    def _search(self, data: bytes, text: str) -> None:
        if any(map(data.__contains__, self._secrets)):
            self.broken(text)


class NoFalseAccusation(Invariant):
    """No honest party finds that another honest one lied: no bad signature, no split view, no forged anything."""

    why = "evidence that faults can make is no evidence"

    ACCUSES: ClassVar = frozenset(
        {
            "bad-signature",
            "bad-recipient-key",
            "bad-wrapped-key",
            "commitment-mismatch",
            "malformed-message",
            "not-in-charter",
            "not-in-cohort",
            "oversized-claim",
            "split-view",
            "stranger-key",
            "unsupported-version",
            "wrong-charter",
            "wrong-label",
            "wrong-model",
            "wrong-plan",
            "wrong-role",
            "wrong-sender",
        }
    )

    def refused(self, name: str, progress: RefusedProgress) -> None:
        """Look whom it is about."""
        about = progress.text.partition(":")[0]
        if progress.code in self.ACCUSES and about in self.world.roles and self.world.honest(about):
            self.broken(f"{name} finds {progress.code} in {progress.text}")

    def said(self, name: str, peer: str, message: Message) -> None:
        """An abort must not accuse an honest party either: names in it are observations, of parties there are."""
        if isinstance(message, Aborted):
            abort = decode_as(Abort, message.abort.statement)
            if set(abort.about) - set(self.world.roles) or "\n" in abort.text:
                self.broken(f"{name} aborts about somebody who does not exist")


class BoundedMemory(Invariant):
    """No party holds more transfers than its role needs, however many are announced."""

    why = "whoever announces much must not make anybody hold much"

    def stepped(self, name: str) -> None:
        """Count what is under way."""
        party = self.world.parties.get(name)
        if party is None or not self.world.honest(name):
            return
        incoming, outgoing = len(party._transfers._in), len(party._transfers._out)
        parties = len(self.world.roles)
        seats = self.world.seats
        most_in = limits.UPLOADS_IN_FLIGHT if name in seats.workers else 1
        if name == OWNER:
            most_in = len(seats.workers) + (limits.UPLOADS_IN_FLIGHT if seats.owner is not None else 0)
        most_out = parties if name == OWNER else max(2, len(seats.holders))
        if incoming > most_in or outgoing > most_out:
            self.broken(f"{name} holds {incoming} incoming and {outgoing} outgoing transfers")
