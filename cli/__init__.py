"""The command line: one file a verb, each imported only when it is used.

Rules of the folder:
- `COMMANDS` is the whole list: a command's name, where its click command stands, and its line in `tertium --help`,
  which imports none of them. A secure worker must be ready at once and must never load torch.
- Everything a person can cause ends in one sentence on stderr and a status: 2 for what our own operator can mend
  (a wrong option, a file, a full disk), 3 for what another party did, 130 after an interrupt. Commands say more with
  their own statuses. A traceback is a bug.
- When a process ends, what it has imported is not searched for garbage: with torch that would take about a quarter of
  all that starting and ending it costs. Exit handlers run, and files are flushed and closed, as ever.
"""

import atexit
import gc

from .errors import run

COMMANDS: dict[str, tuple[str, str]] = {
    "audit": ("audit:audit", "Join the ledgers of a run and say who saw whose update, and what was forbidden."),
    "charter": ("charter:charter", "Write, sign, check and compare a federation's charter."),
    "demo": ("demo:demo", "Run a whole federation on this machine."),
    "doctor": ("doctor:doctor", "Check a party's set-up before a run, and say how to mend it."),
    "evaluator": ("worker:evaluator", "Run an evaluator, which scores the global model."),
    "evidence": ("evidence:evidence", "Verify what an audit wrote down as evidence of a violation."),
    "inspect": ("inspect:inspect", "Show what a file of tertium says."),
    "owner": ("owner:owner", "Run the model owner."),
    "schemes": ("schemes:schemes", "List the secret-sharing schemes, or check one."),
    "secure-worker": ("secure_worker:secure_worker", "Run the third party, which adds sealed updates."),
    "worker": ("worker:worker", "Run a data owner."),
    "keygen": ("keygen:keygen", "Make a party's keys, and the card to hand to the others."),
}

__all__ = ["COMMANDS", "main", "spare_the_end"]


def spare_the_end() -> None:
    """Let this process end without a search for garbage in what it has imported; twice does what once does."""
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)


def main(arguments: list[str] | None = None) -> int:
    """Run `tertium` with these arguments (those of the process by default) and return its exit status."""
    from .lazy import group

    spare_the_end()
    return run(group(COMMANDS), arguments)
