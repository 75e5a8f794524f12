"""A data owner scores its own model after the rounds that its own site file names: told to its operator alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tertium.learning.numpy_task import NumpyTask, NumpyTrainer
from tertium.owner.store import OwnerStore
from tertium.protocol.progress import RoundDone, Said, Scored, ScoredOwn
from tertium.protocol.site import OwnerPlan, Site
from tertium.protocol.training import Score, UpdateKind
from tertium.simulation.federation import OWNER, THIRD, Federation
from tertium.workers.data_owner import DataOwner

ROUNDS = 4
NAMES = ("alice", "bob", "carol")


def scoring(rounds: tuple[int, ...]) -> type[DataOwner]:
    """Return a data owner whose site file names these rounds."""

    class Scoring(DataOwner):
        def __init__(self, identity: Any, charter: Any, exchange: Any, journal: Any, site: Site, trainers: Any) -> None:
            tasks = {
                name: msgspec.structs.replace(entry, evaluate_own_rounds=rounds) for name, entry in site.tasks.items()
            }
            super().__init__(identity, charter, exchange, journal, msgspec.structs.replace(site, tasks=tasks), trainers)

    return Scoring


class Counting(NumpyTask):
    """A regression that remembers what was scored, and can fail at it."""

    def __init__(self, *, fails: bool = False, **options: Any) -> None:
        super().__init__(test_examples=50, **options)
        self.scores: list[Score] = []
        self.fails = fails

    def trainer(self) -> NumpyTrainer:
        task, trainer = self, super().trainer()
        evaluate = trainer.evaluate_own

        def counted(layout: Any, model: Any, kind: UpdateKind, update: Sequence[Any]) -> Score:
            if task.fails:
                raise RuntimeError("no beds")
            task.scores.append(evaluate(layout, model, kind, update))
            return task.scores[-1]

        trainer.evaluate_own = counted  # type: ignore[method-assign]
        return trainer


def run(folder: Path, rounds_of: dict[str, tuple[int, ...]], **options: Any) -> tuple[Federation, dict[str, Counting]]:
    folder.mkdir()
    tasks = {name: Counting(party=at, **options) for at, name in enumerate(NAMES, 1)}
    federation = Federation(
        tasks,
        NumpyTask(test_examples=50),
        OwnerPlan(task="regression", rounds=ROUNDS, batches=3, batch_size=8),
        OwnerStore(folder, "npz"),
        machines={name: scoring(rounds) for name, rounds in rounds_of.items()},
    )
    assert set(federation.run().values()) == {None}
    return federation, tasks


def told(federation: Federation, name: str) -> list[ScoredOwn]:
    return [line for line in federation.progress[name] if isinstance(line, ScoredOwn)]


def test_only_who_asks_is_told_and_only_after_those_rounds(tmp_path: Path) -> None:
    federation, tasks = run(tmp_path / "run", {"alice": (1, 3, 9), "bob": (ROUNDS,)})
    assert [line.round for line in told(federation, "alice")] == [1, 3]
    assert [line.round for line in told(federation, "bob")] == [ROUNDS]
    for name in ("alice", "bob"):
        said = [(line.examples, line.loss, line.accuracy, line.shares) for line in told(federation, name)]
        assert said == [(each.examples, each.loss, each.accuracy, tuple(each.shares)) for each in tasks[name].scores]
    assert tasks["carol"].scores == []
    for name in (OWNER, THIRD, "carol"):
        assert told(federation, name) == []
    assert {line.by for line in federation.progress[OWNER] if isinstance(line, Scored)} == {OWNER}


def test_the_model_is_the_same_to_the_bit_with_and_without(tmp_path: Path) -> None:
    everybody = dict.fromkeys(NAMES, tuple(range(1, ROUNDS + 1)))
    models = [run(tmp_path / name, rounds)[0].model.to_bytes() for name, rounds in (("a", everybody), ("b", {}))]
    assert models[0] == models[1]


def test_a_score_that_fails_is_said_at_home_and_costs_nobody_a_round(tmp_path: Path) -> None:
    federation, _ = run(tmp_path / "run", {"alice": (2,)}, fails=True)
    said = [line.text for line in federation.progress["alice"] if isinstance(line, Said) and line.warning]
    assert said == ["round 2: own model not scored: no beds"]
    done = [line for line in federation.progress[OWNER] if isinstance(line, RoundDone)]
    assert [line.contributors for line in done] == [3] * ROUNDS
    assert told(federation, "alice") == []


@pytest.mark.parametrize("accuracy", [0.2875, None])
def test_the_line_says_whose_model_it_is(accuracy: float | None) -> None:
    line = ScoredOwn(round=1, examples=10, loss=2.5, accuracy=accuracy).line()
    assert line == "round 1: own model on 10 test examples: loss 2.5000" + (", accuracy 28.75%" if accuracy else "")
