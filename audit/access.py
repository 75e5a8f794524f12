"""What the mode of a charter lets a party open, make or keep: conservation, for one entry at a time."""

from ..protocol.charter import Charter, Role
from ..protocol.errors import NotInCharter
from ..protocol.ledger import Act, DataClass, LedgerEntry
from ..protocol.seats import Seats

_HELD = (Act.OPENED, Act.DERIVED, Act.STORED)
_OF_UPDATES = frozenset({DataClass.UPDATE, DataClass.SHARE, DataClass.SEED, DataClass.AGGREGATE})


def forbidden(seats: Seats, charter: Charter, party: str, entry: LedgerEntry) -> str | None:
    """Return why `party` must not have done what an entry says, or None; mode plain is not forbidden here."""
    if entry.act not in _HELD:
        return None
    role = charter.party(party).role
    if entry.data in _OF_UPDATES and not all(_has_updates(charter, name) for name in entry.whose):
        return "nobody of that name has updates under this charter"
    match entry.data:
        case DataClass.UPDATE:
            return _of_an_update(seats, charter, party, entry)
        case DataClass.SHARE | DataClass.SEED:
            return _of_a_share(seats, party, entry)
        case DataClass.MASK:
            own = entry.whose == (party,)
            if role is not Role.DATA_OWNER or entry.act is not Act.OPENED or own:
                return "a mask's seed is for the one contributor it is sealed for"
        case DataClass.AGGREGATE:
            if role is not Role.MODEL_OWNER:
                return "a sum is for the model owner"
        case DataClass.MODEL:
            if role is Role.SECURE_WORKER:
                return "a secure worker has no model"
        case _:
            return None
    return None


def _has_updates(charter: Charter, name: str) -> bool:
    try:
        return charter.party(name).role is Role.DATA_OWNER
    except NotInCharter:
        return False


def _of_an_update(seats: Seats, charter: Charter, party: str, entry: LedgerEntry) -> str | None:
    if entry.act in (Act.DERIVED, Act.STORED):
        # A data owner makes its own, and may keep it so that it can open its commitments to an auditor.
        return None if entry.whose == (party,) else "nobody else makes or keeps an update"
    if seats.holders == (party,):
        return None
    return f"in mode {charter.rules.mode.value} a single update is not for it"


def _of_a_share(seats: Seats, party: str, entry: LedgerEntry) -> str | None:
    if entry.act is Act.STORED and entry.whose == (party,):
        return None
    if entry.act is not Act.OPENED:
        return "a share is opened, added up and erased, never made or kept by a holder"
    index = seats.index(party)
    if entry.part is None:
        # The empty share of a secure worker without a seat.
        return None if entry.payload == 0 and index is None else "it has no such share"
    if index is None or entry.part.index != index or entry.part.of != len(seats.holders):
        return "it is another holder's share" if index is not None else "it holds no share"
    return None
