"""What a party holds others to: the checkpoints of their ledgers that their messages carry.

Rules of the file:
- Of what two parties say to each other in a round, the last checkpoint is verified, and that of a receipt; the first is
  compared. It is verified only if it contradicts another, or if the attempt ends and nothing verified has followed it:
  each costs as much as several entries, and a later one binds its party to all that an earlier one does.
- A ledger that is shorter than its party has signed for, or as long and another, contradicts its party's own signature.
  The message that shows it is refused, in whatever process of ours it comes, and both signatures are kept.
- Nobody is accused by a checkpoint that was not verified.
"""

from collections.abc import Mapping
from typing import Final

from ..crypto.errors import Misbehaviour
from .charter import Charter
from .check_messages import Answered, Checked
from .codec import decode_as
from .errors import IllegalMessage, SplitView, WrongCharter, WrongSender
from .ledger import Checkpoint
from .messages import (
    Aborted,
    Acceptance,
    Cosign,
    Evaluated,
    Invitation,
    Message,
    OfferRound,
    ProposeRound,
    Ready,
    Receipted,
    RoundRecord,
    SessionOver,
    Signed,
)
from .statements import open_signed

FIRST: Final = frozenset({ProposeRound, OfferRound, Invitation, Acceptance, Ready})
"""The first that one party says to another in a round."""
CARRIES: Final = FIRST | {Receipted, Answered, Cosign, Checked, RoundRecord, Evaluated, Aborted, SessionOver}
"""Messages with a checkpoint of their sender's ledger: the first and the last that two parties say to each other in a
round, and a receipt."""

Shown = tuple[Signed, Checkpoint]


class Witness:
    """What one party was shown of the others' ledgers."""

    def __init__(self, charter: Charter, held: Mapping[str, Shown]) -> None:
        """`held` has, by party, the last checkpoint that was verified; whoever calls keeps it up to date."""
        self._charter = charter
        self._held = held
        self._compared: dict[str, Shown] = {}
        self._caught: set[str] = set()
        self._contradiction: tuple[Signed, ...] = ()

    def examine(self, peer: str, signed: Signed | None, message: Message) -> Checkpoint | None:
        """Look at the checkpoint that a message of `peer` carries; return it if it was verified, and is another one.

        Raises:
            IllegalMessage: it carries none, and should.
            SplitView: its ledger is shorter than it was, or another one.
            WrongSender, WrongCharter, the errors of `open_signed`: it is no checkpoint of its own ledger.
        """
        if signed is None:
            if type(message) in CARRIES:
                raise IllegalMessage(f"{type(message).__name__} without a checkpoint of its view ledger", party=peer)
            return None
        held, compared = self._held.get(peer), self._compared.get(peer)
        if held is not None and held[0] == signed and contradicts(compared, held[1]) is None:
            return None
        if type(message) in FIRST:
            said = decode_as(Checkpoint, signed.statement, party=peer)
            self._check_whose(peer, signed, said)
            if all(contradicts(each, said) is None for each in (held, compared)):
                self._compared[peer] = signed, said
                return None
        said = open_signed(self._charter, signed, Checkpoint)
        self._check_whose(peer, signed, said)
        for each in (held, compared):
            how = contradicts(each, said)
            if how is None or each is None or (each is compared and not self._is_signed(each[0])):
                continue
            self._catch(peer, each[0], signed)
            raise SplitView(how, party=peer)
        self._compared.pop(peer, None)
        return said

    def contradiction(self) -> tuple[Signed, ...]:
        """Return, once, what the first `SplitView` of a peer was about: verified checkpoints that no one ledger has."""
        found, self._contradiction = self._contradiction, ()
        return found

    def unverified(self) -> list[tuple[str, Signed]]:
        """Return what was compared and nothing verified has followed, by party, and forget it."""
        compared, self._compared = self._compared, {}
        return [(peer, signed) for peer, (signed, _) in compared.items()]

    def _catch(self, peer: str, *signed: Signed) -> None:
        # One is enough to show it, and a hostile peer is not to fill our disk.
        if peer not in self._caught:
            self._caught.add(peer)
            self._contradiction = signed

    def _is_signed(self, signed: Signed) -> bool:
        try:
            open_signed(self._charter, signed, Checkpoint)
        except Misbehaviour:
            return False
        return True

    def _check_whose(self, peer: str, signed: Signed, said: Checkpoint) -> None:
        if not signed.signer == said.party == peer:
            raise WrongSender("shows a checkpoint of somebody else's view ledger", party=peer)
        if said.charter != self._charter.digest:
            raise WrongCharter("shows a checkpoint of another charter", party=peer)


def contradicts(earlier: Shown | None, said: Checkpoint) -> str | None:
    """Return how a checkpoint cannot be of the ledger that an earlier one is of, if that is to be seen from the two."""
    if earlier is not None and said.size < earlier[1].size:
        return f"shows a view ledger of {said.size} entries, and has signed for {earlier[1].size}"
    if earlier is not None and said.size == earlier[1].size and said.root != earlier[1].root:
        return f"has signed for two view ledgers of {said.size} entries"
    return None
