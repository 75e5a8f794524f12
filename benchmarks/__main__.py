"""`make bench`: every benchmark in turn, or the ones named.

Run:
    python -m benchmarks                all of them
    python -m benchmarks arithmetic     ring and keystream, ratios to a copy
    python -m benchmarks sharing        a dealer beside sealing alone, a seed holder beside a bare loop
    python -m benchmarks ingest         a secure worker's ingest beside a bare loop, 1 and 3 senders
    python -m benchmarks rounds         round latency, memory for cohorts of 3 and 30, bytes on the wire, start-up
    python -m benchmarks checks        what the check of a sum adds to a round of 25 million parameters
    python -m benchmarks flood          rounds and the secure worker's memory under 1,000 hostile connections
    python -m benchmarks halfplane      a simulated population of 40 data owners, 100 rounds, five seeds
    python -m benchmarks accuracy       federated against centralised, five seeds, real processes
    python -m benchmarks mnist          40 rounds of MNIST beside one plain PyTorch process: accuracy and time
"""

import sys

from . import accuracy, arithmetic, checks, flood, halfplane, ingest, mnist, rounds, sharing

BENCHMARKS = {
    "arithmetic": lambda: arithmetic.main([]),
    "sharing": lambda: sharing.main([]),
    "ingest": lambda: ingest.main([]),
    "rounds": lambda: rounds.main([]),
    "checks": lambda: checks.main([]),
    "flood": lambda: flood.main([]),
    "halfplane": lambda: halfplane.main([]),
    "accuracy": accuracy.main,
    "mnist": lambda: mnist.main([]),
}


def main(names: list[str]) -> int:
    """Run the benchmarks of these names, all if there are none."""
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        print(f"no benchmark {unknown[0]}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    failed = 0
    for name in names or BENCHMARKS:
        print(f"== {name}", flush=True)
        failed += BENCHMARKS[name]() or 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
