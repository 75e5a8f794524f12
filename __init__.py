"""tertium: secure aggregation through a trusted third party, for PyTorch federated learning.

The public face. Names load on first use, so that `import tertium` costs nothing and a secure worker never loads torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .learning.task import GlobalModel, LocalUpdate, ServerOptimiser, Task, Trainer
    from .learning.torch_task import Examples, TorchTask
    from .protocol.charter import Charter, Mode, Role
    from .protocol.site import Site

_HOME = {
    "Charter": "protocol.charter",
    "Examples": "learning.torch_task",
    "GlobalModel": "learning.task",
    "LocalUpdate": "learning.task",
    "Mode": "protocol.charter",
    "Role": "protocol.charter",
    "ServerOptimiser": "learning.task",
    "Site": "protocol.site",
    "Task": "learning.task",
    "TorchTask": "learning.torch_task",
    "Trainer": "learning.task",
}

__all__ = [
    "Charter",
    "Examples",
    "GlobalModel",
    "LocalUpdate",
    "Mode",
    "Role",
    "ServerOptimiser",
    "Site",
    "Task",
    "TorchTask",
    "Trainer",
]


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
