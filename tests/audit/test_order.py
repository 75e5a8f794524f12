"""One order of several ledgers: lanes that overtake each other, and ledgers that contradict each other."""

import itertools

from hypothesis import given
from hypothesis import strategies as st
from tertium.audit.order import in_order


def test_a_message_that_is_overtaken_by_another_has_its_place() -> None:
    """A worker sends its sum on one lane and says that it closed on the other, and the owner hears the second first."""
    total, closed = (("worker", 0), ("owner", 1)), (("worker", 1), ("owner", 0))
    order = list(in_order({"owner": [0, 1], "worker": [0, 1]}, [total, closed]))
    assert sorted(order) == [("owner", 0), ("owner", 1), ("worker", 0), ("worker", 1)]
    for before, after in (total, closed):
        assert order.index(before) < order.index(after)


def test_what_contradicts_itself_still_stands_there_once() -> None:
    circle = [(("a", 1), ("b", 0)), (("b", 1), ("a", 0))]
    order = list(in_order({"a": [0, 1], "b": [0, 1], "c": [7]}, circle))
    assert order == [("c", 7), ("a", 0), ("a", 1), ("b", 0), ("b", 1)]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30), st.randoms(use_true_random=False))
def test_every_run_that_happened_is_in_an_order_that_could_have(pairs: list[tuple[int, int]], random: object) -> None:
    """Messages sent one after the other and received in any order after that."""
    counts = [itertools.count() for _ in range(4)]
    messages, waiting = [], []
    for sender, recipient in pairs:
        waiting.append(((str(sender), next(counts[sender])), recipient))
        random.shuffle(waiting)  # type: ignore[attr-defined]
        if len(waiting) > 2:
            sent, to = waiting.pop()
            messages.append((sent, (str(to), next(counts[to]))))
    entries = {str(each): list(range(next(counts[each]))) for each in range(4)}
    order = {place: at for at, place in enumerate(in_order(entries, messages))}
    assert len(order) == sum(map(len, entries.values()))
    assert all(order[sent] < order[got] for sent, got in messages)
    assert all(order[name, at] < order[name, at + 1] for name, numbers in entries.items() for at in numbers[:-1])
