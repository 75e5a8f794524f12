"""Merkle trees of RFC 6962: what a log that only grows is committed to, and proofs about it.

Rules of the file:
- Hashing is SHA-256 after one byte, 0x00 for a leaf and 0x01 for a node (RFC 6962, section 2.1), and not BLAKE3 under a
  label like every other digest of the system: whoever checks a proof with a program of somebody else needs the standard
  as it stands. What a root is for is said by the label of the statement that is signed over it.
- No leaf is kept here. A `Tree` has the roots of its largest complete subtrees, one a bit of its size; that is all the
  next leaf needs.
- A subtree is complete if it has 2^level leaves and begins at a multiple of that; its root never changes again. Each is
  complete with one leaf, the last of its own, and `Tree.append` returns those a leaf completes. Stored with that leaf
  they are `Nodes`, from which a proof about any past size takes a few reads and hashes for each bit of it.
- A proof has exactly one length for its tree, so verifiers look at that first; a longer one costs them nothing.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from .errors import BadProof, NotInTree
from .labels import Buffer

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
LARGEST: Final = 2**53
"""Most leaves of a tree; a proof then has no more than 54 hashes."""

Nodes = Callable[[int, int], bytes]
"""Gives the root of a complete subtree by its level and its number among those of that level, from 0."""

_sha256 = hashlib.sha256


def leaf_hash(data: Buffer) -> bytes:
    """Return the 32-byte hash of a leaf."""
    return _sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the 32-byte hash of an inner node."""
    return _sha256(b"\x01" + left + right).digest()


def last_leaf(level: int, number: int) -> int:
    """Return the index of the leaf that completes a subtree, and with which it is stored."""
    return ((number + 1) << level) - 1


class Tree:
    """A tree that grows leaf by leaf and keeps only what its next root needs."""

    __slots__ = ("_peaks", "_size")

    def __init__(self) -> None:
        self._size = 0
        self._peaks: list[bytes] = []

    @classmethod
    def resume(cls, size: int, nodes: Nodes) -> "Tree":
        """Return the tree of the first `size` leaves, from stored subtrees; raises `NotInTree` beyond 2^53."""
        _check_size(size)
        tree = cls()
        tree._size = size
        tree._peaks = [nodes(level, number) for level, number in _peaks(0, size)]
        return tree

    @property
    def size(self) -> int:
        """How many leaves it has."""
        return self._size

    def append(self, leaf: bytes) -> list[bytes]:
        """Take the hash of the next leaf; return the roots of the subtrees it completes, from itself upwards."""
        completed, peaks, rest = [leaf], self._peaks, self._size
        while rest & 1:
            leaf = _sha256(b"\x01" + peaks.pop() + leaf).digest()
            completed.append(leaf)
            rest >>= 1
        peaks.append(leaf)
        self._size += 1
        return completed

    def root(self) -> bytes:
        """Return the 32-byte root (MTH of RFC 6962)."""
        return _joined(self._peaks)

    def __repr__(self) -> str:
        return f"Tree({self._size})"


def inclusion_proof(index: int, size: int, nodes: Nodes) -> list[bytes]:
    """Return the audit path of a leaf in the tree of the first `size` leaves (PATH, RFC 6962, section 2.1.1).

    Raises:
        NotInTree: that tree has no such leaf.
    """
    _check_size(size)
    if not 0 <= index < size:
        raise NotInTree(f"a tree of {size} has no leaf {index}")
    path, begin, end = [], 0, size
    while end - begin > 1:
        middle = begin + _left(end - begin)
        if index < middle:
            path.append(_root(middle, end, nodes))
            end = middle
        else:
            path.append(_root(begin, middle, nodes))
            begin = middle
    return path[::-1]


def consistency_proof(old: int, new: int, nodes: Nodes) -> list[bytes]:
    """Return the proof that the first `old` leaves of `new` are those of the tree of `old` (PROOF, section 2.1.2).

    Raises:
        NotInTree: `old` is none, or more than `new`.
    """
    _check_size(new)
    if not 0 < old <= new:
        raise NotInTree(f"there is no proof that a tree of {old} grew to {new}")
    path, begin, end = [], 0, new
    while end != old:
        middle = begin + _left(end - begin)
        if old <= middle:
            path.append(_root(middle, end, nodes))
            end = middle
        else:
            path.append(_root(begin, middle, nodes))
            begin = middle
    if begin:
        path.append(_root(begin, end, nodes))
    return path[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf with the hash `leaf` is at `index` of the tree of `size` with this root.

    Raises:
        BadProof: it is not shown: another leaf, place, size or root, or a hash too many, too few or altered.
    """
    if not 0 <= index < size <= LARGEST:
        raise BadProof(f"a tree of {size} has no leaf {index}")
    inner = _apart(index, size)
    _check_hashes(proof, inner + (index >> inner).bit_count())
    _check_hashes((leaf, root), 2)
    found = _up(leaf, proof[:inner], index)
    for hashed in proof[inner:]:
        found = node_hash(hashed, found)
    if found != root:
        raise BadProof(f"the proof does not lead from leaf {index} to the root of {size}")


def verify_consistency(old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes) -> None:
    """Check that the tree of `new` with `new_root` begins with the leaves of the tree of `old` with `old_root`.

    Nothing can be shown about an empty tree, since every tree begins with it; a proof from one is refused.

    Raises:
        BadProof: it is not shown: another size or root, or a hash too many, too few or altered.
    """
    if not 0 < old <= new <= LARGEST:
        raise BadProof(f"a tree of {old} does not grow to {new}")
    if old == new:
        _check_hashes(proof, 0)
        if old_root != new_root:
            raise BadProof(f"two trees of {old} have different roots")
        return
    # The proof starts at the last complete subtree of the old tree, which is all of it if its size is a power of two.
    level = (old & -old).bit_length() - 1
    whole = old == 1 << level
    inner = _apart(old - 1, new) - level
    border = ((old - 1) >> (inner + level)).bit_count()
    _check_hashes(proof, (0 if whole else 1) + inner + border)
    _check_hashes((old_root, new_root), 2)
    first, *path = (old_root, *proof) if whole else proof
    index = (old - 1) >> level
    # From one list of hashes both roots must follow: the old one from those to the left, the new one from all.
    before = first
    for at, hashed in enumerate(path):
        if at >= inner or index >> at & 1:
            before = node_hash(hashed, before)
    if before != old_root:
        raise BadProof(f"the proof does not lead to the root of {old}")
    after = _up(first, path[:inner], index)
    for hashed in path[inner:]:
        after = node_hash(hashed, after)
    if after != new_root:
        raise BadProof(f"the proof does not lead to the root of {new}")


def _left(count: int) -> int:
    """Return the largest power of two below `count`, which is at least 2: how many leaves are to the left of a root."""
    return 1 << ((count - 1).bit_length() - 1)


def _peaks(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield level and number of the complete subtrees of the leaves from `begin` to `end`, the largest first."""
    while begin < end:
        level = (end - begin).bit_length() - 1
        yield level, begin >> level
        begin += 1 << level


def _root(begin: int, end: int, nodes: Nodes) -> bytes:
    """Return the root of the leaves from `begin`, a multiple of the largest complete subtree among them, to `end`."""
    return _joined([nodes(level, number) for level, number in _peaks(begin, end)])


def _joined(peaks: Sequence[bytes]) -> bytes:
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for peak in peaks[-2::-1]:
        root = node_hash(peak, root)
    return root


def _apart(index: int, size: int) -> int:
    """Return how many levels up the path of a leaf meets that of the last; above it nothing is to the right."""
    return (index ^ (size - 1)).bit_length()


def _up(hashed: bytes, path: Sequence[bytes], index: int) -> bytes:
    for at, beside in enumerate(path):
        hashed = node_hash(beside, hashed) if index >> at & 1 else node_hash(hashed, beside)
    return hashed


def _check_size(size: int) -> None:
    if not 0 <= size <= LARGEST:
        raise NotInTree(f"no tree has {size} leaves")


def _check_hashes(hashes: Sequence[bytes], count: int) -> None:
    if len(hashes) != count:
        raise BadProof(f"a proof of {len(hashes)} hashes where {count} are needed")
    if any(len(each) != HASH_BYTES for each in hashes):
        raise BadProof(f"a hash that is not {HASH_BYTES} bytes long")
