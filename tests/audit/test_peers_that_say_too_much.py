"""A peer in a live run that uses up what may be noted of it: it is refused, and nobody else's run ends."""

from typing import Any

import pytest
from tertium.protocol import limits
from tertium.secure_worker.machine import SecureWorker

Maker = Any


def test_who_has_said_too_much_is_refused_when_its_upload_is_due_and_the_others_go_on(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its announcement waits for a buffer, and the end of somebody else's upload is what starts it."""
    monkeypatch.setattr(limits, "UPLOADS_IN_FLIGHT", 1)

    class Full(SecureWorker):
        def _start_uploads(self) -> None:
            intake = self._intake
            # All are announced before the first begins, and by then bob has said all that it may.
            if intake is None or len(intake._waiting) == 4 or intake._opening or intake.added:
                self.exchange.view._of_peer["bob"] = limits.NOTED_OF_A_PEER
                super()._start_uploads()

    ran = make.ran(parties=4, machines={"first": Full})
    assert ran.parties["first"].error is None
    done = make.audit(ran)
    assert done.violations == []
    (attempt,) = done.report.attempts
    assert attempt.contributors == ("alice", "carol", "dave")
