"""Numbers as options of a command."""

import math
from typing import Any

import click


class FiniteRange(click.FloatRange):
    """A range of numbers that leaves out `nan`, which compares with no bound and so passes `click.FloatRange`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; raises `click.BadParameter`."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number
