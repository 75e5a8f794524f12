"""A refusal names who sent what was refused; a name beside a signature that does not verify is nobody's fault."""

from typing import Any

import msgspec
from tertium.protocol.messages import Aborted, RoundRecord, Signed
from tertium.protocol.progress import RefusedProgress
from tertium.secure_worker.machine import SecureWorker

Maker = Any


def refusals(run: Any, name: str) -> set[tuple[str, str]]:
    """By code, the name each refusal begins with."""
    return {(line.code, line.text.partition(":")[0]) for line in run.said(name, RefusedProgress)}


class Forges(SecureWorker):
    """Puts names of others beside signatures that they never made."""

    def _tell_all(self, parties: Any, message: Any) -> None:
        if isinstance(message, RoundRecord):
            abort = message.statement
            for signer in ("alice", "owner"):
                self.send("owner", Aborted(abort=Signed(signer, abort.statement, abort.signature)))
                self.send("bob", Aborted(abort=Signed(signer, abort.statement, abort.signature)))
            first = message.cosignatures[0]
            forged = msgspec.structs.replace(first, signature=bytes(64))
            self.send("owner", msgspec.structs.replace(message, cosignatures=(forged, *message.cosignatures[1:])))
        super()._tell_all(parties, message)


def test_whoever_passes_on_a_forged_statement_has_to_answer(make: Maker) -> None:
    run = make(4, machines={"third": Forges})
    assert set(run.run().values()) == {None}
    assert refusals(run, "owner") == {("wrong-role", "third"), ("bad-signature", "third")}
    assert refusals(run, "bob") == {("wrong-role", "third"), ("bad-signature", "third")}
    assert run.released == [1]
