"""A release while it is attested: the statement that is to be cosigned, who has, and the record that comes of it."""

from ..crypto.identity import verify
from ..crypto.labels import Label
from ..protocol.charter import Charter
from ..protocol.errors import TooLate, WrongSender
from ..protocol.messages import Closed, Cosign, Cosignature, Release, RequestCosignature, RoundRecord, RoundStatement
from ..protocol.statements import open_signed, statement_digest
from .memory import ReleaseKept


class Attestation:
    """One release, its statement, and the cosignatures that have come."""

    def __init__(self, charter: Charter, kept: ReleaseKept) -> None:
        self._charter = charter
        self._digest = statement_digest(RoundStatement, kept.statement)
        self._signed = kept.statement
        self._cosignatures: dict[str, Cosignature] = {}
        contributors = open_signed(charter, kept.statement, RoundStatement).contributors
        self.expected = {charter.model_owner.name, *contributors}
        self.closed = Closed(close=kept.close)
        self.release = Release(head=kept.head)
        self.request = RequestCosignature(statement=kept.statement)

    @property
    def missing(self) -> set[str]:
        """Who has not cosigned yet."""
        return self.expected - set(self._cosignatures)

    def take(self, peer: str, message: Cosign) -> None:
        """Take a cosignature. Raises TooLate, WrongSender, BadSignature."""
        if message.statement != self._digest:
            raise TooLate("cosigns a statement that is not open", party=peer)
        if message.cosignature.party != peer or peer not in self.expected:
            raise WrongSender("cosigns for somebody else, or took no part", party=peer)
        key = self._charter.party(peer).signing
        verify(key, Label.ROUND_STATEMENT, self._signed.statement, message.cosignature.signature, party=peer)
        self._cosignatures[peer] = message.cosignature

    def forget(self, party: str) -> None:
        """Wait for a party's cosignature again."""
        self._cosignatures.pop(party, None)

    def record(self) -> RoundRecord:
        """Return the record of the round, as complete as it is."""
        return RoundRecord(
            statement=self._signed,
            cosignatures=tuple(self._cosignatures[name] for name in sorted(self._cosignatures)),
            absent=tuple(sorted(self.missing)),
        )
