"""The named reasons for which a model, an update or a data set cannot be used; all are for our own operator."""

from ..crypto.errors import Misuse


class UnsupportedTensor(Misuse):
    """A module holds a tensor that no layout describes: complex, quantised, sparse, an odd type, overlapping memory."""


class BadUpdate(Misuse):
    """Arrays do not fit the layout they are meant for, or would leave the range of a tensor's type."""


class DatasetError(Misuse):
    """A data set is missing, damaged, or not the one that was pinned."""
