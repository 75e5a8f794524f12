"""Local training, and what a model owner makes of the aggregate, against torch doing the same directly."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from tertium.learning.batches import batch_order
from tertium.learning.errors import BadUpdate
from tertium.learning.task import LocalUpdate, ServerOptimiser
from tertium.learning.tensors import layout_of, load_model, model_to_bytes
from tertium.learning.torch_global import TorchGlobalModel
from tertium.learning.torch_task import Examples, TorchTask
from tertium.learning.updates import mean_of
from tertium.protocol.errors import SiteFileError
from tertium.protocol.training import TrainingPlan, UpdateKind
from torch import nn

STREAM = bytes(range(32))


class Small(TorchTask):
    """A classifier with batch normalisation, a frozen bias and an unused layer."""

    title = "points"
    classes = 3

    def __init__(self, party: int = 0, rows: int = 23, *, test: bool = False, dropout: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(party)
        inputs = torch.randn(rows, 4, generator=generator)
        self._data = Examples(inputs, inputs[:, :3].argmax(dim=1))
        self._has_test = test
        self._dropout = dropout

    def build_model(self) -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(self._dropout), nn.Linear(6, 3))
        model[3].bias.requires_grad_(False)
        model.register_parameter("unused", nn.Parameter(torch.ones(2)))
        return model

    def load_data(self) -> Examples:
        return self._data

    def load_test(self) -> Examples | None:
        return self._data if self._has_test else None

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs, targets)


def plan(**changes) -> TrainingPlan:
    return TrainingPlan(**{"task": "small", "batches": 5, "epochs": 0, "batch_size": 8, "momentum": 0.9, **changes})


def start(seed: int = 1, **optimiser) -> TorchGlobalModel:
    return Small().global_model(seed, ServerOptimiser(**optimiser))


def directly(model: TorchGlobalModel, party: int, wanted: TrainingPlan) -> nn.Module:
    """Train as anyone would write it in torch."""
    local = copy.deepcopy(model.module).train()
    data = Small(party).load_data()
    trained = [p for p in local.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(trained, lr=wanted.learning_rate, momentum=wanted.momentum)
    for rows in batch_order(len(data), wanted, STREAM):
        if wanted.kind is not UpdateKind.GRADIENTS:
            sgd.zero_grad()
        nn.functional.cross_entropy(local(data.inputs[rows]), data.targets[rows]).backward()
        if wanted.kind is not UpdateKind.GRADIENTS:
            sgd.step()
    return local


def train(model: TorchGlobalModel, party: int, wanted: TrainingPlan, stream: bytes = STREAM) -> LocalUpdate:
    return Small(party).trainer().train(model.layout, model.to_bytes(), wanted, stream)


@pytest.mark.parametrize("kind", [UpdateKind.WEIGHTS, UpdateKind.DELTA])
def test_an_aggregate_of_weights_or_deltas_is_the_mean_of_the_models(kind):
    model, wanted = start(), plan(kind=kind)
    locals_ = [directly(model, party, wanted).state_dict() for party in range(3)]
    before = copy.deepcopy(model.module.state_dict())
    model.apply(kind, mean_of(train(model, party, wanted).values for party in range(3)))
    for name, tensor in model.module.state_dict().items():
        mean = torch.stack([local[name].double() for local in locals_]).mean(dim=0)
        if name == "1.num_batches_tracked":
            assert tensor.item() == before[name].item() + 5 == mean.item()
        elif kind is UpdateKind.WEIGHTS:
            assert torch.equal(tensor, mean.float())
        else:
            torch.testing.assert_close(tensor, mean.float(), rtol=0, atol=1e-6)
    assert not torch.equal(model.module.state_dict()["0.weight"], before["0.weight"])
    assert not torch.equal(model.module.state_dict()["1.running_mean"], before["1.running_mean"])
    assert torch.equal(model.module.state_dict()["3.bias"], before["3.bias"])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_local_steps_are_those_of_torch_to_the_bit(momentum):
    model, wanted = start(), plan(momentum=momentum, batches=9)
    local = directly(model, 0, wanted)
    expected = [tensor.detach().numpy().reshape(-1) for tensor in local.state_dict().values()]
    for entry, ours, theirs in zip(model.layout.entries, train(model, 0, wanted).values, expected, strict=True):
        if entry.dtype.is_float:
            assert ours.tobytes() == theirs.tobytes(), entry.name


def test_training_does_not_wait_for_torchs_compiler():
    code = """
import sys
from tertium.learning.tasks.toy import Toy
from tertium.learning.task import ServerOptimiser
from tertium.protocol.training import TrainingPlan
model = Toy().global_model(0, ServerOptimiser())
Toy().trainer().train(model.layout, model.to_bytes(), TrainingPlan(task="toy", momentum=0.5), bytes(32))
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_gradients_are_accumulated_over_batches_without_a_step():
    model, wanted = start(name="SGD", options={"lr": 0.5}), plan(kind=UpdateKind.GRADIENTS)
    update = train(model, 0, wanted)
    local = directly(model, 0, wanted)
    trained = [e.name for e in model.layout.updated(UpdateKind.GRADIENTS)]
    assert trained == ["unused", "0.weight", "0.bias", "1.weight", "1.bias", "3.weight"]
    for name, values in zip(trained, update.values, strict=True):
        grad = local.get_parameter(name).grad
        assert np.array_equal(values, np.zeros(2) if grad is None else grad.reshape(-1).numpy())
    before = model.module[0].weight.detach().clone()
    running = model.module[1].running_mean.clone()
    model.apply(UpdateKind.GRADIENTS, [v.astype(np.float64) for v in update.values])
    assert torch.equal(model.module[0].weight, before - 0.5 * local[0].weight.grad)
    assert torch.equal(model.module[1].running_mean, running)


OPTIMISERS = [
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("Adam", {"lr": 0.01}),
    ("AdamW", {"lr": 0.01, "betas": [0.8, 0.9]}),
    ("Adagrad", {"lr": 0.05}),
    ("NAdam", {"lr": 0.01}),
    ("ASGD", {"lr": 0.05}),
]


@pytest.mark.parametrize(("name", "options"), OPTIMISERS)
@pytest.mark.parametrize("kind", list(UpdateKind))
def test_a_server_optimiser_steps_as_torch_does(name, options, kind):
    model = start(name=name, options=options)
    reference = copy.deepcopy(model.module)
    trained = [p for p in reference.parameters() if p.requires_grad]
    torch_optimiser = getattr(torch.optim, name)(trained, **options)
    for number in range(3):
        stream = bytes([number]) * 32
        mean = mean_of(train(model, party, plan(kind=kind), stream).values for party in range(2))
        buffers = {name: buffer.clone() for name, buffer in model.module.named_buffers()}
        direct = {}
        for entry, values in zip(model.layout.updated(kind), mean, strict=True):
            if entry.name in ("1.running_mean", "1.running_var"):
                base = buffers[entry.name].double().numpy() if kind is UpdateKind.DELTA else 0.0
                direct[entry.name] = torch.from_numpy(base + values).float()
            if not entry.trainable:
                continue
            parameter = reference.get_parameter(entry.name)
            value = torch.from_numpy(values).reshape(entry.shape)
            wide = {
                UpdateKind.WEIGHTS: parameter.detach().double() - value,
                UpdateKind.DELTA: -value,
                UpdateKind.GRADIENTS: value,
            }[kind]
            parameter.grad = wide.float()
        torch_optimiser.step()
        model.apply(kind, mean)
        assert len(direct) == (0 if kind is UpdateKind.GRADIENTS else 2)
        for buffer, value in direct.items():  # set or added whatever the optimiser
            assert torch.equal(model.module.get_buffer(buffer), value)
        for entry in model.layout.entries:
            if entry.trainable:
                assert torch.equal(model.module.get_parameter(entry.name), reference.get_parameter(entry.name))
    if kind is not UpdateKind.GRADIENTS:
        assert model.module[1].num_batches_tracked.item() == 15


def test_clipping_is_named_and_leaves_counters_alone():
    model = start()
    free = train(model, 0, plan(kind=UpdateKind.DELTA))
    assert not free.clipped
    clipped = train(model, 0, plan(kind=UpdateKind.DELTA, clip_norm=0.01))
    assert clipped.clipped
    floats = [i for i, e in enumerate(model.layout.updated(UpdateKind.DELTA)) if e.dtype.is_float]
    assert np.sqrt(sum((clipped.values[i].astype(np.float64) ** 2).sum() for i in floats)) == pytest.approx(0.01)
    (counter,) = (values for i, values in enumerate(clipped.values) if i not in floats)
    assert counter.tolist() == [5.0]
    as_weights = train(model, 0, plan(clip_norm=0.01))
    assert as_weights.clipped
    base = mean_of([train(model, 0, plan(learning_rate=0.0)).values])
    step = as_weights.values[1] - base[1]
    np.testing.assert_allclose(step, clipped.values[1], atol=1e-7)
    assert not train(model, 0, plan(clip_norm=1e6)).clipped
    assert train(model, 0, plan(kind=UpdateKind.GRADIENTS, clip_norm=1e-3)).clipped


def test_training_repeats_bit_for_bit_and_follows_the_stream():
    model = start()

    def values(stream: bytes, dropout: float = 0.5) -> bytes:
        trainer = Small(dropout=dropout).trainer()
        torch.randn(3)  # whatever else this process draws
        update = trainer.train(model.layout, model.to_bytes(), plan(), stream)
        return b"".join(v.tobytes() for v in update.values)

    state = torch.get_rng_state()
    assert values(STREAM) == values(STREAM)
    assert len({values(STREAM), values(bytes(32)), values(STREAM, dropout=0.0)}) == 3
    torch.set_rng_state(state)
    Small(dropout=0.5).trainer().train(model.layout, model.to_bytes(), plan(), STREAM)
    assert torch.equal(torch.get_rng_state(), state)  # other parties of the process are not disturbed


def test_a_fresh_model_is_what_torch_draws_from_the_seed():
    torch.manual_seed(7)
    expected = Small().build_model()
    ours = start(7)
    assert ours.to_bytes() == model_to_bytes(expected, layout_of(expected))
    assert ours.to_bytes() != start(8).to_bytes()


def test_metrics_are_those_asked_for_in_their_order():
    model = start()
    update = train(model, 0, plan(metrics=("accuracy", "loss"), batch_size=0, batches=1))
    local = copy.deepcopy(model.module).train()
    data = Small(0).load_data()
    outputs = local(data.inputs)
    assert update.metrics[0] == pytest.approx(float((outputs.argmax(1) == data.targets).double().mean()))
    assert update.metrics[1] == pytest.approx(nn.functional.cross_entropy(outputs, data.targets).item())
    assert train(model, 0, plan(metrics=())).metrics == ()
    with pytest.raises(SiteFileError, match="'f1'"):
        train(model, 0, plan(metrics=("loss", "f1")))


@pytest.mark.parametrize(
    ("changes", "examples"),
    [
        ({"batches": 0, "epochs": 2}, 23),
        ({"batches": 2}, 16),
        ({"batches": 50}, 23),
        ({"batches": 1, "batch_size": 0}, 23),
    ],
)
def test_examples_counts_the_different_ones_trained_on(changes, examples):
    assert train(start(), 0, plan(**changes)).examples == examples


def test_a_party_without_data_returns_the_model_itself():
    model = start()
    update = Small(rows=0).trainer().train(model.layout, model.to_bytes(), plan(), STREAM)
    assert update.examples == 0
    assert update.metrics == (0.0, 0.0)
    before = model.to_bytes()
    model.apply(UpdateKind.WEIGHTS, [v.astype(np.float64) for v in update.values])
    assert model.to_bytes() == before


def test_evaluation_scores_in_batches_as_in_one():
    model = Small(rows=2345, test=True).global_model(1, ServerOptimiser())
    score = model.evaluate()
    data = Small(rows=2345).load_data()
    with torch.no_grad():
        outputs = copy.deepcopy(model.module).eval()(data.inputs)
    answers = outputs.argmax(1)
    assert score.examples == 2345
    assert score.accuracy == float((answers == data.targets).double().mean())
    assert score.loss == pytest.approx(float(nn.functional.cross_entropy(outputs, data.targets)), rel=1e-5)
    assert score.shares == pytest.approx([float((answers == c).double().mean()) for c in range(3)])
    trainer = Small(rows=2345, test=True).trainer()
    assert trainer.evaluate(model.layout, model.to_bytes()) == score
    assert start().evaluate() is None
    assert model.module.training


def test_a_foreign_model_is_refused_at_the_site():
    foreign = nn.Linear(2, 2)
    layout = layout_of(foreign)
    with pytest.raises(SiteFileError, match="weight"):
        Small().trainer().train(layout, model_to_bytes(foreign, layout), plan(), STREAM)
    model = start()
    with pytest.raises(SiteFileError, match="bytes"):
        Small().trainer().train(model.layout, model.to_bytes()[:-1], plan(), STREAM)


def test_a_refused_aggregate_changes_nothing():
    model = start()
    good = [np.zeros(e.elements) for e in model.layout.updated(UpdateKind.WEIGHTS)]
    before = model.to_bytes()
    nan = [*good[:-1], good[-1] + np.nan]
    for bad, word in (
        (good[:-1], "arrays"),
        ([*good[:-1], np.zeros(99)], "shape"),
        (nan, "3.bias is not finite"),
        ([g + 1e300 for g in good], "range"),
    ):
        with pytest.raises(BadUpdate, match=word):
            model.apply(UpdateKind.WEIGHTS, bad)
        assert model.to_bytes() == before
    with pytest.raises(SiteFileError, match="server optimiser"):
        model.apply(UpdateKind.GRADIENTS, good[:6])


@pytest.mark.parametrize(
    ("optimiser", "word"),
    [
        (ServerOptimiser(name="Nonsense"), "no optimiser called"),
        (ServerOptimiser(name="Optimizer"), "no optimiser called"),
        (ServerOptimiser(name="lr_scheduler"), "no optimiser called"),
        (ServerOptimiser(name="__builtins__"), "no optimiser called"),
        (ServerOptimiser(name="LBFGS"), "aggregate"),
        (ServerOptimiser(name="SparseAdam"), "aggregate"),
        (ServerOptimiser(name="SGD", options={"rate": 1}), "options"),
        (ServerOptimiser(name="SGD", options={"lr": -1}), "options"),
        (ServerOptimiser(name="Muon", options={"lr": 0.1}), "options"),
        (ServerOptimiser(options={"lr": 1}), "no optimiser"),
        (ServerOptimiser(reduction="median"), "median"),
    ],
)
def test_optimisers_that_cannot_be_are_refused(optimiser, word):
    with pytest.raises(SiteFileError, match=word):
        Small().global_model(1, optimiser)


def test_nothing_private_is_in_a_repr():
    model = start(name="Adam")
    trainer = Small().trainer()
    update = train(model, 0, plan())
    assert repr(update) == "LocalUpdate()"
    for thing in (trainer, model, trainer._data):
        assert "tensor" not in repr(thing).replace("tensors", "")
        assert "0." not in repr(thing)


def test_threads_devices_and_descriptions():
    trainer = Small(test=True).trainer()
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
    assert trainer.describe() == "points: 23 examples (0: 5, 1: 6, 2: 12); test: 23 examples (0: 5, 1: 6, 2: 12)"
    for device in ("tpu9", "meta", *(() if torch.cuda.is_available() else ("cuda",))):
        task = Small()
        task.device = device
        with pytest.raises(SiteFileError, match=r"device|cpu"):
            task.trainer()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_trains_and_comes_back():
    model = start()
    task = Small()
    task.device = "cuda"
    update = task.trainer().train(model.layout, model.to_bytes(), plan(), STREAM)
    for ours, theirs in zip(update.values, train(model, 0, plan()).values, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


class Mixed(Small):
    """Half precision, double precision, tied weights and a mask."""

    def build_model(self) -> nn.Module:
        model = nn.Module()
        model.narrow = nn.Parameter(torch.tensor([1.0, -2.0]).to(torch.bfloat16))
        model.wide = nn.Parameter(torch.tensor([1.0, 3.0], dtype=torch.float64))
        model.twin = model.wide
        model.register_buffer("mask", torch.tensor([True, False]))
        model.register_buffer("steps", torch.tensor(3, dtype=torch.int16))
        model.forward = lambda inputs: inputs
        return model

    def fit(self, model, data, plan, stream):
        with torch.no_grad():
            model.narrow += 0.5
            model.wide *= 2
            model.steps += 3
            model.mask.logical_not_()
        return tuple(0.0 for _ in plan.metrics)


@pytest.mark.parametrize("kind", [UpdateKind.WEIGHTS, UpdateKind.DELTA])
def test_every_type_travels_and_booleans_stay(kind):
    model = Mixed().global_model(0, ServerOptimiser())
    update = Mixed().trainer().train(model.layout, model.to_bytes(), plan(kind=kind), STREAM)
    assert [v.dtype.name for v in update.values] == ["float32", "float64", "float64"]
    model.apply(kind, mean_of([update.values]))
    assert model.module.narrow.tolist() == [1.5, -1.5]
    assert model.module.wide.tolist() == [2.0, 6.0]
    assert model.module.twin is model.module.wide
    assert model.module.steps.item() == 6
    assert model.module.mask.tolist() == [True, False]
    fresh = Mixed().build_model()
    load_model(fresh, model.layout, model.to_bytes())
    assert fresh.twin.tolist() == [2.0, 6.0]
