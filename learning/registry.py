"""From the two lines of a site's own file, a class and its options, to a `Task`.

The name comes from a file the operator wrote, never from a peer: on the wire a task is only a name the site file lists.
"""

import importlib
import inspect
import re
from collections.abc import Mapping

from ..crypto.errors import TertiumError
from ..protocol.errors import SiteFileError
from ..protocol.site import TaskEntry
from .extras import missing
from .task import Task, Trainer

_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def load_task(factory: str, options: Mapping[str, object]) -> Task:
    """Return the task that `factory`, "module:Class", builds from `options` as keyword arguments.

    Raises:
        SiteFileError: no such module or class, a package it needs is not installed, the class is no `Task`, or it does
            not take these options; one sentence that says which.
    """
    if not _FACTORY.fullmatch(factory):
        raise SiteFileError(f"task {factory!r} must be written module:Class")
    module_name, _, class_name = factory.partition(":")
    found = getattr(_import(module_name), class_name, None)
    if found is None:
        raise SiteFileError(f"the module {module_name} has no class {class_name}")
    if not isinstance(found, type) or not issubclass(found, Task):
        raise SiteFileError(f"{factory} is not a Task; subclass tertium.learning.task.Task")
    if inspect.isabstract(found):
        lacking = ", ".join(sorted(found.__abstractmethods__))
        raise SiteFileError(f"{factory} is not a finished Task: it does not define {lacking}")
    try:
        inspect.signature(found).bind(**options)
    except TypeError as error:
        takes = ", ".join(inspect.signature(found).parameters) or "no options"
        raise SiteFileError(f"the options of task {factory} are wrong: {error}; it takes {takes}") from error
    try:
        task = found(**options)
    except TertiumError:
        raise
    except ModuleNotFoundError as error:
        raise missing(error.name or "a package it needs") from error
    except (TypeError, ValueError, KeyError, AttributeError, OSError) as error:
        raise SiteFileError(f"task {factory} does not accept its options: {error}") from error
    except SystemExit as error:
        raise SiteFileError(f"task {factory} ends its process instead of being built: SystemExit: {error}") from error
    return task


def load_trainer(name: str, entry: TaskEntry) -> Trainer:
    """Return the side of a data owner or evaluator of the task `name`, as its site file describes it; loads the data.

    Raises:
        SiteFileError: as `load_task`, or a line of the entry could never have an effect.
    """
    trainer = load_task(entry.factory, entry.options).trainer()
    if entry.evaluate_own_rounds and not trainer.tests_own:
        raise SiteFileError(
            f"tasks.{name}.evaluate_own_rounds: the task has no test data here to score a model on; give it some, or "
            "leave the line out"
        )
    return trainer


def _import(name: str) -> object:
    """Import a module; raises `SiteFileError` where it, or what it needs, is missing or broken."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        absent = error.name or name
        if name == absent or name.startswith(f"{absent}."):
            hint = f"; name the file {name} without its .py" if name.endswith(".py") else ""
            raise SiteFileError(f"there is no module {absent} to import a task from{hint}") from error
        raise missing(absent) from error
    except (Exception, SystemExit) as error:
        # the operator's own module may fail in any way while it is imported
        raise SiteFileError(f"the module {name} cannot be imported: {type(error).__name__}: {error}") from error
