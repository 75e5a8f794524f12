"""Evidence: what shows a violation to somebody who has the charter and trusts nobody here.

A bundle holds what the parties signed, in its exact bytes, with proofs that an entry is in a ledger a party signed for.
`verify` derives the violation from that and the charter alone. The audit says what is provable by the same functions:
it puts a bundle together, and reports the sentence that `verify` gives back, so that the two cannot differ.

A few bundles hold openings: what was in sealed envelopes, in the clear. They show it to everybody who reads them, so
`Proven.discloses` says what of whom, and such a file is for its user alone.

Steps of reading one, in this order; nothing is believed before its step:
 1. the file is bounded, begins as one of ours, and its digest is that of its bytes
 2. it decodes, canonically and within bounds
 3. it is about this charter
 4. every exhibit verifies (`exhibits.py`)
 5. every entry is in a ledger of the size and root that its party signed
 6. a ledger that grew, or a whole one, is what it is said to be
 7. an opening is what the header of its envelope, which is among the exhibits, committed to
 8. what they show is the kind of violation the bundle names, by the party it names (`proofs.py`, `sums.py`)
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from ..crypto.errors import BadProof
from ..crypto.files import read_bounded, reason, replace_file
from ..crypto.labels import DIGEST_BYTES, Label, digest
from ..crypto.merkle import Tree, leaf_hash, verify_consistency, verify_inclusion
from ..protocol import limits
from ..protocol.charter import Charter
from ..protocol.codec import decode_as, encode
from ..protocol.errors import MalformedMessage, WrongCharter, WrongSender
from ..protocol.ledger import Act, Checkpoint, Exhibit, LedgerEntry
from ..protocol.messages import Count, Digest, Header, OpenRound, Signed
from ..protocol.openings import Opening
from ..protocol.seats import Seats
from ..protocol.statements import open_signed
from ..protocol.training import Name
from .errors import NotShown, UnusableEvidence
from .exhibits import Shown, open_exhibit
from .report import Disclosure, Kind

SUFFIX: Final = ".evidence"
DISCLOSING: Final = ".disclosing.evidence"
"""The end of a file's name that holds openings."""
MAGIC: Final = b"tertium evidence 1\n"
LARGEST: Final = 256 * limits.MIB
MOST_EXHIBITS: Final = 4096
"""Exhibits, entries or openings of one bundle."""
_Bytes = Annotated[bytes, Meta(max_length=LARGEST)]
_Proof = Annotated[tuple[Digest, ...], Meta(max_length=128)]


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """An exhibit as a bundle holds it."""

    subject: Digest
    signer: Name
    label: Label
    content: _Bytes


class Inclusion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """One entry, in a ledger that its party signed for."""

    sequence: Count
    entry: _Bytes
    checkpoint: Signed
    proof: _Proof


class Growth(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """That the ledger of `newer` had the root `root` at the size of `older`."""

    older: Signed
    newer: Signed
    root: Digest
    proof: _Proof


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A whole ledger, with a checkpoint of it if there is one."""

    party: Name
    entries: Annotated[tuple[_Bytes, ...], Meta(max_length=2**24)]
    checkpoint: Signed | None = None


class Bundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """What shows one violation."""

    version: Literal[1]
    charter: Digest
    kind: Kind
    party: Name | None
    exhibits: Annotated[tuple[Item, ...], Meta(max_length=MOST_EXHIBITS)] = ()
    inclusions: Annotated[tuple[Inclusion, ...], Meta(max_length=MOST_EXHIBITS)] = ()
    growth: Growth | None = None
    log: Log | None = None
    openings: Annotated[tuple[Opening, ...], Meta(max_length=MOST_EXHIBITS)] = ()


@dataclass(frozen=True)
class Included:
    """An entry that a party signed for."""

    party: str
    sequence: int
    entry: LedgerEntry


@dataclass
class Case:
    """The content of a bundle, verified but for what it is to show."""

    charter: Charter
    seats: Seats
    shown: tuple[Shown, ...]
    included: tuple[Included, ...]
    growth: tuple[Checkpoint, Checkpoint, bytes] | None = None
    """The older and the newer checkpoint of one party, and what the newer has at the older's size."""
    log_of: str | None = None
    log_notes: set[tuple[Act, bytes | None]] = field(default_factory=set)
    """Act and subject of every entry of the log, which may be longer than there is memory for its entries."""
    log_last: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    """By session: the last round and attempt of which the part of the log that its party signed for has anything."""
    log_size: int = 0
    log_roots: dict[int, bytes] = field(default_factory=dict)
    """The roots that the log has at the sizes of the checkpoints among the exhibits."""
    opened: dict[bytes, Opening] = field(default_factory=dict)
    """What is opened, by the digest of the signed header that commits to it."""

    @cached_property
    def headers(self) -> dict[bytes, Header]:
        """The headers of envelopes among the exhibits, by digest."""
        return {each.subject: each.content for each in self.shown if isinstance(each.content, Header)}

    @cached_property
    def questions(self) -> dict[bytes, OpenRound]:
        """The questions among the exhibits, by digest."""
        return {each.subject: each.content for each in self.shown if isinstance(each.content, OpenRound)}


@dataclass(frozen=True)
class Proven:
    """What a bundle shows."""

    party: str | None
    text: str
    others: tuple[str, ...] = ()
    discloses: Disclosure | None = None
    """What the bundle opens; `verify` says it, whatever is proven."""


def verify(charter: Charter, bundle: Bundle) -> Proven:
    """Return what a bundle shows under this charter.

    Raises:
        NotShown, and what the checks of exhibits, signatures and proofs raise: it shows nothing.
    """
    from .proofs import PROOFS  # they need the types of this module

    case = _open(charter, bundle)
    prove = PROOFS.get(bundle.kind)
    if prove is None:
        raise NotShown(f"there is no proof of a {bundle.kind.value} from a bundle alone")
    proven = prove(case)
    if proven.party != bundle.party:  # 8
        raise NotShown(f"it names {bundle.party or 'nobody'}, and shows {proven.party or 'nobody'}")
    return replace(proven, discloses=_disclosed(case))


def to_bytes(bundle: Bundle) -> bytes:
    """Return a bundle as a file holds it."""
    data = encode(bundle)
    return MAGIC + digest(Label.EVIDENCE, data) + data


def from_bytes(data: bytes) -> Bundle:
    """Return the bundle in a file's bytes; raises `NotShown` where there is none, or a byte of it was changed."""
    begin = len(MAGIC) + DIGEST_BYTES
    if data[: len(MAGIC)] != MAGIC or digest(Label.EVIDENCE, data[begin:]) != data[len(MAGIC) : begin]:  # 1
        raise NotShown("the file is no evidence, or was changed since it was written")
    try:
        return decode_as(Bundle, data[begin:])  # 2
    except MalformedMessage as error:
        raise NotShown(f"the file is no evidence: {error.reason}") from None


def read(path: Path) -> Bundle:
    """Return the bundle in a file; raises `UnusableEvidence` where it cannot be read, and what `from_bytes` raises."""
    try:
        return from_bytes(read_bounded(path, LARGEST))
    except OSError as error:
        raise UnusableEvidence(f"{path} cannot be read: {reason(error)}") from None


def write(path: Path, bundle: Bundle) -> None:
    """Write a bundle; raises `UnusableEvidence` where it cannot be, or is too large to be read again."""
    data = to_bytes(bundle)
    if len(data) > LARGEST:
        raise UnusableEvidence(f"{path}: the evidence takes {len(data)} bytes, and {LARGEST} can be read")
    try:
        replace_file(path, data, mode=0o600 if bundle.openings else 0o644)
    except OSError as error:
        raise UnusableEvidence(f"{path} cannot be written: {reason(error)}") from None


def require_unused(folder: Path) -> None:
    """Check that no evidence lies in a folder: of two audits nobody could tell which report it belongs to.

    Raises:
        UnusableEvidence: some does, or the folder cannot be looked into.
    """
    try:
        used = folder.exists() and any(each.name.endswith(SUFFIX) for each in folder.iterdir())
    except OSError as error:
        raise UnusableEvidence(f"{folder} cannot be looked into: {reason(error)}") from None
    if used:
        raise UnusableEvidence(f"{folder} holds evidence of another audit: name a new folder, or move that away")


def _open(charter: Charter, bundle: Bundle) -> Case:
    if bundle.charter != charter.digest:  # 3
        raise WrongCharter("the evidence is about another charter")
    shown = tuple(
        open_exhibit(charter, Exhibit(each.subject, each.signer, each.label, each.content))  # 4
        for each in bundle.exhibits
    )
    included = tuple(_included(charter, each) for each in bundle.inclusions)  # 5
    case = Case(charter, Seats(charter), shown, included)
    if bundle.growth is not None:
        case.growth = _grown(charter, bundle.growth)  # 6
    if bundle.log is not None:
        _take_log(case, bundle.log)
    for opening in bundle.openings:
        header = case.headers.get(opening.subject)
        if header is None:
            raise NotShown("it opens an envelope whose signed header is not there")
        opening.check(header, opening.subject)  # 7
        case.opened[opening.subject] = opening
    return case


def _disclosed(case: Case) -> Disclosure | None:
    """Return what the openings show of data owners; a total alone is what the model owner may have."""
    opened = [case.headers[subject] for subject in case.opened]
    shares = [header for header in opened if header.label is Label.CONTRIBUTION]
    if not shares:
        return None
    # Whatever one reader of the file has of each of them: at most all that the envelopes in it were for.
    held = {case.seats.index(header.recipient) for header in shares}
    read = any(each <= held for each in case.seats.scheme.collusion_sets)
    return Disclosure(
        what="updates" if read else "shares",
        whose=tuple(sorted({header.sender for header in shares})),
        holders=tuple(sorted({header.recipient for header in shares})),
    )


def open_checkpoint(charter: Charter, signed: Signed) -> Checkpoint:
    """Return a checkpoint that a party signed of its own ledger under this charter.

    Raises:
        the errors of `open_signed`; WrongSender, WrongCharter.
    """
    said = open_signed(charter, signed, Checkpoint)
    if said.party != signed.signer:
        raise WrongSender("signed a checkpoint of somebody else's ledger", party=signed.signer)
    if said.charter != charter.digest:
        raise WrongCharter("signed a checkpoint under another charter", party=signed.signer)
    return said


def _included(charter: Charter, each: Inclusion) -> Included:
    said = open_checkpoint(charter, each.checkpoint)
    try:
        verify_inclusion(leaf_hash(each.entry), each.sequence, said.size, each.proof, said.root)
    except BadProof as error:
        raise NotShown(f"entry {each.sequence} is not in the ledger that {said.party} signed for: {error}") from None
    return Included(said.party, each.sequence, decode_as(LedgerEntry, each.entry, party=said.party))


def _grown(charter: Charter, growth: Growth) -> tuple[Checkpoint, Checkpoint, bytes]:
    older, newer = open_checkpoint(charter, growth.older), open_checkpoint(charter, growth.newer)
    if older.party != newer.party:
        raise NotShown("two checkpoints of two parties contradict nothing")
    try:
        verify_consistency(older.size, newer.size, growth.proof, growth.root, newer.root)
    except BadProof as error:
        raise NotShown(f"it does not follow what the ledger had at entry {older.size}: {error}") from None
    return older, newer, growth.root


def _take_log(case: Case, log: Log) -> None:
    signed = None if log.checkpoint is None else open_checkpoint(case.charter, log.checkpoint)
    if signed is not None and signed.party != log.party:
        raise NotShown("a ledger and a checkpoint of two parties")
    sizes = {each.content.size for each in case.shown if isinstance(each.content, Checkpoint)}
    sizes |= {signed.size} if signed is not None else set()
    tree, covered = Tree(), 0 if signed is None else signed.size
    case.log_roots[0] = tree.root()
    for data in log.entries:
        entry = decode_as(LedgerEntry, data, party=log.party)
        case.log_notes.add((entry.act, entry.subject))
        if entry.session is not None and tree.size < covered:
            at = entry.round, entry.attempt
            case.log_last[entry.session] = max(at, case.log_last.get(entry.session, at))
        tree.append(leaf_hash(data))
        if tree.size in sizes:
            case.log_roots[tree.size] = tree.root()
    if signed is not None and case.log_roots.get(signed.size) != signed.root:
        raise NotShown(f"the ledger is not the one whose {signed.size} entries {log.party} signed for")
    case.log_of, case.log_size = log.party, tree.size
