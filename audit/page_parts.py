"""The sections of the page that are lists and tables: the run, findings, sums, releases, erasure, what is left.

Rules of the file:
- One function a section; each returns its content without its heading, and says so where there is nothing.
- A sign goes with every state, and a word with every sign.
- Whatever can be long is cut after some rows; the rest stands folded below, on the page.
"""

from collections import Counter, defaultdict
from typing import Final

from ..crypto.sharing.naming import CONTRIBUTORS, NOT_STOPPED, REMEDY
from ..protocol.ledger import Act
from ..protocol.text import plural
from .glossary import TERMS
from .page_html import Child, Html, el, join, listed, name, table, text
from .page_proofs import Entries, Proofs, ranges, short
from .page_sequence import titled
from .report import Attempt, Exposure, Finding, How, PartyFacts, Report, Severity
from .words import disclosed, where

_ROWS: Final = 20
NOTHING: Final = "\N{EN DASH}"
MODES: Final = {
    "trusted": "The secure worker opens each update, adds them up, and lets only the sum go to the model owner.",
    "masked": "The secure worker has each update under a mask, the model owner the seeds of the masks. Neither reads "
    "an update alone; both together can.",
    "additive": "Each update is cut into one share a secure worker; only all of them together can read one.",
    "shamir": "Each secure worker has one point of each update; any as many as the threshold can read one together.",
    "shared": "Each secure worker has the share of each update that the scheme of the charter gives it.",
    "plain": "The model owner opens each update itself: there is nothing between it and a data owner's update.",
}
SIGNS: Final = {"verified": "✓", "unverified": "!", "failed": "✗", "none": NOTHING}
_STATES: Final = {"verified": "good", "unverified": "warn", "failed": "bad", "none": "warn"}
_OUTCOMES: Final = {
    "equal": ("✓", "equal", "good"),
    "different": ("✗", "different", "bad"),
    "not replayed": (NOTHING, "not replayed", "plain"),
}
_REACHED: Final = {
    How.MODE: ("can read each update of", "in rounds"),
    How.OTHERS: ("can work out the update of", "in rounds"),
    How.SUMS: ("can work out the update of", "in rounds"),
    How.ACROSS: ("could estimate the update of", "in rounds"),
    How.TWO_LEFT: ("know a sum of two, in which is that of", "for instance in round"),
}
"""By way: what a group can do, and when, as the heads of two columns."""
_WEIGHTS: Final = {Severity.VIOLATION: ("✗", "bad"), Severity.ANOMALY: ("!", "warn"), Severity.NOTICE: ("i", "plain")}


def mark(sign: str, word: str, kind: str) -> Html:
    """Return a state: a sign and a word, with a tint behind."""
    return el("span", el("span", sign, class_="sign", aria_hidden="true"), el("span", word), class_=f"mark {kind}")


def facts(report: Report) -> Html:
    """Return what run this is, who takes part, and what was given."""
    rounds = {(each.session, each.round) for each in report.attempts if each.purpose == "train"}
    given = sum(party.given for party in report.parties)
    evaluations = len(report.attempts) - len(_training(report))
    evaluated = f", and {plural(evaluations, 'evaluation')}" if evaluations else ""
    lines: tuple[tuple[str, Child], ...] = (
        ("Run", report.run),
        ("Federation", report.federation),
        ("Charter", join(el("code", report.charter, class_="long"), el("div", f"serial {report.serial}"))),
        ("Mode", join(el("strong", report.mode), f" (scheme {report.scheme}). ", MODES.get(report.mode, ""))),
        ("Who holds updates or shares", listed(report.holders)),
        ("Who can read one update", join(_collusion(report), el("div", CONTRIBUTORS, class_="quiet"))),
        ("Smallest cohort", f"at least {report.minimum_cohort} contributors in each sum"),
        ("Rounds", f"{len(rounds)}, in {plural(len(_training(report)), 'attempt')}" + evaluated),
        ("Ledgers", f"{given} of {len(report.parties)} given, {sum(p.entries for p in report.parties):,} entries"),
    )
    warnings = [el("p", mark("!", "The charter says", "warn"), " ", each, class_="note") for each in report.warnings]
    return join(
        warnings,
        el("dl", [el("div", el("dt", term), el("dd", said)) for term, said in lines], class_="facts"),
        table(
            "Parties and their ledgers",
            ["party", "role", "organisation", "ledger", "entries", "held by others up to", "root"],
            [_party(party) for party in report.parties],
            most=16,
        ),
        el(
            "p",
            "Held by others up to: for so many entries somebody else holds a checkpoint that the party signed. What "
            "comes after them could have been changed without a trace. Root: the digest of the whole ledger, by which "
            "two copies of it are told apart.",
            class_="quiet",
        ),
    )


def _collusion(report: Report) -> Html:
    """Return the sets of parties that the scheme itself lets read an update."""
    sets = [
        el("li", *(join(" with " if at else None, name(who)) for at, who in enumerate(each)))
        for each in report.collusion_sets
    ]
    parts: list[Child] = [el("ul", sets[:8], class_="sets")]
    if sets[8:]:
        parts.append(el("details", el("summary", f"{len(sets) - 8} more"), el("ul", sets[8:], class_="sets")))
    return join(*parts)


def _party(party: PartyFacts) -> list[Child]:
    given = mark("✓", "given", "good") if party.given else join(mark("!", "not looked at", "warn"), " ", party.why_not)
    root = el("code", party.root, class_="long") if party.root else NOTHING
    number = [f"{party.entries:,}", f"{party.vouched:,}"] if party.given else [NOTHING, NOTHING]
    return [name(party.name), party.role, party.organisation or NOTHING, given, *number, root]


def findings(report: Report, proofs: Proofs) -> Html:
    """Return violations and anomalies with what shows them, and notices folded."""
    parts: list[Child] = []
    titles = {Severity.VIOLATION: "Violations", Severity.ANOMALY: "Anomalies"}
    for severity, title in titles.items():
        found = report.of(severity)
        parts.append(el("h3", title, id=f"findings-{title.lower()}"))
        if not found:
            parts.append(el("p", mark("✓", "None on record", "good")))
        parts.append(_findings(found[:_ROWS], proofs))
        if found[_ROWS:]:
            more = f"{len(found) - _ROWS} more of {len(found)}"
            parts.append(el("details", el("summary", more), _findings(found[_ROWS:], proofs), class_="fold"))
    notices = report.of(Severity.NOTICE)
    parts.append(el("h3", "Notices", id="findings-notices"))
    if not notices:
        parts.append(el("p", "None."))
    else:
        told = plural(len(notices), "thing")
        about = "that honest runs have too: attempts given up, messages lost, somebody who did not sign."
        parts.append(el("p", f"{told} {about}"))
        counted = Counter(each.kind.value for each in notices)
        summary = ", ".join(f"{number} {kind}" for kind, number in counted.items())
        parts.append(el("details", el("summary", summary), _findings(notices, proofs), class_="fold bulk"))
    return join(*parts)


def _findings(found: tuple[Finding, ...], proofs: Proofs) -> Html | None:
    if not found:
        return None
    return el("ol", [_finding(each, proofs) for each in found], class_="findings")


def _finding(found: Finding, proofs: Proofs) -> Html:
    sign, kind = _WEIGHTS[found.severity]
    about: list[Child] = []
    if found.party is not None:
        about += ["by ", name(found.party), ". "]
    if found.others:
        about += ["Concerned: ", listed(found.others), ". "]
    if found.round:
        about.append(f"{where(found).capitalize()}. ")
    evidence: Child = None
    if found.evidence is not None:
        command = f"tertium evidence verify {found.evidence} --charter charter.toml"
        evidence = el("p", "Evidence, to be checked with the charter alone: ", el("code", command))
        if found.discloses is not None:
            evidence = join(evidence, el("p", f"That file opens {disclosed(found.discloses)}."))
    elif found.discloses is not None:
        text = f"There is evidence that holds with the charter alone. It opens {disclosed(found.discloses)} to whoever "
        evidence = el("p", text, "reads it: write it with --evidence FOLDER --disclose.")
    elif found.provable:
        evidence = el("p", "There is evidence that holds with the charter alone: write it with --evidence FOLDER.")
    elif found.severity is Severity.VIOLATION:
        evidence = el("p", "No signature shows this: it rests on the ledgers as they were given.")
    shown: Child = None
    if found.entries:
        title = f"Entries that show it ({len(found.entries)})"
        shown = el("details", el("summary", title), proofs.refs(found.entries))
    return el(
        "li",
        el("p", mark(sign, found.kind.value, kind), " ", el("span", *about, class_="quiet") if about else None),
        el("p", found.text, class_="said"),
        evidence,
        shown,
    )


def _training(report: Report) -> list[Attempt]:
    return [each for each in report.attempts if each.purpose == "train"]


def sums(report: Report) -> Html:
    """Return what became of each sum: over how many, and was it checked."""
    closed = [each for each in _training(report) if each.contributors is not None]
    if not closed:
        return el("p", "No contributor set was closed, so there is no sum.")
    counted: Counter[str] = Counter(each.check for each in closed)
    tally = [
        mark(SIGNS[state], f"{counted[state]} {state if state != 'none' else 'without a check'}", _STATES[state])
        for state in SIGNS
        if counted[state] or state == "verified"
    ]
    rows: list[list[Child]] = []
    for each in closed:
        who = each.contributors or ()
        word = each.check if each.check != "none" else "no check on record"
        said: list[Child] = [mark(SIGNS[each.check], word, _STATES[each.check])]
        if each.silent:
            said += [" silent: ", listed(each.silent)]
        if each.contradicted:
            said += [" contradicted: the total of ", listed(each.contradicted)]
        rows.append([titled(each), len(who), listed(who), join(*said)])
    odd = [row for row, each in zip(rows, closed, strict=True) if each.check != "verified"]
    parts: list[Child] = [el("p", tally, class_="tally")]
    if odd and len(rows) > _ROWS:
        caption = "Sums that are not verified"
        parts.append(table(caption, ["round", "count", "contributors", "check"], odd, most=_ROWS))
    parts.append(table("All sums", ["round", "count", "contributors", "check"], rows, most=_ROWS))
    parts.append(_replays(report))
    return join(*parts)


def _replays(report: Report) -> Html | None:
    """Return which sums the auditor added up again, and whose updates the auditor knows by that."""
    if not report.replays:
        return None
    known = sorted({who for each in report.replays for who in each.known})
    rows: list[list[Child]] = []
    for each in report.replays:
        state = mark(*_OUTCOMES[each.outcome])
        rows.append([where(each).capitalize(), state, each.text, listed(each.known)])
    warned = join(mark("!", "Known to the auditor now", "warn"), " updates, or shares of them, of ", listed(known))
    return join(
        el("h3", "Added up again from what was opened", id="sums-replayed"),
        el("p", warned, class_="note") if known else None,
        table("Sums that were added up again", ["round", "outcome", "how", "known now"], rows, most=_ROWS),
    )


def releases(report: Report, proofs: Proofs) -> Html:
    """Return every sum that was let go, by slot and holder."""
    slots = {(each.session, each.round) for each in _training(report) if each.releases}
    if not slots:
        return el("p", "Nothing was released.")
    rows: list[list[Child]] = []
    for each in _training(report):
        for let in each.releases:
            title = join(name(let.holder), f" released a sum over {len(let.contributors)}, {titled(each).lower()}")
            button = proofs.button(plural(len(let.entries), "entry", "entries"), title, proofs.refs(let.entries))
            shown = button if let.entries else "none"
            rows.append([titled(each), name(let.holder), len(let.contributors), short(let.subject), shown])
    number = sum(len(each.releases) for each in _training(report))
    said = (
        f"{plural(number, 'release')} in {plural(len(slots), 'round')}. In one round each holder releases once; what "
        f"it sends again has the same digest."
    )
    heads = ["round", "holder", "over", "digest of what was sent", "entries"]
    return join(el("p", said), table("What was released", heads, rows, most=_ROWS))


def attempts(report: Report) -> Html:
    """Return attempts that ended without a sum, and what that meant for whom."""
    by_round: dict[tuple[str, int], list[Attempt]] = defaultdict(list)
    for each in _training(report):
        by_round[each.session, each.round].append(each)
    odd = [each for found in by_round.values() for each in found if len(found) > 1 or each.aborts]
    away = [each for each in _training(report) if each.declined or each.missing]
    if not odd and not away:
        return el("p", "Every round took one attempt, and nobody of its cohort was missing.")
    kept = {key: {who for each in found for who in each.contributors or ()} for key, found in by_round.items()}
    rows: list[list[Child]] = []
    for each in odd:
        receipted = {who for line in each.aborts for who in line.receipted}
        dropped = sorted(receipted - kept[each.session, each.round])
        why = [join(name(line.party), f": {line.cause}: {line.text}. ") for line in each.aborts]
        ended = "a sum" if each.contributors and each.releases else "no sum"
        rows.append([titled(each), ended, join(*why) if why else NOTHING, listed(dropped)])
    parts: list[Child] = []
    if rows:
        heads = ["attempt", "ended with", "who gave it up, and why", "had a receipt and is not in the round's sum"]
        parts.append(table("Attempts that were given up, or made again", heads, rows, most=_ROWS))
    if away:
        absent: list[list[Child]] = [[titled(each), listed(each.declined), listed(each.missing)] for each in away]
        parts.append(table("Who was not in a sum", ["attempt", "declined", "missing"], absent, most=_ROWS))
    return join(*parts)


def refusals(report: Report, proofs: Proofs) -> Html:
    """Return what was turned away."""
    if not report.refusals:
        return el("p", "Nobody refused anything.")
    rows: list[list[Child]] = []
    for each in report.refusals:
        title = join(name(each.party), " refused: ", each.code)
        button = proofs.button(plural(each.number, "time"), title, proofs.refs(each.entries, each.number))
        peer = name(each.peer) if each.peer is not None else "a stranger"
        rows.append([name(each.party), peer, el("code", each.code), button])
    return table("What was refused", ["who refused", "of whom", "why", "how often"], rows, most=_ROWS)


def retention(report: Report, entries: Entries) -> Html:
    """Return what each party took in or made that is to be erased, and when it was."""
    if not report.retention:
        return el("p", "No party has on record that it took in or made anything that is to be erased.")
    where: dict[tuple[str, str], list[int]] = defaultdict(list)
    rounds: dict[tuple[str, str], set[int]] = defaultdict(set)
    for party, ledger in entries.items():
        for place, entry in enumerate(ledger):
            if entry.act is Act.ERASED:
                where[party, entry.data.value].append(place)
                rounds[party, entry.data.value].add(entry.round)
    rows: list[list[Child]] = []
    for each in report.retention:
        left = each.taken - each.erased
        state = mark("✓", "all erased", "good") if not left else mark("!", f"{left} with no erasure on record", "warn")
        key = each.party, each.data
        at: Child = NOTHING
        if where[key]:
            numbers = el("details", el("summary", plural(len(where[key]), "entry", "entries")), ranges(where[key]))
            at = join("rounds ", _rounds(rounds[key]), numbers)
        kept = el("details", el("summary", "which"), ranges(ref.entry for ref in each.open)) if each.open else None
        rows.append([name(each.party), each.data, f"{each.taken:,}", f"{each.erased:,}", at, join(state, kept)])
    heads = ["party", "what", "opened or made", "erased", "when", "state"]
    return join(
        el(
            "p",
            "A round key is drawn for one attempt and erased with the last of what it opened; a data owner's own "
            "update counts as made. An erasure is what the party's program wrote down: of a copy made beside it no "
            "ledger says anything.",
        ),
        table("Opened, drawn and erased", heads, rows, most=60),
    )


def _rounds(found: set[int]) -> Html:
    return text(str(ranges(found)).replace("#", ""))


def exposure(report: Report) -> Html:
    """Return the smallest groups that can work out an update, the strongest way first."""
    parts: list[Child] = [
        el(
            "p",
            "What somebody could work out from what is on record, and what no mode takes away. That is no violation, "
            "unless it says so.",
        )
    ]
    for how in How:
        found = [each for each in report.exposures if each.how is how]
        if not found:
            continue
        parts.append(
            el("h3", how.value[0].upper() + how.value[1:], id=f"exposure-{how.name.lower().replace('_', '-')}")
        )
        rows = [_exposed(how, *each) for each in _joined(found)]
        parts.append(table(f"By this way: {how.value}", ["all of", *_REACHED[how], "state"], rows, most=_ROWS))
    if not report.exposures:
        parts.append(el("p", "No group that was looked at can work out an update."))
    parts.append(el("h3", "What no mode stops", id="exposure-always"))
    parts.append(el("ul", [el("li", each) for each in (CONTRIBUTORS, *NOT_STOPPED, REMEDY)]))
    return join(*parts)


def _joined(found: list[Exposure]) -> list[tuple[tuple[str, ...], list[str], set[int], bool]]:
    """Return exposures with those of one group in one line."""
    by_group: dict[tuple[tuple[str, ...], bool], tuple[list[str], set[int]]] = {}
    for each in found:
        whose, rounds = by_group.setdefault((each.who, each.allowed), ([], set()))
        whose.append(each.whose)
        rounds.update(each.rounds)
    return [(who, whose, rounds, allowed) for (who, allowed), (whose, rounds) in by_group.items()]


def _exposed(how: How, who: tuple[str, ...], whose: list[str], rounds: set[int], allowed: bool) -> list[Child]:
    no_violation = "as the mode says" if how is How.MODE else "no mode stops it"
    state = mark("i", no_violation, "plain") if allowed else mark("✗", "not by the mode", "bad")
    return [listed(who), listed(whose), _rounds(rounds) if rounds else NOTHING, state]


def cannot_show(report: Report) -> Html:
    """Return what stands outside of every ledger, and what this page leaves out."""
    parts: list[Child] = [el("ul", [el("li", each) for each in report.cannot_show])]
    if report.left_out:
        parts.append(el("h3", "Left out of this report", id="left-out"))
        parts.append(el("ul", [el("li", each) for each in report.left_out]))
    return join(*parts)


def words() -> Html:
    """Return what the words of the page mean."""
    return el("dl", [el("div", el("dt", word), el("dd", means)) for word, means in TERMS], class_="facts")
