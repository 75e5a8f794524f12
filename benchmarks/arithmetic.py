"""What encoding, adding, decoding and masking cost a parameter, beside what copying it costs.

Absolute times drift with the machine, so each is measured in turn with a copy of the same vector, the best of several
rounds is taken of both, and the ratio is what to compare. Run: python -m benchmarks.arithmetic [--parameters N]
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
from tertium.crypto.keystream import Keystream
from tertium.crypto.labels import Label
from tertium.crypto.ring import FIELD_32, FIELD_64, Plan, add, decode, encode


def best(parameters: int, rounds: int, *steps: Callable[[], object]) -> list[float]:
    """Return the best time of each step in nanoseconds a parameter; steps take turns, so drift meets all alike."""
    times = [float("inf")] * len(steps)
    for _ in range(rounds):
        for i, step in enumerate(steps):
            start = time.perf_counter()
            step()
            times[i] = min(times[i], time.perf_counter() - start)
    return [seconds * 1e9 / parameters for seconds in times]


def measure(plan: Plan, parameters: int, rounds: int) -> None:
    """Print one line an operation for the words of `plan`."""
    generator = np.random.default_rng(0)
    values = generator.uniform(-1, 1, parameters).astype(np.float32)
    words, total = np.zeros(parameters, plan.dtype), np.zeros(parameters, plan.dtype)
    copy = np.empty_like(words)
    stream = Keystream(bytes(32), Label.CONTRIBUTION)
    field = FIELD_32 if plan.word_bits == 32 else FIELD_64
    encode(plan, plan.values, values, 1, words)
    steps: dict[str, Callable[[], object]] = {
        "encode (float32)": lambda: encode(plan, plan.values, values, 1, words),
        "add": lambda: add(total, words),
        "decode": lambda: decode(plan, plan.values, words),
        "keystream + add, fused": lambda: stream.add_into(total),
        "keystream": lambda: stream.words(0, copy),
        "field elements": lambda: stream.elements(field, 0, copy),
    }
    for name, step in steps.items():
        copied, taken = best(parameters, rounds, lambda: np.copyto(copy, words), step)
        rate = plan.dtype.itemsize / taken
        print(f"{plan.word_bits:>5}  {name:<24}{taken:>8.2f} ns  {taken / copied:>7.1f} x copy  {rate:>6.1f} GB/s")


def main(arguments_given: list[str] | None = None) -> None:
    """Measure both word sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=int, default=4_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args(arguments_given)
    print(f"{arguments.parameters:,} parameters; time a parameter, rate in words\n words")
    for precision in (1e-3, 1e-12):
        plan = Plan.fit(cohort=10, max_weight=1, value_range=1.0, precision=precision)
        measure(plan, arguments.parameters, arguments.rounds)


if __name__ == "__main__":
    main()
