"""Any party may send anything at any time: nothing but a named refusal comes of it, and the round goes on."""

import random
import typing
from pathlib import Path
from typing import Any

import pytest
from tertium.crypto.errors import Misbehaviour
from tertium.learning.numpy_task import NumpyTask
from tertium.owner.store import OwnerStore
from tertium.protocol.check_messages import MaskSeeds
from tertium.protocol.codec import AnyMessage, decode_as, encode
from tertium.protocol.messages import Credit, Hello, Signed, Statement
from tertium.protocol.progress import RoundDone
from tertium.protocol.rounds import Phase
from tertium.protocol.site import OwnerPlan
from tertium.protocol.statements import sign
from tertium.simulation.federation import OWNER, Federation

MESSAGES = [kind for kind in typing.get_args(AnyMessage) if kind not in (Hello, Credit)]
STATEMENTS = tuple(Statement.__subclasses__())
NAMES = ("alice", "bob", "carol")
# What ends things by right when its signer says so; a hostile signer may end what it takes part in.
ENDS = {"Aborted", "SessionOver", "Refusal", "Declined", "RequestSession"}


class Hostile(Federation):
    """After each turn somebody gets a message made up by somebody else, signed with that party's real key."""

    def __init__(self, sampler: Any, seed: int, folder: Path) -> None:
        tasks = {name: NumpyTask(party=at, examples=10) for at, name in enumerate(NAMES)}
        plan = OwnerPlan(task="task", rounds=2)
        judge = {"judge": NumpyTask(party=9)}
        super().__init__(tasks, NumpyTask(test_examples=5), plan, OwnerStore(folder, "npz"), evaluators=judge)
        self.sampler, self.random = sampler(seed), random.Random(seed)
        self.tried, self.taken, self.leaked = 0, [], []

    def turn(self) -> None:
        super().turn()
        for _ in range(5):
            self.inject()

    def inject(self) -> None:
        target, source = self.random.sample(sorted(self.parties), 2)
        machine = self.machines[target]
        if machine.finished or machine.phase is Phase.CONNECTING:
            return
        message = self.signed(source, self.sampler.make(self.random.choice(MESSAGES)))
        if type(message).__name__ in ENDS:
            return
        if (
            isinstance(message, MaskSeeds)
            and not message.heads
            and (source == OWNER or source == self.charter.data_owners[-1].name)
        ):
            return  # no lie to the first contributor, nor from the last: these are its seeds
        phase = machine.phase
        queued = len(machine._effects)
        self.tried += 1
        try:
            machine.receive(source, message, self.clock.now)
        except Misbehaviour:
            if machine.phase is not phase or len(machine._effects) != queued:
                self.leaked.append(f"{target} changed over a refused {type(message).__name__} of {source}")
        else:
            self.taken.append((target, source, type(message).__name__))

    def signed(self, source: str, message: Any) -> Any:
        """Put a statement of the right kind, signed by the sender, where the message carries one."""
        for field in message.__struct_fields__:
            if isinstance(getattr(message, field), Signed):
                statement = self.sampler.make(self.random.choice(STATEMENTS))
                message = type(message)(
                    **{name: getattr(message, name) for name in message.__struct_fields__}
                    | {field: sign(self.identities[source], statement)}
                )
        return message


@pytest.mark.parametrize("seed", range(6))
def test_a_storm_of_made_up_messages_changes_nothing(sampler: Any, tmp_path: Path, seed: int) -> None:
    run = Hostile(sampler, seed, tmp_path)
    errors = run.run()
    assert set(errors.values()) == {None}
    assert run.tried > 100
    assert not run.leaked
    assert not run.taken
    done = [event.round for event in run.progress["owner"] if isinstance(event, RoundDone)]
    assert done == [1, 2]


@pytest.mark.parametrize("seed", range(40))
def test_every_statement_kind_in_every_message_is_refused_by_every_role(
    sampler: Any, world: Any, tmp_path: Path, seed: int
) -> None:
    """A statement of the kind the message asks for, honestly signed by its sender, about a round there is not."""
    kinds = {
        "OfferSession": "SessionOffer",
        "ProposeRound": "OpenRound",
        "OfferRound": "RoundOffer",
        "Acceptance": "RoundKeyStatement",
        "Declined": "Decline",
        "Receipted": "Receipt",
        "Closed": "CloseList",
        "RequestCosignature": "RoundStatement",
        "Evaluated": "Evaluation",
    }
    statements = {kind.__name__: kind for kind in STATEMENTS}
    run = Hostile(sampler, seed, tmp_path)
    run.inject = lambda: None  # type: ignore[method-assign]
    turns = iter(range(seed))
    run.run(until=lambda: next(turns, None) is None)
    maker = sampler(seed)
    for kind in MESSAGES:
        if kind.__name__ not in kinds:
            continue
        for source in run.machines:
            statement = maker.make(statements[kinds[kind.__name__]])
            (field,) = (name for name in kind.__struct_fields__ if name not in ("offers", "checkpoint"))
            message = kind(**{field: sign(run.identities[source], statement)})
            assert decode_as(type(statement), encode(statement)) == statement
            for target, machine in run.machines.items():
                if target == source or machine.finished:
                    continue
                phase = machine.phase
                with pytest.raises(Misbehaviour):
                    machine.receive(source, message, run.clock.now)
                assert machine.phase is phase
