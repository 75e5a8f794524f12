"""A demo from its first key to its last line.

The order: a fresh run folder with everybody's keys and files; the parties' processes, one run an act; the centralised
baseline beside them; model and pictures in the folder; the audit of all ledgers, the run's page and its summary; then
what was learned, and who saw what, counted from what the parties reported. The summary is written last: a folder that
has one is complete.
"""

import contextlib
import importlib.util
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from ...learning.extras import missing
from ...protocol.charter import Charter, Role
from ...protocol.text import plural
from ...protocol.training import Score
from ..running import TERMINATED
from ..trust import Trust
from . import report_page
from .audited import PAGE, Audited, audited
from .baseline import Answer, Baseline
from .errors import PartyFailed, StoppedByOperator
from .folder import CHARTER, copy_model, default_folder, make_folder, write_parties, write_site, write_text
from .launcher import Launcher, Line
from .picture import draw
from .recipes import Act, Recipe, in_trust
from .report_page import REPORT
from .screen import Screen, screen_for
from .seen import Seen, who_saw_what

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


class Summary(msgspec.Struct, frozen=True, omit_defaults=True):
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
    tutorial: dict[str, Any] = {}
    """What only the toy demo has: the losses of act one, and the row that was computed of an update, and of a sum."""


@dataclass(frozen=True)
class Extra:
    """What a demo has beside the run that `finish` finishes."""

    facts: dict[str, Any] = field(default_factory=dict)
    """More of the summary."""
    notes: tuple[str, ...] = ()
    audits: tuple[tuple[str, str, Audited], ...] = ()
    """Of each other audited part: what it is, its folder in the run folder, and what the audit says."""


_PICTURES: Final = {
    "progress": "Loss and accuracy of the global model on test data, round by round, beside training in one place.",
    "accuracy": "Accuracy on test data, round by round.",
    "loss": "Loss on test data, round by round.",
    "boundary": "The points, the true boundary, and the one that was learned.",
    "digit-groups": "Which digits the federated model answers, by the owner that has them, round by round.",
}
"""What each picture shows, by the name of its file."""


@dataclass(frozen=True)
class Performed:
    """A federation that has run to its end, and what it left."""

    recipe: Recipe
    trust: Trust
    run: Path
    seen: Seen
    pids: dict[str, int]
    rounds: int
    learned: tuple[str, ...]
    """Lines that only this demo says of its model."""
    centralised: Score | None


def perform(
    recipe: Recipe,
    trust: Trust,
    run: Path,
    *,
    rounds: int,
    seed: int,
    as_json: bool,
    verbose: bool,
    acts: Sequence[Act] | None = None,
    probe: Act | None = None,
    beside: Score | None = None,
) -> Performed:
    """Run every party of a federation in an empty run folder, act by act, beside the centralised baseline.

    `acts` are the recipe's unless given. A `probe` is one more act after the model has been copied: its rounds are in
    the ledgers and nowhere else. `beside` is a score to draw where the recipe has no baseline.

    Raises:
        Misuse: it cannot be run as asked for.
        PartyFailed: a party's process ended too early; no process is left.
        StoppedByOperator: a signal asked for an end; no process is left.
    """
    acts = recipe.acts(rounds, seed) if acts is None else acts
    charter = write_parties(recipe, trust, run, acts[0].plan)
    owner = recipe.named(Role.MODEL_OWNER)[0]
    launcher, seen, score = _launcher_of(recipe)(recipe.members, run, CHARTER), Seen(), beside
    with launcher.signals(), screen_for(recipe, rounds, as_json=as_json, verbose=verbose) as screen:
        _introduce(screen, recipe, run, charter)

        def watch(line: Line) -> None:
            seen.take(line)
            screen.line(line)

        with contextlib.ExitStack() as ending:
            baseline = None
            if recipe.pooled is not None:
                baseline = Baseline(recipe, tuple(acts), seed, len(recipe.named(Role.DATA_OWNER)), run)
                ending.callback(baseline.close)
            for number, act in enumerate(acts):
                screen.note(act.title)
                if number:
                    write_site(recipe, trust, owner, run / owner.name, act.plan)
                launcher.act(watch, resume=number > 0)
            if baseline is not None:
                answer = centralised(baseline, launcher.check, screen)
                score = answer.score if answer is not None else None
        if not seen.scores or seen.rounds != rounds:
            raise PartyFailed(f"{owner.name} (model owner) finished {seen.rounds} of {rounds} rounds", party=owner.name)
        model = copy_model(run, owner.name)
        draw(run / "progress.png", f"tertium demo {recipe.name}", seen.scores, score)
        learned = recipe.evaluation(run, seen.scores, seen.own) if recipe.evaluation is not None else []
        if recipe.pictures is not None:
            seen.pictures = recipe.pictures(run, seen.scores, seed)
        if probe is not None:
            screen.note(probe.title)
            write_site(recipe, trust, owner, run / owner.name, probe.plan)
            launcher.act(screen.line, resume=True)
        launcher.check()
    lines = (*learned, *(recipe.closing(model) if recipe.closing else ()))
    return Performed(recipe, trust, run, seen, dict(launcher.pids), rounds, lines, score)


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
    require_installed(recipe)
    begun = time.monotonic()
    total = rounds or recipe.rounds
    run = out or default_folder(recipe.name, datetime.now().astimezone())
    make_folder(run)
    with stops() as stopped:
        done = perform(recipe, trust, run, rounds=total, seed=seed, as_json=as_json, verbose=verbose)
        finish(done, seed=seed, seconds=time.monotonic() - begun, as_json=as_json)
    return stopped.status


@dataclass
class Stopped:
    """How a demo ended: the exit status."""

    status: int = 0


@contextlib.contextmanager
def stops() -> Iterator[Stopped]:
    """Turn a signal that stopped a demo into how a command ends."""
    ended = Stopped()
    try:
        yield ended
    except StoppedByOperator as stop:
        # SIGINT ends as Ctrl-C ends every command; the others are requests to terminate.
        if stop.number == signal.SIGINT:
            raise KeyboardInterrupt from None
        click.echo("tertium: terminated", err=True)
        ended.status = TERMINATED


def finish(done: Performed, *, seed: int, seconds: float, as_json: bool, extra: Extra | None = None) -> None:
    """Audit the run, write its page and, last, its summary; print what was learned and who saw what."""
    last, extra, recipe, run = done.seen.scores[-1], extra or Extra(), done.recipe, done.run
    score = done.centralised
    summary = Summary(
        demo=recipe.name,
        mode=done.trust.name.name,
        rounds=done.rounds,
        seed=seed,
        parties=tuple(PartyFacts(member.name, member.role.value, done.pids[member.name]) for member in recipe.members),
        accuracy=last.accuracy,
        loss=last.loss,
        centralised=Figures(score.accuracy, score.loss) if score else Figures(None, None),
        seconds=round(seconds, 2),
        run=str(run),
        checks=dict(done.seen.checks),
        **extra.facts,
    )
    if not as_json:
        click.echo("auditing the ledgers of all parties")
    audits = [*extra.audits, ("the run", "", audited(run))]
    saw = who_saw_what(recipe, done.trust, done.seen)
    report_page.write(run, _page(done, summary, audits, saw, extra))
    encoded = msgspec.json.encode(summary).decode()
    write_text(run / "summary.json", encoded + "\n")
    if as_json:
        click.echo(encoded)
    else:
        _conclude(done, summary, audits[-1][2], saw)


def _page(
    done: Performed, summary: Summary, audits: Sequence[tuple[str, str, Audited]], saw: Sequence[str], extra: Extra
) -> report_page.Page:
    recipe, run = done.recipe, done.run
    figures = [(f"{summary.loss:.4f}", "loss on test data"), (str(summary.rounds), "rounds")]
    if summary.accuracy is not None:
        figures.insert(0, (f"{summary.accuracy:.1%}", "accuracy on test data"))
    if summary.centralised.accuracy is not None:
        figures.insert(1, (f"{summary.centralised.accuracy:.1%}", "the same in one place"))
    figures += [(summary.mode, "mode"), (f"{summary.seconds:.0f} s", "all in all")]
    pictures = [run / "progress.svg", *sorted(set(run.glob("*.svg")) - {run / "progress.svg"})]
    return report_page.Page(
        title=f"tertium demo {recipe.name}",
        lead=f"{recipe.title[:1].upper()}{recipe.title[1:]}.",
        figures=figures,
        pictures=[report_page.Picture(path, _PICTURES.get(path.stem, path.stem)) for path in pictures],
        notes=(*extra.notes, *done.learned),
        saw=saw,
        audits=[(what, f"{folder}/{PAGE}" if folder else PAGE, said) for what, folder, said in audits],
        files=sorted({path.name for path in run.iterdir() if path.is_file()} | {REPORT, "summary.json"}),
    )


def _launcher_of(recipe: Recipe) -> type[Launcher]:
    if not recipe.in_one_process:
        return Launcher
    from .population import Population  # learning and simulation, which a launcher of processes need not load

    return Population


def require_installed(recipe: Recipe) -> None:
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


def centralised(baseline: Baseline, check: Callable[[], None], screen: Screen) -> Answer | None:
    """Return the baseline's answer, waiting for it; None, said aloud, where there is none.

    `check` is called now and then, and raises what is to end the wait.
    """
    until = time.monotonic() + _BASELINE_WAIT
    if not baseline.done:
        screen.note("training the centralised baseline: the same model on everybody's data in one place")
    while not baseline.done:
        check()
        if time.monotonic() >= until:
            screen.warn(f"no centralised baseline: it took more than {_BASELINE_WAIT:.0f} s")
            return None
        time.sleep(_POLL)
    answer = baseline.answer()
    if isinstance(answer, str):
        screen.warn(f"no centralised baseline: {answer}")
        return None
    return answer


def _conclude(done: Performed, summary: Summary, audit: Audited, saw: Sequence[str]) -> None:
    """Print what was learned, who saw what, and what to do next."""
    run, owner = summary.run, done.recipe.named(Role.MODEL_OWNER)[0].name
    rows = [("federated", summary.accuracy, summary.loss)]
    if summary.centralised.loss is not None:
        rows.append(("centralised", summary.centralised.accuracy, summary.centralised.loss))
    click.echo()
    for name, accuracy, loss in rows:
        shown = f"accuracy {accuracy:7.2%}, " if accuracy is not None else ""
        click.echo(f"{name:<12} {shown}loss {loss:.4f}, on {owner}'s test data")
    for line in (*done.learned, "", *saw, f"The audit of all ledgers: {audit.lines[0]}", ""):
        click.echo(line)
    click.echo(f"{plural(summary.rounds, 'round')} in {summary.seconds:.1f} s. In {run}: {REPORT} and {PAGE}")
    click.echo("to look at, model, pictures, summary.json, the charter, and a folder a party with keys and log.")
    if done.seen.pictures:
        click.echo(f"Pictures, each as PNG and SVG: {', '.join(done.seen.pictures)}.")
    click.echo(f"Next: read {run}/{CHARTER}, check who signed it (tertium charter verify {run}/{CHARTER}), then")
    click.echo("run each party on its own host: tertium keygen --help, tertium charter new --help.")
