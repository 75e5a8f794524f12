"""What only the MNIST demo has: its data found and checked, and its evaluation as a table, a file and two pictures.

    evaluation.json  accuracy.png  accuracy.svg  digit-groups.png  digit-groups.svg      in the run folder

Rules of the file:
- The data are read whole before a run folder is made: what is missing or damaged costs one sentence, not a run.
- Everything in the table was printed by the party that it is about. Nothing is scored here.
- Nothing here imports torch: the launcher never trains.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import click
import msgspec

from ...crypto.errors import TertiumError
from ...learning.datasets import MNIST_FILES, fetch_mnist, mnist_labels
from ...learning.describe import numbers
from ...learning.errors import DatasetError
from ...learning.extras import require
from ...protocol.charter import Role
from ...protocol.progress import Scored, ScoredOwn
from .errors import DemoError
from .folder import write_text
from .plots import GLOBAL, PARTIES, label, panels, save, series
from .recipes import Recipe

EVALUATION = "evaluation.json"
FEDERATED = "federated"
"""What the model that all trained together is called in the table; the others go by their owner's name."""


@dataclasses.dataclass(frozen=True)
class Group:
    """The digits of one data owner, and how many of the test images show them."""

    owner: str
    digits: tuple[int, ...]
    share: float
    """From 0 to 1."""

    @property
    def title(self) -> str:
        """The digits in words: "0-3"."""
        return numbers(self.digits)

    def of(self, shares: Sequence[float]) -> float:
        """Return the share of answers in this group, from the share of each digit."""
        return sum(share for digit, share in enumerate(shares) if digit in self.digits)


class Row(msgspec.Struct, frozen=True):
    """How one model did on the test images after one round."""

    round: int
    model: str
    """A data owner's name, for the model it had trained before it was averaged; or `federated`."""
    examples: int
    shares: tuple[float, ...]
    """Share of its answers in each group, from 0 to 1, in the order of `Evaluation.groups`."""
    loss: float
    """Mean negative log-likelihood an image."""
    accuracy: float | None


class Evaluation(msgspec.Struct, frozen=True):
    """What `evaluation.json` holds. Scripts rely on these names."""

    groups: tuple[str, ...]
    true_shares: tuple[float, ...]
    """Share of the test images in each group, from 0 to 1."""
    rows: tuple[Row, ...]

    def of(self, model: str) -> list[Row]:
        """Return the rows of one model, by round."""
        return [row for row in self.rows if row.model == model]


def prepare(recipe: Recipe, folder: Path | None) -> Recipe:
    """Return the demo with its data: those in `folder`, or for None those of this user's cache, fetched if need be.

    Raises:
        DemoError: they cannot be had, or are not what the demo trains on; says what to do.
    """
    found = _fetched() if folder is None else folder
    advice = "--data names a folder with the four original files of MNIST"
    try:
        train, test = (list(labels) for labels in mnist_labels(found))
    except DatasetError as error:
        raise DemoError(f"{error}; {advice}") from None
    if not test:
        raise DemoError(f"{found} holds no test image; {advice}")
    groups = []
    for member in recipe.named(Role.DATA_OWNER):
        digits = tuple((member.options or {})["digits"])
        if not any(train.count(digit) for digit in digits):
            raise DemoError(f"{found} holds no training image of the digits {numbers(digits)}; {advice}")
        groups.append(Group(member.name, digits, sum(test.count(digit) for digit in digits) / len(test)))
    # The parties work in the run folder.
    where = str(found.resolve())
    members = tuple(
        dataclasses.replace(member, options={"data": where, **member.options}) if member.options is not None else member
        for member in recipe.members
    )
    return dataclasses.replace(recipe, members=members, evaluation=partial(evaluation, tuple(groups)))


def _fetched() -> Path:
    """Return the folder of this user's cache with the files in it; raises `DemoError`."""
    try:
        cache = Path(require("pooch").os_cache("tertium")) / "mnist"
        if not all((cache / name).is_file() for name in MNIST_FILES):
            click.echo(f"fetching MNIST (11 MB), once, into {cache}", err=True)
        return fetch_mnist(cache)
    except TertiumError as error:
        raise DemoError(f"{error}; or name a folder that has the four files of MNIST with --data") from None


def evaluation(
    groups: Sequence[Group], run: Path, scores: Sequence[Scored], own: Mapping[str, Sequence[ScoredOwn]]
) -> list[str]:
    """Write what the parties scored into the run folder, as a file and as pictures; return the table's lines.

    `scores` are the model owner's, `own` each data owner's of its own model.

    Raises:
        DemoError: a file cannot be written.
    """
    found = gather(groups, scores, own)
    write_text(run / EVALUATION, msgspec.json.format(msgspec.json.encode(found), indent=1).decode() + "\n")
    pictures = (*draw_accuracy(run / "accuracy", groups, found), *draw_groups(run / "digit-groups", groups, found))
    return [*table(found), f"In {EVALUATION} the same; {', '.join(path.name for path in pictures)} show it."]


def gather(groups: Sequence[Group], scores: Sequence[Scored], own: Mapping[str, Sequence[ScoredOwn]]) -> Evaluation:
    """Return what was scored, by round, in each the data owners' own models before the federated one.

    Of a round that was scored twice, since a party was restarted, the last score counts.
    """
    said: dict[str, Sequence[Scored | ScoredOwn]] = {group.owner: own.get(group.owner, ()) for group in groups}
    said[FEDERATED] = scores
    place = {name: at for at, name in enumerate(said)}
    rows = {
        (score.round, place[name]): Row(
            round=score.round,
            model=name,
            examples=score.examples,
            shares=tuple(group.of(score.shares) for group in groups),
            loss=score.loss,
            accuracy=score.accuracy,
        )
        for name, line in said.items()
        for score in line
    }
    return Evaluation(
        groups=tuple(group.title for group in groups),
        true_shares=tuple(group.share for group in groups),
        rows=tuple(rows[key] for key in sorted(rows)),
    )


def table(found: Evaluation) -> list[str]:
    """Return the evaluation as the tutorial has it: after each round, for each model, shares, loss and accuracy."""
    heads = "".join(f"{title:>10}" for title in found.groups)
    width = max(len("model"), *(len(row.model) for row in found.rows), len("true shares")) + 2
    lines = ["Share of the answers on the test images by group of digits, average loss, accuracy:"]
    lines.append(f"round  {'model':<{width}}{heads}{'loss':>10}{'accuracy':>11}")
    last = 0
    for row in found.rows:
        number = "" if row.round == last else str(row.round)
        last = row.round
        shares = "".join(f"{share:>10.2%}" for share in row.shares)
        accuracy = f"{row.accuracy:>11.2%}" if row.accuracy is not None else ""
        lines.append(f"{number:>5}  {row.model:<{width}}{shares}{row.loss:>10.4f}{accuracy}")
    lines.append(f"{'':>5}  {'true shares':<{width}}{''.join(f'{share:>10.2%}' for share in found.true_shares)}")
    return lines


def draw_accuracy(path: Path, groups: Sequence[Group], found: Evaluation) -> tuple[Path, ...]:
    """Draw the accuracy of each data owner's own model and of the federated one; return the files."""
    figure, (axes,) = panels("MNIST: each data owner's own model, and the federated one", 1)
    lines = [(FEDERATED, FEDERATED, GLOBAL)]
    lines += [
        (group.owner, f"{group.owner}'s own, trained on {group.title}", PARTIES[place % len(PARTIES)])
        for place, group in enumerate(groups)
    ]
    for place, (model, words, colour) in enumerate(lines):
        rows = [(row.round, 100 * row.accuracy) for row in found.of(model) if row.accuracy is not None]
        series(axes, [number for number, _ in rows], [value for _, value in rows], words, place, colour)
    label(axes, "accuracy on the test images of all digits", "round", "accuracy, %", per_cent=True, beside=True)
    return save(figure, path)


def draw_groups(path: Path, groups: Sequence[Group], found: Evaluation) -> tuple[Path, ...]:
    """Draw the share of the federated model's answers in each group of digits, beside the true share."""
    figure, (axes,) = panels("MNIST: what the federated model answers", 1)
    rows = found.of(FEDERATED)
    for place, group in enumerate(groups):
        colour = PARTIES[place % len(PARTIES)]
        words = f"{group.title} ({group.owner}'s)"
        series(axes, [row.round for row in rows], [100 * row.shares[place] for row in rows], words, place, colour)
        axes.axhline(100 * group.share, color=colour, linestyle=":", linewidth=1, label=f"{group.title}, true share")
    label(
        axes,
        "groups of digits among the answers on the test images",
        "round",
        "share of answers, %",
        per_cent=True,
        beside=True,
    )
    return save(figure, path)
