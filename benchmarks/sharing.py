"""What sharing adds: a dealer for three holders beside sealing alone, a seed holder beside a bare fused loop.

All that is compared is done in turn in one process, so drift meets all alike, and each ratio is the median over the
rounds of what stood next to each other. Sealing is what a data owner does to one envelope: commitment, wrapped key, and
a body in records. The bare loop is AES-GCM over zeros in blocks of 1 MiB, each added to its part of a total: what
`docs/performance.md` calls fused. The bounds: dealer 2.5 times sealing, seed holder 1.5 times the loop. Shamir's
scheme, 2 of 4, is to take at most 15 ns a parameter and share at a dealer and at a holder; beside it stands a
fingerprint.

On a machine that others use too, `--cpu` counts this thread's CPU time: who waits for a core is not slow.

Run: python -m benchmarks.sharing [--parameters N] [--rounds N] [--cpu]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tertium.crypto import sealing
from tertium.crypto.fingerprint import fingerprint
from tertium.crypto.labels import Buffer
from tertium.crypto.ring import Plan, Words
from tertium.crypto.sharing import scheme
from tertium.crypto.sharing.base import Seed
from tertium.crypto.sharing.wire import share_sections
from tertium.protocol.lanes.malloc import keep_freed_memory
from tertium.protocol.limits import RECORD_PLAINTEXT

DEALER_BOUND = 2.5
HOLDER_BOUND = 1.5
SHAMIR_BOUND = 15.0
"""Nanoseconds a parameter and share."""
_BLOCK = 2**20


class Loop:
    """The bare loop: a key of its own, one block of working memory, nothing checked."""

    def __init__(self) -> None:
        self._cipher = AESGCM(bytes(32))
        self._zeros = memoryview(bytes(_BLOCK))
        self._block = np.empty(_BLOCK + 16, np.uint8)

    def add(self, total: Words) -> None:
        """Add a keystream to the total."""
        size = _BLOCK // total.dtype.itemsize
        words = self._block[:_BLOCK].view(total.dtype)
        for number, start in enumerate(range(0, total.size, size)):
            part = total[start : start + size]
            used = part.size * total.dtype.itemsize
            self._cipher.encrypt_into(
                number.to_bytes(12, "big"), self._zeros[:used], None, self._block[: used + 16].data
            )
            np.add(part, words[: part.size], out=part)


def seal(recipient: bytes, sections: list[Buffer]) -> None:
    """Do to one envelope's body what a data owner does; the records go nowhere."""
    key, salt = sealing.new_content_key(), sealing.new_salt()
    sealing.commit([b"benchmark"], salt, sections)
    sealing.wrap(recipient, key, b"benchmark")
    for _ in sealing.seal_records(key, b"benchmark", salt, sections, RECORD_PLAINTEXT):
        pass


def timed(rounds: int, clock: Callable[[], float], *steps: Callable[[], object]) -> list[list[float]]:
    """Return each step's seconds by `clock`, a list a step; the steps take turns."""
    for step in steps:
        step()
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(rounds):
        for taken, step in zip(times, steps, strict=True):
            begun = clock()
            step()
            taken.append(clock() - begun)
    return times


def ratio(times: list[float], base: list[float]) -> float:
    """Return the median ratio of times that were taken side by side."""
    return statistics.median(one / other for one, other in zip(times, base, strict=True))


def measure(plan: Plan, parameters: int, rounds: int, clock: Callable[[], float]) -> bool:
    """Print the lines of one word size; return whether both bounds hold."""
    bits = plan.word_bits
    secret, out = np.zeros(parameters, plan.dtype), np.zeros(parameters, plan.dtype)
    np.copyto(secret, np.arange(parameters, dtype=plan.dtype))
    recipient = sealing.RoundKey().public
    additive, masked = scheme("additive", 3), scheme("masked")
    dealer = additive.dealer(plan, parameters)
    alone: list[Buffer] = [secret.view(np.uint8).data]

    def deal() -> None:
        dealer.split(secret, 0, out=out)

    def deal_and_seal() -> None:
        for share in dealer.split(secret, 0, out=out):
            seal(recipient, list(share_sections(share)))

    sealed, dealt, both = timed(rounds, clock, lambda: seal(recipient, alone), deal, deal_and_seal)
    holder, loop, seed = masked.holder(plan, parameters, 1), Loop(), Seed.fresh()
    bare, held = timed(rounds, clock, lambda: loop.add(out), lambda: holder.accumulate(out, seed))
    lines = (
        ("sealing alone", sealed, sealed, None),
        ("dealer, 3 holders", dealt, sealed, None),
        ("dealer, 3 holders, and sealing all", both, sealed, DEALER_BOUND),
        ("fused keystream and add, bare", bare, bare, None),
        ("seed holder", held, bare, HOLDER_BOUND),
    )
    good = True
    for name, times, base, bound in lines:
        over = ratio(times, base)
        good &= bound is None or over <= bound
        verdict = "" if bound is None else f"  bound {bound}: {'holds' if over <= bound else 'MISSED'}"
        print(f"{bits:>5}  {name:<36}{min(times) * 1e9 / parameters:>7.2f} ns  {over:>5.2f} x{verdict}", flush=True)
    return good


def measure_shamir(plan: Plan, parameters: int, rounds: int, clock: Callable[[], float]) -> bool:
    """Print what Shamir's scheme and a fingerprint take, beside sealing alone; return whether the bound holds."""
    bits, made, recipient = plan.word_bits, scheme("shamir", 4, 2), sealing.RoundKey().public
    secret, out = np.arange(parameters, dtype=plan.dtype), np.zeros(parameters, plan.dtype)
    dealer, holder = made.dealer(plan, parameters), made.holder(plan, parameters, 0)
    total, shares = holder.zero(), dealer.split(secret)
    seed, vector = shares[0], shares[1]
    alone: list[Buffer] = [secret.view(np.uint8).data]
    steps: tuple[tuple[str, int, Callable[[], object]], ...] = (
        ("sealing alone", 0, lambda: seal(recipient, alone)),
        ("shamir 2 of 4, dealer, a share", made.holders, lambda: dealer.split(secret, out=out)),
        ("shamir 2 of 4, holder of a seed", 1, lambda: holder.accumulate(total, seed)),
        ("shamir 2 of 4, holder of a vector", 1, lambda: holder.accumulate(total, vector)),
        ("fingerprint", 0, lambda: fingerprint(secret, bytes(32))),
    )
    taken, good = timed(rounds, clock, *(step for _, _, step in steps)), True
    for (name, counted, _), times in zip(steps, taken, strict=True):
        spent = min(times) * 1e9 / parameters / max(1, counted)
        good &= not counted or spent <= SHAMIR_BOUND
        verdict = f"  bound {SHAMIR_BOUND:g} ns: {'holds' if spent <= SHAMIR_BOUND else 'MISSED'}" if counted else ""
        over = ratio(times, taken[0]) / max(1, counted)
        print(f"{bits:>5}  {name:<36}{spent:>7.2f} ns  {over:>5.2f} x{verdict}", flush=True)
    return good


def main(arguments_given: list[str] | None = None) -> int:
    """Measure both word sizes; return 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=int, default=4_000_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cpu", action="store_true")
    arguments = parser.parse_args(arguments_given)
    clock = time.thread_time if arguments.cpu else time.perf_counter
    keep_freed_memory()
    what = "CPU time" if arguments.cpu else "time"
    print(f"{arguments.parameters:,} parameters; best {what} a parameter, median ratio\n words")
    good = True
    for precision in (1e-3, 1e-12):
        plan = Plan.fit(cohort=10, max_weight=1, value_range=1.0, precision=precision)
        good &= measure(plan, arguments.parameters, arguments.rounds, clock)
        good &= measure_shamir(plan, arguments.parameters, arguments.rounds, clock)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
