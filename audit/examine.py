"""The audit of a run, from beginning to end: read, join, check, and put together what was found.

The checks, in this order; each is one module that adds findings and nothing else.
 1. signatures and chains (`chains.py`): every ledger is what its party signed for
 2. pairing (`pairing.py`): nobody denies what it signed or gave a receipt for
 3. conservation (`conservation.py`): updates, shares and seeds are only where the mode lets them be
 4. agreement (`agreement.py`): one question, one set and one outcome an attempt, and nobody left out
 5. releases (`releases.py`): one a round, over one set a model, of the minimum cohort
 6. continuity (`continuity.py`): the model from round to round, the life of keys
 7. outcomes (`outcomes.py`): checked sums, aborts, who was dropped, refusals
 8. replay (`replay.py`): the sums whose contributors open their commitments, added up again
 9. the rank test (`coalitions.py`): what each party and coalition can work out from all of it
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from ..crypto.errors import Misbehaviour
from ..crypto.files import reason
from ..protocol.errors import SiteFileError
from . import agreement, chains, conservation, continuity, outcomes, pairing, releases
from .attempts import attempts
from .coalitions import Together, exposures, groups
from .errors import UnusableEvidence
from .evidence import DISCLOSING, SUFFIX, Bundle, write
from .facts import Facts, join
from .findings import Findings, Found, by_weight
from .knowledge import gather
from .matrix import fit, rows
from .outcomes import refusals
from .reading import Run
from .replay import replay
from .report import VERSION, Finding, PartyFacts, Report, Severity

CHECKS = (chains, pairing, conservation, agreement, releases, continuity, outcomes)


@dataclass(frozen=True)
class Audit:
    """A report, and the evidence of each of its findings that has some."""

    report: Report
    bundles: Mapping[int, Bundle]
    """By the place of the finding in the report."""
    disclosing: Mapping[int, Callable[[], Bundle]] = field(default_factory=dict)
    """By place too: what makes the bundle of a finding whose evidence opens updates, or shares of them."""

    @classmethod
    def of(cls, report: Report, found: Iterable[Found]) -> "Audit":
        """Return a report with the evidence of its findings, which are those of `found` in the same order."""
        bundles: dict[int, Bundle] = {}
        disclosing: dict[int, Callable[[], Bundle]] = {}
        for place, each in enumerate(found):
            if each.bundle is not None:
                bundles[place] = each.bundle
            if each.disclosing is not None:
                disclosing[place] = each.disclosing
        return cls(report, bundles, disclosing)

    def with_evidence(self, folder: Path, *, disclose: bool = False) -> "Audit":
        """Write bundles into `folder`, and return the audit with the names of the files in it.

        Those that open something are written only with `disclose`.

        Raises:
            UnusableEvidence: a file cannot be written, or what it is to open cannot be read again.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnusableEvidence(f"{folder} cannot be made: {reason(error)}") from None
        found = list(self.report.findings)
        places = sorted((*self.bundles, *(self.disclosing if disclose else ())))
        for number, place in enumerate(places, 1):
            bundle = self._bundle(place)
            suffix = DISCLOSING if bundle.openings else SUFFIX
            name = f"{number:03d}-{bundle.kind.value.replace(' ', '-')}-{bundle.party or 'nobody'}{suffix}"
            write(folder / name, bundle)
            found[place] = msgspec.structs.replace(found[place], evidence=name)
        return replace(self, report=msgspec.structs.replace(self.report, findings=tuple(found)))

    def _bundle(self, place: int) -> Bundle:
        if place in self.bundles:
            return self.bundles[place]
        try:
            return self.disclosing[place]()
        except (Misbehaviour, SiteFileError) as error:
            raise UnusableEvidence(f"what was opened cannot be read again: {error}") from None


def examine(run: Run) -> Audit:
    """Check a run and return what was found."""
    facts = join(run)
    findings = Findings(facts)
    for each in CHECKS:
        each.check(findings)
    left_out: list[str] = []
    others = sum(len(facts.entries_of(name)) for name in facts.given) - len(facts.entries)
    if others:
        left_out.append(f"{others} entries are of another charter than was given")
    replays = replay(findings, run.openings)
    known = gather(facts)
    together = Together(facts, known)
    reaches = [together.reach(group) for group in groups(_in_order(facts), left_out, known)]
    exposed = exposures(findings, together, reaches, left_out)
    single = [reach for reach in reaches if len(reach.who) == 1]
    several = [reach for reach in reaches if len(reach.who) > 1]
    found = by_weight(findings.found)
    rules, charter = facts.charter.rules, facts.charter
    report = Report(
        version=VERSION,
        run=run.name,
        federation=charter.federation,
        charter=charter.digest.hex(),
        serial=charter.serial,
        mode=rules.mode.value,
        scheme=rules.scheme.name,
        holders=facts.seats.holders,
        collusion_sets=tuple(tuple(sorted(each)) for each in together.collusion),
        minimum_cohort=rules.minimum_cohort,
        warnings=charter.warnings,
        verdict="violation" if any(_is_violation(each.finding) for each in found) else "clean",
        parties=_parties(findings),
        attempts=attempts(facts, left_out),
        matrix=rows(facts, known, fit(facts, single, left_out)),
        coalitions=rows(facts, known, fit(facts, several, left_out)),
        exposures=tuple(exposed),
        findings=tuple(each.finding for each in found),
        refusals=refusals(facts),
        retention=conservation.retention(findings),
        replays=replays,
        cannot_show=_cannot_show(facts),
        left_out=tuple(left_out),
    )
    return Audit.of(report, found)


def _is_violation(finding: Finding) -> bool:
    return finding.severity is Severity.VIOLATION


def _in_order(facts: Facts) -> tuple[str, ...]:
    """Return all parties: the model owner, the secure workers, the data owners, the evaluators."""
    charter = facts.charter
    roles = ((charter.model_owner,), charter.secure_workers, charter.data_owners, charter.evaluators)
    return tuple(party.name for each in roles for party in each)


def _parties(findings: Findings) -> tuple[PartyFacts, ...]:
    facts, out = findings.facts, []
    for name in _in_order(facts):
        party, given = facts.charter.party(name), facts.given.get(name)
        signed = [said.size for _, said in findings.checkpoints.get(name, ())]
        held = [
            said.size
            for shown, said in facts.checkpoints_of(name)
            if facts.holders_of[shown.subject, shown.signer] - {name}
        ]
        out.append(
            PartyFacts(
                name=name,
                role=party.role.words,
                organisation=party.organisation,
                given=given is not None,
                why_not=facts.run.missing.get(name, ""),
                entries=given.file.size if given is not None else 0,
                root=given.file.root(given.file.size).hex() if given is not None else None,
                vouched=max(held, default=0),
                signed=max(signed, default=0),
            )
        )
    return tuple(out)


def _cannot_show(facts: Facts) -> tuple[str, ...]:
    """Return what no audit of ledgers shows, and what this one does not for lack of a ledger."""
    missing = sorted(facts.run.missing)
    told = [
        "What a party leaked or got outside of the protocol: by another connection, a copied disk, a telephone.",
        "What a changed program did and did not write: a ledger is what a party's own program says of itself.",
        "What a party changed in its ledger after the last checkpoint of it that another party holds.",
        "That somebody denies having got what it gave no receipt for.",
        "What a model owner learns from a sum by crafting the weights it sends to everybody, or by comparing sums over "
        "different models.",
    ]
    if facts.seats.owner is None or len(facts.seats.holders) > 1:
        told.append(
            "That a data owner's update is what its data gives: a sum is checked against what was sent, not against "
            "the data."
        )
    if missing:
        told.append(
            f"What {', '.join(missing)} opened, kept or erased, but for what others have signed of theirs: without a "
            f"ledger that can be used nothing else is on record."
        )
    return tuple(told)
