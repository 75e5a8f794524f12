"""The demos' tasks, and how a site file names one."""

import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from tertium.learning.centralised import train_centralised
from tertium.learning.registry import load_task
from tertium.learning.task import ServerOptimiser
from tertium.learning.tasks.digits import Digits
from tertium.learning.tasks.halfplane import Halfplane
from tertium.learning.tasks.mnist import Mnist
from tertium.learning.tasks.toy import Toy
from tertium.learning.updates import mean_of
from tertium.protocol.errors import SiteFileError
from tertium.protocol.training import TrainingPlan, UpdateKind

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "mnist"
needs_mnist = pytest.mark.skipif(not REAL.is_dir(), reason="the MNIST files do not stand beside the repository")
TASKS = "tertium.learning.tasks"


def federate(owners, model, plans, *, divide: bool = True):
    for number, plan in enumerate(plans):
        updates = [
            owner.train(model.layout, model.to_bytes(), plan, bytes([number, who]) * 16).values
            for who, owner in enumerate(owners)
        ]
        mean = mean_of(updates)
        model.apply(plan.kind, mean if divide else [values * len(owners) for values in mean])


def test_toy_parties_average_to_the_answer():
    bob, alice = Toy(rows=[0, 1]).trainer(), Toy(rows=[2, 3]).trainer()
    assert (bob.describe(), alice.describe()) == ("rows 0-1: 2 examples", "rows 2-3: 2 examples")
    model = Toy(rows=[], test=True).global_model(1, ServerOptimiser())
    assert model.layout.coordinates(UpdateKind.WEIGHTS) == 3
    plans = [TrainingPlan(task="toy", batches=5, epochs=0, batch_size=0, learning_rate=0.1)] * 10
    first = model.evaluate()
    federate([bob, alice], model, plans)
    last = model.evaluate()
    assert last.examples == 4
    assert last.loss < first.loss / 2
    outputs = model.module(torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])).detach()
    assert last.loss == pytest.approx(float((outputs - torch.tensor([[0.0], [0], [1], [1]])).square().sum()))


def test_toy_in_one_place_is_twenty_plain_steps():
    task = Toy(test=True)
    losses = []
    plan = TrainingPlan(task="toy", batches=1, epochs=0, batch_size=0, learning_rate=0.1)
    score = train_centralised(
        task, [plan] * 20, owners=1, seed=4, each_round=lambda _, model: losses.append(model.evaluate().loss)
    )
    torch.manual_seed(4)
    linear = torch.nn.Linear(2, 1)
    sgd = torch.optim.SGD(linear.parameters(), lr=0.1)
    data = task.load_data()
    for _ in range(20):
        sgd.zero_grad()
        task.loss(linear(data.inputs), data.targets).backward()
        sgd.step()
    assert score.loss == losses[-1]
    assert score.loss == pytest.approx(float(task.loss(linear(data.inputs), data.targets).detach()), abs=1e-6)
    assert score.accuracy == 1.0
    assert losses == sorted(losses, reverse=True)


def test_digits_parties_say_what_they_hold():
    alice = Digits(digits=[0, 1, 2, 3]).trainer()
    assert alice.describe() == "digits 0-3: 576 examples (0: 142, 1: 146, 2: 142, 3: 146)"
    assert Digits(digits=[9, 4]).trainer().describe().startswith("digits 4, 9: ")
    evaluator = Digits(digits=[], test=True).trainer()
    assert evaluator.describe().startswith("test: 359 examples (0: 36,")
    model = Digits(test=True, digits=[]).global_model(1, ServerOptimiser())
    assert model.layout.coordinates(UpdateKind.WEIGHTS) == 14_224
    score = evaluator.evaluate(model.layout, model.to_bytes())
    assert score == model.evaluate()
    assert len(score.shares) == 10
    assert sum(score.shares) == pytest.approx(1.0)


def test_digits_learns_in_a_few_rounds():
    owners = [Digits(digits=digits).trainer() for digits in ([0, 1, 2, 3], [4, 5, 6], [7, 8, 9])]
    model = Digits(test=True, digits=[]).global_model(1, ServerOptimiser())
    before = model.evaluate().accuracy
    federate(
        owners, model, [TrainingPlan(task="d", batches=10, epochs=0, learning_rate=r) for r in (0.2,) * 6 + (0.02,) * 2]
    )
    assert model.evaluate().accuracy > max(0.3, before + 0.1)


def test_halfplane_learns_from_summed_gradients_and_adam():
    owners = [Halfplane(batches=2, seed=1, party=party).trainer() for party in range(4)]
    assert owners[0].describe() == "points: 2000 examples"
    assert not torch.equal(owners[0]._data.inputs, owners[1]._data.inputs)
    share = float(Halfplane(batches=5).load_data().targets.mean())
    assert 0.6 < share < 0.75  # where the line through the square lies
    optimiser = ServerOptimiser(name="Adam", options={"lr": 1.0}, reduction="sum")
    model = Halfplane(batches=0, seed=1, test=True).global_model(3, optimiser)
    plan = TrainingPlan(task="h", kind=UpdateKind.GRADIENTS, batches=2, epochs=0, batch_size=1000)
    federate(owners, model, [plan] * 40, divide=False)
    assert model.evaluate().accuracy > 0.97


@needs_mnist
def test_mnist_parties_say_what_they_hold():
    charlie = Mnist(data=str(REAL), digits=[7, 8, 9]).trainer()
    assert charlie.describe() == "digits 7-9: 18065 examples (7: 6265, 8: 5851, 9: 5949)"
    model = Mnist(data=str(REAL), digits=[], test=True).global_model(1, ServerOptimiser())
    assert model.layout.coordinates(UpdateKind.WEIGHTS) == 431_080
    evaluator = Mnist(data=str(REAL), digits=[], test=True).trainer()
    assert evaluator.describe().startswith("test: 10000 examples (0: 980, 1: 1135, 2: 1032, 3: 1010, 4: 982, ")
    plan = TrainingPlan(task="mnist", batches=2, epochs=0, clip_norm=0.5, kind=UpdateKind.DELTA)
    update = charlie.train(model.layout, model.to_bytes(), plan, bytes(32))
    assert update.clipped
    assert update.examples == 64
    assert all(np.isfinite(values).all() for values in update.values)


@pytest.mark.parametrize(
    ("factory", "options", "word"),
    [
        ("tertium.learning.tasks.digits.Digits", {}, "module:Class"),
        ("os;import sys:Digits", {}, "module:Class"),
        ("no_such_module_here:Task", {}, "no module no_such_module_here"),
        (f"{TASKS}.no_such:Task", {}, "no module"),
        (f"{TASKS}.digits:Nothing", {}, "no class Nothing"),
        ("pathlib:Path", {}, "not a Task"),
        ("os:getcwd", {}, "not a Task"),
        ("tertium.learning.torch_task:TorchTask", {}, "build_model"),
        (f"{TASKS}.digits:Digits", {"digit": [1]}, "digit"),
        (f"{TASKS}.digits:Digits", {"digits": [10]}, "from 0 to 9"),
        (f"{TASKS}.digits:Digits", {"digits": [1, 1]}, "different"),
        (f"{TASKS}.digits:Digits", {"digits": "all"}, "digits"),
        (f"{TASKS}.digits:Digits", {"digits": [True]}, "digits"),
        (f"{TASKS}.digits:Digits", {"test": "yes"}, "true or false"),
        (f"{TASKS}.digits:Digits", {"device": 3}, "device"),
        (f"{TASKS}.mnist:Mnist", {}, "data"),
        (f"{TASKS}.mnist:Mnist", {"data": 3}, "data"),
        (f"{TASKS}.toy:Toy", {"rows": [4]}, "rows"),
        (f"{TASKS}.halfplane:Halfplane", {"batches": -1}, "batches"),
    ],
)
def test_what_names_no_task_is_refused_in_one_sentence(factory, options, word):
    with pytest.raises(SiteFileError, match=word) as caught:
        load_task(factory, options)
    assert "\n" not in str(caught.value)


def test_tasks_load_by_name_with_their_options():
    task = load_task(f"{TASKS}.digits:Digits", {"digits": [0, 1], "test": True})
    assert isinstance(task, Digits)
    assert repr(task) == "Digits(digits 0-1)"
    assert load_task("tertium.learning:Planted", {"parameters": 3}).layout.model_bytes == 12


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("import sklearn_not_here", "sklearn_not_here is not installed"),
        ("raise RuntimeError('sensor off')", "RuntimeError: sensor off"),
        ("def broken(:", "SyntaxError"),
        (
            "from tertium.learning import Planted\nclass Mine(Planted):\n def __init__(self): raise ValueError('bad')",
            "bad",
        ),
    ],
)
def test_an_operators_own_module_may_fail_in_any_way(tmp_path, monkeypatch, body, word):
    (tmp_path / "own_task_of_a_site.py").write_text(textwrap.dedent(body))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_task_of_a_site", raising=False)
    with pytest.raises(SiteFileError, match=word):
        load_task("own_task_of_a_site:Mine", {})
    sys.modules.pop("own_task_of_a_site", None)


def test_a_missing_extra_says_what_to_install(monkeypatch):
    for module in ("sklearn", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SiteFileError, match=r"pip install 'tertium\[demo\]'"):
        Digits().trainer()
