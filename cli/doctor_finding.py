"""What a check of `tertium doctor` found: one sentence, and one that says how to mend it.

What is quoted may come from files or peers, so control characters never reach the terminal, and a text is cut.
"""

import enum

import msgspec

from ..protocol import limits
from ..protocol.text import one_line


class Verdict(enum.Enum):
    """How a check went."""

    OK = "ok"
    WARN = "warn"
    """A run will start; read it."""
    FAIL = "fail"
    """A run would not start, would not get far, or would leave a secret open."""


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One check: its name, how it went, what was found, and what to do about it (empty when it is well)."""

    name: str
    status: Verdict
    sentence: str
    remedy: str = ""


class Answer(msgspec.Struct, frozen=True):
    """What the process that loads a task says: a line about it, or why it does not load."""

    line: str = ""
    error: str = ""


def ok(name: str, sentence: str) -> Finding:
    """Return the finding of a check that went well."""
    return Finding(name, Verdict.OK, plain(sentence))


def warn(name: str, sentence: str, remedy: str) -> Finding:
    """Return a finding that stops no run."""
    return Finding(name, Verdict.WARN, plain(sentence), plain(remedy))


def fail(name: str, sentence: str, remedy: str) -> Finding:
    """Return a finding that stops a run, or should."""
    return Finding(name, Verdict.FAIL, plain(sentence), plain(remedy))


def plain(text: str) -> str:
    """Return `text` on one line, without what steers a terminal, and no longer than a sentence may be."""
    line = one_line(text)
    return line if len(line) <= 2 * limits.TEXT_LENGTH else f"{line[: 2 * limits.TEXT_LENGTH]}..."
