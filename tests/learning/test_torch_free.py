"""What must import, and run, on a machine without torch."""

import importlib
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "statement",
    [
        "import tertium.learning",
        "import tertium.learning.task",
        "import tertium.learning.numpy_task",
        "import tertium.learning.datasets",
        "import tertium.learning.registry, tertium.learning.centralised",
        "from tertium.learning import NumpyTask, Planted, load_task, train_centralised, Task",
    ],
)
def test_no_torch_is_loaded(statement):
    heavy = "[name for name in ('torch', 'safetensors', 'sklearn', 'pooch') if name in sys.modules]"
    code = f"import sys\n{statement}\nassert not {heavy}, {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_importing_the_package_loads_no_numpy_either():
    code = (
        "import sys, tertium.learning; assert 'numpy' not in sys.modules; assert 'load_task' in dir(tertium.learning)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_numpy_task_trains_while_torch_cannot_be_imported():
    code = """
import sys
sys.modules["torch"] = None
from tertium.learning.registry import load_task
from tertium.learning.task import ServerOptimiser
from tertium.protocol.errors import SiteFileError
from tertium.protocol.training import TrainingPlan
task = load_task("tertium.learning.numpy_task:NumpyTask", {"examples": 10})
model = task.global_model(0, ServerOptimiser())
task.trainer().train(model.layout, model.to_bytes(), TrainingPlan(task="numpy"), bytes(32))
try:
    load_task("tertium.learning.tasks.toy:Toy", {})
except SiteFileError as error:
    assert "pip install 'tertium[demo]'" in str(error), error
else:
    raise SystemExit("torch was found")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_public_name_is_there():
    from tertium import learning

    for name in learning.__all__:
        home = importlib.import_module(f"tertium.learning.{learning._HOME[name]}")
        assert getattr(learning, name) is getattr(home, name)
    assert sorted(learning._HOME) == learning.__all__ == dir(learning)
    with pytest.raises(AttributeError):
        learning.nothing  # noqa: B018
