"""One order of the entries of several ledgers: of each the earlier first, and nothing received before it was sent.

Two lanes may overtake each other, so sending and receiving are two places: taken for one, an honest run could have no
order at all. Ledgers that contradict each other have none, and then the rest stands as it comes.
"""

import heapq
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

Place = tuple[str, int]
"""Party and sequence number of an entry."""


def in_order(entries: Mapping[str, Iterable[int]], messages: Iterable[tuple[Place, Place]]) -> Iterator[Place]:
    """Yield entries, each after all that it follows; of those that could be next, what follows the fewest.

    Args:
        entries: the sequence numbers to put in order, by party.
        messages: of each message that both ends noted, where it was sent and where it was received.
    """
    after: dict[Place, list[Place]] = defaultdict(list)
    waits: dict[Place, int] = defaultdict(int)
    every = [(party, number) for party, numbers in entries.items() for number in sorted(set(numbers))]
    same = ((above, below) for above, below in itertools.pairwise(every) if above[0] == below[0])
    for above, below in itertools.chain(same, messages):
        after[above].append(below)
        waits[below] += 1
    rank = {place: number for number, place in enumerate(every)}
    ready = [(0, rank[place]) for place in every if not waits[place]]
    heapq.heapify(ready)
    done: set[Place] = set()
    while ready:
        depth, number = heapq.heappop(ready)
        place = every[number]
        done.add(place)
        yield place
        for other in after[place]:
            waits[other] -= 1
            if not waits[other]:
                heapq.heappush(ready, (depth + 1, rank[other]))
    yield from (place for place in every if place not in done)
