"""Tasks, tensor layouts, local training and datasets: the only package both torch-using roles share.

Importing this package loads neither torch nor numpy; a name is imported when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .centralised import train_centralised
    from .errors import BadUpdate, DatasetError, UnsupportedTensor
    from .numpy_task import NumpyTask, Planted
    from .registry import load_task
    from .task import GlobalModel, LocalUpdate, ServerOptimiser, Task, Trainer, Values
    from .torch_global import TorchGlobalModel
    from .torch_task import Examples, TorchTask, TorchTrainer

_HOME = {
    "BadUpdate": "errors",
    "DatasetError": "errors",
    "Examples": "torch_task",
    "GlobalModel": "task",
    "LocalUpdate": "task",
    "NumpyTask": "numpy_task",
    "Planted": "numpy_task",
    "ServerOptimiser": "task",
    "Task": "task",
    "TorchGlobalModel": "torch_global",
    "TorchTask": "torch_task",
    "TorchTrainer": "torch_task",
    "Trainer": "task",
    "UnsupportedTensor": "errors",
    "Values": "task",
    "load_task": "registry",
    "train_centralised": "centralised",
}

__all__ = [
    "BadUpdate",
    "DatasetError",
    "Examples",
    "GlobalModel",
    "LocalUpdate",
    "NumpyTask",
    "Planted",
    "ServerOptimiser",
    "Task",
    "TorchGlobalModel",
    "TorchTask",
    "TorchTrainer",
    "Trainer",
    "UnsupportedTensor",
    "Values",
    "load_task",
    "train_centralised",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
