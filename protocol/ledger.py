"""A party's view ledger: what it sent, received, opened, derived, stored, released, erased and refused, in order.

Rules of the file:
- An entry says which act, on which class of data, of whom, with whom. It holds sizes, digests of what travelled, and
  salted commitments; never a value, and never the bare digest of a plaintext, since a small vector can be guessed.
- The log only grows. A leaf of its Merkle tree (`crypto/merkle.py`) is the exact bytes of an entry; each row keeps them
  with the roots of the complete subtrees that end there, so that proofs and any past root need no other table.
- An entry is in the file before its act: staged by `append`, it goes in with the party's next journal write, in one
  transaction, or with `settle`. Where an act needs both, append first, then write. A kill takes no act without its
  entry; a power failure may take both.
- A checkpoint is signed only over what such a failure cannot take any more. Whoever has it can hold this party to it:
  a log that is shorter, or has another root at that size, contradicts the party's own signature.
- What an entry's subject names, and somebody signed, lies beside it as an exhibit: an entry is a party's own word, a
  signature is another's.
- On opening, the last row is made again from those before it, and the log is held to the last checkpoint that was
  signed. Every row is checked by whoever audits it (`ledger_file.py`).
"""

import enum
import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

import msgspec
from msgspec import Meta

from ..crypto.errors import NotInTree
from ..crypto.identity import Identity
from ..crypto.labels import Label, digest
from ..crypto.merkle import HASH_BYTES, Tree, consistency_proof, inclusion_proof, last_leaf, leaf_hash
from . import limits
from .codec import decode_as, encode
from .errors import BadEntry, JournalError, MalformedMessage
from .journal import Entry, Journal
from .messages import Count, Digest, Names, SealedHead, Signed, Statement
from .statements import sign
from .training import Name


class Act(enum.Enum):
    """What a party did."""

    SENT = "sent"
    """Sealed for, or said to, a peer."""
    RECEIVED = "received"
    """Took in as it came: for an envelope, ciphertext."""
    OPENED = "opened"
    """Read the content of an envelope."""
    DERIVED = "derived"
    """Made from what it had."""
    STORED = "stored"
    """Put where it outlives the process."""
    RELEASED = "released"
    """Let go of a sum: decided, for good, whom it goes to."""
    ERASED = "erased"
    REFUSED = "refused"
    """Turned away what a peer sent, or did not do what a peer asked."""


WITH_A_PEER: Final = frozenset({Act.SENT, Act.RECEIVED, Act.OPENED, Act.RELEASED})
ALONE: Final = frozenset({Act.DERIVED, Act.STORED, Act.ERASED})
"""A refusal stands in neither: what a stranger sent is refused too, and a stranger has no name."""


class DataClass(enum.Enum):
    """What it was done to."""

    MODEL = "model"
    UPDATE = "plaintext update"
    """One data owner's update, readable as it is by whoever opens it."""
    SHARE = "share"
    """One share of one data owner's update, as long as the update."""
    SEED = "seed"
    """A share that is pure randomness and travels as its seed."""
    AGGREGATE = "aggregate"
    """A sum over contributors; with a part, one holder's total, of which enough make the sum."""
    SCORE = "score"
    MASK = "mask seed"
    """The seed of the masks that two contributors hide their fingerprints with."""
    KEY = "round key"
    """A recipient's key for one attempt: derived when it is drawn, erased with the last of what it opened."""
    CONTROL = "control"
    """Everything else that is said: offers, lists, receipts."""


LABELS: Final = {
    DataClass.MODEL: Label.MODEL,
    DataClass.UPDATE: Label.CONTRIBUTION,
    DataClass.SHARE: Label.CONTRIBUTION,
    DataClass.SEED: Label.CONTRIBUTION,
    DataClass.AGGREGATE: Label.AGGREGATE,
    DataClass.SCORE: Label.EVALUATION,
    DataClass.MASK: Label.MASK_SEED,
}
"""Under which label a class travels, and so whom it may go to (`exchange.MAY_SEND`); what a contribution is depends on
the scheme and the seat of its holder. The labels of control messages are those of their statements."""
SHARES: Final = (DataClass.SHARE, DataClass.SEED)
OF_ONE: Final = frozenset({DataClass.UPDATE, DataClass.SHARE, DataClass.SEED, DataClass.SCORE, DataClass.MASK})
"""Classes that are always one party's own."""
IN_PARTS: Final = frozenset({DataClass.SHARE, DataClass.SEED, DataClass.AGGREGATE})


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Which of how many shares, by the scheme's number, from 0."""

    index: Annotated[int, Meta(ge=0, lt=64)]
    of: Annotated[int, Meta(ge=1, le=64)]

    def __post_init__(self) -> None:
        if self.index >= self.of:
            raise ValueError(f"there is no share {self.index} of {self.of}")


@dataclass(frozen=True)
class Content:
    """What an envelope holds, and whose it is, where its header does not say so."""

    data: DataClass
    whose: tuple[str, ...]
    part: Part | None = None


class LedgerEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """One line of a view ledger; its canonical bytes are a leaf."""

    act: Act
    data: DataClass
    charter: Digest
    peer: Name | None = None
    """Whom it went to or came from; nobody for what was derived, stored or erased, and for what a stranger sent."""
    whose: Names = ()
    """Whose information it is, sorted: the data owner of an update or share, the contributors of a sum."""
    part: Part | None = None
    """Of a share: which. Of an aggregate: whose partial total, by the same number."""
    session: Digest | None = None
    """Of which session; an entry outside of one has no round."""
    round: Count = 0
    attempt: Count = 0
    open_round: Digest | None = None
    """Digest of the signed question it belongs to."""
    payload: Count = 0
    """Bytes of plaintext, without salt."""
    wire: Count = 0
    """Bytes that travelled, sealed or not."""
    subject: Digest | None = None
    """Digest of what it was: of an envelope's signed header, of a signed statement, of a model as questions name it;
    of a key its id, zeros after it."""
    commitment: Digest | None = None
    """Salted commitment to the plaintext."""
    derived_from: Annotated[tuple[Count, ...], Meta(max_length=limits.PARTIES)] = ()
    """Earlier entries of this ledger whose content this one's was made from, stored, or erased with; rising."""
    code: Annotated[str, Meta(max_length=limits.NAME_LENGTH)] = ""
    """Of a refusal: the name of its error."""

    def __post_init__(self) -> None:
        if (self.peer is None and self.act in WITH_A_PEER) or (self.peer is not None and self.act in ALONE):
            raise ValueError(f"an entry of what was {self.act.value} {'lacks' if self.peer is None else 'has'} a peer")
        if not _rises(self.whose) or not _rises(self.derived_from):
            raise ValueError("names and earlier entries rise, and none stands there twice")
        if self.data in OF_ONE and len(self.whose) != 1:
            raise ValueError(f"a {self.data.value} is one party's")
        if self.data is DataClass.AGGREGATE and not self.whose:
            raise ValueError("an aggregate is of its contributors")
        if self.part is not None and self.data not in IN_PARTS:
            raise ValueError(f"a {self.data.value} has no parts")
        # A secure worker without a seat gets an empty share, which is none of any number.
        if self.part is None and self.payload and self.data in (DataClass.SHARE, DataClass.SEED):
            raise ValueError(f"a {self.data.value} says which of how many it is")
        if self.session is None and (self.round or self.attempt or self.open_round is not None):
            raise ValueError("a round is one of a session")
        if bool(self.code) is not (self.act is Act.REFUSED):
            raise ValueError("a refusal has the name of an error, and nothing else has one")


_DECODER: Final = msgspec.msgpack.Decoder(LedgerEntry)


def _rises(values: tuple[Any, ...]) -> bool:
    return len(values) < 2 or all(one < other for one, other in itertools.pairwise(values))


class Checkpoint(Statement, frozen=True):
    """What a party's view ledger is at this size: it can grow from here, and be nothing else up to here."""

    label: ClassVar[Label] = Label.CHECKPOINT
    charter: Digest
    party: Name
    size: Count
    root: Digest


class CheckpointKept(Entry, frozen=True):
    """The last checkpoint that was signed, as of the last write behind it."""

    kind: ClassVar[str] = "checkpoint"

    signed: Signed


class HeldKept(Entry, frozen=True):
    """The last checkpoint another party showed us."""

    kind: ClassVar[str] = "held"

    signed: Signed
    party: str

    @property
    def key(self) -> bytes:
        """Whose it is."""
        return self.party.encode()


@dataclass(frozen=True)
class Exhibit:
    """A signed statement or the head of an envelope, as an entry's subject names it, in its exact bytes."""

    subject: bytes
    signer: str
    label: Label
    content: bytes
    """`Signed`, or for `Label.HEADER` a `SealedHead`."""

    @classmethod
    def of_statement(cls, label: Label, signed: Signed) -> "Exhibit":
        """Return a signed statement as an exhibit."""
        return cls(digest(label, signed.statement), signed.signer, label, encode(signed))

    @classmethod
    def of_head(cls, sender: str, head: SealedHead) -> "Exhibit":
        """Return the head of an envelope as an exhibit."""
        return cls(head.subject, sender, Label.HEADER, encode(head))


class Ledger:
    """One party's view ledger, in the file of its journal."""

    def __init__(self, journal: Journal, charter: bytes) -> None:
        """Take up the ledger in `journal`, or begin it; `charter` is the digest of the one this party runs with.

        Raises:
            JournalError: the rows contradict each other or the last checkpoint that was signed, or cannot be read.
        """
        self._journal = journal
        self._charter = charter
        journal.unstage()
        self._tree = _resumed(journal)
        self._synced: tuple[int, bytes] | None = None
        self._last: tuple[Checkpoint, Signed] | None = None
        self._recent: dict[tuple[bytes, str], None] = {}
        journal.synced = self._note_synced
        self.held: dict[str, tuple[Signed, Checkpoint]] = {}
        """By party: the last checkpoint that it showed us, to this process or an earlier one, under this charter."""
        for kept in journal.all(HeldKept):
            said = _checkpoint_in(journal, kept.signed)
            if said.charter == charter:
                self.held[kept.party] = kept.signed, said

    @property
    def size(self) -> int:
        """How many entries there are, those not yet on the disk too."""
        return self._tree.size

    def _note_synced(self) -> None:
        self._synced = self._tree.size, self._tree.root()

    def append(self, entry: LedgerEntry, *exhibits: Exhibit) -> int:
        """Stage an entry, and what it names, for the next write; return its sequence number, from 0.

        Raises:
            BadEntry: a field is out of bounds, it names another charter, or it is made from an entry that is not there.
        """
        data, sequence = encode(entry), self._tree.size
        try:
            # A struct holds what it was given; only a decoder looks at bounds. These bytes are canonical: we made them.
            _DECODER.decode(data)
        except (msgspec.MsgspecError, ValueError) as error:
            raise BadEntry(f"no entry of a view ledger: {str(error)[: limits.TEXT_LENGTH]}") from None
        if len(data) > limits.LEDGER_ENTRY_BYTES:
            raise BadEntry(f"an entry of {len(data)} bytes is too long for a view ledger")
        if entry.charter != self._charter:
            raise BadEntry("an entry of another charter")
        if entry.derived_from and entry.derived_from[-1] >= sequence:
            raise BadEntry(f"entry {sequence} is made from entry {entry.derived_from[-1]}, which is not there")
        self._journal.stage(sequence, data, b"".join(self._tree.append(leaf_hash(data))))
        for each in exhibits:
            self.keep(each)
        return sequence

    def keep(self, exhibit: Exhibit) -> None:
        """Stage an exhibit for the next write; one that this process kept a moment ago is not kept again."""
        key = exhibit.subject, exhibit.signer
        if key in self._recent:
            return
        self._recent[key] = None
        if len(self._recent) > limits.EXHIBITS_REMEMBERED:
            del self._recent[next(iter(self._recent))]
        self._journal.stage_exhibit(exhibit.subject, exhibit.signer, exhibit.label.value, exhibit.content)

    def hold(self, signed: Signed, said: Checkpoint) -> None:
        """Keep, with the next write, the last checkpoint of another party, which was verified."""
        self.held[said.party] = signed, said
        self._journal.stage_beside(HeldKept(signed, said.party))

    def settle(self, *, later: bool = False) -> None:
        """Have every entry on the disk when this returns, or with `later` where no kill can take it.

        Raises:
            JournalError: it cannot be written, and then the party is to end.
        """
        self._journal.settle(later=later)

    def checkpoint(self, identity: Identity, *, settle: bool = True) -> Signed:
        """Return the signed `Checkpoint` of everything so far, or without `settle` of what is on the disk already.

        It is the same one until there is more.

        Raises:
            JournalError: as `settle` does.
        """
        if settle or self._synced is None:
            self.settle()
        size, root = self._synced or (self._tree.size, self._tree.root())
        if self._last is None or (self._last[0].size, self._last[0].root) != (size, root):
            now = Checkpoint(self._charter, identity.name, size, root)
            self._last = now, sign(identity, now)
            self._journal.stage_beside(CheckpointKept(self._last[1]))
        return self._last[1]

    def root(self, size: int) -> bytes:
        """Return the root the log had at this size; raises `NotInTree` for one it never had."""
        return Tree.resume(self._known(size), self._node).root()

    def inclusion_proof(self, sequence: int, size: int) -> list[bytes]:
        """Return the proof that an entry is in the log of `size`; raises `NotInTree`."""
        return inclusion_proof(sequence, self._known(size), self._node)

    def consistency_proof(self, old: int, new: int) -> list[bytes]:
        """Return the proof that the log of `new` is that of `old`, grown; raises `NotInTree`."""
        return consistency_proof(old, self._known(new), self._node)

    def data(self, sequence: int) -> bytes:
        """Return the exact bytes of an entry; raises `NotInTree` for one that is not there."""
        if sequence < 0:
            raise NotInTree(f"there is no entry {sequence}")
        self._known(sequence + 1)
        return self._journal.ledger_row(sequence)[0]

    def entries(self, first: int = 0) -> Iterator[tuple[int, LedgerEntry]]:
        """Yield sequence number and entry, from `first` to what is the last now; raises `JournalError`."""
        for sequence in range(first, self._tree.size):
            try:
                yield sequence, decode_as(LedgerEntry, self._journal.ledger_row(sequence)[0])
            except MalformedMessage as error:
                raise JournalError(f"{self._journal.where}: entry {sequence} is damaged: {error.reason}") from None

    def _known(self, size: int) -> int:
        if size > self._tree.size:
            raise NotInTree(f"the view ledger has {self._tree.size} entries, not {size}")
        return size

    def _node(self, level: int, number: int) -> bytes:
        return _node(self._journal, level, number)

    def __repr__(self) -> str:
        return f"Ledger({self._tree.size} entries in {self._journal.where})"


def stored_node(hashes: bytes, level: int) -> bytes:
    """Return the root of the subtree of this level that ends at a row, from the row's hashes."""
    return hashes[HASH_BYTES * level : HASH_BYTES * (level + 1)]


def _node(journal: Journal, level: int, number: int) -> bytes:
    return stored_node(journal.ledger_row(last_leaf(level, number))[1], level)


def _resumed(journal: Journal) -> Tree:
    """Return the tree of the rows in the file, checked as far as an opening may cost: a read a bit of the size."""
    node, size, tree = functools.partial(_node, journal), journal.ledger_size(), Tree()
    if size:
        entry, hashes = journal.ledger_row(size - 1)
        tree = Tree.resume(size - 1, node)
        if b"".join(tree.append(leaf_hash(entry))) != hashes:
            raise _damaged(journal, f"contradicts itself at entry {size - 1}")
    kept = journal.read(CheckpointKept)
    if kept is not None:
        signed = _checkpoint_in(journal, kept.signed)
        if signed.size > size or Tree.resume(signed.size, node).root() != signed.root:
            raise _damaged(journal, f"is not the one whose {signed.size} entries this party signed for")
    return tree


def _checkpoint_in(journal: Journal, signed: Signed) -> Checkpoint:
    try:
        return decode_as(Checkpoint, signed.statement)
    except MalformedMessage:
        raise _damaged(journal, "has a checkpoint that is none") from None


def _damaged(journal: Journal, how: str) -> JournalError:
    advice = "keep it, and read in docs/operating.md what a new one forgets"
    return JournalError(f"{journal.where} is damaged: the view ledger {how}; {advice}")
