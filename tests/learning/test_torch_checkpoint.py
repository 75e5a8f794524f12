"""A run resumed from a checkpoint goes on as if it had never stopped, and equal models are equal files."""

import stat

import numpy as np
import pytest
import safetensors.torch
import torch
from tertium.learning import checkpoint
from tertium.learning.task import ServerOptimiser
from tertium.learning.tasks.toy import Toy
from tertium.learning.torch_global import TorchGlobalModel
from tertium.learning.torch_task import Examples
from tertium.protocol.errors import SiteFileError
from tertium.protocol.training import TrainingPlan, UpdateKind
from torch import nn

OPTIMISERS = [
    ServerOptimiser(),
    ServerOptimiser(name="SGD", options={"lr": 0.5}),
    ServerOptimiser(name="SGD", options={"lr": 0.5, "momentum": 0.9}),
    ServerOptimiser(name="Adam", options={"lr": 0.1}),
    ServerOptimiser(name="NAdam", options={"lr": 0.1}),
    ServerOptimiser(name="Adagrad", options={"lr": 0.1, "initial_accumulator_value": 0.5}),
    ServerOptimiser(name="Adafactor", options={"lr": 0.1}),
]


class Typed(Toy):
    """A toy in double precision with an integer, a boolean and tied weights."""

    def build_model(self) -> nn.Module:
        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Linear(2, 1, dtype=torch.float64)
                self.tied = self.layer.weight
                self.narrow = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
                self.register_buffer("empty", torch.zeros(0, 3))
                self.register_buffer("seen", torch.tensor(0))
                self.register_buffer("flag", torch.tensor(True))

            def forward(self, inputs: torch.Tensor) -> torch.Tensor:
                self.seen += 1
                return self.layer(inputs.double()) * self.narrow.double()

        return Model()

    def load_data(self) -> Examples:
        data = super().load_data()
        return Examples(data.inputs, data.targets.double())


def rounds(model: TorchGlobalModel, task: Toy, numbers: range) -> None:
    trainer = task.trainer()
    for number in numbers:
        plan = TrainingPlan(task="toy", learning_rate=0.1, batch_size=1)
        update = trainer.train(model.layout, model.to_bytes(), plan, bytes([number]) * 32)
        model.apply(plan.kind, [v.astype(np.float64) for v in update.values])


@pytest.mark.parametrize("task", [Toy(), Typed()], ids=["toy", "typed"])
@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=str)
def test_resumed_training_is_bit_identical(tmp_path, optimiser, task):
    path = tmp_path / "model.safetensors"
    whole = task.global_model(3, optimiser)
    rounds(whole, task, range(2))
    whole.save(path)
    rounds(whole, task, range(2, 6))
    resumed = task.global_model(99, optimiser)
    resumed.load(path)
    rounds(resumed, task, range(2, 6))
    assert resumed.to_bytes() == whole.to_bytes()
    whole.save(tmp_path / "whole")
    resumed.save(tmp_path / "resumed")
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "resumed").read_bytes()


def test_the_file_is_private_whole_and_readable_by_anyone_with_safetensors(tmp_path):
    path = tmp_path / "model.safetensors"
    model = Toy().global_model(1, ServerOptimiser(name="Adam"))
    model.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    stored = safetensors.torch.load_file(path)
    assert torch.equal(stored["weight"], model.module.weight)
    path.write_bytes(b"old")
    model.save(path)
    assert torch.equal(safetensors.torch.load_file(path)["bias"], model.module.bias)
    with pytest.raises(SiteFileError, match="written"):
        model.save(tmp_path / "nowhere" / "model.safetensors")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    model = Toy().global_model(1, ServerOptimiser())
    model.save(path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SiteFileError, match="no space left on device"):
        Toy().global_model(2, ServerOptimiser()).save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_not_this_models_checkpoint_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    adam = ServerOptimiser(name="Adam", options={"lr": 0.1})
    model = Toy().global_model(1, adam)
    rounds(model, Toy(), range(1))
    model.save(path)
    good = path.read_bytes()
    for other, word in (
        (Toy().global_model(1, ServerOptimiser()), "optimiser Adam"),
        (Toy().global_model(1, ServerOptimiser(name="SGD", options={"lr": 0.1})), "optimiser Adam"),
        (Toy().global_model(1, ServerOptimiser(name="Adam", options={"lr": 0.2})), "another lr"),
        (Typed().global_model(1, adam), "another model"),
    ):
        before = other.to_bytes()
        with pytest.raises(SiteFileError, match=word):
            other.load(path)
        assert other.to_bytes() == before
    plain = safetensors.torch.save({"weight": torch.zeros(1, 2), "bias": torch.zeros(1)})
    forged = safetensors.torch.save({"weight": torch.zeros(1, 2)}, metadata=_metadata(path))
    stray = safetensors.torch.save(
        {**safetensors.torch.load(good), "optimiser::7::step": torch.zeros(1)}, metadata=_metadata(path)
    )
    for content, word in (
        (b"", "not a checkpoint"),
        (good[:-1], "not a checkpoint"),
        (b"\xff" * 100, "not a checkpoint"),
        (plain, "not a checkpoint of tertium"),
        (forged, "tensor bias"),
        (stray, "optimiser::7"),
    ):
        path.write_bytes(content)
        before = model.to_bytes()
        with pytest.raises(SiteFileError, match=word):
            model.load(path)
        assert model.to_bytes() == before
    with pytest.raises(SiteFileError, match="no checkpoint"):
        model.load(tmp_path / "absent")
    path.write_bytes(good)
    model.load(path)


def _metadata(path) -> dict[str, str]:
    with safetensors.safe_open(path, framework="pt") as file:
        return file.metadata()


def test_a_name_kept_for_the_optimiser_is_refused(tmp_path):
    class Taken(Toy):
        def build_model(self) -> nn.Module:
            module = nn.Linear(2, 1)
            module.register_buffer(f"{checkpoint.PREFIX}0", torch.zeros(1))
            return module

    with pytest.raises(checkpoint.UnsupportedTensor, match="optimiser"):
        Taken().global_model(0, ServerOptimiser()).save(tmp_path / "m")


def test_momentum_would_show_if_it_were_lost(tmp_path):
    """The resumption test can fail: without the optimiser's memory the runs part."""
    optimiser = ServerOptimiser(name="SGD", options={"lr": 0.5, "momentum": 0.9})
    whole = Toy().global_model(3, optimiser)
    rounds(whole, Toy(), range(2))
    forgetful = Toy().global_model(3, optimiser)
    forgetful.apply(UpdateKind.DELTA, [np.zeros(e.elements) for e in whole.layout.entries])
    with torch.no_grad():
        forgetful.module.weight.copy_(whole.module.weight)
        forgetful.module.bias.copy_(whole.module.bias)
    rounds(whole, Toy(), range(2, 3))
    rounds(forgetful, Toy(), range(2, 3))
    assert forgetful.to_bytes() != whole.to_bytes()
