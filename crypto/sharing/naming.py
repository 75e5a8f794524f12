"""What is said of a scheme: its declaration, its digest, and its trust and cost in words.

The digest is BLAKE3 over the declaration (a struct, in msgpack) and the source of every module that the scheme's class
and its ancestors stand in, `base` excepted, and of those it names in `modules`; in the order of their names, with line
ends as \\n. It depends on no path, no time and no machine, so parties with the same release have the same one. It tells
one release from another; it proves nothing about a party that changes its own program.
"""

import importlib
import inspect
from collections.abc import Sequence
from math import comb
from pathlib import Path

import msgspec

from ..errors import BadScheme
from ..labels import Label, digest
from .base import INTERFACE, Domain, Kind, Scheme, Seat

CONTRIBUTORS = (
    "In every mode, all other contributors of a released set together can read one update: they know their own updates "
    "and see the next model."
)
NOT_STOPPED = (
    "A model owner that crafts the weights it sends to everybody: imprint or trap weights recover inputs from a sum of "
    "any size.",
    "Differencing over rounds with different models.",
)
REMEDY = "The remedy for both is clipping with noise, which is not built yet."


class Declaration(msgspec.Struct, frozen=True):
    """All that a scheme declares, for one number of holders and one threshold."""

    interface: int
    name: str
    version: int
    domain: Domain
    holders: int
    threshold: int
    total_vectors: int
    seats: tuple[Seat, ...]
    collusion_sets: tuple[tuple[int, ...], ...]
    forms: tuple[tuple[tuple[Kind, ...], ...], ...]
    """By turn, from 0 to `holders` - 1, then by holder."""


def declare(scheme: Scheme) -> Declaration:
    """Return what a scheme declares, in a fixed order."""
    holders = range(scheme.holders)
    return Declaration(
        interface=INTERFACE,
        name=scheme.name,
        version=scheme.version,
        domain=scheme.domain,
        holders=scheme.holders,
        threshold=scheme.threshold,
        total_vectors=scheme.total_vectors,
        seats=tuple(scheme.seats),
        collusion_sets=tuple(sorted(tuple(sorted(each)) for each in scheme.collusion_sets)),
        forms=tuple(tuple(tuple(scheme.form(holder, turn)) for holder in holders) for turn in holders),
    )


def modules(scheme: Scheme) -> tuple[str, ...]:
    """Return the names of the modules whose source is part of the digest, sorted."""
    own = {each.__module__ for each in type(scheme).__mro__ if issubclass(each, Scheme) and each is not Scheme}
    return tuple(sorted(own | set(scheme.modules)))


def scheme_digest(scheme: Scheme) -> bytes:
    """Return 32 bytes that name the scheme as it is here: declaration and source.

    Raises:
        BadScheme: the source of a module is not there to be read.
    """
    parts = [msgspec.msgpack.encode(declare(scheme))]
    for name in modules(scheme):
        parts += [name.encode(), _source(name)]
    return digest(Label.SCHEME, *parts)


def who(scheme: Scheme, holders: frozenset[int], names: Sequence[str] = ()) -> str:
    """Return a set of holders in words, by their seats, and by `names` where there are some for the secure workers."""
    workers = [index for index in sorted(holders) if scheme.seats[index] is Seat.SECURE_WORKER]
    among = scheme.seats.count(Seat.SECURE_WORKER)
    parts = []
    if workers and among == 1:
        parts.append("the secure worker")
    elif workers:
        numbers = [names[index] if names else str(index) for index in workers]
        last = f" and {numbers[-1]}" if numbers[1:] else ""
        parts.append(f"secure worker{'s' if last else ''} {', '.join(numbers[:-1]) if last else numbers[0]}{last}")
    if len(workers) < len(holders):
        parts.append("the model owner")
    return " with ".join(parts)


def collusion_words(scheme: Scheme, names: Sequence[str] = ()) -> str:
    """Return who can read one update, in words; `names` are the secure workers', in the order of their seats."""
    sets = scheme.collusion_sets
    workers = all(seat is Seat.SECURE_WORKER for seat in scheme.seats)
    sizes = {len(each) for each in sets}
    if workers and len(sets) == 1 and sizes == {scheme.holders} and scheme.holders > 1:
        return (
            "both secure workers together" if scheme.holders == 2 else f"all {scheme.holders} secure workers together"
        )
    if workers and len(sizes) == 1 and len(sets) > 1:
        (size,) = sizes
        if len(sets) == comb(scheme.holders, size):
            return f"any {size} of the {scheme.holders} secure workers together"
    return "; or ".join(who(scheme, each, names) for each in sorted(sets, key=lambda each: (len(each), sorted(each))))


def _source(name: str) -> bytes:
    try:
        path = inspect.getsourcefile(importlib.import_module(name))
        if path is None:
            raise OSError("no source file")
        return Path(path).read_bytes().replace(b"\r\n", b"\n")
    except (ImportError, TypeError, OSError) as error:
        raise BadScheme(f"the source of {name} cannot be read, so the scheme has no digest: {error}") from None
