"""What ties everything that is sealed, noted and refused to one attempt at one round."""

from dataclasses import dataclass

from .messages import OpenRound


@dataclass(frozen=True)
class RoundContext:
    """One attempt at one round, under one charter."""

    charter: bytes
    session: bytes
    round: int
    attempt: int
    open_round: bytes

    @classmethod
    def of(cls, question: OpenRound, open_round: bytes) -> "RoundContext":
        """Return the context of `question`, whose signed bytes have the digest `open_round`."""
        return cls(question.charter, question.session, question.round, question.attempt, open_round)
