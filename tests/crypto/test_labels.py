"""Labels separate purposes only if no two share bytes, and frames only if no two lists of parts do."""

import itertools
import struct

from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from tertium.crypto.labels import DIGEST_BYTES, Label, digest, frame, hasher

PARTS = st.lists(st.binary(max_size=12), max_size=4)


def test_every_label_has_bytes_of_its_own() -> None:
    # An enum makes a second member of one value an alias, which `list` and `len` do not show.
    assert len(Label.__members__) == len(list(Label))
    assert len({bytes(label) for label in Label}) == len(Label.__members__)


def test_every_label_names_the_system_and_its_version() -> None:
    for label in Label:
        assert label.value.startswith("tertium/1 ")
        assert bytes(label) == label.value.encode("ascii")


def test_a_frame_is_each_part_after_its_length() -> None:
    expected = b"".join(struct.pack(">Q", len(part)) + part for part in (b"tertium/1 hello", b"ab", b""))
    assert frame(Label.HELLO, [b"ab", b""]) == expected


@given(PARTS, PARTS)
def test_two_lists_of_parts_never_give_one_frame(one: list[bytes], other: list[bytes]) -> None:
    assert (frame(Label.HEADER, one) == frame(Label.HEADER, other)) == (one == other)
    assert (digest(Label.HEADER, *one) == digest(Label.HEADER, *other)) == (one == other)


def test_moving_a_boundary_between_parts_changes_the_frame() -> None:
    splits = [[b"abcdef"[:at], b"abcdef"[at:]] for at in range(7)]
    assert len({frame(Label.HEADER, parts) for parts in splits}) == len(splits)
    assert len({digest(Label.HEADER, *parts) for parts in splits}) == len(splits)


def test_one_content_under_two_labels_has_two_digests() -> None:
    digests = [digest(label, b"content") for label in Label]
    for one, other in itertools.combinations(digests, 2):
        assert one != other


@given(PARTS)
def test_a_digest_is_blake3_of_the_frame(parts: list[bytes]) -> None:
    assert digest(Label.KEY_ID, *parts) == blake3(frame(Label.KEY_ID, parts)).digest()
    assert len(digest(Label.KEY_ID, *parts)) == DIGEST_BYTES


def test_a_hasher_goes_on_after_its_parts() -> None:
    h = hasher(Label.COMMITMENT, b"bound")
    h.update(b"the rest")
    assert h.digest() == blake3(frame(Label.COMMITMENT, [b"bound"]) + b"the rest").digest()
