"""What a machine knows, as a value that can be compared: a refused message must have changed nothing of it."""

import enum
from collections import OrderedDict, deque
from typing import Any

import msgspec
import numpy as np
from tertium.crypto.identity import Identity
from tertium.crypto.sealing import RoundKey
from tertium.protocol.charter import Charter
from tertium.protocol.exchange import Broadcast, Exchange, Incoming, Outgoing
from tertium.protocol.journal import Journal
from tertium.protocol.machine import Machine

_PLAIN = (str, bytes, int, float, type(None), enum.Enum, msgspec.Struct)
_BY_IDENTITY = (Identity, Charter, Exchange, Broadcast)
_NO_STATE = ("_effects", "_handlers", "trainers", "site", "_store", "_model", "_plan", "_scheme")


def brief(machine: Machine) -> tuple[Any, ...]:
    """Return what can be told at once: phase, end, what is to be done, and how much was ever written."""
    return machine.phase, machine.finished, len(machine._effects), _journal_of(machine)._db.total_changes


def fingerprint(machine: Machine) -> tuple[tuple[str, Any], ...]:
    """Return all that a machine remembers, field by field; what it was built with is left out."""
    return tuple((name, _value(each)) for name, each in vars(machine).items() if name not in _NO_STATE)


def _journal_of(machine: Any) -> Journal:
    memory = getattr(machine, "_memory", None) or machine.memory
    journal: Journal = memory._journal
    return journal


def _value(each: Any) -> Any:
    if isinstance(each, _PLAIN):
        return each
    if isinstance(each, (tuple, list, deque)):
        return tuple(_value(one) for one in each)
    if isinstance(each, OrderedDict | dict):
        return tuple((key, _value(one)) for key, one in each.items())
    if isinstance(each, set | frozenset):
        return frozenset(each)
    if isinstance(each, RoundKey):
        return each.key_id, each.erased
    if isinstance(each, Journal):
        return each._db.total_changes
    if isinstance(each, Outgoing | Incoming):
        return each.subject
    if isinstance(each, np.ndarray):
        # Staging buffers are scratch: what matters of them is which they are.
        return id(each) if each.dtype == np.uint8 else each.tobytes()
    if isinstance(each, memoryview):
        return bytes(each)
    if isinstance(each, _BY_IDENTITY) or callable(each) or not hasattr(each, "__dict__"):
        return id(each)
    return tuple((name, _value(one)) for name, one in vars(each).items())
