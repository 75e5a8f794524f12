"""Every attempt at every round, as the signed statements and the entries at both ends tell it."""

from collections import defaultdict
from typing import Final

from ..protocol.ledger import LABELS, Act
from ..protocol.messages import Abort, CloseList, OpenRound, Purpose
from .facts import At, Facts, refs
from .order import Place, in_order
from .outcomes import cosigners, last_check
from .releases import released
from .report import AbortLine, Attempt, Release, Step
from .words import spoken

MOST_STEPS: Final = 20_000
"""Steps of all attempts together; a diagram of more shows nothing to anybody."""

_Key = tuple[bytes, str, str]
"""Of a message: its subject, who sent it, and to whom."""


def attempts(facts: Facts, left_out: list[str]) -> tuple[Attempt, ...]:
    """Return all attempts in the order of session, round and attempt."""
    aborts: dict[tuple[bytes, int, int], list[AbortLine]] = defaultdict(list)
    for _, abort in facts.of(Abort):
        line = AbortLine(abort.party, abort.cause.value, abort.text, tuple(each.party for each in abort.receipted))
        aborts[abort.session, abort.round, abort.attempt].append(line)
    lets: dict[bytes, list[Release]] = defaultdict(list)
    for let in released(facts):
        at = [each for each in facts.by_subject.get(let.subject, ()) if each.entry.act is not Act.SENT]
        lets[let.open_round].append(Release(let.holder, let.subject.hex(), let.contributors, refs(at)))
    out, room, without = [], MOST_STEPS, 0
    for open_round, question in facts.questions.items():
        steps = _steps(facts, open_round) if room > 0 else ()
        if len(steps) > room or room <= 0:
            steps, room, without = (), 0, without + 1
        room -= len(steps)
        lines = tuple(aborts[question.session, question.round, question.attempt])
        out.append(_attempt(facts, open_round, question, lines, tuple(lets[open_round]), steps))
    if without:
        left_out.append(f"the messages of the last {without} attempts are not listed")
    return tuple(out)


def _attempt(
    facts: Facts,
    open_round: bytes,
    question: OpenRound,
    aborts: tuple[AbortLine, ...],
    lets: tuple[Release, ...],
    steps: tuple[Step, ...],
) -> Attempt:
    closes = [close for _, close in facts.about(CloseList, open_round)]
    check = last_check(facts, open_round)
    cosigned, absent = cosigners(facts, open_round)
    return Attempt(
        session=question.session.hex(),
        round=question.round,
        attempt=question.attempt,
        purpose="train" if question.purpose is Purpose.TRAIN else "evaluate",
        open_round=open_round.hex(),
        model=question.model.hex(),
        cohort=question.cohort,
        holders=question.present,
        contributors=closes[0].contributors if closes else None,
        declined=closes[0].declined if closes else (),
        missing=closes[0].missing if closes else (),
        releases=lets,
        check="none" if check is None else check[1].state.value,
        silent=() if check is None else check[1].silent,
        contradicted=() if check is None else check[1].contradicted,
        cosigned=cosigned,
        not_cosigned=absent,
        aborts=aborts,
        steps=steps,
    )


def _steps(facts: Facts, open_round: bytes) -> tuple[Step, ...]:
    """Return what was sent in an attempt, each where it was sent, in an order that agrees with the ledgers.

    One step is the entry at its sender, that at its recipient, or both.
    """
    ends: dict[_Key, dict[Act, At]] = {}
    entries: dict[str, list[int]] = defaultdict(list)
    for at in facts.of_question(open_round):
        entry = at.entry
        if entry.peer is None or entry.subject is None or entry.act not in (Act.SENT, Act.RECEIVED, Act.OPENED):
            continue
        pair = (at.party, entry.peer) if entry.act is Act.SENT else (entry.peer, at.party)
        ends.setdefault((entry.subject, *pair), {}).setdefault(entry.act, at)
        entries[at.party].append(at.sequence)
    begins: dict[Place, _Key] = {}
    messages: list[tuple[Place, Place]] = []
    for key, found in ends.items():
        first = next(found[act] for act in (Act.SENT, Act.RECEIVED, Act.OPENED) if act in found)
        begins[first.party, first.sequence] = key
        if Act.SENT in found and Act.RECEIVED in found:
            got = found[Act.RECEIVED]
            messages.append(((first.party, first.sequence), (got.party, got.sequence)))
    places = (place for place in in_order(entries, messages) if place in begins)
    return tuple(_step(facts, begins[place], ends[begins[place]]) for place in places)


def _step(facts: Facts, key: _Key, ends: dict[Act, At]) -> Step:
    subject, sender, recipient = key
    entry = next(iter(ends.values())).entry
    shown = facts.shown.get(subject)
    label = shown[0].label if shown else LABELS.get(entry.data)
    places = {act: at.ref for act, at in ends.items()}
    return Step(
        what=spoken(label) if label is not None else entry.data.value,
        data=entry.data.value,
        sender=sender,
        recipient=recipient,
        subject=subject.hex(),
        payload=entry.payload,
        wire=entry.wire,
        sent=places.get(Act.SENT),
        received=places.get(Act.RECEIVED),
        opened=places.get(Act.OPENED),
    )
