"""Why there is nothing to audit, what cannot be read or written of it, and why a file of evidence shows nothing."""

from ..crypto.errors import Misbehaviour, Misuse


class UnusableRun(Misuse):
    """There is nothing to audit: no folder, or no ledger in it that can be read."""


class UnusableEvidence(Misuse):
    """A file of evidence cannot be read or written."""


class UnusableCapture(Misuse):
    """A capture of packets, or a pattern to look for in it, cannot be read or is beyond a limit."""


class NotShown(Misbehaviour):
    """A file of evidence does not show the violation it names."""


class UnwritablePage(Misuse):
    """The page of a report cannot be written where it is to go."""
