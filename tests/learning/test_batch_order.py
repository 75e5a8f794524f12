"""Which examples form which batch."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tertium.learning.batches import batch_order, examples_touched, shuffled
from tertium.protocol.training import TrainingPlan

STREAM = bytes(range(32))


@given(st.integers(1, 50), st.integers(0, 60), st.integers(1, 40))
def test_batches_go_round_the_data_and_shuffle_each_pass(count, size, batches):
    plan = TrainingPlan(task="t", batches=batches, epochs=0, batch_size=size)
    drawn = [order.tolist() for order in batch_order(count, plan, STREAM)]
    assert len(drawn) == batches
    a_pass = -(-count // (size or count))
    for start in range(0, batches - a_pass + 1, a_pass):
        one = [index for batch in drawn[start : start + a_pass] for index in batch]
        assert sorted(one) == list(range(count))
    seen = {index for batch in drawn for index in batch}
    assert len(seen) == (count if batches >= a_pass else sum(map(len, drawn)))
    assert examples_touched(count, plan) == len(seen)


@given(st.integers(0, 30), st.integers(0, 40), st.integers(1, 4))
def test_epochs_are_whole_passes(count, size, epochs):
    plan = TrainingPlan(task="t", epochs=epochs, batch_size=size)
    drawn = [index for order in batch_order(count, plan, STREAM) for index in order.tolist()]
    assert sorted(drawn) == sorted(list(range(count)) * epochs)
    assert examples_touched(count, plan) == count


def test_passes_and_streams_differ_and_repeat():
    def orders(stream: bytes) -> list[list[int]]:
        plan = TrainingPlan(task="t", epochs=2, batch_size=0)
        return [order.tolist() for order in batch_order(40, plan, stream)]

    first, second = orders(STREAM)
    assert first != second
    assert orders(STREAM) == [first, second]
    assert orders(bytes(32))[0] != first


def test_the_order_is_pinned():
    """An order that changed between versions would break every repeated run."""
    assert shuffled(8, STREAM).tolist() == PINNED


def test_every_place_is_as_likely():
    places = np.array([shuffled(6, bytes([n % 256, n // 256])) for n in range(3000)])
    for column in places.T:
        counts = np.bincount(column, minlength=6)
        assert counts.min() > 400
        assert counts.max() < 600


PINNED = [1, 5, 3, 2, 0, 7, 6, 4]
