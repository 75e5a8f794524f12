"""The charter as a struct: who takes part, under which rules, and every rule a charter must keep to be one.

Rules of the file:
- A `Charter` that exists is valid: construction and decoding pass the same checks, and each refusal is one sentence
  that names the line by its dotted path (`rules.minimum_cohort`, `parties.bob.curve`).
- Parties stand in name order, whatever order the file has, so two charters are equal exactly if their digests are.
- The digest is over the struct, not over the text: comments and spacing may change, nothing else may.

Files, signatures and what a party checks before it runs are in `charter.py`, which is also the module to import.
"""

import enum
import functools
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from ..crypto.errors import BadPlan, Misuse
from ..crypto.identity import PublicIdentity
from ..crypto.labels import Label, digest
from . import limits
from .checked import Checked, Endpoint, Key, Positive, Seconds, Text, Title, check_port
from .errors import CharterError, NotInCharter, WrongRole
from .text import plural
from .training import Name, WeightRule

if TYPE_CHECKING:
    from ..crypto.ring import Plan


class Mode(enum.Enum):
    """Who can read one update; see the table of modes."""

    TRUSTED = "trusted"
    MASKED = "masked"
    ADDITIVE = "additive"
    SHAMIR = "shamir"
    SHARED = "shared"
    """Any other scheme among secure workers; its own declaration says who can read an update."""
    PLAIN = "plain"


class Role(enum.Enum):
    """What a party does."""

    MODEL_OWNER = "model_owner"
    DATA_OWNER = "data_owner"
    SECURE_WORKER = "secure_worker"
    EVALUATOR = "evaluator"

    @property
    def words(self) -> str:
        """The role as it stands in a sentence."""
        return self.value.replace("_", " ")

    @property
    def listens(self) -> bool:
        """Whether parties of this role have endpoints; a site with data opens no port."""
        return self in (Role.MODEL_OWNER, Role.SECURE_WORKER)


class _Line(Checked, frozen=True, forbid_unknown_fields=True):
    """A table of the charter."""

    error: ClassVar[type[Misuse]] = CharterError


class Party(_Line, frozen=True, forbid_unknown_fields=True):
    """One party: what it is called, what it does, the keys it is known by, and where it listens."""

    name: Name
    role: Role
    signing: Key
    """Ed25519 public key, 32 bytes; hexadecimal in files."""
    curve: Key
    """X25519 public key for CURVE, 32 bytes; hexadecimal in files."""
    organisation: Text = ""
    control: Endpoint | None = None
    bulk: Endpoint | None = None

    @property
    def identity(self) -> PublicIdentity:
        """The two public keys."""
        return PublicIdentity(signing=self.signing, curve=self.curve)


class SchemeName(_Line, frozen=True, forbid_unknown_fields=True):
    """The secret-sharing scheme and the version of it all parties run."""

    table: ClassVar[str] = "rules.scheme"

    name: Name
    version: Annotated[int, Meta(ge=1, le=10_000)] = 1
    digest: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None
    """Of declaration and source, as `tertium schemes` prints it; a scheme that is not built in needs it."""
    threshold: Annotated[int, Meta(ge=1, le=64)] | None = None
    """How many holders' totals make the sum; the scheme's usual number by default."""


class Arithmetic(_Line, frozen=True, forbid_unknown_fields=True):
    """What the fixed-point plan must hold: ranges (absolute values) and the wanted error of the decoded mean."""

    table: ClassVar[str] = "rules.arithmetic"

    value_range: Positive = 8.0
    precision: Positive = 1e-5
    max_weight: Annotated[int, Meta(ge=1, le=2**40)] = 1
    """The most one data owner may count; 1 under the rule `uniform`, else the most examples any may have."""
    metric_range: Positive = 1000.0
    metric_precision: Positive = 1e-3


class TrainingLimits(_Line, frozen=True, forbid_unknown_fields=True):
    """What one round may ask of a data owner."""

    table: ClassVar[str] = "rules.training"

    max_epochs: Annotated[int, Meta(ge=0, le=10_000)] = 100
    max_batches: Annotated[int, Meta(ge=0, le=1_000_000)] = 10_000
    tasks: Annotated[tuple[Name, ...], Meta(max_length=1000)] = ()
    """Names of the tasks allowed; empty allows any that a site has in its own file."""


class Deadlines(_Line, frozen=True, forbid_unknown_fields=True):
    """How long each step of a round may take, in seconds, from the end of the step before."""

    table: ClassVar[str] = "rules.deadlines"

    join: Seconds = 60.0
    upload: Seconds = 600.0
    """Training and sending."""
    close: Seconds = 30.0
    release: Seconds = 60.0
    statement: Seconds = 30.0
    absence: Seconds = 60.0
    """How long a party that the others cannot go on without may be gone during a session: a restart, a lost line."""


class Rules(_Line, frozen=True, forbid_unknown_fields=True):
    """What all parties agreed to."""

    table: ClassVar[str] = "rules"

    mode: Mode
    scheme: SchemeName
    minimum_cohort: Annotated[int, Meta(ge=1, le=limits.PARTIES)] = 5
    weight_rule: WeightRule = WeightRule.UNIFORM
    stable_cohort: Annotated[int, Meta(ge=2, le=limits.PARTIES)] | None = None
    """When k, a release whose contributors differ from those of an earlier one by 1 to k - 1 either way is refused."""
    unsafe_small_cohort: Title | None = None
    """Why a minimum cohort of 2 is acceptable here."""
    unsafe_plain: Title | None = None
    """Why it is acceptable that the model owner reads each update."""
    arithmetic: Arithmetic = Arithmetic()
    training: TrainingLimits = TrainingLimits()
    deadlines: Deadlines = Deadlines()


class Charter(_Line, frozen=True, forbid_unknown_fields=True, dict=True):
    """Who takes part in a federation, and under which rules. See DESIGN in the docs for what each line is for."""

    version: Literal[1]
    federation: Title
    serial: Annotated[int, Meta(ge=1, le=limits.SERIAL)]
    not_after: Annotated[datetime, Meta(tz=True)]
    rules: Rules
    parties: Annotated[tuple[Party, ...], Meta(min_length=1, max_length=limits.PARTIES)]

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered = tuple(sorted(self.parties, key=lambda party: party.name))
        msgspec.structs.force_setattr(self, "parties", ordered)
        try:
            msgspec.structs.force_setattr(self, "not_after", self.not_after.astimezone(UTC))
        except OverflowError:
            raise CharterError("not_after: lies before the first or after the last day there is, in UTC") from None
        _check_rules(self.rules)
        _check_parties(self.parties)
        _check_roles(self)

    @functools.cached_property
    def digest(self) -> bytes:
        """32 bytes that name this charter: over the canonical msgpack of the struct."""
        return digest(Label.CHARTER, msgspec.msgpack.encode(self))

    @functools.cached_property
    def plan(self) -> "Plan":
        """The fixed-point plan that follows from the rules and the number of data owners.

        Raises:
            CharterError: no word size holds these ranges at this precision.
        """
        from ..crypto.ring import Plan  # numpy, which a process that only reads charters need not load

        wanted = self.rules.arithmetic
        try:
            return Plan.fit(
                cohort=len(self.data_owners),
                max_weight=wanted.max_weight,
                value_range=wanted.value_range,
                precision=wanted.precision,
                metric_range=wanted.metric_range,
                metric_precision=wanted.metric_precision,
            )
        except BadPlan as error:
            raise CharterError(f"rules.arithmetic: {error}") from None

    @functools.cached_property
    def _by_name(self) -> dict[str, Party]:
        return {party.name: party for party in self.parties}

    def party(self, name: str) -> Party:
        """Return the party of this name; raises `NotInCharter`."""
        found = self._by_name.get(name)
        if found is None:
            raise NotInCharter(f"{name[: limits.NAME_LENGTH]!r} is not a party of this charter")
        return found

    def require(self, name: str, *roles: Role) -> Party:
        """Return the party of this name if it has one of these roles; raises `NotInCharter`, `WrongRole`."""
        found = self.party(name)
        if found.role not in roles:
            wanted = " or ".join(role.words for role in roles)
            raise WrongRole(f"is {_article(found.role.words)}, not {_article(wanted)}", party=name)
        return found

    def with_role(self, role: Role) -> tuple[Party, ...]:
        """Return the parties of this role, in name order."""
        return tuple(party for party in self.parties if party.role is role)

    @functools.cached_property
    def model_owner(self) -> Party:
        """The one model owner."""
        return self.with_role(Role.MODEL_OWNER)[0]

    @functools.cached_property
    def data_owners(self) -> tuple[Party, ...]:
        """The data owners, in name order."""
        return self.with_role(Role.DATA_OWNER)

    @functools.cached_property
    def secure_workers(self) -> tuple[Party, ...]:
        """The secure workers, in name order."""
        return self.with_role(Role.SECURE_WORKER)

    @functools.cached_property
    def evaluators(self) -> tuple[Party, ...]:
        """The evaluators, in name order."""
        return self.with_role(Role.EVALUATOR)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What every run and every report must say first, one sentence a line; empty when nothing is unsafe."""
        lines = []
        if self.rules.unsafe_plain is not None:
            lines.append(
                f"UNSAFE: the model owner reads every single update (mode plain), because: {self.rules.unsafe_plain}"
            )
        if self.rules.minimum_cohort < limits.SAFE_COHORT:
            why = self.rules.unsafe_small_cohort or self.rules.unsafe_plain
            lines.append(
                f"UNSAFE: a release may hold only {plural(self.rules.minimum_cohort, 'contribution')}, "
                f"so a contributor can work out another's update, because: {why}"
            )
        return tuple(lines)

    def require_runnable(self) -> None:
        """Raise `CharterError` unless this release can run the mode and scheme the charter names."""
        from .seats import scheme_of  # numpy, which a process that only reads charters need not load

        scheme_of(self)


def _check_rules(rules: Rules) -> None:
    for name in ("unsafe_small_cohort", "unsafe_plain"):
        why = getattr(rules, name)
        if why is not None and not why.strip():
            raise CharterError(f"rules.{name}: must say why, or be left out")
    plain = rules.mode is Mode.PLAIN
    if plain and rules.unsafe_plain is None:
        raise CharterError('rules.unsafe_plain: mode plain needs this line, with the reason: unsafe_plain = "why"')
    if not plain and rules.unsafe_plain is not None:
        raise CharterError(f"rules.unsafe_plain: belongs to mode plain, and the mode is {rules.mode.value}")
    if not plain and rules.minimum_cohort < 2:
        raise CharterError("rules.minimum_cohort: a sum over one contributor is that contributor's update")
    small = rules.minimum_cohort < limits.SAFE_COHORT
    if small and not plain and rules.unsafe_small_cohort is None:
        raise CharterError(
            f"rules.minimum_cohort: with {rules.minimum_cohort} a contributor reads the other's update exactly; "
            f'say {limits.SAFE_COHORT} or more, or add unsafe_small_cohort = "why"'
        )
    if not small and rules.unsafe_small_cohort is not None:
        raise CharterError(
            f"rules.unsafe_small_cohort: the minimum cohort is {rules.minimum_cohort}, so there is nothing to excuse"
        )
    if rules.weight_rule is WeightRule.UNIFORM and rules.arithmetic.max_weight != 1:
        raise CharterError("rules.arithmetic.max_weight: under weight rule uniform every weight is 1")
    if len(set(rules.training.tasks)) != len(rules.training.tasks):
        raise CharterError("rules.training.tasks: names a task twice")


def _check_parties(parties: Iterable[Party]) -> None:
    """Check each party's line, and that nothing that must be unique stands twice."""
    names: set[str] = set()
    keys: dict[bytes, str] = {}
    endpoints: dict[str, str] = {}
    for party in parties:
        at = f"parties.{party.name}"
        if party.name in names:
            raise CharterError(f"{at}: two parties have this name")
        names.add(party.name)
        for kind, key in (("signing", party.signing), ("curve", party.curve)):
            # Across kinds too: one secret in two algorithms is a proof for neither.
            if key in keys:
                raise CharterError(f"{at}.{kind}: the same key stands at {keys[key]}")
            keys[key] = f"{at}.{kind}"
        check_party(party)
        for lane, endpoint in (("control", party.control), ("bulk", party.bulk)):
            if endpoint is None:
                continue
            if endpoint in endpoints:
                raise CharterError(f"{at}.{lane}: the same endpoint stands at {endpoints[endpoint]}")
            endpoints[endpoint] = f"{at}.{lane}"


def check_party(party: Party) -> None:
    """Raise `CharterError` unless this line could stand in a charter by itself: sound keys, endpoints of its role."""
    at = f"parties.{party.name}"
    weakness = party.identity.weakness()
    if weakness is not None:
        raise CharterError(f"{at}: {weakness}")
    for lane, endpoint in (("control", party.control), ("bulk", party.bulk)):
        _check_endpoint(f"{at}.{lane}", party.role, endpoint)


def _check_endpoint(line: str, role: Role, endpoint: str | None) -> None:
    if not role.listens:
        if endpoint is not None:
            raise CharterError(f"{line}: {_article(role.words)} only connects to others and has no endpoint")
        return
    if endpoint is None:
        raise CharterError(f"{line}: {_article(role.words)} needs an endpoint, tcp://HOST:PORT")
    check_port(line, endpoint, CharterError)
    if endpoint.startswith("tcp://0.0.0.0:"):
        raise CharterError(f"{line}: others must be able to connect to it; 0.0.0.0 belongs in a site file's [listen]")


ONE_WORKER = frozenset({Mode.TRUSTED, Mode.MASKED, Mode.PLAIN})
"""Modes that have exactly one secure worker."""


def _check_roles(charter: Charter) -> None:
    rules = charter.rules
    count = {role: len(charter.with_role(role)) for role in Role}
    if count[Role.MODEL_OWNER] != 1:
        raise CharterError(f"parties: a charter has exactly one model owner, this one {count[Role.MODEL_OWNER]}")
    workers = count[Role.SECURE_WORKER]
    if workers < 1:
        raise CharterError("parties: a charter has at least one secure worker, this one none")
    if rules.mode in ONE_WORKER and workers != 1:
        raise CharterError(f"parties: mode {rules.mode.value} has exactly one secure worker, this charter {workers}")
    if rules.mode in (Mode.ADDITIVE, Mode.SHAMIR, Mode.SHARED) and workers < 2:
        raise CharterError(f"parties: mode {rules.mode.value} shares among at least two secure workers, here is one")
    if count[Role.DATA_OWNER] < rules.minimum_cohort:
        raise CharterError(
            f"rules.minimum_cohort: {rules.minimum_cohort} contributors can never come together among "
            f"{plural(count[Role.DATA_OWNER], 'data owner')}"
        )


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
