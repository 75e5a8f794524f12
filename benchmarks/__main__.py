"""`make bench`: every benchmark in turn, or the ones named.

python -m benchmarks                all of them
python -m benchmarks accuracy       federated against centralised, five seeds, real processes
python -m benchmarks arithmetic     ring and keystream, ratios to a copy
"""

import sys

from . import accuracy, arithmetic

BENCHMARKS = {"arithmetic": lambda: arithmetic.main([]), "accuracy": accuracy.main}


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
