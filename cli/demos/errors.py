"""What can end a demo: something its operator can mend, or a party that did not do its part."""

from ...crypto.errors import Misbehaviour, Misuse


class DemoError(Misuse):
    """A demo cannot be run as it was asked for."""


class PartyFailed(Misbehaviour):
    """A party's process ended before its work was done; the sentence names it, and so does `party`."""

    def __init__(self, sentence: str, *, party: str | None = None) -> None:
        super().__init__(sentence)
        self.party = party


class StoppedByOperator(Exception):
    """A signal asked the launcher to stop; `number` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
