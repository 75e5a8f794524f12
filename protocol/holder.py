"""What every holder of shares does with uploads: a secure worker, or a model owner that has a seat."""

from abc import abstractmethod

from ..crypto.errors import BadWrappedKey
from ..crypto.identity import Identity
from .charter import Charter
from .errors import AlreadyContributed, IllegalMessage
from .exchange import Exchange, Incoming
from .intake import Intake
from .machine import Drop, Expect, Machine, Permit
from .messages import Ready, Receipted, Refusal
from .progress import RefusedProgress
from .seats import Seats


class HolderMachine(Machine):
    """A machine that may take shares, while it has an intake."""

    def __init__(self, identity: Identity, charter: Charter, exchange: Exchange) -> None:
        super().__init__(identity, charter, exchange)
        self._seats = Seats(charter)
        self._intake: Intake | None = None

    @abstractmethod
    def _note_share(self, peer: str, commitment: bytes) -> None:
        """Write down that a share is here, before its receipt is sent."""

    def _take_ready(self, peer: str, message: Ready, intake: Intake) -> None:
        """Admit an announced share, or send again the receipt of one that is here."""
        try:
            receipt = intake.admit(peer, message.head, message.receipts)
        except AlreadyContributed:
            # A data owner that was restarted may not know what it had sent; this tells it, and nothing else.
            done = intake.added.get(peer)
            if done is not None and done.receipt is not None:
                self.send(peer, Receipted(receipt=done.receipt))
            raise
        if receipt is not None:
            self.send(peer, Receipted(receipt=receipt))
            return
        self._start_uploads()

    def _start_uploads(self) -> None:
        """Start what there is a buffer for; a data owner whose wrapped key does not open is told, the others go on."""
        while self._intake is not None:
            try:
                upload = self._intake.next_upload()
            # Somebody else's upload that ended may be what starts this one: it must not answer for it, nor we.
            except (BadWrappedKey, IllegalMessage) as error:
                self.tell(RefusedProgress(code=error.code, text=str(error)))
                if error.party is not None:
                    self.send(error.party, Refusal(code=error.code, about=self._intake.open_round))
                continue
            if upload is None:
                return
            sender, incoming, replaced = upload
            if replaced is not None and replaced != incoming.subject:
                self.effect(Drop(replaced))
            self.effect(Expect(sender, incoming))
            self.effect(Permit(sender, incoming.subject))

    def _take_share(self, peer: str, incoming: Incoming, sections: tuple[memoryview, ...]) -> None:
        """Take an opened share, sign its receipt, make room for the next."""
        intake = self._intake
        if intake is None or incoming.header.open_round != intake.open_round:
            return
        receipt = intake.take(peer, incoming, sections)
        receipted = Receipted(receipt=intake.give_receipt(peer, receipt))
        # The receipt is in the view ledger with the share's own note, in one transaction, and is said after it.
        self.exchange.view.said(peer, receipted)
        self._note_share(peer, incoming.header.commitment)
        self.effect(Drop(incoming.subject))
        self.send(peer, receipted)
        self._start_uploads()
