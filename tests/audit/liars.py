"""Parties that lie, for several files of tests."""

from typing import Any

from tertium.secure_worker.machine import SecureWorker


class AltersTheTotal(SecureWorker):
    """Releases a total with another first word."""

    def _settle_on(self, intake: Any, close: Any, now: float) -> None:
        total = intake.total

        def altered(names: Any) -> Any:
            words = total(names)
            words[0] ^= 1
            return words

        intake.total = altered
        super()._settle_on(intake, close, now)
