"""Secret-sharing schemes by name.

`base` says what a scheme is; `registry` finds one, `naming` describes it and gives its digest, `wire` puts its shares
into envelopes, `halves` has parts to make one from, and `conformance` is the kit that every scheme must pass. Each of
the other files is one scheme.
"""

from .registry import chartered, names, scheme

__all__ = ["chartered", "names", "scheme"]
