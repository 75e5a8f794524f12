"""The examples of models of one's own: a script's network over five hospitals, and one with batch norm and bfloat16."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from tertium.owner.store import OwnerStore
from tertium.protocol.charter import Arithmetic, Mode, Rules, SchemeName
from tertium.protocol.progress import Scored
from tertium.protocol.site import OwnerPlan
from tertium.simulation.federation import Federation

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")


def load(folder: str, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rules(count: int, value_range: float = 8.0) -> Rules:
    return Rules(
        mode=Mode.TRUSTED,
        scheme=SchemeName(name="trusted"),
        minimum_cohort=count,
        arithmetic=Arithmetic(value_range=value_range),
    )


def accuracies(made: Federation) -> list[float]:
    assert set(made.run().values()) == {None}
    said = [each.accuracy for each in made.progress["owner"] if isinstance(each, Scored)]
    return [each for each in said if each is not None]


def test_five_hospitals_learn_what_the_script_learns(tmp_path: Path) -> None:
    task, run = load("hospitals", "hospitals"), load("hospitals", "run")
    owners = {name: task.Hospitals(**options) for name, options in run.OWNERS.items()}
    sizes = [len(owner.load_data()) for owner in owners.values()]
    held_out = task.Hospitals(test=True).load_test()
    assert (len(sizes), sum(sizes) + len(held_out)) == (5, 569)
    plan = OwnerPlan(task="hospitals", rounds=15, epochs=1, batch_size=32, learning_rate=0.5)
    made = Federation(owners, task.Hospitals(test=True), plan, OwnerStore(tmp_path), rules=rules(5))
    # What one gets by always giving the same answer.
    share = float(held_out.targets.float().mean())
    assert accuracies(made)[-1] > max(share, 1 - share) + 0.15


def test_the_scripts_network_is_the_tasks() -> None:
    """A reader compares the two files; they must not drift apart."""
    script = (EXAMPLES / "hospitals" / "script.py").read_text()
    task = (EXAMPLES / "hospitals" / "hospitals.py").read_text()
    network = "nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 2))"
    assert network in script
    assert network in task


def test_a_bfloat16_model_with_batch_norm_stays_one(tmp_path: Path) -> None:
    task, run = load("half_precision", "half_precision"), load("half_precision", "run")
    owners = {name: task.HalfPrecision(**options) for name, options in run.OWNERS.items()}
    plan = OwnerPlan(task="half", rounds=6, batches=10, learning_rate=0.1)
    made = Federation(owners, task.HalfPrecision(test=True), plan, OwnerStore(tmp_path), rules=rules(3, 32.0))
    before = {name: value.clone() for name, value in made.model.module.state_dict().items()}  # type: ignore[attr-defined]
    scores = accuracies(made)
    after = made.model.module.state_dict()  # type: ignore[attr-defined]
    kinds = {name: value.dtype for name, value in after.items()}
    assert kinds["convolution.weight"] == kinds["linear.weight"] == torch.bfloat16
    assert kinds["norm.running_mean"] == torch.float32
    assert int(after["norm.num_batches_tracked"]) == 60
    assert all(not torch.equal(value, before[name]) for name, value in after.items())
    assert scores[-1] > 0.3
