"""The one source of masks: an AES-256 keystream that both ends of a 32-byte seed can make again.

Rules of this file:
- Protective randomness is this keystream or the operating system's; numpy's and torch's generators predict themselves.
- The key of a stream is BLAKE3, keyed with the seed, over its framed label and context: one seed gives unrelated
  streams for different labels. A stream never repeats, so two secrets masked at the same place of the same stream
  give away their difference: whoever calls takes a fresh seed, or another context, for each secret.
- The stream is cut into blocks of 1 MiB. Block i is what AES-256-GCM makes of 1 MiB of zeros under the nonce i (12
  bytes, big-endian), without its tag: AES-CTR from counter 2 (NIST SP 800-38D, section 7.1). OpenSSL runs GCM twice as
  fast as its CTR. The zeros are never anything else and each (key, nonce) has one keystream, so making a block twice
  tells nobody anything; the tag, which depends on the secret authentication key, never leaves the scratch buffer.
- Words are little-endian, read from the stream one after the other; any place can be reached without what is before.
- Field elements: word i of the stream, cut to the modulus's bits, is element i if it is below the modulus. Otherwise
  its place is filled from the stream with the label KEYSTREAM_REPLACEMENTS: the places to fill in block b take, in
  index order, the acceptable words of that stream's block b. By block, so that elements too can be made from anywhere.
- Erasing is best effort: Python and OpenSSL may hold copies of a key that nothing here can reach.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .errors import BadPlan, BadSeed, ErasedKeystream, WrongArray
from .labels import Buffer, Label, frame
from .ring import Field, Words

SEED_BYTES = 32
BLOCK_BYTES = 1024 * 1024
_TAG_BYTES = 16
_NONCE_BYTES = 12
_ZEROS = memoryview(bytes(BLOCK_BYTES))


class Scratch:
    """One block of working memory; whoever makes many keystreams in turn passes the same one to each."""

    def __init__(self) -> None:
        # Fresh memory costs more than the keystream in it, so this is touched only as far as a stream needs it.
        self._bytes: npt.NDArray[np.uint8] = np.empty(BLOCK_BYTES + _TAG_BYTES, np.uint8)
        self._touched = 0

    def __repr__(self) -> str:
        return "Scratch()"

    def erase(self) -> None:
        """Overwrite what keystreams left here."""
        self._bytes[: self._touched] = 0
        self._touched = 0

    def first(self, count: int) -> npt.NDArray[np.uint8]:
        """Return the first `count` bytes, at most a block and its tag, to write to."""
        self._touched = max(self._touched, count)
        return self._bytes[:count]


class Keystream:
    """The keystream of one seed for one purpose; not for use by two threads at once.

    Raises BadSeed when built with a seed that is not 32 bytes.
    """

    def __init__(self, seed: Buffer, label: Label, *context: Buffer, scratch: Scratch | None = None) -> None:
        key = bytearray(seed)
        if len(key) != SEED_BYTES:
            raise BadSeed(f"a keystream's seed is {SEED_BYTES} bytes, not {len(key)}")
        purpose = (bytes(label), *context)
        self._words: AESGCM | None = AESGCM(_derive(key, Label.KEYSTREAM, purpose))
        self._replacements: AESGCM | None = AESGCM(_derive(key, Label.KEYSTREAM_REPLACEMENTS, purpose))
        key[:] = bytes(SEED_BYTES)
        self._label = label
        self._scratch = scratch or Scratch()

    def __repr__(self) -> str:
        return f"Keystream({self._label.value!r}{', erased' if self._words is None else ''})"

    def words(self, start: int, out: Words) -> None:
        """Fill `out`, a flat '<u4' or '<u8' array, with the stream's words from word `start` on.

        Raises:
            WrongArray: `out` is another kind of array, or `start` is negative.
            ErasedKeystream: after `erase`.
        """
        _check(start, out)
        for at, words in _blocks(start, out):
            np.copyto(words, self._block(self._words, at, words.size, out.dtype))

    def add_into(self, total: Words, start: int = 0) -> None:
        """Add the stream's words from word `start` on to `total` in place, modulo 2^32 ('<u4') or 2^64 ('<u8').

        Raises:
            WrongArray: `total` is not a flat array of words, or `start` is negative.
            ErasedKeystream: after `erase`.
        """
        _check(start, total)
        for at, words in _blocks(start, total):
            np.add(words, self._block(self._words, at, words.size, total.dtype), out=words)

    def subtract_from(self, total: Words, start: int = 0) -> None:
        """Undo `add_into`; the same arguments and errors."""
        _check(start, total)
        for at, words in _blocks(start, total):
            np.subtract(words, self._block(self._words, at, words.size, total.dtype), out=words)

    def elements(self, field: Field, start: int, out: Words) -> None:
        """Fill `out`, a flat array of words of the field's size, with uniform field elements from element `start` on.

        Raises:
            WrongArray: `out` is another kind of array, or `start` is negative.
            BadPlan: the field rejects so many words that a block of replacements is too short. Never for those of a
                plan, which reject 5 words in 2^32 and one in 2^61.
            ErasedKeystream: after `erase`.
        """
        _check(start, out)
        if out.dtype.itemsize * 8 != field.word_bits:
            raise WrongArray(f"elements of this field lie in words of {field.word_bits} bits, not in {out.dtype}")
        mask = out.dtype.type((1 << field.modulus.bit_length()) - 1)
        for at, words in _blocks(start, out):
            block, offset = divmod(at, BLOCK_BYTES // out.dtype.itemsize)
            # Rejected places before these in the same block take the first replacements, so they are made as well.
            drawn = self._block(self._words, at - offset, offset + words.size, out.dtype)
            np.bitwise_and(drawn, mask, out=drawn)
            np.copyto(words, drawn[offset:])
            rejected = np.flatnonzero(drawn >= field.modulus)
            if rejected.size:
                accepted = self._accepted(block, field, mask, out.dtype)[: rejected.size]
                if accepted.size < rejected.size:
                    raise BadPlan("this field rejects too many words of its size")
                here = rejected >= offset
                words[rejected[here] - offset] = accepted[here]

    def erase(self) -> None:
        """Forget the key and overwrite the scratch; best effort. Any later use raises ErasedKeystream. Idempotent."""
        self._words = self._replacements = None
        self._scratch.erase()

    def _accepted(self, block: int, field: Field, mask: np.unsignedinteger[Any], dtype: np.dtype[Any]) -> Words:
        count = BLOCK_BYTES // dtype.itemsize
        drawn = self._block(self._replacements, block * count, count, dtype) & mask
        accepted: Words = drawn[drawn < field.modulus]
        return accepted

    def _block(self, cipher: AESGCM | None, start: int, count: int, dtype: np.dtype[Any]) -> Words:
        """Return the `count` words from `start` on, all in one block, in the scratch: valid until the next call."""
        if cipher is None:
            raise ErasedKeystream("this keystream was erased")
        block, offset = divmod(start * dtype.itemsize, BLOCK_BYTES)
        end = offset + count * dtype.itemsize
        scratch = self._scratch.first(end + _TAG_BYTES)
        cipher.encrypt_into(block.to_bytes(_NONCE_BYTES, "big"), _ZEROS[:end], None, scratch.data)
        words: Words = scratch[offset:end].view(dtype)
        return words


def _derive(seed: bytearray, stream: Label, purpose: tuple[Buffer, ...]) -> bytes:
    return blake3(frame(stream, purpose), key=seed).digest()


def _check(start: int, out: Words) -> None:
    if out.dtype not in (np.dtype("<u4"), np.dtype("<u8")) or out.ndim != 1 or not out.flags.writeable:
        raise WrongArray(f"a keystream fills a flat, writable array of words, not {out.ndim}-d {out.dtype}")
    if start < 0:
        raise WrongArray("a keystream begins at word 0")


def _blocks(start: int, out: Words) -> list[tuple[int, Words]]:
    """Return, for each block of the stream that `out` meets, the first word's index and that part of `out`."""
    size = BLOCK_BYTES // out.dtype.itemsize
    cuts = [start, *range((start // size + 1) * size, start + out.size, size), start + out.size]
    return [(a, out[a - start : b - start]) for a, b in pairwise(cuts) if b > a]
