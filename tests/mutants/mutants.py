"""Removes each listed guard in turn and runs the tests that must then fail.

    python tests/mutants/mutants.py [--jobs N] [--shard K/N] [--only TEXT] [--suggest]

One process imports and collects everything once; each mutant is a fork of it, in which one function gets the code it
would have without the guard (`sites.py`) and only the tests named for it run, until one fails. The tables are the
`*.toml` files beside this one. Before that the same tests run on the code as it is, and have to pass.

A mutant is `caught`, or it `survived`, or is `invalid`: it could not be made, or the tests ran past `PATIENCE`, which
counts as caught only where the table says `hangs`. The exit status is 0 if all are caught, 1 if not, 2 for tables
that do not fit the code. `--suggest` names, for sites in no table, the tests that would catch their removal.
"""

import argparse
import builtins
import gc
import json
import os
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import sites as found

TESTS = Path(__file__).resolve().parents[1]
TABLES = Path(__file__).resolve().parent
PATIENCE = 60.0
"""Seconds a mutant's tests may take, on a machine that does other things too; more where there are many."""
SUGGESTED = (
    "roles",
    "protocol",
    "crypto/test_sealing.py",
    "lanes/test_tickets.py",
    "malformed/test_malformed_headers.py",
)
"""Where tests for a new guard are looked for."""


@dataclass(frozen=True)
class Guard:
    """A row of the tables."""

    site: found.Site
    why: str
    """The attack, or the mishap, it is there for."""
    tests: tuple[str, ...]
    """Node ids below `tests/`; one of them has to fail without the guard."""
    hangs: bool = False


@dataclass(frozen=True)
class Exemption:
    """Sites without which nothing changes that anybody could notice, or that nobody can reach."""

    sites: tuple[found.Site, ...]
    because: str


@dataclass
class Tables:
    """What the tables say."""

    guards: list[Guard] = field(default_factory=list)
    exemptions: list[Exemption] = field(default_factory=list)

    @property
    def listed(self) -> list[found.Site]:
        """Every site that is in them."""
        return [guard.site for guard in self.guards] + [site for each in self.exemptions for site in each.sites]


def read_tables(folder: Path = TABLES) -> Tables:
    """Read the tables: by file and function, rows of sites with why they are there and the tests, or an exemption."""
    tables = Tables()
    for path in sorted(folder.glob("*.toml")):
        for file, functions in tomllib.loads(path.read_text()).items():
            for function, rows in functions.items():
                for row in rows:
                    sites = tuple(_site(file, function, said) for said in row["sites"])
                    if "because" in row:
                        tables.exemptions.append(Exemption(sites, row["because"]))
                        continue
                    tests, hangs = tuple(row["tests"]), row.get("hangs", False)
                    tables.guards += [Guard(site, row["why"], tests, hangs) for site in sites]
    return tables


def _site(file: str, function: str, said: str) -> found.Site:
    does, _, when = said.partition(": ")
    return found.Site(file, function, does, when)


# --- one process a mutant

Outcome = tuple[str, list[str]]


class Forks:
    """Runs items of one collected session in forks, a few at once."""

    def __init__(self, session: pytest.Session, jobs: int) -> None:
        self._session, self._jobs = session, jobs
        self._items: dict[str, pytest.Item] = {item.nodeid.removeprefix("tests/"): item for item in session.items}
        # What a fork does not touch is not copied for it; counting references is touching.
        gc.collect()
        gc.freeze()
        # Made here, or every fork would begin by clearing it.
        session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]

    def run(self, jobs: Sequence[tuple[Any, Sequence[str], Callable[[], None], bool]]) -> Iterator[tuple[Any, Outcome]]:
        """Yield, for each (key, tests, change, stop at the first failure), the outcome and what failed."""
        waiting, running = list(jobs), dict[int, tuple[Any, int, float]]()
        while waiting or running:
            while waiting and len(running) < self._jobs:
                key, tests, change, stop = waiting.pop(0)
                pid, pipe = self._fork(tests, change, stop)
                running[pid] = (key, pipe, time.monotonic() + PATIENCE * (1 + len(tests) / 10))
            for pid, (key, pipe, until) in list(running.items()):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if not ended and time.monotonic() < until:
                    continue
                if not ended:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                del running[pid]
                with os.fdopen(pipe) as said:
                    text = said.read()
                if not ended:
                    yield key, ("hung", [])
                elif status:
                    yield key, ("invalid", text.splitlines() or [f"status {status}"])
                else:
                    failed = text.splitlines()
                    yield key, ("caught" if failed else "survived", failed)
            time.sleep(0.002)

    def _fork(self, tests: Sequence[str], change: Callable[[], None], stop: bool) -> tuple[int, int]:
        read, write = os.pipe()
        pid = os.fork()
        if pid:
            os.close(write)
            return pid, read
        status = 3
        try:
            os.close(read)
            silent = os.open(os.devnull, os.O_RDWR)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            self._session.config.pluginmanager.unregister(name="terminalreporter")
            try:
                change()
                self._play([item for test in tests for item in self._named(test)], write, stop)
                status = 0
            except BaseException:
                os.write(write, traceback.format_exc()[-2000:].encode())
        finally:
            os._exit(status)

    def _named(self, test: str) -> list[pytest.Item]:
        """The items of a node id: one, or one a parameter."""
        return [item for name, item in self._items.items() if name == test or name.startswith(f"{test}[")]

    def _play(self, items: Sequence[pytest.Item], write: int, stop: bool) -> None:
        for item, following in zip(items, [*items[1:], None], strict=False):
            before = self._session.testsfailed
            if stop and before:
                return
            begun = time.process_time()
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self._session.testsfailed > before:
                os.write(write, f"{item.nodeid.removeprefix('tests/')}\n".encode())
            spent[item.nodeid.removeprefix("tests/")] = time.process_time() - begun


spent: dict[str, float] = {}


class Plugin:
    """Hands a collected session to a function, in place of running it."""

    def __init__(self, use: Callable[[pytest.Session], int]) -> None:
        self._use = use
        self.status = 2

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run nothing here; everything runs in forks."""
        if session.testsfailed == 0:
            self.status = self._use(session)
        return True


def in_session(tests: Sequence[str], use: Callable[[pytest.Session], int]) -> int:
    """Collect these tests once and hand the session to `use`."""
    plugin = Plugin(use)
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place, prefix="tertium-mutants-") as folder:
        os.chdir(TESTS.parent)
        settings = ["-q", "-s", "--no-header", "--no-summary", "-p", "no:cacheprovider", "-o", "timeout=0"]
        command = [*settings, f"--basetemp={folder}/tests", f"--rootdir={TESTS.parent}"]
        pytest.main([*command, *(f"tests/{test}" for test in tests)], plugins=[plugin])
    return plugin.status


# --- the commands


def mismatch(tables: Tables, *, whole: bool = True) -> list[str]:
    """Return what in the tables does not fit the code; with `whole`, also what is in the code and in no table."""
    there, listed = found.sites(), tables.listed
    missing = [f"in no table: {site.name}" for site in there if whole and site not in listed]
    gone = [f"not in the code: {site.name}" for site in listed if site not in there]
    twice = [f"listed twice: {site.name}" for site in set(listed) if listed.count(site) > 1]
    return [*missing, *gone, *sorted(twice)]


def run(guards: Sequence[Guard], jobs: int) -> int:
    """Run mutants; print one line each; return the exit status."""
    tests = sorted({test for guard in guards for test in guard.tests})

    def use(session: pytest.Session) -> int:
        forks = Forks(session, jobs)
        shares = [(number, tests[number::jobs], _nothing, False) for number in range(jobs)]
        for _, (outcome, said) in forks.run(shares):
            if outcome != "survived":
                sys.stdout.write(f"the code as it is: {outcome}: {', '.join(said)}\n")
                return 2
        wrong = 0
        work = [(guard, guard.tests, _removing(guard.site), True) for guard in guards]
        for guard, (outcome, said) in forks.run(work):
            if outcome == "hung":
                outcome = "caught" if guard.hangs else "invalid"
            wrong += outcome != "caught"
            detail = f"  ({'; '.join(said)})" if outcome == "invalid" else ""
            sys.stdout.write(f"{outcome:9} {guard.site.name}{detail}\n")
            sys.stdout.flush()
        sys.stdout.write(f"{len(guards)} mutants, {len(guards) - wrong} caught\n")
        return 1 if wrong else 0

    return in_session(tests, use)


def _nothing() -> None:
    pass


def _removing(site: found.Site) -> Callable[[], None]:
    return lambda: found.remove(site)


def suggest(sites: Sequence[found.Site], jobs: int, most: int = 40) -> int:
    """Print, as JSON by site, the tests that fail without it, of those in which it turns something away."""

    def use(session: pytest.Session) -> int:
        names = [item.nodeid.removeprefix("tests/") for item in session.items]
        fired = _fired(session, names, sites)
        forks = Forks(session, jobs)
        work = [(site, fired.get(site.name, [])[:most], _removing(site), False) for site in sites]
        said = {site.name: [outcome, tests] for site, (outcome, tests) in forks.run(work)}
        sys.stdout.write(json.dumps(said, indent=1) + "\n")
        return 0

    return in_session(SUGGESTED, use)


def _fired(session: pytest.Session, tests: Sequence[str], sites: Sequence[found.Site]) -> dict[str, list[str]]:
    """Return in which tests each site turned something away, the quickest first."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(read)
        seen: dict[str, set[str]] = {}
        now = [""]
        builtins.__fired__ = lambda name: seen.setdefault(name, set()).add(now[0])  # type: ignore[attr-defined]
        found.watch(sites)
        forks = Forks(session, 1)
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        session.config.pluginmanager.unregister(name="terminalreporter")
        for item in session.items:
            now[0] = item.nodeid.removeprefix("tests/")
            forks._play([item], os.open(os.devnull, os.O_WRONLY), False)
        known = {name: sorted(which, key=lambda test: spent.get(test, 0.0)) for name, which in seen.items()}
        with os.fdopen(write, "w") as out:
            json.dump(known, out)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        text = said.read()
    os.waitpid(pid, 0)
    return dict(json.loads(text))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=1, help="mutants at once (1)")
    parser.add_argument("--shard", default="1/1", metavar="K/N", help="only every Nth mutant, from the Kth")
    parser.add_argument("--only", default="", metavar="TEXT", help="only mutants whose name holds this")
    parser.add_argument("--tables", type=Path, default=TABLES, help="the folder with the tables")
    parser.add_argument("--suggest", action="store_true", help="find tests for sites that are in no table")
    given = parser.parse_args(arguments)
    tables = read_tables(given.tables)
    if given.suggest:
        listed = set(tables.listed)
        return suggest([site for site in found.sites() if site not in listed and given.only in site.name], given.jobs)
    if wrong := mismatch(tables, whole=given.tables == TABLES):
        sys.stdout.write("\n".join(wrong) + "\n")
        return 2
    number, _, shares = given.shard.partition("/")
    guards = [guard for guard in tables.guards[int(number) - 1 :: int(shares)] if given.only in guard.site.name]
    return run(guards, max(1, given.jobs))


if __name__ == "__main__":
    sys.exit(main())
