"""Trees of RFC 6962 against the standard's own recursive definitions, published vectors, and proofs that are spoilt."""

import base64
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tertium.crypto.errors import BadProof, NotInTree
from tertium.crypto.merkle import (
    EMPTY_ROOT,
    LARGEST,
    Tree,
    consistency_proof,
    inclusion_proof,
    last_leaf,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors" / "rfc6962.json"
MANY = 40
"""Leaves of a tree of which everything is tried: past 32, and not a power of two."""


# --- the definitions of RFC 6962, section 2.1, word for word, and as slow


def mth(leaves: list[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = split(len(leaves))
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: list[bytes], whole: bool) -> list[bytes]:
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


# --- helpers


def leaves(count: int) -> list[bytes]:
    return [b"leaf %d" % index for index in range(count)]


class Log:
    """A tree with what a store keeps of it."""

    def __init__(self, count: int) -> None:
        self.tree, self.rows, self.reads = Tree(), [], 0
        self.rows = [self.tree.append(leaf_hash(leaf)) for leaf in leaves(count)]

    def node(self, level: int, number: int) -> bytes:
        self.reads += 1
        return self.rows[last_leaf(level, number)][level]


LOG = Log(MANY)
ROOTS = [mth(leaves(count)) for count in range(MANY + 1)]
INCLUSIONS = [(index, size) for size in range(1, MANY + 1) for index in range(size)]
GROWTHS = [(old, new) for new in range(1, MANY + 1) for old in range(1, new + 1)]


def refused(check: Callable[..., None], *arguments: Any) -> None:
    with pytest.raises(BadProof):
        check(*arguments)


def spoilt(proof: list[bytes], seed: int) -> list[list[bytes]]:
    """Every proof that is this one but for one thing, and none of them this one."""
    chance = random.Random(seed)
    other = chance.randbytes(32)
    found = [[*proof[:at], other, *proof[at:]] for at in range(len(proof) + 1)]
    found += [[*proof[:at], hashed, *proof[at:]] for at, hashed in enumerate(proof)]
    found += [proof[:at] + proof[at + 1 :] for at in range(len(proof))]
    for at, hashed in enumerate(proof):
        bit = chance.randrange(256)
        flipped = bytearray(hashed)
        flipped[bit // 8] ^= 1 << bit % 8
        found += [[*proof[:at], bad, *proof[at + 1 :]] for bad in (bytes(flipped), hashed[:31], hashed + b"x", b"")]
    found += [[*proof[:at], proof[at + 1], proof[at], *proof[at + 2 :]] for at in range(len(proof) - 1)]
    return [each for each in found if each != proof]


# --- the standard


def test_roots_are_those_of_the_definition() -> None:
    tree = Tree()
    assert tree.root() == ROOTS[0] == EMPTY_ROOT
    for leaf, root in zip(leaves(MANY), ROOTS[1:], strict=True):
        tree.append(leaf_hash(leaf))
        assert tree.root() == root


def test_a_leaf_gives_the_subtrees_it_completes() -> None:
    for index, row in enumerate(LOG.rows):
        assert row == [
            mth(leaves(MANY)[index + 1 - (1 << level) : index + 1])
            for level in range(8)
            if (index + 1) % (1 << level) == 0 and (1 << level) <= index + 1
        ]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 8, 31, 32, 33, MANY])
def test_a_tree_resumes_from_stored_subtrees_and_grows_on(size: int) -> None:
    tree = Tree.resume(size, LOG.node)
    assert (tree.size, tree.root()) == (size, ROOTS[size])
    for row in LOG.rows[size:]:
        assert tree.append(row[0]) == row
    assert tree.root() == ROOTS[MANY]


def test_inclusion_proofs_are_those_of_the_definition_and_verify() -> None:
    for index, size in INCLUSIONS:
        proof = inclusion_proof(index, size, LOG.node)
        assert proof == path(index, leaves(size))
        verify_inclusion(LOG.rows[index][0], index, size, proof, ROOTS[size])


def test_consistency_proofs_are_those_of_the_definition_and_verify() -> None:
    for old, new in GROWTHS:
        proof = consistency_proof(old, new, LOG.node)
        assert proof == subproof(old, leaves(new), True)
        verify_consistency(old, new, proof, ROOTS[old], ROOTS[new])


@given(st.integers(1, 3000), st.data())
@settings(max_examples=30)
def test_proofs_of_any_size_are_those_of_the_definition(size: int, data: st.DataObject) -> None:
    log, root = BIG, mth(leaves(size))
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    assert Tree.resume(size, log.node).root() == root
    shown = inclusion_proof(index, size, log.node)
    assert shown == path(index, leaves(size))
    verify_inclusion(leaf_hash(leaves(size)[index]), index, size, shown, root)
    grown = consistency_proof(old, size, log.node)
    assert grown == subproof(old, leaves(size), True)
    verify_consistency(old, size, grown, mth(leaves(old)), root)


BIG = Log(3000)


# --- what is wrong in one thing is refused


def test_no_spoilt_inclusion_proof_verifies() -> None:
    for index, size in INCLUSIONS[::5]:
        leaf, proof = LOG.rows[index][0], path(index, leaves(size))
        for bad in spoilt(proof, index):
            refused(verify_inclusion, leaf, index, size, bad, ROOTS[size])
        for other in {0, index - 1, index + 1, index ^ 2, size - 1, size, size + 1, -1} - {index}:
            refused(verify_inclusion, leaf, other, size, proof, ROOTS[size])
        for root in (ROOTS[size - 1], ROOTS[size][:31], ROOTS[size] + b"x", b"", bytes(32)):
            refused(verify_inclusion, leaf, index, size, proof, root)
        for wrong in (leaf_hash(b"another"), leaf[:31], leaf + b"x", b""):
            refused(verify_inclusion, wrong, index, size, proof, ROOTS[size])


def test_no_spoilt_consistency_proof_verifies() -> None:
    for old, new in GROWTHS[::5]:
        proof = subproof(old, leaves(new), True)
        for bad in spoilt(proof, old):
            refused(verify_consistency, old, new, bad, ROOTS[old], ROOTS[new])
        if old == new:
            refused(verify_consistency, old, new, [], ROOTS[old], ROOTS[new - 1])
            continue
        refused(verify_consistency, old, new, proof, ROOTS[new], ROOTS[old])
        refused(verify_consistency, new, old, proof, ROOTS[old], ROOTS[new])
        for root in (ROOTS[old - 1], ROOTS[old][:31], ROOTS[old] + b"x", b""):
            refused(verify_consistency, old, new, proof, root, ROOTS[new])
        for root in (ROOTS[new - 1], ROOTS[new][:31], ROOTS[new] + b"x", b""):
            refused(verify_consistency, old, new, proof, ROOTS[old], root)


def test_the_length_of_a_hash_moves_no_boundary() -> None:
    """One byte more on the left and one less on the right are the same bytes under the hash."""
    left, right = (leaf_hash(leaf) for leaf in leaves(2))
    refused(verify_inclusion, left + right[:1], 0, 2, [right[1:]], ROOTS[2])
    refused(verify_consistency, 1, 2, [right[1:]], left + right[:1], ROOTS[2])


def test_nothing_is_shown_of_an_empty_tree() -> None:
    for new in (0, 1, 5):
        refused(verify_consistency, 0, new, [], ROOTS[0], ROOTS[new])
    refused(verify_inclusion, ROOTS[0], 0, 0, [], ROOTS[0])


@pytest.mark.parametrize("size", [LARGEST + 1, 2**63, 2**200])
def test_a_size_no_log_has_is_refused_at_once(size: int) -> None:
    refused(verify_inclusion, bytes(32), 0, size, [bytes(32)] * 70, bytes(32))
    refused(verify_consistency, 1, size, [bytes(32)] * 70, bytes(32), bytes(32))
    refused(verify_consistency, size, size, [], bytes(32), bytes(32))
    with pytest.raises(NotInTree):
        Tree.resume(size, LOG.node)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (3, 3), (-1, 3), (4, 3), (0, -1), (0, LARGEST + 1)])
def test_there_is_no_proof_of_a_leaf_that_is_not_there(index: int, size: int) -> None:
    with pytest.raises(NotInTree):
        inclusion_proof(index, size, LOG.node)


@pytest.mark.parametrize(("old", "new"), [(0, 0), (0, 3), (-1, 3), (4, 3), (3, -1), (3, LARGEST + 1)])
def test_there_is_no_proof_of_a_growth_that_is_none(old: int, new: int) -> None:
    with pytest.raises(NotInTree):
        consistency_proof(old, new, LOG.node)


def test_a_leaf_behind_the_end_is_refused_whatever_the_proof_leads_to() -> None:
    """A path to a larger tree's root, shown for the size of a smaller one."""
    for index, larger in ((1, 2), (3, 4), (6, 7)):
        proof, leaf = inclusion_proof(index, larger, LOG.node), LOG.rows[index][0]
        verify_inclusion(leaf, index, larger, proof, ROOTS[larger])
        for size in range(index + 1):
            refused(verify_inclusion, leaf, index, size, proof, ROOTS[larger])


# --- what it costs


def test_a_proof_reads_a_few_hashes_and_is_short() -> None:
    """Levels of a tree of a million: 20. What is not a proof's own hash makes up the one subtree that is incomplete."""
    for size in (2048, 2999, 3000):
        for at in random.Random(1).sample(range(1, size), 50):
            for make in (inclusion_proof, consistency_proof):
                BIG.reads = 0
                proof = make(at, size, BIG.node)
                assert len(proof) <= 13
                assert BIG.reads <= 24
    largest = inclusion_proof(LARGEST // 3, LARGEST - 1, lambda *_: bytes(32))
    assert 32 * len(largest) < 2048
    assert 32 * len(consistency_proof(LARGEST // 3, LARGEST - 1, lambda *_: bytes(32))) < 2048


def test_a_tree_says_only_how_large_it_is() -> None:
    assert repr(LOG.tree) == f"Tree({MANY})"


# --- the vectors of others


COUNTED = {
    ("inclusion", False): 6,
    ("inclusion", True): 92,
    ("consistency", False): 6,
    ("consistency", True): 92,
    ("subtreeinclusion", False): 12,
    ("subtreeinclusion", True): 181,
    ("subtreeconsistency", False): 6,
    ("subtreeconsistency", True): 85,
}
"""Cases that say something of this standard, of 518: good (False) and bad of each kind, so that none drops out."""


def vectors() -> list[dict[str, Any]]:
    if not VECTORS.exists():
        pytest.skip(f"the published vectors are not beside this checkout ({'/'.join(VECTORS.parts[-3:])})")
    return json.loads(VECTORS.read_text())["cases"]


def in_bytes(case: dict[str, Any], *names: str) -> list[Any]:
    return [[base64.b64decode(each) for each in case["proof"] or []], *(base64.b64decode(case[name]) for name in names)]


def of_this_standard(kind: str, case: dict[str, Any]) -> Callable[[], None] | None:
    """The check of a case. Subtrees are of a later draft: a proof within one is a proof in a tree of its own."""
    if kind in ("inclusion", "subtreeinclusion"):
        proof, leaf, root = in_bytes(case, "leafHash", "root")
        start, end = case.get("start", 0), case.get("end", case.get("treeSize"))
        if start % (1 << (end - start - 1).bit_length()) if end > start else start:
            return None
        return lambda: verify_inclusion(leaf, case["leafIdx"] - start, end - start, proof, root)
    proof, old_root, new_root = in_bytes(case, "root1", "root2")
    # The draft has empty subtrees, of which anything may be said, and such that begin elsewhere; we have neither.
    if case.get("start", 0) or (kind == "subtreeconsistency" and not case["end"]):
        return None
    old, new = (case["size1"], case["size2"]) if kind == "consistency" else (case["end"], case["size"])
    return lambda: verify_consistency(old, new, proof, old_root, new_root)


def test_the_published_vectors_come_out_as_they_say() -> None:
    done: dict[tuple[str, bool], int] = {}
    for each in vectors():
        kind, case = each["file"].split("/")[0], each["case"]
        check = of_this_standard(kind, case)
        if check is None:
            continue
        done[kind, case["wantErr"]] = done.get((kind, case["wantErr"]), 0) + 1
        try:
            check()
        except BadProof:
            assert case["wantErr"], each["file"]
        else:
            assert not case["wantErr"], each["file"]
    assert done == COUNTED
