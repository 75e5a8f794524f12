"""Invariants about checked sums: `verified` is true whichever secure worker lies, and `failed` is no accident."""

from typing import TYPE_CHECKING, Any

from ..protocol.charter import Role
from ..protocol.check_messages import Checked, SumCheck, SumState
from ..protocol.codec import decode_as
from ..protocol.messages import Message, OpenRound
from .federation import OWNER
from .invariant import Invariant
from .sums import encoded_sum

if TYPE_CHECKING:
    from .world import World


class VerifiedIsTrue(Invariant):
    """A sum that the model owner calls verified is that of its contributors' vectors, whoever added them up."""

    why = "a check that a lying secure worker passes would be worse than none"

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._verified: dict[bytes, tuple[str, ...]] = {}

    def applies(self) -> bool:
        """An honest model owner and honest data owners: of one that lies about its own vector nothing can be known."""
        owners = [
            name for name, role in self.world.scenario.roles.items() if role in (Role.MODEL_OWNER, Role.DATA_OWNER)
        ]
        return all(self.world.honest(name) for name in owners)

    def said(self, name: str, peer: str, message: Message) -> None:
        """Note which sums are called verified, and whose answers say so."""
        if name == OWNER and isinstance(message, Checked):
            check = decode_as(SumCheck, message.check.statement)
            if check.state is SumState.VERIFIED:
                self._verified[check.open_round] = tuple(answer.signer for answer in message.answers)

    def applied(self, open_round: bytes, question: OpenRound, total: Any, contributors: int) -> None:
        """Add up, slowly."""
        names = self._verified.get(open_round)
        if names is None:
            return
        expected = encoded_sum(self.world, question, names)
        if contributors != len(names) or expected != [int(word) for word in total]:
            self.broken(f"round {question.round} is called verified and is not the sum over {', '.join(names)}")


class NoFalseAlarm(Invariant):
    """Where everybody is honest no check of a sum fails, and no total is left out of one."""

    why = "an alarm that faults can raise is soon ignored"

    def applies(self) -> bool:
        """Nobody lies."""
        return all(self.world.honest(name) for name in self.world.scenario.roles)

    def said(self, name: str, peer: str, message: Message) -> None:
        """Hold the model owner's accounts to be good."""
        if name == OWNER and isinstance(message, Checked):
            check = decode_as(SumCheck, message.check.statement)
            if check.state is SumState.FAILED or check.contradicted:
                self.broken(f"a sum of honest parties is {check.state.value}, without {check.contradicted or 'nobody'}")
