"""The verbs without any process: what each refuses, and in which words."""

import dataclasses
from typing import Any

import pytest
from tertium import notebook
from tertium.notebook import NotebookError, SingleUpdateRefused
from tertium.notebook.verbs import Copy, Mean, Model, mean, planned
from tertium.protocol.errors import SiteFileError
from tertium.protocol.site import OwnerPlan


class Asked:
    """What a federation is to the verbs; it notes what it is asked to run."""

    def __init__(self, minimum: int = 2, workers: tuple[str, ...] = ("third",)) -> None:
        self.minimum_cohort, self.secure_workers = minimum, workers
        self.plan = OwnerPlan(task="toy", epochs=3, learning_rate=0.5)
        self.model: Any = Model(self, 4, None, None)  # type: ignore[arg-type]
        self.rounds: list[tuple[OwnerPlan, tuple[str, ...]]] = []

    def require_data_owner(self, name: str) -> None:
        if name not in ("alice", "bob", "carol"):
            raise NotebookError(f"there is no data owner {name!r}")

    def run(self, plan: OwnerPlan, cohort: tuple[str, ...]) -> Mean:
        self.rounds.append((plan, cohort))
        self.model = dataclasses.replace(self.model, round=self.model.round + 1)
        return Mean(self.model, cohort, "verified")


def moved(federation: Asked, *names: str, **how: Any) -> list[Copy]:
    return [federation.model.send(name).train(**how).move() for name in names]


def test_a_round_is_one_question_with_what_train_asked_for() -> None:
    federation = Asked()
    first = federation.model
    model = mean(*moved(federation, "bob", "alice", epochs=5)).get()
    ((plan, cohort),) = federation.rounds
    assert (plan.epochs, plan.batches, plan.learning_rate, cohort) == (5, 0, 0.5, ("alice", "bob"))
    assert (model.round, federation.model) == (5, model)
    mean(*moved(federation, "bob", "alice", batches=2, learning_rate=0.25))
    assert (federation.rounds[1][0].batches, federation.rounds[1][0].epochs) == (2, 0)
    with pytest.raises(NotebookError, match=r"federation is at round 6: send federation\.model"):
        first.send("bob")


@pytest.mark.parametrize("state", ["sent", "trained", "moved", "summed"])
def test_nobody_gives_out_a_single_update(state: str) -> None:
    federation = Asked(workers=("third1", "third2"))
    bobs, alices = federation.model.send("bob"), federation.model.send("alice")
    if state != "sent":
        bobs.train(), alices.train()
    if state in ("moved", "summed"):
        bobs.move(), alices.move()
    if state == "summed":
        mean(bobs, alices)
    with pytest.raises(
        SingleUpdateRefused, match=r"bob.s update .* sealed for third1 and third2 and no message returns"
    ):
        bobs.get()
    assert not [name for name in vars(bobs) if name not in ("model", "owner", "plan", "moved", "summed")]


def test_a_mean_of_fewer_than_the_minimum_is_refused_before_anybody_is_asked() -> None:
    federation = Asked(minimum=3)
    with pytest.raises(SingleUpdateRefused, match="a mean of bob is of fewer than 3, the charter's minimum"):
        mean(*moved(federation, "bob"))
    assert not federation.rounds


def test_what_makes_no_round() -> None:
    federation, another = Asked(), Asked()
    bobs, alices = moved(federation, "bob", "alice")
    for copies, words in (
        ((), "takes the copies"),
        ((bobs, federation.model.send("alice").train()), "alice's copy was not moved"),
        ((bobs, *moved(another, "alice")), "not of one model"),
        ((bobs, *moved(federation, "alice", epochs=9)), "asked to train differently"),
        ((bobs, *moved(federation, "bob")), "in a mean once"),
    ):
        with pytest.raises(NotebookError, match=words):
            mean(*copies)
    assert not federation.rounds
    stale = moved(federation, "bob", "alice")
    mean(bobs, alices)
    for copies, words in (((bobs, alices), "has been summed"), (stale, "of an earlier model")):
        with pytest.raises(NotebookError, match=words):
            mean(*copies)
    for call in (bobs.train, bobs.move):
        with pytest.raises(NotebookError, match="has been summed: send"):
            call()


def test_what_a_copy_cannot_be_asked() -> None:
    copy = Asked(workers=("third1", "third2")).model.send("bob")
    with pytest.raises(NotebookError, match="was not trained: call train"):
        copy.move()
    with pytest.raises(NotebookError, match=r"train\(\) takes epochs, .*, not cohort, rounds"):
        copy.train(rounds=2, cohort=1)
    with pytest.raises(NotebookError, match="learning_rate"):
        copy.train(learning_rate=-1.0)
    with pytest.raises(NotebookError, match="names both batches and epochs"):
        copy.train(epochs=1, batches=1)
    with pytest.raises(NotebookError, match=r"go to third1 and third2, all of them, .* not to third1"):
        copy.train().move("third1")
    assert copy.move("third2", "third1").moved
    with pytest.raises(NotebookError, match="no data owner 'mallory'"):
        copy.model.send("mallory")
    assert planned(copy.model.federation.plan, {"batch_size": 0}).batch_size == 0


def test_a_launch_that_cannot_be_is_one_sentence_and_writes_nothing(tmp_path: Any) -> None:
    folder = tmp_path / "run"
    with pytest.raises(NotebookError, match="cannot import Mine from this notebook: write it to a file"):
        notebook.launch("__main__:Mine", {"bob": {}, "alice": {}}, folder=folder)
    with pytest.raises(SiteFileError, match="there is no module nowhere"):
        notebook.launch("nowhere:Mine", {"bob": {}, "alice": {}}, folder=folder)
    assert not folder.exists()
