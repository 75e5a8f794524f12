"""What the parties of a demo reported: scores, who opened what of whom, and what came of checking the sums.

Nothing is counted here that a party did not print: the launcher has no other source.
"""

from collections import Counter
from dataclasses import dataclass, field

from ...crypto.sharing.naming import collusion_words
from ...protocol.charter import Mode, Role
from ...protocol.check_messages import SumState
from ...protocol.progress import Opened, RoundDone, Scored, ScoredOwn
from ...protocol.text import plural
from ..trust import Trust
from .launcher import Line
from .recipes import Recipe


@dataclass
class Seen:
    """What the parties reported: the model owner's scores, and who opened what of whom."""

    scores: list[Scored] = field(default_factory=list)
    rounds: int = 0
    contributors: set[int] = field(default_factory=set)
    """How many contributors the sums had."""
    updates: dict[str, int] = field(default_factory=dict)
    """Updates opened, by who opened them."""
    sums: dict[str, int] = field(default_factory=dict)
    checks: Counter[str] = field(default_factory=Counter)
    """What came of checking the sums."""
    silent: set[str] = field(default_factory=set)
    own: dict[str, list[ScoredOwn]] = field(default_factory=dict)
    """What each data owner scored of its own models."""
    pictures: tuple[str, ...] = ()
    """Names of the pictures beside the one of every demo."""

    def take(self, line: Line) -> None:
        """Count a line."""
        match line.progress:
            case Scored() as scored:
                self.scores.append(scored)
            case ScoredOwn() as scored:
                self.own.setdefault(line.party, []).append(scored)
            case RoundDone(contributors=contributors, check=check, silent=silent):
                self.rounds += 1
                self.contributors.add(contributors)
                self.checks[check] += 1
                self.silent.update(silent)
            case Opened(label="contribution"):
                self.updates[line.party] = self.updates.get(line.party, 0) + 1
            case Opened(label="aggregate"):
                self.sums[line.party] = self.sums.get(line.party, 0) + 1
            case _:
                pass


def who_saw_what(recipe: Recipe, trust: Trust, seen: Seen) -> list[str]:
    """Return lines on who opened what, and who could have read a single update."""
    names = [member.name for member in recipe.named(Role.DATA_OWNER)]
    data_owners = f"{len(names)} data owners" if recipe.crowd else ", ".join(names)
    owner = recipe.named(Role.MODEL_OWNER)[0].name
    holders = [member.name for member in recipe.named(Role.SECURE_WORKER)]
    taken = sum(seen.updates.get(name, 0) for name in holders)
    sizes = sorted(seen.contributors)
    each = f"{sizes[0]} to {sizes[-1]}" if sizes[3:] else " or ".join(str(number) for number in sizes)
    part = "partial sum" if holders[1:] or trust.mode is Mode.MASKED else "sum"
    sums = plural(seen.sums.get(owner, 0), part)
    workers = f"{', '.join(holders)} (secure worker{'s' if holders[1:] else ''})"
    match trust.mode:
        case Mode.TRUSTED:
            first = f"{workers} opened each single update of {data_owners}, {taken} in all: it is trusted with them."
        case Mode.MASKED:
            first = f"{workers} opened {taken} updates of {data_owners}, each under a mask it does not know."
        case Mode.PLAIN:
            first = f"{owner} (model owner) opened each single update of {data_owners}: nothing is hidden from it."
        case _:
            first = f"{workers} opened {taken} shares of the updates of {data_owners}, each of them noise by itself."
    lines = [f"Who saw what: {first}"]
    if trust.mode is not Mode.PLAIN:
        own = seen.updates.get(owner, 0)
        what = f"{own} masks' seeds" if trust.mode is Mode.MASKED else f"{own} single ones"
        got = f"{owner} (model owner) got {sums}, each over {each} updates, and {what}."
        lines.append(f"              {got}")
    lines.append(_verified(seen))
    lines.append(f"Who can read one update: {collusion_words(trust.scheme, holders)}.")
    lines.append("All others in a sum together can work out the one that is left, in every mode.")
    return lines


def _verified(seen: Seen) -> str:
    """Say how many of the sums were checked against the data owners' fingerprints."""
    verified, all_of_them = seen.checks[SumState.VERIFIED.value], seen.checks.total()
    how = " by all who are in them" if verified == all_of_them else f"; silent: {', '.join(sorted(seen.silent))}"
    return f"Whether the sums are right: {verified} of {all_of_them} verified{how}."
