"""A model owner's checkpoint: one safetensors file with the model and what the server optimiser remembers.

The model's tensors stand under their own names, so any safetensors reader loads the model. The optimiser's stand under
`optimiser::INDEX::NAME`, INDEX counting the trained tensors in layout order. All other figures are one JSON text under
the single metadata key `tertium`: with more keys the writer's order would vary, and equal models must be equal files.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..protocol.errors import SiteFileError
from ..protocol.training import Layout
from .errors import UnsupportedTensor
from .files import write_atomically
from .tensors import TORCH_TYPES

PREFIX = "optimiser::"
_KEY = "tertium"
_VERSION = 1
Scalar = int | float | bool | str | None


@dataclass(frozen=True)
class OptimiserMemory:
    """What a server optimiser is and remembers: its class, its options, and a dict a trained tensor, by index."""

    name: str
    options: dict[str, Any] = field(repr=False)
    state: dict[int, dict[str, Tensor | Scalar]] = field(repr=False)


def write(path: Path, layout: Layout, tensors: dict[str, Tensor], memory: OptimiserMemory | None) -> None:
    """Write a checkpoint atomically, mode 0600; the same contents give the same bytes.

    Raises:
        SiteFileError: the file cannot be written.
        UnsupportedTensor: a name is taken, or the optimiser remembers something that is no tensor and no figure.
    """
    stored = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    if any(name.startswith(PREFIX) for name in stored):
        raise UnsupportedTensor(f"a tensor's name begins with {PREFIX}, which checkpoints keep for the optimiser")
    scalars: dict[str, Scalar] = {}
    for index, remembered in (memory.state if memory else {}).items():
        for key, value in remembered.items():
            place = f"{PREFIX}{index}::{key}"
            if isinstance(value, Tensor):
                # cloned: safetensors refuses two names for one memory
                stored[place] = value.detach().cpu().clone().contiguous()
            elif value is None or isinstance(value, bool | int | float | str):
                scalars[place] = value
            else:
                raise UnsupportedTensor(f"the optimiser remembers {key}, a {type(value).__name__}, for a tensor")
    about = {
        "version": _VERSION,
        "layout": layout.digest().hex(),
        "optimiser": memory.name if memory else None,
        "options": _plain(memory.options) if memory else {},
        "scalars": scalars,
    }
    text = json.dumps(about, sort_keys=True, separators=(",", ":"))
    write_atomically(path, safetensors.torch.save(stored, metadata={_KEY: text}))


def read(
    path: Path, layout: Layout, expected: OptimiserMemory | None
) -> tuple[list[Tensor], dict[int, dict[str, Tensor | Scalar]]]:
    """Return a checkpoint's tensors, one an entry of `layout`, and the optimiser's state by trained tensor.

    Raises:
        SiteFileError: not a checkpoint, one of another model, or of another optimiser than `expected`.
    """
    if not path.is_file():
        raise SiteFileError(f"there is no checkpoint {path.name}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            stored: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise SiteFileError(f"{path.name} is not a checkpoint: {error}") from error
    about = _about(path, metadata.get(_KEY))
    if about["layout"] != layout.digest().hex():
        raise SiteFileError(f"{path.name} is a checkpoint of another model")
    name = expected.name if expected else None
    if about["optimiser"] != name:
        raise SiteFileError(f"{path.name} was written with the optimiser {about['optimiser']}, not {name}")
    for key, value in (_plain(expected.options) if expected else {}).items():
        if key not in about["options"] or about["options"][key] != value:
            raise SiteFileError(f"{path.name} was written with another {key} of the optimiser than {value}")
    tensors = []
    for entry in layout.entries:
        tensor = stored.get(entry.name)
        if tensor is None or tensor.dtype != TORCH_TYPES[entry.dtype] or tuple(tensor.shape) != entry.shape:
            raise SiteFileError(f"{path.name} does not hold tensor {entry.name} as the model has it")
        tensors.append(tensor)
    shapes = [entry.shape for entry in layout.entries if entry.trainable]
    return tensors, _state(path, stored, about["scalars"], shapes)


def _about(path: Path, text: str | None) -> dict[str, Any]:
    """Return the checked JSON of a checkpoint's metadata."""
    fields = {"version": int, "layout": str, "optimiser": str | None, "options": dict, "scalars": dict}
    try:
        about = json.loads(text or "")
    except ValueError as error:
        raise SiteFileError(f"{path.name} is not a checkpoint of tertium") from error
    if (
        not isinstance(about, dict)
        or about.keys() != fields.keys()
        or not all(isinstance(about[key], kind) for key, kind in fields.items())
        or about["version"] != _VERSION
    ):
        raise SiteFileError(f"{path.name} is not a checkpoint of this version of tertium")
    return about


def _state(
    path: Path, stored: dict[str, Tensor], scalars: dict[str, Scalar], shapes: list[tuple[int, ...]]
) -> dict[int, dict[str, Tensor | Scalar]]:
    """Return the optimiser's state out of the prefixed names."""
    state: dict[int, dict[str, Tensor | Scalar]] = {}
    found: dict[str, Tensor | Scalar] = {key: value for key, value in stored.items() if key.startswith(PREFIX)}
    for place, value in sorted({**found, **scalars}.items()):
        index, _, key = place.removeprefix(PREFIX).partition("::")
        if not key or not index.isascii() or not index.isdecimal() or int(index) >= len(shapes):
            raise SiteFileError(f"{path.name} holds {place}, which belongs to no trained tensor")
        state.setdefault(int(index), {})[key] = value.clone() if isinstance(value, torch.Tensor) else value
    return state


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """Return options as JSON gives them back, so that a tuple and a list compare equal."""
    plain: dict[str, Any] = json.loads(json.dumps(options, sort_keys=True, default=repr))
    return plain
