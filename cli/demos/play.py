"""A demo from its first key to its last line.

The order: a fresh run folder with everybody's keys and files; the parties' processes, one run an act; the centralised
baseline beside them; model, plot and summary in the folder; then what was learned, and who saw what, counted from what
the parties reported. The summary is written last: a folder that has one is complete.
"""

import contextlib
import importlib.util
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import click
import msgspec

from ...crypto.sharing.naming import collusion_words
from ...learning.extras import missing
from ...protocol.charter import Charter, Mode, Role
from ...protocol.check_messages import SumState
from ...protocol.progress import Opened, RoundDone, Scored, ScoredOwn
from ...protocol.training import Score
from ..running import TERMINATED
from ..trust import Trust
from .baseline import Baseline
from .errors import PartyFailed, StoppedByOperator
from .folder import CHARTER, copy_model, default_folder, make_folder, write_parties, write_site, write_text
from .launcher import Launcher, Line
from .picture import draw
from .recipes import Recipe, counted, in_trust
from .screen import Screen, screen_for

_BASELINE_WAIT = 300.0
"""Most seconds the baseline may take after the federation has finished."""
_POLL = 0.1


class PartyFacts(msgspec.Struct, frozen=True):
    """A party, as the summary lists it."""

    name: str
    role: str
    pid: int


class Figures(msgspec.Struct, frozen=True):
    """A score on the model owner's test data."""

    accuracy: float | None
    loss: float | None


class Summary(msgspec.Struct, frozen=True):
    """What `--json` prints and `summary.json` holds. Scripts rely on these names."""

    demo: str
    mode: str
    rounds: int
    seed: int
    parties: tuple[PartyFacts, ...]
    accuracy: float | None
    loss: float
    centralised: Figures
    seconds: float
    run: str
    checks: dict[str, int] = {}
    """How many sums came to be verified, and how many not (`check_messages.SumState`)."""


@dataclass
class _Seen:
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


def play(
    recipe: Recipe,
    trust: Trust,
    *,
    rounds: int | None,
    seed: int,
    out: Path | None,
    as_json: bool,
    verbose: bool,
) -> int:
    """Run a demo to its end and return the exit status.

    Raises:
        Misuse: it cannot be run as asked for.
        PartyFailed: a party's process ended too early; no process is left.
        KeyboardInterrupt: the operator stopped it; no process is left.
    """
    recipe = in_trust(recipe, trust)
    _require_installed(recipe)
    begun = time.monotonic()
    total = rounds or recipe.rounds
    acts = recipe.acts(total, seed)
    run = out or default_folder(recipe.name, datetime.now().astimezone())
    make_folder(run)
    charter = write_parties(recipe, trust, run, acts[0].plan)
    owner = recipe.named(Role.MODEL_OWNER)[0]
    launcher, seen = _launcher_of(recipe)(recipe.members, run, CHARTER), _Seen()
    try:
        with launcher.signals(), screen_for(recipe, total, as_json=as_json, verbose=verbose) as screen:
            _introduce(screen, recipe, run, charter)

            def watch(line: Line) -> None:
                seen.take(line)
                screen.line(line)

            with contextlib.ExitStack() as ending:
                baseline = None
                if recipe.pooled is not None:
                    baseline = Baseline(recipe, acts, seed, len(recipe.named(Role.DATA_OWNER)), run)
                    ending.callback(baseline.close)
                for number, act in enumerate(acts):
                    screen.note(act.title)
                    if number:
                        write_site(recipe, trust, owner, run / owner.name, act.plan)
                    launcher.act(watch, resume=number > 0)
                score = _baseline_score(baseline, launcher, screen) if baseline is not None else None
            if not seen.scores or seen.rounds != total:
                raise PartyFailed(
                    f"{owner.name} (model owner) finished {seen.rounds} of {total} rounds", party=owner.name
                )
            model = copy_model(run, owner.name)
            draw(run / "progress.png", f"tertium demo {recipe.name}", seen.scores, score)
            evaluated = recipe.evaluation(run, seen.scores, seen.own) if recipe.evaluation is not None else []
            if recipe.pictures is not None:
                seen.pictures = recipe.pictures(run, seen.scores, seed)
            launcher.check()
    except StoppedByOperator as stop:
        # SIGINT ends as Ctrl-C ends every command; the others are requests to terminate.
        if stop.number == signal.SIGINT:
            raise KeyboardInterrupt from None
        click.echo("tertium: terminated", err=True)
        return TERMINATED
    last = seen.scores[-1]
    summary = Summary(
        demo=recipe.name,
        mode=trust.name.name,
        rounds=total,
        seed=seed,
        parties=tuple(
            PartyFacts(member.name, member.role.value, launcher.pids[member.name]) for member in recipe.members
        ),
        accuracy=last.accuracy,
        loss=last.loss,
        centralised=Figures(score.accuracy, score.loss) if score else Figures(None, None),
        seconds=round(time.monotonic() - begun, 2),
        run=str(run),
        checks=dict(seen.checks),
    )
    encoded = msgspec.json.encode(summary).decode()
    write_text(run / "summary.json", encoded + "\n")
    if as_json:
        click.echo(encoded)
    else:
        _conclude(recipe, trust, summary, seen, (*evaluated, *(recipe.closing(model) if recipe.closing else ())))
    return 0


def _launcher_of(recipe: Recipe) -> type[Launcher]:
    if not recipe.in_one_process:
        return Launcher
    from .population import Population  # learning and simulation, which a launcher of processes need not load

    return Population


def _require_installed(recipe: Recipe) -> None:
    """Raise `SiteFileError` for a package the demo needs, before anything is written."""
    for package in recipe.needs:
        if importlib.util.find_spec(package) is None:
            raise missing(package)


def _introduce(screen: Screen, recipe: Recipe, run: Path, charter: Charter) -> None:
    for warning in charter.warnings:
        screen.warn(warning)
    screen.note(f"tertium demo {recipe.name}: {recipe.title}")
    if recipe.in_one_process:
        screen.note(
            "All parties share this process and talk over memory; machines, keys, charter, envelopes and ledgers are "
            "those of processes."
        )
    screen.note(
        f"{run}: charter, and a folder with keys for each of {len(recipe.members)} parties. Only a demo makes all keys "
        "in one place; otherwise each party runs `tertium keygen` for itself."
    )


def _baseline_score(baseline: Baseline, launcher: Launcher, screen: Screen) -> Score | None:
    """Return the baseline's score, waiting for it; None, said aloud, where there is none."""
    until = time.monotonic() + _BASELINE_WAIT
    if not baseline.done:
        screen.note("training the centralised baseline: the same model on everybody's data in one place")
    while not baseline.done:
        launcher.check()
        if time.monotonic() >= until:
            screen.warn(f"no centralised baseline: it took more than {_BASELINE_WAIT:.0f} s")
            return None
        time.sleep(_POLL)
    answer = baseline.answer()
    if isinstance(answer, str):
        screen.warn(f"no centralised baseline: {answer}")
        return None
    return answer.score


def _conclude(recipe: Recipe, trust: Trust, summary: Summary, seen: _Seen, learned: Sequence[str]) -> None:
    """Print what was learned, who saw what, and what to do next; `learned` is what only this demo says of its model."""
    run = summary.run
    owner = recipe.named(Role.MODEL_OWNER)[0].name
    rows = [("federated", summary.accuracy, summary.loss)]
    if summary.centralised.loss is not None:
        rows.append(("centralised", summary.centralised.accuracy, summary.centralised.loss))
    click.echo()
    for name, accuracy, loss in rows:
        shown = f"accuracy {accuracy:7.2%}, " if accuracy is not None else ""
        click.echo(f"{name:<12} {shown}loss {loss:.4f}, on {owner}'s test data")
    for line in learned:
        click.echo(line)
    click.echo()
    for line in _who_saw_what(recipe, trust, seen):
        click.echo(line)
    click.echo()
    click.echo(f"{counted(summary.rounds, 'round')} in {summary.seconds:.1f} s. In {run}: model.safetensors,")
    click.echo(
        "progress.png, progress.svg, summary.json, the charter, and a folder a party with keys, site file and log."
    )
    if seen.pictures:
        click.echo(f"Pictures, each as PNG and SVG: {', '.join(seen.pictures)}.")
    click.echo(f"Who saw what: tertium audit {run} --html {run}/audit.html")
    click.echo(f"Next: read {run}/{CHARTER}, check who signed it (tertium charter verify {run}/{CHARTER}), then")
    click.echo("run each party on its own host: tertium keygen --help, tertium charter new --help.")


def _who_saw_what(recipe: Recipe, trust: Trust, seen: _Seen) -> list[str]:
    """Return lines on who opened what, and who could have read a single update."""
    names = [member.name for member in recipe.named(Role.DATA_OWNER)]
    data_owners = f"{len(names)} data owners" if recipe.crowd else ", ".join(names)
    owner = recipe.named(Role.MODEL_OWNER)[0].name
    holders = [member.name for member in recipe.named(Role.SECURE_WORKER)]
    taken = sum(seen.updates.get(name, 0) for name in holders)
    sizes = sorted(seen.contributors)
    each = f"{sizes[0]} to {sizes[-1]}" if sizes[3:] else " or ".join(str(number) for number in sizes)
    part = "partial sum" if holders[1:] or trust.mode is Mode.MASKED else "sum"
    sums = counted(seen.sums.get(owner, 0), part)
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


def _verified(seen: _Seen) -> str:
    """Say how many of the sums were checked against the data owners' fingerprints."""
    verified, all_of_them = seen.checks[SumState.VERIFIED.value], seen.checks.total()
    how = " by all who are in them" if verified == all_of_them else f"; silent: {', '.join(sorted(seen.silent))}"
    return f"Whether the sums are right: {verified} of {all_of_them} verified{how}."
