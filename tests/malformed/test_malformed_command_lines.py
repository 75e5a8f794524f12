"""Command lines nobody should type: exit status 2, one sentence that says what to mend, no file made or changed."""

import os
import subprocess
import sys
from typing import Any

import click
import pytest
from tertium import cli
from tertium.cli.lazy import group

Place = Any
NEW = ("charter", "new", "--federation", "x", "--minimum-cohort", "3")
CARDS = tuple(
    part for name in ("alice", "bob", "carol", "owner", "third") for part in ("--party", f"{name}/public.toml")
)
OUT = ("--out", "new.toml")
KEYGEN = ("keygen", "dora", "--role", "data_owner", "--out", "dora")
WORKER = ("worker", "run", "--party", "alice", "--charter", "charter.toml")
DOCTOR = ("doctor", "--party", "alice", "--charter", "charter.toml", "--no-network", "--no-tasks")

# What is typed, and a word of what is said.
CASES: dict[str, tuple[tuple[str, ...], str]] = {
    # the top
    "no such command": (("crown",), "no such command 'crown'"),
    "a command in capitals": (("Keygen",), "no such command 'Keygen'"),
    "a command cut short": (("key",), "no such command 'key'"),
    "a command that is empty": (("",), "no such command"),
    "a command that is a path": (("../keygen",), "no such command"),
    "a command that paints": (("\x1b[2J\u202e",), "no such command"),
    "a command with a line end": (("key\ngen",), "no such command"),
    "a command of a megabyte's tenth": (("c" * 100,), "no such command"),
    "an option of the top": (("--crown",), "no such option"),
    "an option before its command": (("--json", "keygen"), "no such option"),
    "a short option": (("-x",), "no such option"),
    "a version with a value": (("--version=3",), "does not take a value"),
    # keygen
    "schemes: an option there is not": (("schemes", "--shape", "round"), "no such option"),
    "schemes: a command there is not": (("schemes", "mend"), "mend"),
    "schemes check: nothing": (("schemes", "check"), "missing argument"),
    "schemes check: a module there is not": (("schemes", "check", "nowhere.at_all:Scheme"), "nowhere"),
    "schemes check: a class there is not": (("schemes", "check", "tertium.crypto.sharing.trusted:Nothing"), "Nothing"),
    "schemes check: holders that are no number": (("schemes", "check", "a:B", "--holders", "two"), "'two'"),
    "keygen: nothing": (("keygen",), "missing argument 'NAME'"),
    "keygen: no role": (("keygen", "dora", "--out", "dora"), "missing option '--role'"),
    "keygen: no folder": (("keygen", "dora", "--role", "data_owner"), "missing option '--out'"),
    "keygen: two names": ((*KEYGEN, "emma"), "unexpected extra argument"),
    "keygen: a role there is not": (("keygen", "dora", "--role", "king", "--out", "dora"), "'king'"),
    "keygen: a role in words": (("keygen", "dora", "--role", "data owner", "--out", "dora"), "'data owner'"),
    "keygen: a role that is empty": (("keygen", "dora", "--role", "", "--out", "dora"), "--role"),
    "keygen: a role without value": (("keygen", "dora", "--out", "dora", "--role"), "requires an argument"),
    "keygen: a name in capitals": (("keygen", "Dora", *KEYGEN[2:]), "a party's name is"),
    "keygen: a name with a blank": (("keygen", "do ra", *KEYGEN[2:]), "a party's name is"),
    "keygen: an empty name": (("keygen", "", *KEYGEN[2:]), "a party's name is"),
    "keygen: a name that is a path": (("keygen", "../dora", *KEYGEN[2:]), "a party's name is"),
    "keygen: a name with a dot first": (("keygen", ".dora", *KEYGEN[2:]), "a party's name is"),
    "keygen: a name of 33 letters": (("keygen", "d" * 33, *KEYGEN[2:]), "a party's name is"),
    "keygen: a name with a line end": (("keygen", "dora\n", *KEYGEN[2:]), "a party's name is"),
    "keygen: a name in other digits": (("keygen", "dora\u0661", *KEYGEN[2:]), "a party's name is"),
    "keygen: a name that is an option": (("keygen", "--dora", *KEYGEN[2:]), "no such option"),
    "keygen: a data owner that listens": ((*KEYGEN, "--control", "tcp://h:1"), "a data owner only connects"),
    "keygen: an evaluator that listens": (
        ("keygen", "dora", "--role", "evaluator", "--out", "dora", "--bulk", "tcp://h:1"),
        "an evaluator only connects",
    ),
    "keygen: a secure worker that does not": (
        ("keygen", "dora", "--role", "secure_worker", "--out", "dora"),
        "parties.dora.control: a secure worker needs",
    ),
    "keygen: a model owner with one lane": (
        ("keygen", "dora", "--role", "model_owner", "--out", "dora", "--control", "tcp://h:1"),
        "parties.dora.bulk: a model owner needs",
    ),
    "keygen: an endpoint without a port": (
        ("keygen", "dora", "--role", "model_owner", "--out", "dora", "--control", "tcp://h", "--bulk", "tcp://h:1"),
        "control: expected an endpoint",
    ),
    "keygen: an endpoint of port 70000": (
        (
            "keygen",
            "dora",
            "--role",
            "model_owner",
            "--out",
            "dora",
            "--control",
            "tcp://h:70000",
            "--bulk",
            "tcp://h:1",
        ),
        "there is no port 70000",
    ),
    "keygen: an organisation that paints": ((*KEYGEN, "--organisation", "\x1b[2J"), "organisation"),
    "keygen: a long organisation": ((*KEYGEN, "--organisation", "o" * 401), "organisation"),
    "keygen: keys that are there": (("keygen", "alice", "--role", "data_owner", "--out", "alice"), "exists"),
    "keygen: a folder that is a file": (
        ("keygen", "dora", "--role", "data_owner", "--out", "charter.toml"),
        "cannot make the folder charter.toml",
    ),
    "keygen: a folder below a file": (
        ("keygen", "dora", "--role", "data_owner", "--out", "charter.toml/dora"),
        "cannot make the folder charter.toml/dora",
    ),
    "keygen: a folder with a long name": (
        ("keygen", "dora", "--role", "data_owner", "--out", "d" * 300),
        "file name too long",
    ),
    # charter new
    "charter: nothing it knows": (("charter", "crown"), "no such command 'crown'"),
    "new: nothing": (("charter", "new"), "missing option"),
    "new: no card": ((*NEW, *OUT), "missing option '--party'"),
    "new: no file": ((*NEW, *CARDS), "missing option '--out'"),
    "new: no federation": (("charter", "new", *CARDS, *OUT), "missing option '--federation'"),
    "new: an empty federation": (("charter", "new", "--federation", "", *CARDS, *OUT), "federation"),
    "new: a federation that paints": (("charter", "new", "--federation", "\x9b2J", *CARDS, *OUT), "federation"),
    "new: a card that is not there": ((*NEW, *CARDS, "--party", "none.toml", *OUT), "cannot read none.toml"),
    "new: a card that is a folder": ((*NEW, *CARDS, "--party", "alice", *OUT), "cannot read alice: it is a folder"),
    "new: a card that is a key file": ((*NEW, *CARDS, "--party", "judge/secret.toml", *OUT), "judge/secret.toml"),
    "new: a card twice": ((*NEW, *CARDS, "--party", "alice/public.toml", *OUT), "two parties have this name"),
    "new: no secure worker": ((*NEW, *CARDS[:-2], *OUT), "at least one secure worker"),
    "new: no model owner": ((*NEW, *CARDS[:-4], *CARDS[-2:], *OUT), "exactly one model owner"),
    "new: too few data owners": ((*NEW, *CARDS[2:], *OUT), "can never come together"),
    "new: a file that is there": ((*NEW, *CARDS, "--out", "charter.toml"), "charter.toml exists"),
    "new: a file that is a folder": ((*NEW, *CARDS, "--out", "alice"), "alice exists"),
    "new: a file in no folder": ((*NEW, *CARDS, "--out", "none/new.toml"), "cannot write none/new.toml"),
    "new: a mode there is not": ((*NEW, *CARDS, *OUT, "--mode", "mild"), "'mild'"),
    "new: plain without a reason": ((*NEW, *CARDS, *OUT, "--mode", "plain"), "rules.unsafe_plain"),
    "new: plain for an empty reason": ((*NEW, *CARDS, *OUT, "--mode", "plain", "--unsafe-plain", " "), "say why"),
    "new: a reason for another mode": ((*NEW, *CARDS, *OUT, "--unsafe-plain", "why"), "belongs to mode plain"),
    "new: an additive mode with one": ((*NEW, *CARDS, *OUT, "--mode", "additive"), "at least two secure workers"),
    "new: a serial of 0": ((*NEW, *CARDS, *OUT, "--serial", "0"), "serial: expected int >= 1"),
    "new: a serial below 0": ((*NEW, *CARDS, *OUT, "--serial", "-1"), "serial"),
    "new: a serial in words": ((*NEW, *CARDS, *OUT, "--serial", "one"), "'one' is not a valid integer"),
    "new: a serial of 5000 digits": ((*NEW, *CARDS, *OUT, "--serial", "9" * 5000), "--serial"),
    "new: a serial beyond 53 bits": ((*NEW, *CARDS, *OUT, "--serial", str(2**60)), "serial"),
    "new: days below nothing": ((*NEW, *CARDS, *OUT, "--days", "-1"), "--days"),
    "new: days that are no number": ((*NEW, *CARDS, *OUT, "--days", "nan"), "--days"),
    "new: days without end": ((*NEW, *CARDS, *OUT, "--days", "inf"), "--days"),
    "new: days in words": ((*NEW, *CARDS, *OUT, "--days", "many"), "--days"),
    "new: a cohort of 0": ((*NEW, *CARDS, *OUT, "--minimum-cohort", "0"), "rules.minimum_cohort"),
    "new: a cohort of 1": ((*NEW, *CARDS, *OUT, "--minimum-cohort", "1"), "a sum over one contributor"),
    "new: a cohort of 2": ((*NEW, *CARDS, *OUT, "--minimum-cohort", "2"), "unsafe_small_cohort"),
    "new: a cohort of 3.0": ((*NEW, *CARDS, *OUT, "--minimum-cohort", "3.0"), "not a valid integer"),
    "new: a cohort of 2^70": ((*NEW, *CARDS, *OUT, "--minimum-cohort", str(2**70)), "rules.minimum_cohort"),
    "new: a stable cohort of 1": ((*NEW, *CARDS, *OUT, "--stable-cohort", "1"), "rules.stable_cohort"),
    "new: nothing to excuse": ((*NEW, *CARDS, *OUT, "--unsafe-small-cohort", "why"), "nothing to excuse"),
    "new: a weight rule there is not": ((*NEW, *CARDS, *OUT, "--weight-rule", "fair"), "'fair'"),
    "new: a weight under uniform": ((*NEW, *CARDS, *OUT, "--max-weight", "7"), "under weight rule uniform"),
    "new: a range that is no number": ((*NEW, *CARDS, *OUT, "--value-range", "nan"), "rules.arithmetic.value_range"),
    "new: a range of 0": ((*NEW, *CARDS, *OUT, "--value-range", "0"), "rules.arithmetic.value_range"),
    "new: a range without end": ((*NEW, *CARDS, *OUT, "--metric-range", "inf"), "rules.arithmetic.metric_range"),
    "new: a precision below 0": ((*NEW, *CARDS, *OUT, "--precision", "-1"), "rules.arithmetic.precision"),
    "new: numbers that fit no word": (
        (*NEW, *CARDS, *OUT, "--value-range", "1e15", "--precision", "1e-12"),
        "rules.arithmetic",
    ),
    "new: epochs below 0": ((*NEW, *CARDS, *OUT, "--max-epochs", "-1"), "max_epochs"),
    "new: too many batches": ((*NEW, *CARDS, *OUT, "--max-batches", "1000001"), "max_batches"),
    "new: a task that is no name": ((*NEW, *CARDS, *OUT, "--task", "A task"), "rules.training.tasks[0]"),
    "new: a task twice": ((*NEW, *CARDS, *OUT, "--task", "line", "--task", "line"), "names a task twice"),
    "new: a deadline without seconds": ((*NEW, *CARDS, *OUT, "--deadline", "upload"), "STEP=SECONDS"),
    "new: a deadline in words": ((*NEW, *CARDS, *OUT, "--deadline", "upload=soon"), "STEP=SECONDS"),
    "new: a deadline of nothing": ((*NEW, *CARDS, *OUT, "--deadline", "upload=0"), "rules.deadlines.upload"),
    "new: a deadline that is no number": ((*NEW, *CARDS, *OUT, "--deadline", "join=nan"), "rules.deadlines.join"),
    "new: a deadline of no step": ((*NEW, *CARDS, *OUT, "--deadline", "tea=5"), "unknown field tea"),
    "new: a deadline of a long step": ((*NEW, *CARDS, *OUT, "--deadline", f"{'t' * 5000}=x"), "STEP=SECONDS"),
    "new: an argument": ((*NEW, *CARDS, *OUT, "charter"), "unexpected extra argument"),
    # charter sign, verify, diff
    "sign: nothing": (("charter", "sign"), "missing argument 'CHARTER'"),
    "sign: no party": (("charter", "sign", "charter.toml"), "missing option '--as'"),
    "sign: no such party": (("charter", "sign", "charter.toml", "--as", "nobody"), "nobody/secret.toml"),
    "sign: a party that is a file": (("charter", "sign", "charter.toml", "--as", "charter.toml"), "not a directory"),
    "sign: no such charter": (("charter", "sign", "none.toml", "--as", "alice"), "cannot read none.toml"),
    "sign: a folder": (("charter", "sign", "bob", "--as", "alice"), "cannot read bob: it is a folder"),
    "sign: a card": (("charter", "sign", "alice/public.toml", "--as", "alice"), "alice/public.toml"),
    "sign: two charters": (("charter", "sign", "charter.toml", "x.toml", "--as", "alice"), "unexpected extra argument"),
    "verify: nothing": (("charter", "verify"), "missing argument 'CHARTER'"),
    "verify: no such charter": (("charter", "verify", "none.toml"), "cannot read none.toml"),
    "verify: a folder": (("charter", "verify", "."), "cannot read .: it is a folder"),
    "verify: a key file": (("charter", "verify", "alice/secret.toml"), "alice/secret.toml"),
    "verify: a device": (("charter", "verify", "/dev/null"), "not a regular file"),
    "verify: an endless device": (("charter", "verify", "/dev/zero"), "not a regular file"),
    "verify: an empty path": (("charter", "verify", ""), "it is a folder"),
    "verify: a path that paints": (("charter", "verify", "\x1b[2J"), "no such file"),
    "verify: a path with a line end": (("charter", "verify", "a\nb"), "cannot read a b: no such file"),
    "verify: a long path": (("charter", "verify", "c" * 300), "file name too long"),
    "verify: a path that is not UTF-8": (("charter", "verify", "\udcff"), "no such file"),
    "verify: JSON with a value": (("charter", "verify", "--json=yes", "charter.toml"), "does not take a value"),
    "diff: one charter": (("charter", "diff", "charter.toml"), "missing argument 'NEW'"),
    "diff: three charters": (("charter", "diff", *["charter.toml"] * 3), "unexpected extra argument"),
    "diff: no such old one": (("charter", "diff", "none.toml", "charter.toml"), "cannot read none.toml"),
    "diff: no such new one": (("charter", "diff", "charter.toml", "none.toml"), "cannot read none.toml"),
    "diff: a site file": (("charter", "diff", "charter.toml", "alice/site.toml"), "alice/site.toml"),
    # run
    "worker: nothing": (("worker", "walk"), "no such command 'walk'"),
    "worker: an argument": ((*WORKER, "now"), "unexpected extra argument"),
    "worker: an option there is not": ((*WORKER, "--fast"), "no such option"),
    "worker: the option of an owner": ((*WORKER, "--resume"), "no such option"),
    "worker: no such party": (("worker", "run", "--party", "nobody"), "--party"),
    "worker: a party that is a file": (("worker", "run", "--party", "charter.toml"), "--party"),
    "worker: no such charter": ((*WORKER[:-1], "none.toml"), "cannot read none.toml"),
    "worker: a charter that is a folder": ((*WORKER[:-1], "bob"), "--charter"),
    "worker: as a model owner": (("worker", "run", "--party", "owner", *WORKER[-2:]), "as a model owner"),
    "worker: as an evaluator": (("worker", "run", "--party", "judge", *WORKER[-2:]), "as a evaluator"),
    "evaluator: as a data owner": (("evaluator", "run", "--party", "alice", *WORKER[-2:]), "as a data owner"),
    "owner: as a secure worker": (("owner", "run", "--party", "third", *WORKER[-2:]), "as a secure worker"),
    "secure-worker: as a data owner": (("secure-worker", "run", "--party", "bob", *WORKER[-2:]), "as a data owner"),
    "owner: results in a file": (
        ("owner", "run", "--party", "owner", *WORKER[-2:], "--out", "charter.toml"),
        "--out",
    ),
    "owner: a way there is not": (("owner", "walk"), "no such command"),
    "owner: resume with a value": (("owner", "run", "--resume=5"), "does not take a value"),
    "secure-worker: no memory": (("secure-worker", "run", "--memory", "0"), "--memory"),
    "secure-worker: memory below 0": (("secure-worker", "run", "--memory", "-4"), "--memory"),
    "secure-worker: memory in words": (("secure-worker", "run", "--memory", "4G"), "--memory"),
    "evaluator: an argument": (("evaluator", "run", "tester"), "unexpected extra argument"),
    # inspect
    "inspect: nothing": (("inspect",), "missing argument 'FILE'"),
    "inspect: two files": (("inspect", "charter.toml", "charter.toml"), "unexpected extra argument"),
    "inspect: no such file": (("inspect", "none.toml"), "no such file"),
    "inspect: no such record": (("inspect", "none.record"), "no such file"),
    "inspect: no such model": (("inspect", "none.safetensors"), "no such file"),
    "inspect: a folder": (("inspect", "alice"), "alice"),
    "inspect: keys": (("inspect", "alice/secret.toml"), "secret keys, which are never shown"),
    "inspect: a device": (("inspect", "/dev/zero"), "not a regular file"),
    "inspect: no such charter beside": (("inspect", "charter.toml", "--charter", "none.toml"), "none.toml"),
    # audit, evidence
    "audit: nothing": (("audit",), "missing argument 'RUN'"),
    "audit: two runs": (("audit", ".", "."), "unexpected extra argument"),
    "audit: no such folder": (("audit", "none"), "none is not a folder"),
    "audit: a file": (("audit", "charter.toml"), "charter.toml is not a folder"),
    "audit: a folder without a charter": (("audit", "alice"), "alice has no charter.toml"),
    "audit: no such charter": (("audit", ".", "--charter", "none.toml"), "cannot read none.toml"),
    "audit: a path that paints": (("audit", "\x1b[2J"), "is not a folder"),
    "evidence: nothing it knows": (("evidence", "weigh"), "no such command 'weigh'"),
    "evidence verify: nothing": (("evidence", "verify"), "missing argument 'FILE'"),
    "evidence verify: no charter": (("evidence", "verify", "charter.toml"), "missing option '--charter'"),
    "evidence verify: no such charter": (
        ("evidence", "verify", "a", "--charter", "none.toml"),
        "cannot read none.toml",
    ),
    # doctor
    "doctor: an argument": ((*DOCTOR, "now"), "unexpected extra argument"),
    "doctor: no such party": (("doctor", "--party", "nobody"), "--party"),
    "doctor: a party that is a file": (("doctor", "--party", "charter.toml"), "--party"),
    "doctor: no time for a task": ((*DOCTOR, "--task-seconds", "0"), "--task-seconds"),
    "doctor: time without end": ((*DOCTOR, "--task-seconds", "inf"), "--task-seconds"),
    "doctor: time that is no number": ((*DOCTOR, "--task-seconds", "nan"), "--task-seconds"),
    "doctor: an option there is not": ((*DOCTOR, "--mend"), "no such option"),
    # demo
    "demo: no such demo": (("demo", "circus"), "circus"),
    "demo: an empty name": (("demo", ""), "demo"),
    "demo: two demos": (("demo", "toy", "digits"), "unexpected extra argument"),
    "demo: a name that paints": (("demo", "\x1b[2J"), "demo"),
    "demo: a mode there is not": (("demo", "toy", "--mode", "mild"), "mild"),
    "demo: a mode with too few secure workers": (
        ("demo", "toy", "--mode", "shamir", "--secure-workers", "2"),
        "3 to 8 holder(s), not 2",
    ),
    "demo: processes where there are no others": (("demo", "toy", "--processes"), "--processes is for halfplane"),
    "demo: no rounds": (("demo", "toy", "--rounds", "0"), "--rounds"),
    "demo: rounds below 0": (("demo", "toy", "--rounds", "-3"), "--rounds"),
    "demo: rounds in words": (("demo", "toy", "--rounds", "ten"), "--rounds"),
    "demo: too many rounds": (("demo", "toy", "--rounds", "100001"), "--rounds"),
    "demo: a seed below 0": (("demo", "toy", "--seed", "-1"), "--seed"),
    "demo: a seed of 64 bits": (("demo", "toy", "--seed", str(2**63)), "--seed"),
    "demo: a seed in words": (("demo", "toy", "--seed", "0x7"), "--seed"),
    "demo: a folder with something in it": (("demo", "toy", "--out", "alice"), "alice is not empty"),
    "demo: a folder that is a file": (("demo", "toy", "--out", "charter.toml"), "charter.toml"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_command_line_is_refused_in_one_sentence(place: Place, one_sentence: Any, name: str) -> None:
    arguments, word = CASES[name]
    # What is typed comes back whole, so that its author finds it; a process has no NUL in its arguments.
    one_sentence(*arguments, words=(word,), longest=6000)


def test_every_command_has_cases_of_its_own() -> None:
    typed = {arguments[0] for arguments, _ in CASES.values()}
    assert set(cli.COMMANDS) <= typed
    top = group(cli.COMMANDS)
    for name in cli.COMMANDS:
        command = top.get_command(click.Context(top), name)
        if isinstance(command, click.Group):
            for inner in command.commands:
                assert any(arguments[:2] == (name, inner) for arguments, _ in CASES.values()), (name, inner)


PROCESSES = (
    "no such command",
    "keygen: a name that is a path",
    "verify: a path that is not UTF-8",
    "demo: no such demo",
)


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_of_its_own_says_the_same(place: Place, unchanged: Any, name: str) -> None:
    arguments, word = CASES[name]
    with unchanged(place.root):
        done = subprocess.run(
            [sys.executable, "-m", "tertium", *map(os.fsencode, arguments)],
            cwd=place.root,
            capture_output=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
    assert done.returncode == 2
    assert done.stdout == b""
    said = done.stderr.decode()
    assert said.count("\n") == 1
    assert said.startswith("tertium: ")
    assert word in said
