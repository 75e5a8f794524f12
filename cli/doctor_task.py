"""The process in which `tertium doctor` loads one task: `python -P -B -m tertium.cli.doctor_task FD ROLE SITE NAME`.

It reads the site file, never the keys, and writes one `Answer` as JSON to the descriptor FD. Whatever the operator's
own code does here happens to this process alone.
"""

import os
import resource
import sys
from pathlib import Path

import msgspec

from ..crypto.errors import TertiumError
from ..learning.registry import load_task, load_trainer
from ..learning.task import ServerOptimiser
from ..protocol.charter import Role
from ..protocol.site import Site, load_site
from .doctor_finding import Answer

_LENGTH = 4096


def load(role: Role, site: Site, name: str) -> str:
    """Load what this role would load of a task, and return one line about it; raises what the task raises."""
    entry = site.tasks[name]
    if role is not Role.MODEL_OWNER:
        return load_trainer(name, entry).describe()
    task = load_task(entry.factory, entry.options)
    plan = site.owner
    chosen = plan.optimiser if plan is not None else None
    server = ServerOptimiser(
        name=chosen.name if chosen else None,
        options=dict(chosen.options) if chosen else {},
        reduction=plan.reduction if plan is not None else "mean",
    )
    model = task.global_model(plan.seed if plan is not None else 0, server)
    numbers = sum(entry.elements for entry in model.layout.entries)
    return f"a model of {numbers:,} numbers in {len(model.layout.entries)} tensors"


def main(arguments: list[str]) -> int:
    """Load the task the arguments name and report; return the exit status."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    descriptor, role, site_path, name = arguments
    try:
        answer = Answer(line=load(Role(role), load_site(Path(site_path)), name)[:_LENGTH])
    except TertiumError as error:
        answer = Answer(error=(str(error) or type(error).__name__)[:_LENGTH])
    except Exception as error:
        # the operator's own code may fail in any way, and its operator is who reads this
        answer = Answer(error=f"{type(error).__name__}: {error}"[:_LENGTH])
    os.write(int(descriptor), msgspec.json.encode(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
