"""A data owner scores the model it has just trained: as torch does, and without a trace in the update."""

import copy

import numpy as np
import pytest
import torch
from tertium.learning.batches import batch_order
from tertium.learning.errors import BadUpdate
from tertium.learning.numpy_task import NumpyTask, Planted
from tertium.learning.registry import load_trainer
from tertium.learning.task import ServerOptimiser
from tertium.learning.torch_task import Examples, TorchTask
from tertium.protocol.errors import SiteFileError
from tertium.protocol.site import TaskEntry
from tertium.protocol.training import TrainingPlan, UpdateKind
from torch import nn

STREAM = bytes(range(32))
LOCAL = [UpdateKind.WEIGHTS, UpdateKind.DELTA]


class Normed(TorchTask):
    """A classifier with batch normalisation, integer counter included."""

    classes = 3

    def __init__(self, *, test: bool = True) -> None:
        self._has_test = test

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))

    def load_data(self) -> Examples:
        return self._drawn(1, 40)

    def load_test(self) -> Examples | None:
        return self._drawn(2, 601) if self._has_test else None

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    @staticmethod
    def _drawn(seed: int, rows: int) -> Examples:
        inputs = torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))
        return Examples(inputs, inputs[:, :3].argmax(dim=1))


def plan(kind: UpdateKind) -> TrainingPlan:
    return TrainingPlan(task="own", batches=7, epochs=0, batch_size=8, learning_rate=0.3, kind=kind)


@pytest.mark.parametrize("kind", LOCAL)
def test_the_score_is_that_of_the_model_that_torch_trains(kind: UpdateKind) -> None:
    start = Normed().global_model(1, ServerOptimiser())
    trainer, model = Normed().trainer(), start.to_bytes()
    update = trainer.train(start.layout, model, plan(kind), STREAM)
    score = trainer.evaluate_own(start.layout, model, kind, update.values)

    local, data, test = copy.deepcopy(start.module).train(), Normed().load_data(), Normed().load_test()
    sgd = torch.optim.SGD(local.parameters(), lr=0.3)
    for rows in batch_order(len(data), plan(kind), STREAM):
        sgd.zero_grad()
        nn.functional.cross_entropy(local(data.inputs[rows]), data.targets[rows]).backward()
        sgd.step()
    with torch.no_grad():
        outputs = local.eval()(test.inputs)
    answers = outputs.argmax(1)
    assert score.examples == 601
    assert score.accuracy == pytest.approx(float((answers == test.targets).double().mean()))
    assert score.loss == pytest.approx(float(nn.functional.cross_entropy(outputs, test.targets)), rel=1e-5)
    assert score.shares == pytest.approx([float((answers == each).double().mean()) for each in range(3)])
    assert score.loss < trainer.evaluate(start.layout, model).loss


@pytest.mark.parametrize("kind", LOCAL)
def test_the_update_is_the_same_to_the_bit(kind: UpdateKind) -> None:
    start = Normed().global_model(1, ServerOptimiser())
    model = start.to_bytes()
    scoring, plain = Normed().trainer(), Normed().trainer()
    for _ in range(2):
        update = scoring.train(start.layout, model, plan(kind), STREAM)
        before = [values.tobytes() for values in update.values]
        state = torch.random.get_rng_state()
        scoring.evaluate_own(start.layout, model, kind, update.values)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert [values.tobytes() for values in update.values] == before
        assert [v.tobytes() for v in plain.train(start.layout, model, plan(kind), STREAM).values] == before


@pytest.mark.parametrize("kind", LOCAL)
def test_a_numpy_task_scores_the_same_model_as_its_model_owner_would(kind: UpdateKind) -> None:
    task = NumpyTask(model="logistic", examples=50, test_examples=300)
    start, trainer = task.global_model(1, ServerOptimiser()), task.trainer()
    model = start.to_bytes()
    update = trainer.train(start.layout, model, plan(kind), STREAM)
    start.apply(kind, [np.asarray(values, dtype=np.float64) for values in update.values])
    assert trainer.evaluate_own(start.layout, model, kind, update.values) == start.evaluate()


@pytest.mark.parametrize("task", [Normed(), NumpyTask(test_examples=5)], ids=["torch", "numpy"])
def test_gradients_make_no_model_of_their_own(task: Normed | NumpyTask) -> None:
    start, trainer, kind = task.global_model(1, ServerOptimiser()), task.trainer(), UpdateKind.GRADIENTS
    update = trainer.train(start.layout, start.to_bytes(), plan(kind), STREAM)
    with pytest.raises(SiteFileError, match="no model is trained locally"):
        trainer.evaluate_own(start.layout, start.to_bytes(), kind, update.values)


@pytest.mark.parametrize("task", [Normed(test=False), NumpyTask(), Planted()], ids=["torch", "numpy", "planted"])
def test_without_test_data_there_is_no_score(task: Normed | NumpyTask | Planted) -> None:
    start, trainer = task.global_model(1, ServerOptimiser()), task.trainer()
    assert not trainer.tests_own
    with pytest.raises(SiteFileError):
        trainer.evaluate_own(start.layout, start.to_bytes(), UpdateKind.WEIGHTS, ())


def test_an_update_that_does_not_fit_is_not_scored() -> None:
    start = Normed().global_model(1, ServerOptimiser())
    with pytest.raises(BadUpdate):
        Normed().trainer().evaluate_own(start.layout, start.to_bytes(), UpdateKind.WEIGHTS, ())


def test_a_line_in_the_site_file_that_could_have_no_effect_is_refused() -> None:
    factory = "tertium.learning.numpy_task:NumpyTask"
    entry = TaskEntry(factory=factory, evaluate_own_rounds=(1,))
    with pytest.raises(SiteFileError, match=r"tasks\.line\.evaluate_own_rounds: the task has no test data"):
        load_trainer("line", entry)
    tested = TaskEntry(factory=factory, options={"test_examples": 5}, evaluate_own_rounds=(1,))
    assert load_trainer("line", tested).tests_own
    assert not load_trainer("line", TaskEntry(factory=factory)).tests_own


def test_a_model_owner_says_what_it_tests_on() -> None:
    assert Normed().global_model(1, ServerOptimiser()).describe().startswith("test: 601 examples (0: ")
    assert Normed(test=False).global_model(1, ServerOptimiser()).describe() == ""
