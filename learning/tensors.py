"""A module's tensors as a `Layout` and bytes, and as the flat arrays of an update.

Rules of this file:
- A model's bytes are the raw little-endian bytes of its tensors, contiguous, in the order of its state dict. There is
  no framing to parse and no pickle; bytes are read only against the layout the site's own module has.
- What travels: parameters and persistent buffers. A tensor with several names (tied weights) travels once.
- What has no layout is refused by name: complex, quantised, sparse, nested, float8 and unsigned wide types, tensors
  without data, and tensors that share only part of their memory (a mean written to one would change the other).
- Values for an update are float32 (float16, bfloat16, float32) or float64 (float64, integers).
"""

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..crypto.labels import Buffer
from ..protocol import limits
from ..protocol.errors import MalformedMessage
from ..protocol.training import DType, Entry, Layout
from .errors import BadUpdate, UnsupportedTensor
from .task import Values
from .updates import exchange_type, moved_integers, require_model_length, require_same_layout

TORCH_TYPES = {
    DType.FLOAT64: torch.float64,
    DType.FLOAT32: torch.float32,
    DType.FLOAT16: torch.float16,
    DType.BFLOAT16: torch.bfloat16,
    DType.INT64: torch.int64,
    DType.INT32: torch.int32,
    DType.INT16: torch.int16,
    DType.INT8: torch.int8,
    DType.UINT8: torch.uint8,
    DType.BOOL: torch.bool,
}
_DTYPES = {theirs: ours for ours, theirs in TORCH_TYPES.items()}


def _state(module: nn.Module) -> dict[str, Tensor]:
    """Return the live tensors of the state dict, in its order; raises `UnsupportedTensor` for anything else in it."""
    live = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
    state: dict[str, Tensor] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            raise UnsupportedTensor(f"{name} is extra state, not a tensor, so it cannot travel with a model")
        if id(tensor) not in live:
            raise UnsupportedTensor(f"{name} is made by a state-dict hook, so setting it would not change the model")
        state[name] = tensor
    return state


def _dtype(name: str, tensor: Tensor) -> DType:
    """Return the layout's type for a tensor; raises `UnsupportedTensor` in one sentence that names it."""
    if nn.parameter.is_lazy(tensor):
        raise UnsupportedTensor(f"tensor {name} has no shape yet; run the lazy module once before it is used")
    if tensor.is_nested or tensor.layout is not torch.strided:
        raise UnsupportedTensor(f"tensor {name} is sparse or nested; only dense tensors can travel")
    if tensor.is_quantized:
        raise UnsupportedTensor(f"tensor {name} is quantised; train in floating point and quantise afterwards")
    if tensor.is_complex():
        raise UnsupportedTensor(f"tensor {name} is complex; hold its real and imaginary parts as two real tensors")
    if tensor.dtype not in _DTYPES:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise UnsupportedTensor(f"tensor {name} has the type {kind}, which no layout describes")
    if tensor.is_meta:
        raise UnsupportedTensor(f"tensor {name} is on the meta device and has no data")
    if len(name) > limits.TEXT_LENGTH or not name or tensor.dim() > 16:
        raise UnsupportedTensor(f"tensor {name[:60]!r} has a name or a shape longer than a layout can hold")
    return _DTYPES[tensor.dtype]


def _extent(tensor: Tensor) -> int:
    """Return how many elements lie between the first and the last of a tensor that is not empty, both counted."""
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are the same elements of the same memory."""
    if one is other:
        return True
    return (
        one.numel() > 0
        and one.data_ptr() == other.data_ptr()
        and one.dtype == other.dtype
        and one.shape == other.shape
        and one.stride() == other.stride()
        and one.device == other.device
    )


def _require_apart(tensors: list[tuple[str, Tensor]]) -> None:
    """Check that no two different tensors, and no two elements of one, share memory; raises `UnsupportedTensor`."""
    spans = []
    for name, tensor in tensors:
        if tensor.numel() == 0:
            continue
        if _extent(tensor) < tensor.numel():
            raise UnsupportedTensor(f"tensor {name} is expanded, so its elements share memory; clone it")
        start = tensor.data_ptr()
        spans.append((str(tensor.device), start, start + _extent(tensor) * tensor.element_size(), name))
    spans.sort()
    for before, after in itertools.pairwise(spans):
        if before[0] == after[0] and after[1] < before[2]:
            raise UnsupportedTensor(f"tensors {before[3]} and {after[3]} share part of their memory; clone one of them")


def _grouped(module: nn.Module) -> dict[str, tuple[Tensor, list[str]]]:
    """Return primary name -> (tensor, its other names), in state-dict order."""
    groups: dict[str, tuple[Tensor, list[str]]] = {}
    by_place: dict[tuple[int, int], list[str]] = {}
    for name, tensor in _state(module).items():
        _dtype(name, tensor)
        place = (tensor.data_ptr(), tensor.numel()) if tensor.numel() else (id(tensor), 0)
        twins = by_place.setdefault(place, [])
        first = next((twin for twin in twins if _same(groups[twin][0], tensor)), None)
        if first is None:
            twins.append(name)
            groups[name] = (tensor, [])
        else:
            groups[first][1].append(name)
    _require_apart([(name, tensor) for name, (tensor, _) in groups.items()])
    return groups


def layout_of(module: nn.Module) -> Layout:
    """Return the layout of a module's parameters and persistent buffers, in state-dict order.

    Raises:
        UnsupportedTensor: a tensor cannot travel, or the module has none.
    """
    groups = _grouped(module)
    if not groups:
        raise UnsupportedTensor("the module has no parameter and no persistent buffer, so there is nothing to send")
    state = module.state_dict(keep_vars=True)
    entries = tuple(
        Entry(
            name=name,
            dtype=_dtype(name, tensor),
            shape=tuple(tensor.shape),
            trainable=any(state[alias].requires_grad for alias in (name, *aliases)),
            aliases=tuple(aliases),
        )
        for name, (tensor, aliases) in groups.items()
    )
    try:
        layout = Layout(entries=entries)
        return msgspec.msgpack.decode(layout.encode(), type=Layout)
    except (msgspec.ValidationError, ValueError) as error:
        raise UnsupportedTensor(f"no layout describes this module: {error}") from error


def tensors_of(module: nn.Module, layout: Layout) -> list[Tensor]:
    """Return the module's live tensors, one an entry of its layout."""
    state = _state(module)
    return [state[entry.name] for entry in layout.entries]


def _raw(tensor: Tensor) -> npt.NDArray[np.uint8]:
    """Return a tensor's bytes as a fresh flat array."""
    if sys.byteorder != "little":
        raise UnsupportedTensor("a model's bytes are little-endian and this machine is not")
    if tensor.numel() == 0:
        return np.zeros(0, dtype=np.uint8)
    # a copy, because one element with an odd stride counts as contiguous and cannot be viewed as bytes
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.detach().reshape(-1))
    return flat.view(torch.uint8).numpy()


def model_to_bytes(module: nn.Module, layout: Layout) -> bytes:
    """Return the model's bytes: each tensor of `layout`, contiguous and little-endian, one after the other."""
    return b"".join(_raw(tensor).tobytes() for tensor in tensors_of(module, layout))


def read_tensors(layout: Layout, model: Buffer) -> Iterator[Tensor]:
    """Yield a fresh tensor an entry from a model's bytes.

    Raises:
        SiteFileError: the bytes are longer or shorter than the layout describes.
        MalformedMessage: a boolean tensor holds a byte other than 0 and 1.
    """
    view = memoryview(model).cast("B")
    require_model_length(layout, len(view))
    start = 0
    for entry in layout.entries:
        stop = start + entry.elements * entry.dtype.size
        if start == stop:
            yield torch.empty(entry.shape, dtype=TORCH_TYPES[entry.dtype])
            continue
        raw = np.frombuffer(view[start:stop], dtype=np.uint8).copy()
        # torch takes any other byte for granted and then behaves unpredictably
        if entry.dtype is DType.BOOL and raw.max() > 1:
            raise MalformedMessage(f"tensor {entry.name} is boolean and holds a byte other than 0 and 1")
        yield torch.from_numpy(raw).view(TORCH_TYPES[entry.dtype]).reshape(entry.shape)
        start = stop


def load_model(module: nn.Module, layout: Layout, model: Buffer) -> None:
    """Set every tensor of `module` from a model's bytes, all or none.

    Raises:
        SiteFileError: `layout` is not the module's own (names the tensor), or the length is wrong.
        MalformedMessage: a boolean tensor holds a byte other than 0 and 1.
    """
    require_same_layout(layout_of(module), layout)
    fresh = list(read_tensors(layout, model))
    set_tensors(tensors_of(module, layout), fresh)


def set_tensors(targets: list[Tensor], values: list[Tensor]) -> None:
    """Copy each value into the live tensor in its place, without a trace in autograd."""
    with torch.no_grad():
        for target, value in zip(targets, values, strict=True):
            target.copy_(value)


def to_values(entry: Entry, tensor: Tensor) -> Values:
    """Return a tensor as a fresh flat array in the type updates are exchanged in."""
    wide = torch.float32 if exchange_type(entry) is np.float32 else torch.float64
    flat = tensor.detach().cpu().to(wide, copy=True).reshape(-1).contiguous()
    values: npt.NDArray[Any] = flat.numpy()
    return values


def integer_difference(entry: Entry, local: Tensor, base: Tensor) -> Values:
    """Return local - base of an integer tensor as float64.

    Raises:
        BadUpdate: the difference is beyond 2**53, where float64 stops being exact.
    """
    ours, theirs = (t.detach().cpu().reshape(-1).to(torch.int64).numpy() for t in (local, base))
    difference = ours - theirs
    # int64 minus int64 can wrap; as floats the two agree unless it did
    wide = ours.astype(np.float64) - theirs.astype(np.float64)
    if wide.size and float(np.abs(wide).max()) > 2**53:
        raise BadUpdate(f"tensor {entry.name} moved by more than 2**53 in one round")
    values: npt.NDArray[np.float64] = difference.astype(np.float64)
    return values


def moved(entry: Entry, current: Tensor, mean: npt.NDArray[np.float64], *, add: bool) -> Tensor:
    """Return what a tensor becomes: set to `mean`, or moved by it (`add`); integers are always moved.

    The sum is taken in float64 and rounded once to the tensor's type.

    Raises:
        BadUpdate: the result is outside the range of the tensor's type.
    """
    flat = current.detach().cpu().reshape(-1)
    if not entry.dtype.is_float:
        whole = moved_integers(entry, flat.to(torch.int64).numpy(), mean)
        return torch.from_numpy(whole).to(current.dtype).reshape(current.shape)
    result = torch.from_numpy(flat.to(torch.float64).numpy() + mean if add else mean.copy()).to(current.dtype)
    if not bool(torch.isfinite(result).all()):
        raise BadUpdate(f"the aggregate of {entry.name} leaves the range of {entry.dtype.value}")
    return result.reshape(current.shape)
