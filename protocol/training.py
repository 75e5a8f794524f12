"""What is asked of a data owner, and how a model lies in bytes: the part of the protocol that is about learning.

Nothing here computes on tensors and nothing here loads torch. A task is a *name* on the wire; what it runs stands in
each site's own file (`site.toml`), so no code and no import path ever comes from a peer.
"""

import enum
import math
from typing import Annotated

import msgspec
from msgspec import Meta

from ..crypto.labels import Buffer, Label, digest
from . import limits

Name = Annotated[str, Meta(min_length=1, max_length=limits.NAME_LENGTH, pattern=r"^[a-z0-9][a-z0-9._-]*\Z")]
TensorName = Annotated[str, Meta(min_length=1, max_length=limits.TEXT_LENGTH)]


class UpdateKind(enum.Enum):
    """What a data owner's vector holds."""

    WEIGHTS = "weights"
    DELTA = "delta"
    GRADIENTS = "gradients"


class WeightRule(enum.Enum):
    """How much one data owner counts: the same as any other, or as many times as it has examples."""

    UNIFORM = "uniform"
    EXAMPLES = "examples"


class TrainingPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every data owner of a round runs; the same for all, signed once.

    With `batches` > 0 a data owner draws that many batches, going round its data as often as needed; with `batches`
    0 it makes `epochs` passes. For `gradients` it accumulates the gradients of those batches and takes no step.
    """

    task: Name
    kind: UpdateKind = UpdateKind.WEIGHTS
    batches: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    epochs: Annotated[int, Meta(ge=0, le=10_000)] = 1
    batch_size: Annotated[int, Meta(ge=0, le=1_000_000)] = 32
    """Examples a batch; 0 takes all of a party's examples as one batch."""
    learning_rate: Annotated[float, Meta(ge=0.0)] = 0.1
    momentum: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    clip_norm: Annotated[float, Meta(gt=0.0)] | None = None
    """When set, an update (as a difference, or a gradient) longer than this in L2 is scaled down to it, and counted."""
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    """Public; orders batches so that a run can be repeated. Protects nothing."""
    metrics: Annotated[tuple[Name, ...], Meta(max_length=16)] = ("loss", "accuracy")
    """Names of the local figures that ride inside the summed vector, weighted like the update."""

    def __post_init__(self) -> None:
        if (self.batches == 0) == (self.epochs == 0):
            raise ValueError("a training plan names either batches or epochs")
        if not all(math.isfinite(x) for x in (self.learning_rate, self.momentum, self.clip_norm or 0.0)):
            raise ValueError("a training plan's numbers must be finite")


class DType(enum.Enum):
    """The element types a layout can hold, all little-endian."""

    FLOAT64 = "float64"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT64 = "int64"
    INT32 = "int32"
    INT16 = "int16"
    INT8 = "int8"
    UINT8 = "uint8"
    BOOL = "bool"

    @property
    def size(self) -> int:
        """Bytes an element."""
        return _SIZES[self]

    @property
    def is_float(self) -> bool:
        """Whether elements are floating point."""
        return self in _FLOATS


_SIZES = {
    DType.FLOAT64: 8,
    DType.FLOAT32: 4,
    DType.FLOAT16: 2,
    DType.BFLOAT16: 2,
    DType.INT64: 8,
    DType.INT32: 4,
    DType.INT16: 2,
    DType.INT8: 1,
    DType.UINT8: 1,
    DType.BOOL: 1,
}
_FLOATS = {DType.FLOAT64, DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16}


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """One tensor of a model: its name in the state dict, type, shape, and whether an optimiser trains it."""

    name: TensorName
    dtype: DType
    shape: Annotated[tuple[Annotated[int, Meta(ge=0, le=2**40)], ...], Meta(max_length=16)]
    trainable: bool
    aliases: tuple[TensorName, ...] = ()
    """Other names of the same tensor (tied weights); the tensor travels once."""

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def in_update(self, kind: UpdateKind) -> bool:
        """Whether an update of this kind carries coordinates for this tensor.

        Gradients exist for trained tensors only. Weights and deltas carry every float tensor (running statistics
        too) and every integer tensor, the latter as a difference to the global model; a boolean has no mean and stays
        as the model owner has it.
        """
        if kind is UpdateKind.GRADIENTS:
            return self.trainable
        return self.dtype is not DType.BOOL


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tensors of a model in the order in which they lie, one after the other, in its bytes."""

    entries: Annotated[tuple[Entry, ...], Meta(min_length=1, max_length=1_000_000)]

    def __post_init__(self) -> None:
        names = [name for entry in self.entries for name in (entry.name, *entry.aliases)]
        if len(set(names)) != len(names):
            raise ValueError("a layout names a tensor twice")
        if self.model_bytes > limits.MODEL_BYTES:
            raise ValueError("a layout describes a model larger than the limit")

    @property
    def model_bytes(self) -> int:
        """Length of the model's bytes."""
        return sum(entry.elements * entry.dtype.size for entry in self.entries)

    def updated(self, kind: UpdateKind) -> tuple[Entry, ...]:
        """Return the entries an update of this kind carries, in order."""
        return tuple(entry for entry in self.entries if entry.in_update(kind))

    def coordinates(self, kind: UpdateKind) -> int:
        """Return how many coordinates an update of this kind has."""
        return sum(entry.elements for entry in self.updated(kind))

    def encode(self) -> bytes:
        """Return the canonical bytes, the ones `digest` is over."""
        return msgspec.msgpack.encode(self)

    def digest(self) -> bytes:
        """Return the 32-byte digest that headers and an OpenRound carry instead of the layout."""
        return digest(Label.LAYOUT, self.encode())


def model_digest(layout: Layout, model: Buffer) -> bytes:
    """Return the 32-byte digest that names a global model: over its layout's digest and its bytes."""
    return digest(Label.MODEL_DIGEST, layout.digest(), model)


class Score(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model did on one party's test data."""

    examples: Annotated[int, Meta(ge=0)]
    loss: float
    accuracy: float | None = None
    shares: tuple[float, ...] = ()
    """Share of predictions a class, in class order; empty where a task has no classes."""
