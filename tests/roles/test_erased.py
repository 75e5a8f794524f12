"""What has to be gone, and when: round keys once they have opened what they were for, buffers that held an update."""

from typing import Any

import pytest
from tertium.learning.numpy_task import NumpyTask
from tertium.protocol.messages import Cause
from tertium.protocol.rounds import Phase

Maker = Any
Run = Any
NAMES = ("alice", "bob", "carol", "dave")


def buffers(run: Run) -> list[Any]:
    spare: list[Any] = run.machines["third"]._buffers._spare
    assert spare
    return spare


def collecting(make: Maker, **more: Any) -> Run:
    """All but dave have their receipts."""
    run = make(4, machines={"dave": make.slow, **more})
    run.run(until=lambda: all(run.machines[name].phase is Phase.CONTRIBUTED for name in NAMES[:3]))
    return run


def test_a_model_once_opened_leaves_no_key(make: Maker) -> None:
    run = make(4)
    run.run(until=lambda: run.machines["bob"].phase is Phase.UPLOADING)
    assert run.machines["bob"].asked.key.erased


def test_the_key_to_an_aggregate_ends_when_it_is_open(make: Maker) -> None:
    run = make(4, network=make.wire(lambda delivery: delivery))
    run.run(until=lambda: run.machines["owner"].phase in (Phase.VERIFYING, Phase.APPLYING))
    assert run.machines["owner"]._asking.key.erased


def test_the_keys_of_an_attempt_that_was_lost_and_of_the_next_are_erased(make: Maker) -> None:
    run = collecting(make)
    first = run.machines["owner"]._asking.key
    run.restart("third")
    run.run(until=lambda: run.machines["owner"]._asking is not None and run.machines["owner"]._asking.key is not first)
    assert first.erased
    run.run(until=lambda: run.machines["bob"].asked is not None and run.machines["bob"].asked.question.attempt == 1)
    # The vector is here, so no model comes, and nothing but the end of the round ends this key.
    resumed = run.machines["bob"].asked.key
    assert not resumed.erased
    assert not [error for error in run.run().values() if error]
    assert resumed.erased


def test_the_key_of_an_evaluation_is_erased_with_it(make: Maker) -> None:
    run = make(4, evaluators={"judge": NumpyTask(test_examples=10)})
    run.run(until=lambda: run.machines["owner"].phase is Phase.EVALUATING)
    key = run.machines["owner"]._asking.key
    run.run(until=lambda: run.machines["owner"].phase is not Phase.EVALUATING)
    assert key.erased


def test_the_key_of_a_round_that_is_given_up_is_erased(make: Maker) -> None:
    run = make(4)
    run.run(until=lambda: run.machines["bob"].phase is Phase.RECEIVING)
    key = run.machines["bob"].asked.key
    run.machines["bob"].give_up("no time")
    assert key.erased


@pytest.mark.parametrize("how", ["released", "aborted"])
def test_buffers_that_held_an_update_are_overwritten(make: Maker, how: str) -> None:
    run = collecting(make)
    assert any(buffer.any() for buffer in buffers(run))
    if how == "released":
        run.run(until=lambda: run.machines["third"].phase is Phase.RELEASED)
    else:
        run.machines["third"]._abort(Cause.LOCAL, "no time")
    assert not any(buffer.any() for buffer in buffers(run))
