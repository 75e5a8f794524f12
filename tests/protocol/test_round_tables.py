"""The tables are the protocol: what a role handles stands in its table, and the other way round."""

import typing
from typing import Any

import pytest
from tertium.crypto.labels import Label
from tertium.owner.machine import ModelOwner
from tertium.protocol.charter import Role
from tertium.protocol.codec import AnyMessage
from tertium.protocol.errors import IllegalMessage, WrongRole
from tertium.protocol.exchange import MAY_SEND, TO_AN_OWNER_THAT_HOLDS
from tertium.protocol.journal import Journal
from tertium.protocol.machine import Machine
from tertium.protocol.messages import Closes, Credit, Headed, Hello, Listed, Lists, Message, Ready
from tertium.protocol.rounds import TABLES, Phase, Step
from tertium.protocol.seats import Seats
from tertium.secure_worker.machine import SecureWorker
from tertium.workers.data_owner import DataOwner
from tertium.workers.evaluator import Evaluator

MACHINES: dict[Role, type[Machine]] = {
    Role.MODEL_OWNER: ModelOwner,
    Role.SECURE_WORKER: SecureWorker,
    Role.DATA_OWNER: DataOwner,
    Role.EVALUATOR: Evaluator,
}
BY_THE_PARTY = {Hello, Credit}
"""What the party answers itself, before any machine."""


def handlers(role: Role) -> set[type[Message]]:
    # The tables of handlers name bound methods only, so an object without state will do.
    machine = object.__new__(MACHINES[role])
    return set(machine.handlers())


def in_table(role: Role) -> set[type[Message]]:
    return {step for row in TABLES[role].values() for step in row if not isinstance(step, Step)}


def test_there_is_a_machine_and_a_table_for_every_role() -> None:
    assert set(MACHINES) == set(TABLES) == set(Role)
    for role, machine in MACHINES.items():
        assert machine.role is role


@pytest.mark.parametrize("role", Role, ids=lambda role: role.value)
def test_a_role_handles_exactly_what_its_table_holds(role: Role) -> None:
    assert handlers(role) == in_table(role)


def test_every_message_has_a_receiver() -> None:
    handled = set().union(*(handlers(role) for role in Role))
    assert handled | BY_THE_PARTY == set(typing.get_args(AnyMessage))
    assert not handled & BY_THE_PARTY


@pytest.mark.parametrize("role", Role, ids=lambda role: role.value)
def test_every_phase_of_a_table_can_be_left_and_entered(role: Role) -> None:
    table = TABLES[role]
    targets = {target for row in table.values() for target in row.values()}
    assert targets <= set(table)
    assert not table[Phase.ENDED]
    for phase, row in table.items():
        if phase is not Phase.ENDED:
            assert row.get(Step.DONE) is Phase.ENDED, f"{role.value} cannot end while {phase.value}"
    first = Phase.CONNECTING if role is Role.MODEL_OWNER else Phase.IDLE
    reached, frontier = {first}, [first]
    while frontier:
        for target in table[frontier.pop()].values():
            if target not in reached:
                reached.add(target)
                frontier.append(target)
    assert reached == set(table)


def test_no_handler_of_a_model_owner_takes_an_update(world: Any, sampler: Any) -> None:
    """What carries a body to it is a release; a share it takes only where its charter's scheme makes it a holder."""
    carried = {kind.__name__ for kind in handlers(Role.MODEL_OWNER) if issubclass(kind, Headed)}
    assert carried == {"Release", "Ready"}
    assert not [row for row in MAY_SEND if row[0] is Label.CONTRIBUTION and row[2] is Role.MODEL_OWNER]
    assert TO_AN_OWNER_THAT_HOLDS == (Label.CONTRIBUTION, Role.DATA_OWNER, Role.MODEL_OWNER)
    machine = object.__new__(ModelOwner)
    machine.charter, machine._seats, machine._intake = world.charter, Seats(world.charter), None
    for phase in TABLES[Role.MODEL_OWNER]:
        machine.phase = phase
        for peer, error in (("alice", IllegalMessage), ("third", WrongRole)):
            with pytest.raises(error):
                machine._on_ready(peer, sampler(1).make(Ready), 0.0)


def test_what_secure_workers_say_to_each_other_goes_through_the_model_owner() -> None:
    assert Listed in handlers(Role.MODEL_OWNER)
    assert {Lists, Closes} <= handlers(Role.SECURE_WORKER)
    for role in (Role.DATA_OWNER, Role.EVALUATOR):
        assert not {Listed, Lists, Closes} & handlers(role)


def test_a_secure_worker_is_heard_before_it_has_agreed_and_releases_only_after() -> None:
    """Where there are several, no way leads from collecting to released but by a list and by a Close list."""
    table = TABLES[Role.SECURE_WORKER]
    assert table[Phase.COLLECTING][Step.LISTED] is Phase.LISTED
    assert table[Phase.LISTED][Step.SET_AGREED] is Phase.CLOSED
    assert table[Phase.CLOSED][Step.SET_CLOSED] is Phase.RELEASED
    assert Phase.RELEASED not in table[Phase.LISTED].values()


def test_updates_go_from_data_owners_to_secure_workers_and_nowhere_else() -> None:
    assert {row[1:] for row in MAY_SEND if row[0] is Label.CONTRIBUTION} == {(Role.DATA_OWNER, Role.SECURE_WORKER)}
    assert {row[1:] for row in MAY_SEND if row[0] is Label.AGGREGATE} == {(Role.SECURE_WORKER, Role.MODEL_OWNER)}
    assert {row[1] for row in MAY_SEND if row[0] is Label.MODEL} == {Role.MODEL_OWNER}


def test_a_message_with_no_place_names_role_phase_and_message(world: Any, sampler: Any) -> None:
    identity = world.identities["third"]
    journal = Journal(None, party="third", role=Role.SECURE_WORKER, signing=identity.public.signing)
    machine = SecureWorker(identity, world.charter, world.exchanges["third"], journal)
    message = sampler(1).make(Hello)
    with pytest.raises(IllegalMessage) as caught:
        machine.receive("alice", message, 0.0)
    for word in ("alice", "Hello", "secure_worker", Phase.IDLE.value):
        assert word in str(caught.value)
    assert machine.phase is Phase.IDLE
    assert not machine.take_effects()


@pytest.mark.parametrize("role", Role, ids=lambda role: role.value)
def test_a_message_outside_its_phase_changes_nothing(role: Role, world: Any, sampler: Any) -> None:
    machine = object.__new__(MACHINES[role])
    machine._effects, machine._handlers = [], {}
    for phase, row in TABLES[role].items():
        for kind in typing.get_args(AnyMessage):
            if kind in row:
                continue
            machine.phase = phase
            with pytest.raises(IllegalMessage) as caught:
                machine.receive("bob", sampler(2).make(kind), 0.0)
            text = str(caught.value)
            assert role.value in text
            assert phase.value in text
            assert kind.__name__ in text
            assert machine.phase is phase
            assert not machine.take_effects()
