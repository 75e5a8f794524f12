"""The tasks without torch, against torch and against themselves."""

import stat

import numpy as np
import pytest
import torch
from tertium.learning.centralised import train_centralised
from tertium.learning.errors import BadUpdate
from tertium.learning.numpy_task import NumpyTask, Planted
from tertium.learning.registry import load_task
from tertium.learning.task import ServerOptimiser
from tertium.learning.updates import mean_of
from tertium.protocol.errors import SiteFileError
from tertium.protocol.training import TrainingPlan, UpdateKind

STREAM = bytes(32)
ROWS = [[0.5, -1.0], [2.0, 0.25], [-1.5, 1.0], [0.0, 3.0]]
TARGETS = [0, 1, 0, 1]


def plan(**changes) -> TrainingPlan:
    return TrainingPlan(**{"task": "numpy", "batches": 3, "epochs": 0, "batch_size": 0, "momentum": 0.5, **changes})


@pytest.mark.parametrize("model", ["linear", "logistic"])
@pytest.mark.parametrize("kind", list(UpdateKind))
def test_training_is_what_torch_does(model, kind):
    task = NumpyTask(model=model, inputs=ROWS, targets=TARGETS)
    start = task.global_model(1, ServerOptimiser())
    update = task.trainer().train(start.layout, start.to_bytes(), plan(kind=kind), STREAM)
    flat = np.frombuffer(start.to_bytes(), "<f4")
    linear = torch.nn.Linear(2, 1)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(flat[:2].copy()))
        linear.bias.copy_(torch.from_numpy(flat[2:].copy()))
    sgd = torch.optim.SGD(linear.parameters(), lr=0.1, momentum=0.5)
    inputs, targets = torch.tensor(ROWS), torch.tensor(TARGETS, dtype=torch.float32)
    losses, right = [], 0
    for _ in range(3):
        outputs = linear(inputs)[:, 0]
        if model == "linear":
            loss = torch.nn.functional.mse_loss(outputs, targets)
            right += int(((outputs - targets).abs() < 0.5).sum())
        else:
            loss = torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets)
            right += int(((outputs > 0) == (targets > 0.5)).sum())
        if kind is not UpdateKind.GRADIENTS:
            sgd.zero_grad()
        loss.backward()
        losses.append(loss.item())
        if kind is not UpdateKind.GRADIENTS:
            sgd.step()
    weight, bias = linear.weight.detach().numpy().reshape(-1), linear.bias.detach().numpy()
    expected = {
        UpdateKind.WEIGHTS: lambda: (weight, bias),
        UpdateKind.DELTA: lambda: (weight - flat[:2], bias - flat[2:]),
        UpdateKind.GRADIENTS: lambda: (linear.weight.grad.numpy().reshape(-1), linear.bias.grad.numpy()),
    }[kind]()
    for ours, theirs in zip(update.values, expected, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert update.metrics == pytest.approx((sum(losses) / 3, right / 12))
    assert update.examples == 4


@pytest.mark.parametrize("model", ["linear", "logistic"])
def test_three_parties_learn_what_one_learns(model):
    options = {"model": model, "features": 3, "examples": 200, "seed": 5, "test_examples": 300}
    owners = [NumpyTask(**options, party=party).trainer() for party in range(3)]
    model_owner = NumpyTask(**options).global_model(1, ServerOptimiser())
    first = model_owner.evaluate()
    wanted = plan(batches=10, batch_size=32, momentum=0.0)
    for number in range(10):
        stream = bytes([number]) * 32
        updates = [o.train(model_owner.layout, model_owner.to_bytes(), wanted, stream).values for o in owners]
        model_owner.apply(wanted.kind, mean_of(updates))
    last = model_owner.evaluate()
    pooled = NumpyTask(**{**options, "examples": 600})
    seen = []
    baseline = train_centralised(
        pooled, [wanted] * 10, owners=3, seed=1, each_round=lambda number, _: seen.append(number)
    )
    assert seen == list(range(1, 11))
    assert last.loss < first.loss / 2
    assert last.accuracy > 0.95
    assert baseline.accuracy > 0.95
    assert baseline.examples == last.examples == 300


def test_the_baseline_draws_as_many_batches_as_all_owners_together():
    """With one owner and full batches it is the federated run itself."""
    task = NumpyTask(inputs=ROWS, targets=TARGETS, test_examples=5, features=2)
    direct = task.global_model(3, ServerOptimiser())
    for _ in range(2):
        six = plan(batches=6, momentum=0.0)
        update = task.trainer().train(direct.layout, direct.to_bytes(), six, STREAM)
        direct.apply(UpdateKind.WEIGHTS, [v.astype(np.float64) for v in update.values])
    scored = train_centralised(task, [plan(momentum=0.0)] * 2, owners=2, seed=3)
    assert scored.loss == pytest.approx(direct.evaluate().loss, rel=1e-6)
    sgd = ServerOptimiser(name="SGD", options={"lr": 0.05})
    accumulated = plan(kind=UpdateKind.GRADIENTS)
    for optimiser, divisor in ((sgd, 2), (ServerOptimiser("SGD", {"lr": 0.05}, "sum"), 1)):
        stepped = task.global_model(3, sgd)
        update = task.trainer().train(
            stepped.layout, stepped.to_bytes(), plan(batches=6, kind=accumulated.kind), STREAM
        )
        stepped.apply(accumulated.kind, [v.astype(np.float64) / divisor for v in update.values])
        score = train_centralised(task, [accumulated], owners=2, seed=3, optimiser=optimiser)
        assert score.loss == pytest.approx(stepped.evaluate().loss, rel=1e-6)


@pytest.mark.parametrize(("plans", "owners"), [([], 3), ([plan()], 0)])
def test_a_baseline_of_nothing_is_refused(plans, owners):
    with pytest.raises(SiteFileError):
        train_centralised(NumpyTask(test_examples=3), plans, owners=owners, seed=0)


def test_a_baseline_without_test_data_is_refused():
    with pytest.raises(SiteFileError, match="test set"):
        train_centralised(NumpyTask(), [plan()], owners=1, seed=0)


def test_results_repeat_and_parties_differ():
    def values(**options) -> bytes:
        task = NumpyTask(**options)
        model = task.global_model(0, ServerOptimiser())
        update = task.trainer().train(model.layout, model.to_bytes(), plan(batch_size=8), STREAM)
        return b"".join(v.tobytes() for v in update.values)

    assert values(party=1) == values(party=1)
    assert len({values(), values(party=1), values(seed=1), values(model="logistic")}) == 4


@pytest.mark.parametrize("options", [{"parameters": 10, "pattern": [1.5, -2.0, 0.25]}, {"parameters": 10}])
@pytest.mark.parametrize("kind", list(UpdateKind))
def test_a_planted_pattern_is_what_travels(options, kind):
    task = Planted(**options, examples=7)
    model = task.global_model(0, ServerOptimiser(name="SGD", options={"lr": 1.0}))
    update = task.trainer().train(model.layout, model.to_bytes(), plan(kind=kind), STREAM)
    motif = options.get("pattern", [0.5])
    assert update.values[0].tolist() == (motif * 10)[:10]
    assert (update.examples, update.metrics) == (7, (0.0, 0.0))
    model.apply(kind, [v.astype(np.float64) for v in update.values])
    sign = -1 if kind is UpdateKind.GRADIENTS else 1
    assert np.frombuffer(model.to_bytes(), "<f4").tolist() == [sign * x for x in (motif * 10)[:10]]
    if kind is UpdateKind.WEIGHTS:
        again = task.trainer().train(model.layout, model.to_bytes(), plan(kind=kind), STREAM)
        assert again.values[0].tolist() == [2 * x for x in (motif * 10)[:10]]


def test_clipping_is_named():
    task = Planted(parameters=4, pattern=3.0)
    model = task.global_model(0, ServerOptimiser())
    for kind in UpdateKind:
        update = task.trainer().train(model.layout, model.to_bytes(), plan(kind=kind, clip_norm=2.0), STREAM)
        assert update.clipped
        assert update.values[0].tolist() == [1.0] * 4


@pytest.mark.parametrize("optimiser", [ServerOptimiser(), ServerOptimiser("SGD", {"lr": 0.1, "momentum": 0.9})])
def test_a_resumed_run_is_bit_identical(tmp_path, optimiser):
    path = tmp_path / "model.npy"
    task = NumpyTask()

    def rounds(model, numbers):
        for number in numbers:
            update = task.trainer().train(model.layout, model.to_bytes(), plan(), bytes([number]) * 32)
            model.apply(UpdateKind.WEIGHTS, [v.astype(np.float64) for v in update.values])

    whole = task.global_model(1, optimiser)
    rounds(whole, range(3))
    whole.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    rounds(whole, range(3, 6))
    resumed = task.global_model(2, optimiser)
    resumed.load(path)
    rounds(resumed, range(3, 6))
    assert resumed.to_bytes() == whole.to_bytes()
    good = path.read_bytes()
    for content in (b"", good[:-1], b"PK\x03\x04" + bytes(30), np.zeros(3).tobytes()):
        path.write_bytes(content)
        with pytest.raises(SiteFileError):
            resumed.load(path)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(SiteFileError):
        resumed.load(path)
    path.write_bytes(good)
    with pytest.raises(SiteFileError, match="another model"):
        NumpyTask(features=9).global_model(0, optimiser).load(path)
    assert resumed.to_bytes() == whole.to_bytes()


def test_foreign_models_metrics_and_aggregates_are_refused():
    task = NumpyTask(features=3)
    model = task.global_model(0, ServerOptimiser())
    trainer = task.trainer()
    with pytest.raises(SiteFileError, match="weight"):
        NumpyTask(features=4).trainer().train(model.layout, model.to_bytes(), plan(), STREAM)
    with pytest.raises(SiteFileError, match="bytes"):
        trainer.train(model.layout, model.to_bytes() + b"\0", plan(), STREAM)
    with pytest.raises(SiteFileError, match="'f1'"):
        trainer.train(model.layout, model.to_bytes(), plan(metrics=("f1",)), STREAM)
    with pytest.raises(SiteFileError, match="optimiser"):
        model.apply(UpdateKind.GRADIENTS, [np.zeros(3), np.zeros(1)])
    with pytest.raises(BadUpdate):
        model.apply(UpdateKind.DELTA, [np.zeros(3)])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("NumpyTask", {"model": "cubic"}),
        ("NumpyTask", {"features": 0}),
        ("NumpyTask", {"examples": -1}),
        ("NumpyTask", {"examples": True}),
        ("NumpyTask", {"inputs": [[1.0]]}),
        ("NumpyTask", {"inputs": [[1.0], [1.0, 2.0]], "targets": [1, 2]}),
        ("NumpyTask", {"inputs": [[1.0]], "targets": [1, 2]}),
        ("NumpyTask", {"inputs": [["x"]], "targets": [1]}),
        ("NumpyTask", {"inputs": [[1.0]], "targets": [2], "model": "logistic"}),
        ("NumpyTask", {"inputs": [[float("nan")]], "targets": [1]}),
        ("NumpyTask", {"learning": 1}),
        ("Planted", {"parameters": 0}),
        ("Planted", {"pattern": []}),
        ("Planted", {"pattern": "abc"}),
        ("Planted", {"pattern": float("inf")}),
    ],
)
def test_bad_options_are_refused_in_one_sentence(name, options):
    with pytest.raises(SiteFileError) as caught:
        load_task(f"tertium.learning.numpy_task:{name}", options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "optimiser",
    [
        ServerOptimiser(name="Adam"),
        ServerOptimiser(name="SGD", options={"betas": 1}),
        ServerOptimiser(name="SGD", options={"lr": "fast"}),
        ServerOptimiser(options={"lr": 1.0}),
        ServerOptimiser(reduction="median"),
    ],
)
def test_bad_server_optimisers_are_refused(optimiser):
    with pytest.raises(SiteFileError):
        NumpyTask().global_model(0, optimiser)


def test_no_datum_is_in_a_repr():
    task = NumpyTask(inputs=ROWS, targets=TARGETS)
    model = task.global_model(0, ServerOptimiser())
    trainer = task.trainer()
    update = trainer.train(model.layout, model.to_bytes(), plan(), STREAM)
    assert repr(update) == "LocalUpdate()"
    assert repr(model) == "NumpyGlobalModel(3 parameters)"
    assert repr(trainer) == "NumpyTrainer(4 examples)"
