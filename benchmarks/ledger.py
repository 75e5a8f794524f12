"""What the view ledger costs: in rounds of the digits demo, and for whoever verifies a long one.

    python -m benchmarks.ledger [--rounds N] [--entries N]

Each party of the demo counts the seconds it spends in calls of its `View`, and on the ledger's rows where they go in
with a write of the journal; they are set against the time of a round, as the model owner counts it, in the same run.
Seconds on a processor stand beside them: five processes share the machine, and a call that waits for another party's
training takes that much longer. The parties are the processes of `tertium demo`, each with a counter put around the
calls when Python starts.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tertium.crypto.identity import Identity
from tertium.protocol.charter import Role
from tertium.protocol.journal import FILE, Journal
from tertium.protocol.ledger import Act, DataClass, Ledger, LedgerEntry
from tertium.protocol.ledger_file import LedgerFile

COUNTER = """
import atexit, functools, importlib.abc, importlib.util, json, os, sys, time

spent, depth = [0.0, 0.0, 0], [0]

def shown(method):
    # What a line on a screen takes is not the ledger's.
    def call(*args):
        begun, worked = time.perf_counter(), time.thread_time()
        method(*args)
        spent[0] -= time.perf_counter() - begun
        spent[1] -= time.thread_time() - worked
    return call

def made(method):
    def call(self, *args, **kwargs):
        method(self, *args, **kwargs)
        self._observe = shown(self._observe)
    return call

def counted(method):
    @functools.wraps(method)
    def call(*args, **kwargs):
        if depth[0]:
            return method(*args, **kwargs)
        depth[0] = 1
        begun, worked = time.perf_counter(), time.thread_time()
        try:
            return method(*args, **kwargs)
        finally:
            spent[0] += time.perf_counter() - begun
            spent[1] += time.thread_time() - worked
            spent[2] += 1
            depth[0] = 0
    return call

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "tertium.protocol.view":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            for each, value in list(vars(module.View).items()):
                if callable(value) and not each.startswith("_"):
                    setattr(module.View, each, counted(value))
            module.View.__init__ = made(module.View.__init__)
            module.Journal._put_staged = counted(module.Journal._put_staged)
            atexit.register(write)
        spec.loader.exec_module = exec_module
        return spec

def write():
    path = os.path.join(os.environ["LEDGER_COUNTS"], f"{os.getpid()}.json")
    with open(path, "w") as file:
        json.dump({"argv": sys.argv, "seconds": spent[0], "worked": spent[1], "calls": spent[2]}, file)

sys.meta_path.insert(0, Finder())
"""


def demo(rounds: int) -> tuple[dict[str, tuple[float, float, int]], float]:
    """Run the demo; return each party's seconds in ledger calls, on a processor and the number, and all rounds'."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "sitecustomize.py").write_text(COUNTER)
        counts = folder / "counts"
        counts.mkdir()
        paths = [place, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "LEDGER_COUNTS": str(counts)}
        command = [sys.executable, "-m", "tertium", "demo", "digits", "--rounds", str(rounds), "--json"]
        done = subprocess.run(
            [*command, "--out", str(folder / "run")],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=1800,
        )
        parties = {party["pid"]: party["name"] for party in json.loads(done.stdout.splitlines()[-1])["parties"]}
        found = {}
        for file in counts.iterdir():
            if int(file.stem) in parties:
                counted = json.loads(file.read_text())
                found[parties[int(file.stem)]] = counted["seconds"], counted["worked"], counted["calls"]
        log = (folder / "run" / "owner" / "log").read_text().splitlines()
        took = [re.search(r"\(([0-9.]+) s\)", line) for line in log if ": aggregate of" in line]
        seconds = sum(float(each[1]) for each in took if each is not None)
        return found, seconds


def long_one(entries: int) -> tuple[float, int, float]:
    """Write a ledger of so many entries; return the seconds a verifier reads it in, its bytes, and a proof's bytes."""
    with tempfile.TemporaryDirectory() as place:
        identity, charter = Identity.generate("third"), bytes(32)
        path = Path(place) / FILE
        journal = Journal.of(identity, Role.SECURE_WORKER, Path(place))
        ledger = Ledger(journal, charter)
        for number in range(entries):
            subject = number.to_bytes(32, "big")
            ledger.append(LedgerEntry(Act.RECEIVED, DataClass.CONTROL, charter, "alice", wire=200, subject=subject))
            if number % 1000 == 999:
                ledger.settle(later=True)
        ledger.settle()
        journal.close()
        begun = time.perf_counter()
        with LedgerFile(path, "third") as file:
            took = time.perf_counter() - begun
            proof = len(b"".join(file.inclusion_proof(entries // 3, entries)))
        return took, path.stat().st_size, proof


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(description="What the view ledger costs.")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--entries", type=int, default=1_000_000)
    options = parser.parse_args(arguments)
    found, seconds = demo(options.rounds)
    print(f"{options.rounds} rounds of the digits demo in {seconds:.2f} s")
    for name, (spent, worked, calls) in sorted(found.items()):
        each = f"{1e3 * spent / options.rounds:7.2f} ms a round in {calls} calls, {spent / seconds:.2%}"
        print(f"  {name:10} {each}; on a processor {1e3 * worked / options.rounds:.2f} ms, {worked / seconds:.2%}")
    took, size, proof = long_one(options.entries)
    print(f"{options.entries:,} entries, {size / 1e6:.0f} MB: verified in {took:.1f} s; a proof has {proof} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
