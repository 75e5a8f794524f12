"""The scheme `masked`: the secure worker adds masked updates, the model owner the masks, from their 32-byte seeds.

It is `additive` for two in which the vector never changes hands: the model owner, who is there anyway, is the second
holder, so one secure worker is enough for nobody to read an update alone. Of all masks the model owner makes one sum
while the secure worker makes one of all masked updates; the two sums add up to the sum of the updates.
"""

from .additive import Additive
from .base import Kind, Seat


class Masked(Additive):
    """The secure worker holds updates less a mask, the model owner the masks' seeds."""

    name = "masked"
    fewest = most = 2
    survives = "data owners leaving, down to the minimum cohort"

    @property
    def seats(self) -> tuple[Seat, ...]:
        """Holder 0 is the secure worker, holder 1 the model owner."""
        return (Seat.SECURE_WORKER, Seat.MODEL_OWNER)

    def form(self, holder: int, turn: int) -> tuple[Kind, ...]:
        """Return one vector for the secure worker and one seed for the model owner, at every turn."""
        return (Kind.VECTOR if holder == 0 else Kind.SEED,)
