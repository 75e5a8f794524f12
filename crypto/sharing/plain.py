"""The scheme `plain`: the model owner opens each update, as in federated learning without a third party.

It is where the tutorials begin, to show what all other schemes take away. A charter must say why it may be used.
"""

from .base import Seat
from .trusted import Trusted


class Plain(Trusted):
    """The model owner opens each update and adds it up."""

    name = "plain"
    survives = "data owners leaving, down to the minimum cohort, which may be 1"

    @property
    def seats(self) -> tuple[Seat, ...]:
        """The one holder is the model owner."""
        return (Seat.MODEL_OWNER,)
