"""What a notebook's cell can do wrong, in one sentence each."""

from ..crypto.errors import Misuse


class NotebookError(Misuse):
    """A verb cannot be used like this, or the federation has ended."""


class SingleUpdateRefused(NotebookError):
    """One data owner's own update was asked for, which nobody here has."""
