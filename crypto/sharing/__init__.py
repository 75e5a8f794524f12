"""Secret-sharing schemes by name. `base` says what a scheme is; each of the other files is one."""

from ..errors import UnknownScheme
from .base import Scheme
from .trusted import Trusted

_BUILT_IN: dict[str, type[Scheme]] = {Trusted.name: Trusted}


def names() -> tuple[str, ...]:
    """Return the names `scheme` knows, sorted."""
    return tuple(sorted(_BUILT_IN))


def scheme(name: str) -> Scheme:
    """Return the scheme of this name.

    Raises:
        UnknownScheme: there is none.
    """
    found = _BUILT_IN.get(name)
    if found is None:
        raise UnknownScheme(f"no scheme is called {name!r}: known are {', '.join(names())}")
    return found()
