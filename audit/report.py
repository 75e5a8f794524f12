"""What an audit found, as frozen values: the one thing that the terminal, JSON and a page are drawn from.

Rules of the file:
- Nothing here computes. Every field is plain (text, numbers, names), so that the JSON of it is the report and its
  schema (`docs/audit.schema.json`) is made from these classes.
- A digest is lower-case hexadecimal. An entry of a ledger is named by party and sequence number, from 0.
- A cell says what is on record. It says "no recorded access", never that there was none.
"""

import enum
import json
import re
from typing import Final, Literal

import msgspec

from .captured import Capture

VERSION: Final = 1


class Severity(enum.Enum):
    """How much a finding weighs."""

    VIOLATION = "violation"
    """What the charter or the protocol forbids. One is enough for exit status 1."""
    ANOMALY = "anomaly"
    """What should not be so and proves nothing against anybody: a sum nobody verified, two stories without a proof."""
    NOTICE = "notice"
    """What an auditor wants to know and honest runs have too: an attempt that was given up, a message that was lost."""


class Kind(enum.Enum):
    """What a finding is about."""

    # ledgers
    FORKED_LEDGER = "forked ledger"
    """A party signed for two ledgers that cannot be one."""
    TRUNCATED_LEDGER = "truncated ledger"
    """A ledger ends before what its party signed for."""
    EDITED_LEDGER = "edited ledger"
    """A ledger has other entries, or in another order, than its party signed for."""
    BROKEN_LEDGER = "broken ledger"
    """A ledger contradicts itself."""
    WRONG_EXHIBIT = "wrong exhibit"
    """A signed statement that an entry names is missing beside it, or is not what the entry names."""
    FALSE_ENTRY = "false entry"
    """An entry says something else than the signed header or statement that it is about."""
    # two stories
    DENIED_SENDING = "denied sending"
    """A party signed what its ledger says it never sent."""
    DENIED_RECEIVING = "denied receiving"
    """A party gave a receipt for what its ledger says it never got."""
    UNPAIRED = "unpaired"
    """Something was sent that nobody noted as received: lost on the way, or refused."""
    TWO_QUESTIONS = "two questions"
    """The model owner signed two questions for one attempt."""
    TWO_SETS = "two contributor sets"
    """A secure worker signed two lists for one question."""
    TWO_OUTCOMES = "two outcomes"
    """A secure worker signed two outcomes of one question."""
    CONTRADICTED_SET = "contradicted set"
    """What a secure worker released, or said of it, is not over the set it closed."""
    DIFFERENT_VIEWS = "different views"
    """Two parties know different sets, counts or aggregates of one question."""
    LEFT_OUT = "left out"
    """A contribution that has its receipt is not in the set."""
    # what was let go
    TWO_RELEASES = "two releases"
    """A secure worker released two sums in one round."""
    TWO_SETS_OF_ONE_MODEL = "two sets of one model"
    """A secure worker released sums over two sets for one model: their difference is somebody's."""
    SMALL_RELEASE = "small release"
    """A release over fewer contributors than the charter's minimum."""
    FORBIDDEN_ACCESS = "forbidden access"
    """A party opened, made or kept what the mode does not let it have."""
    PLAIN_ACCESS = "plain access"
    """The model owner opened single updates, as mode plain lets it."""
    READABLE_UPDATE = "readable update"
    """Released sums together give away one update."""
    # the model, keys, sums, attempts
    MODEL_JUMP = "model jump"
    """A question names a model that no earlier round made."""
    KEY_KEPT = "key kept"
    """A round key has no erasure on record."""
    KEY_REUSED = "key reused"
    """One round key was used under two questions or by two parties."""
    UNKNOWN_KEY = "unknown key"
    """Something was sealed for a key of which its recipient has no record."""
    FAILED_SUM = "failed sum"
    """The fingerprints of the contributors do not add up to the released sum."""
    CONTRADICTED_TOTAL = "contradicted total"
    """A holder's total contradicts the sum that the others make."""
    UNVERIFIED_SUM = "unverified sum"
    """Nobody knows whether a sum is right: somebody was silent, or no check is on record."""
    ABORTED_ATTEMPT = "aborted attempt"
    """An attempt ended without a sum."""
    DROPPED = "dropped"
    """A party had its receipt in an attempt that was given up, and is not in the sum of the round."""
    NOT_COSIGNED = "not cosigned"
    """A party that was in a round has not signed its outcome."""
    REFUSED = "refused"
    """A party turned something away."""
    # rounds that were added up again
    WRONG_TOTAL = "wrong total"
    """A holder released another total than the shares make that it gave receipts for."""
    WRONG_SUM = "wrong sum"
    """The released sum is not that of what its contributors opened."""
    WRONG_OPENING = "wrong opening"
    """A party opened an envelope with something else than its signed header committed to."""
    # the wire
    PLANTED_PATTERN = "planted pattern"
    """Bytes that the auditor planted, and that only ever travel sealed, are in the capture."""
    UNRECORDED_BYTES = "unrecorded bytes"
    """Bytes of the capture are of no envelope on record, or are more, or others, than its entries say."""
    NOT_CAPTURED = "not captured"
    """The capture lacks what is on record, or lost some of what it was to have."""


class Ref(msgspec.Struct, frozen=True):
    """One entry of one ledger."""

    party: str
    entry: int


class Disclosure(msgspec.Struct, frozen=True):
    """What a piece of evidence shows of data owners to everybody who reads it."""

    what: Literal["updates", "shares"]
    """Shares are those of some holders, too few to read an update; with the other holders' they give it away."""
    whose: tuple[str, ...]
    holders: tuple[str, ...]
    """Whose shares they are."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that was found."""

    kind: Kind
    severity: Severity
    party: str | None
    """Who did it; nobody where no signature names one."""
    text: str
    """One sentence."""
    others: tuple[str, ...] = ()
    """Who else is concerned; of a failed sum, who may have lied."""
    session: str | None = None
    round: int = 0
    attempt: int = 0
    entries: tuple[Ref, ...] = ()
    """At most 256 entries that show it."""
    provable: bool = False
    """Whether there is evidence that holds with nothing but the charter."""
    evidence: str | None = None
    """Name of the file it was written to, with `--evidence`."""
    discloses: Disclosure | None = None
    """What that evidence opens; it is written with `--disclose` alone."""


class PartyFacts(msgspec.Struct, frozen=True):
    """One party of the charter, and its ledger if it was given."""

    name: str
    role: str
    organisation: str
    given: bool
    why_not: str = ""
    """Where its ledger was not given or cannot be used: why."""
    entries: int = 0
    root: str | None = None
    vouched: int = 0
    """Up to how many entries other parties hold its signed checkpoint; what comes after could be changed unseen."""
    signed: int = 0
    """Up to how many entries anybody does, it itself too."""


class AbortLine(msgspec.Struct, frozen=True):
    """One signed abort."""

    party: str
    cause: str
    text: str
    receipted: tuple[str, ...]
    """Whose contribution it had given a receipt for."""


class Step(msgspec.Struct, frozen=True):
    """Something one party sent to another in an attempt, with where both noted it; a line of a sequence diagram."""

    what: str
    """The label: `contribution`, `receipt`, `close`."""
    data: str
    """The data class."""
    sender: str
    recipient: str
    subject: str
    payload: int
    """Bytes of plaintext; 0 for a control message."""
    wire: int
    """Bytes that travelled."""
    sent: Ref | None
    received: Ref | None
    opened: Ref | None


class Release(msgspec.Struct, frozen=True):
    """One sum, or one holder's total, that was let go of."""

    holder: str
    subject: str
    """Digest of the envelope's signed header."""
    contributors: tuple[str, ...]
    entries: tuple[Ref, ...]
    """Where it was released, and where it was received and opened."""


class Attempt(msgspec.Struct, frozen=True):
    """One attempt at one round, as the signed statements tell it."""

    session: str
    round: int
    attempt: int
    purpose: Literal["train", "evaluate"]
    open_round: str
    model: str
    cohort: tuple[str, ...]
    holders: tuple[str, ...]
    """Those that take part in this attempt."""
    contributors: tuple[str, ...] | None
    """The closed set; None where none was closed."""
    declined: tuple[str, ...]
    missing: tuple[str, ...]
    releases: tuple[Release, ...]
    check: Literal["verified", "unverified", "failed", "none"]
    silent: tuple[str, ...]
    contradicted: tuple[str, ...]
    cosigned: tuple[str, ...]
    not_cosigned: tuple[str, ...]
    aborts: tuple[AbortLine, ...]
    steps: tuple[Step, ...]
    """In an order that agrees with every ledger; empty where it was left out for its length (`left_out`)."""


class Level(enum.Enum):
    """How much of one data owner's update somebody has on record, the least first."""

    NONE = "no recorded access"
    CIPHERTEXT = "ciphertext"
    SHARE = "share"
    AGGREGATE = "aggregate"
    PLAINTEXT = "plaintext"
    OWN = "own"


class Access(msgspec.Struct, frozen=True):
    """What on record makes a cell, by data class."""

    data: str
    """The data class; `model` is an aggregate as it shows in the next model, `mask seed` is of no update."""
    level: Level
    part: int | None
    """Of a share, or one holder's total: which, from 1."""
    of: int | None
    count: int
    """Of an aggregate: how many updates are in it. Else 0."""
    entries: tuple[Ref, ...]
    """At most 256."""
    number: int
    """How many entries there are."""


class Cell(msgspec.Struct, frozen=True):
    """What somebody has of one data owner."""

    whose: str
    level: Level
    count: int
    """Of an aggregate: the fewest updates, this one among them, that are still unknown to whoever this row is of."""
    text: str
    """The cell in words: `share 1 of 3`, `aggregate of 4`."""
    access: tuple[Access, ...]
    entries: tuple[Ref, ...] = ()
    """At most 256 entries that decide the level."""


class Row(msgspec.Struct, frozen=True):
    """One party, or one coalition, and what it has of every data owner."""

    who: tuple[str, ...]
    given: bool
    """Whether every ledger this row needs was given; if not, it has what the others' ledgers and signatures show."""
    cells: tuple[Cell, ...]


class How(enum.Enum):
    """By which way somebody could work out one update."""

    MODE = "the mode lets it"
    """It has the shares, or the update itself: a collusion set of the charter's scheme."""
    OTHERS = "all others of a sum"
    """It is everybody else in one released sum, and knows that sum. No mode stops that."""
    SUMS = "sums over one model"
    """Several released sums over the same model give it away."""
    ACROSS = "sums over different models"
    """The same, if one takes updates of different rounds for alike: an estimate, and no mode stops that."""
    TWO_LEFT = "the sum of two is left"
    """It can reduce a released sum to two updates."""


class Exposure(msgspec.Struct, frozen=True):
    """A smallest group that can work out one update, or nearly."""

    who: tuple[str, ...]
    whose: str
    how: How
    allowed: bool
    """Whether that is what the mode says of itself; if not, there is a finding too."""
    rounds: tuple[int, ...]
    text: str


class Refusal(msgspec.Struct, frozen=True):
    """What one party refused of another, by the name of the error."""

    party: str
    peer: str | None
    code: str
    number: int
    entries: tuple[Ref, ...]


class Retention(msgspec.Struct, frozen=True):
    """What a party took in or made of a class, and what it has on record as erased."""

    party: str
    data: str
    taken: int
    erased: int
    open: tuple[Ref, ...]
    """At most 256 entries whose erasure is not on record."""


class Replay(msgspec.Struct, frozen=True):
    """One sum that the auditor added up again, or could not."""

    session: str
    round: int
    attempt: int
    outcome: Literal["equal", "different", "not replayed"]
    text: str
    """What was compared, or who did not open what."""
    known: tuple[str, ...]
    """Whose update of this attempt the auditor knows now, or a share of it."""


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """One audit."""

    version: Literal[1]
    run: str
    """The name of the folder."""
    federation: str
    charter: str
    serial: int
    mode: str
    scheme: str
    holders: tuple[str, ...]
    """Who holds a share, by the scheme's number."""
    collusion_sets: tuple[tuple[str, ...], ...]
    """The smallest sets of parties that can together read one update, as the scheme declares them."""
    minimum_cohort: int
    warnings: tuple[str, ...]
    verdict: Literal["clean", "violation"]
    parties: tuple[PartyFacts, ...]
    attempts: tuple[Attempt, ...]
    matrix: tuple[Row, ...]
    """One row a party."""
    coalitions: tuple[Row, ...]
    exposures: tuple[Exposure, ...]
    findings: tuple[Finding, ...]
    """Violations first, then anomalies, then notices."""
    refusals: tuple[Refusal, ...]
    retention: tuple[Retention, ...]
    replays: tuple[Replay, ...]
    cannot_show: tuple[str, ...]
    left_out: tuple[str, ...]
    """What was not looked at, or is not listed, because there is too much of it."""
    capture: Capture | None = None
    """With `--capture`: what was on the wire."""

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings of this weight."""
        return tuple(finding for finding in self.findings if finding.severity is severity)


def encode(report: Report) -> bytes:
    """Return the report as one indented JSON object.

    What does not print is escaped: a peer's text, looked at in a terminal, is not to paint another report there.
    """
    text = msgspec.json.format(msgspec.json.encode(report), indent=2).decode()
    return re.sub(r"[^\n -~]+", lambda found: found[0] if found[0].isprintable() else _escaped(found[0]), text).encode()


def _escaped(text: str) -> str:
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def schema() -> str:
    """Return the JSON schema of a report, as text."""
    (whole,), parts = msgspec.json.schema_components((Report,), ref_template="#/$defs/{name}")
    which = "https://json-schema.org/draft/2020-12/schema"
    found = {"$schema": which, "title": "tertium audit", **whole, "$defs": parts}
    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n"
