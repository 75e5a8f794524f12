"""What `--mode NAME` stands for: a mode of the charter, and the secret-sharing scheme it runs, by one name.

A mode's own name is its scheme's. Any other scheme, built in or of an installed package, is named by its own name and
runs in mode `shared`.
"""

from dataclasses import dataclass

from ..crypto.errors import UnknownScheme, WrongHolders
from ..crypto.sharing.base import Scheme, Seat
from ..crypto.sharing.naming import scheme_digest
from ..crypto.sharing.registry import names, scheme
from ..protocol.charter import ONE_WORKER, Mode, SchemeName
from ..protocol.errors import CharterError

_OWN = {mode.value: mode for mode in Mode if mode is not Mode.SHARED}


@dataclass(frozen=True)
class Trust:
    """A mode, and the scheme that runs in it."""

    mode: Mode
    name: SchemeName
    scheme: Scheme

    @property
    def workers(self) -> int:
        """How many secure workers take part; one that holds nothing counts contributions where none is a holder."""
        return max(1, self.scheme.seats.count(Seat.SECURE_WORKER))


def choices() -> tuple[str, ...]:
    """Return every name `trust` knows."""
    return tuple(sorted({*_OWN, *names()}))


def trust(name: str, workers: int | None = None, threshold: int | None = None) -> Trust:
    """Return what a name stands for, with so many secure workers, by default the fewest.

    Raises:
        CharterError: there is no such mode or scheme.
        WrongHolders: not with so many, or not with this threshold.
    """
    try:
        fewest = scheme(name, None, None)
        owners = fewest.seats.count(Seat.MODEL_OWNER)
        empty = 1 if Seat.SECURE_WORKER not in fewest.seats else 0
        # The scheme's own sentence would be about holders, and count the model owner.
        if workers not in (None, 1) and _OWN.get(name) in ONE_WORKER:
            raise WrongHolders(f"mode {name} has one secure worker, not {workers}")
        holders = None if workers is None else workers + owners - empty
        made = scheme(name, holders, threshold)
    except UnknownScheme:
        raise CharterError(f"there is no mode {name[:40]!r}: known are {', '.join(choices())}") from None
    mode = _OWN.get(name, Mode.SHARED)
    # What is built in is named by its version; of another package's the very source is.
    digest = scheme_digest(made).hex() if not type(made).__module__.startswith("tertium.") else None
    return Trust(mode, SchemeName(name=name, version=made.version, digest=digest, threshold=threshold), made)
