"""The verbs without any process: what each refuses, and in which words."""

import dataclasses
from typing import Any

import pytest
from tertium import notebook
from tertium.cli.demos.recipes import Recipe
from tertium.notebook import NotebookError, SingleUpdateRefused
from tertium.notebook.verbs import Copy, Mean, Model, mean, planned
from tertium.protocol.charter import TrainingLimits
from tertium.protocol.errors import SiteFileError
from tertium.protocol.site import OwnerPlan


class Asked:
    """What a federation is to the verbs; it notes what it is asked to run."""

    def __init__(self, minimum: int = 2, workers: tuple[str, ...] = ("third",)) -> None:
        self.minimum_cohort, self.secure_workers = minimum, workers
        self.plan = OwnerPlan(task="toy", epochs=3, learning_rate=0.5)
        self.opens_updates = False
        self.training_limits = TrainingLimits(max_epochs=100, max_batches=1000)
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


def test_in_mode_plain_nobody_is_told_that_an_update_is_sealed_for_a_third_party() -> None:
    federation = Asked(minimum=1)
    federation.opens_updates = True
    with pytest.raises(NotebookError, match="in mode plain you open each update") as refused:
        federation.model.send("bob").get()
    assert not isinstance(refused.value, SingleUpdateRefused)


def test_a_mean_of_fewer_than_the_minimum_is_refused_before_anybody_is_asked() -> None:
    federation = Asked(minimum=3)
    with pytest.raises(SingleUpdateRefused, match="a mean of bob is of fewer than 3, the charter's minimum"):
        mean(*moved(federation, "bob"))
    assert not federation.rounds


def test_what_makes_no_round() -> None:
    federation, another = Asked(), Asked()
    bobs, alices = moved(federation, "bob", "alice")
    for copies, words in (
        ((), r"takes the copies to be summed, as mean\(bobs, alices\)"),
        (([bobs, alices],), r"mean\(\*copies\) of a list; not a list"),
        ((federation.model,), "not a Model"),
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
    for most, more in (({"epochs": 100}, {"epochs": 101}), ({"batches": 1000}, {"batches": 1001})):
        asked = copy.train(**most).plan
        with pytest.raises(NotebookError, match=r"1 (epochs|batches) are more than the 10+ that the charter allows"):
            copy.train(**more)
        assert copy.plan == asked
    with pytest.raises(NotebookError, match=r"go to third1 and third2, all of them, .* not to third1"):
        copy.train().move("third1")
    assert copy.move("third2", "third1").moved
    with pytest.raises(NotebookError, match="no data owner 'mallory'"):
        copy.model.send("mallory")
    assert planned(copy.model.federation.plan, {"batch_size": 0}).batch_size == 0


@pytest.mark.parametrize(
    ("owners", "how", "words"),
    [
        ({"bob": {"rows": object()}}, {}, "bob's option rows is a object, which its site file cannot hold"),
        ({"bob": {"rows": None}}, {}, "bob's option rows is a NoneType"),
        ({"bob": [0, 1]}, {}, "the options of bob are a dict of what its task takes, not a list"),
        (["bob", "alice"], {}, "data_owners is the options of the task by name"),
        ({"third": {}, "owner": {}}, {}, "a data owner cannot be called owner: the model owner is"),
        ({"third": {}, "bob": {}}, {}, "a data owner cannot be called third: the secure worker is"),
        ({"bob": {}}, {"rounds": 5}, r"does not take rounds: each mean\(\) is a round"),
        ({"bob": {}}, {"learning_rat": 0.1}, r"launch\(\) takes kind, .*learning_rate, .*, not learning_rat"),
        ({"bob": {}}, {"owner": {"rows": {1, 2}}}, "owner's option rows is a set"),
        ({"bob": {}}, {"value_range": 0}, "value_range is a number above 0, not 0"),
    ],
)
def test_what_a_launch_cannot_take(tmp_path: Any, owners: Any, how: dict[str, Any], words: str) -> None:
    pytest.importorskip("torch")
    folder = tmp_path / "run"
    with pytest.raises(NotebookError, match=words):
        notebook.launch("tertium.learning.tasks.toy:Toy", owners, folder=folder, **how)
    assert not folder.exists()


@pytest.mark.parametrize(("how", "wanted"), [({}, 8.0), ({"value_range": 32.0}, 32.0)])
def test_the_charter_of_a_launch_has_its_value_range(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any], wanted: float
) -> None:
    pytest.importorskip("torch")

    def written(recipe: Recipe, *_: object) -> None:
        raise NotebookError(f"written with {recipe.arithmetic.value_range}")

    monkeypatch.setattr("tertium.notebook.federation.write_parties", written)
    with pytest.raises(NotebookError, match=rf"written with {wanted}$"):
        notebook.launch("tertium.learning.tasks.toy:Toy", {"bob": {}, "alice": {}}, folder=tmp_path / "run", **how)


def test_a_launch_that_cannot_be_is_one_sentence_and_writes_nothing(tmp_path: Any) -> None:
    folder = tmp_path / "run"
    with pytest.raises(NotebookError, match="cannot import Mine from this notebook: write it to a file"):
        notebook.launch("__main__:Mine", {"bob": {}, "alice": {}}, folder=folder)
    with pytest.raises(NotebookError, match='the task is named, as "my_task:Mine"'):
        notebook.launch(Asked, {"bob": {}, "alice": {}}, folder=folder)  # type: ignore[arg-type]
    with pytest.raises(SiteFileError, match=r"name the file nowhere\.py without its \.py"):
        notebook.launch("nowhere.py:Mine", {"bob": {}, "alice": {}}, folder=folder)
    with pytest.raises(SiteFileError, match=r"there is no module nowhere to import a task from$"):
        notebook.launch("nowhere:Mine", {"bob": {}, "alice": {}}, folder=folder)
    assert not folder.exists()
