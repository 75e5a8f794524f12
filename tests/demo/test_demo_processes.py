"""A demo's processes: whoever dies is named, the others say why they end, and nothing is left running."""

import functools
import json
import os
import re
import signal
import stat
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from demos_started import NUMBERS, Demo, started

PARTIES = {
    "owner": "model owner",
    "alice": "data owner",
    "bob": "data owner",
    "charlie": "data owner",
    "third": "secure worker",
}
LONG = ("--rounds", "300", "--fault", "alice", "paced")
"""75 seconds at least, more than any test waits for, and little work: the baseline has to train as many rounds."""
UNDERWAY = "round 1: global model on"
"""The first round is over, and the second begins. Of the rounds after the first the screen shows every tenth."""
Numbers = Callable[..., Any]
WHO_SAW_WHAT = {
    "trusted": (
        ("--mode", "trusted", "--fault", "bob", "noise"),
        (
            "third (secure worker) opened each single update of alice, bob, charlie, 6 in all: it is trusted",
            "owner (model owner) got 2 sums, each over 3 updates, and 0 single ones.",
            "Whether the sums are right: 2 of 2 verified by all who are in them.",
            "Who can read one update: the secure worker.",
        ),
    ),
    "masked": (
        ("--mode", "masked"),
        (
            "third (secure worker) opened 6 updates of alice, bob, charlie, each under a mask it does not know.",
            "owner (model owner) got 2 partial sums, each over 3 updates, and 6 masks' seeds.",
            "Who can read one update: the secure worker with the model owner.",
        ),
    ),
    "additive": (
        ("--mode", "additive", "--secure-workers", "2", "--acts", "2"),
        (
            "third1, third2 (secure workers) opened 12 shares of the updates of alice, bob, charlie, each of them",
            "owner (model owner) got 4 partial sums, each over 3 updates, and 0 single ones.",
            "Who can read one update: both secure workers together.",
        ),
    ),
    "plain": (
        ("--mode", "plain"),
        (
            "owner (model owner) opened each single update of alice, bob, charlie: nothing is hidden from it.",
            "Who can read one update: the model owner.",
        ),
    ),
}
"""By mode: the flag, and what two rounds of three data owners end with, in one act or in two."""

pytestmark = [
    pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for processes in /proc"),
    pytest.mark.xdist_group("demo"),
]


def one_sentence(text: str, *words: str) -> None:
    assert re.fullmatch(r"tertium: [^\n]+\n", text), text
    for word in words:
        assert word in text


def test_runs_five_processes_to_the_end(numbers: Numbers) -> None:
    demo = numbers("--json")
    assert demo.wait() == 0, demo.err
    assert demo.err == ""
    summary = json.loads(demo.out)
    assert demo.out.count("\n") == 1
    assert list(summary) == [
        *("demo", "mode", "rounds", "seed", "parties", "accuracy", "loss", "centralised", "seconds", "run", "checks")
    ]
    assert (summary["demo"], summary["mode"], summary["rounds"], summary["seed"]) == ("numbers", "trusted", 4, 0)
    assert {party["name"]: party["role"].replace("_", " ") for party in summary["parties"]} == PARTIES
    assert len({party["pid"] for party in summary["parties"]}) == 5
    assert summary["centralised"]["accuracy"] > 0.5
    assert summary["checks"] == {"verified": 4}
    assert summary["run"] == str(demo.run)
    assert json.loads((demo.run / "summary.json").read_text()) == summary
    assert demo.gone()
    assert {path.name for path in demo.run.iterdir()} == {
        *PARTIES,
        *("charter.toml", "charter.signatures.toml", "model.safetensors", "summary.json"),
        *("progress.png", "progress.svg", "audit.html", "report.html"),
    }
    assert (demo.run / "progress.png").read_bytes().startswith(b"\x89PNG")
    for party in PARTIES:
        folder = demo.run / party
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "secret.toml").stat().st_mode) == 0o600
        assert "[exit status 0]" in demo.log(party)
        assert f"pid {next(each['pid'] for each in summary['parties'] if each['name'] == party)}" in demo.log(party)
    assert (demo.run / "model.safetensors").read_bytes() == (demo.run / "owner/state/model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def by_mode(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Demo]]:
    """Return a demo of two rounds in a mode that has ended; each runs once."""
    with started(tmp_path_factory.mktemp("modes")) as start:

        @functools.cache
        def ended(mode: str) -> Demo:
            demo = start(NUMBERS, "--rounds", "2", "--seed", "7", *WHO_SAW_WHAT[mode][0])
            assert demo.wait() == 0, demo.err
            return demo

        yield ended


def test_says_who_saw_what_as_counted_and_shows_garbage_as_text(by_mode: Callable[[str], Demo]) -> None:
    demo = by_mode("trusted")
    for line in WHO_SAW_WHAT["trusted"][1]:
        assert line in demo.out
    for data_owner in ("alice", "bob", "charlie"):
        assert re.search(rf"^{data_owner} +\| round 2: trained on 16 examples, loss", demo.out, re.MULTILINE)
    assert 'bob     | {"event":"nonsense"}' in demo.out
    assert "\x1b" not in demo.out
    assert max(len(line) for line in demo.out.splitlines()) < 1000


def test_one_flag_changes_who_saw_what_and_one_seed_gives_one_model(by_mode: Callable[[str], Demo]) -> None:
    models = {}
    for mode, (_, lines) in WHO_SAW_WHAT.items():
        demo = by_mode(mode)
        assert "seed = 7" in (demo.run / "owner/site.toml").read_text()
        for line in lines:
            assert line in demo.out, (mode, demo.out[-2000:])
        assert ("UNSAFE: the model owner reads every single update" in demo.out) is (mode == "plain")
        assert json.loads((demo.run / "summary.json").read_text())["mode"] == mode
        models[mode] = (demo.run / "model.safetensors").read_bytes()
    assert len(models) == 4
    assert set(models.values()) == {models["trusted"]}


@pytest.mark.parametrize("party", ["owner", "bob", "third"])
def test_killing_a_party_names_it_and_ends_the_others(numbers: Numbers, party: str) -> None:
    demo = numbers(*LONG)
    demo.until(UNDERWAY)
    begun = time.monotonic()
    os.kill(demo.pid(party), signal.SIGKILL)
    assert demo.wait(within=30) == 3
    assert time.monotonic() - begun < 20
    one_sentence(demo.err, f"{party} ({PARTIES[party]}) was killed by signal 9 (SIGKILL)")
    assert demo.gone()
    assert not (demo.run / "summary.json").exists()
    for other in PARTIES.keys() - {party}:
        last = demo.log(other).splitlines()
        assert "[exit status 3]" in last[-1], (other, last[-4:])
        assert any("failed: " in line for line in last[-4:]), (other, last[-4:])
        assert "its launcher is gone" not in demo.log(other)


@pytest.mark.slow
def test_a_party_that_hangs_is_named(numbers: Numbers) -> None:
    demo = numbers(*LONG, "--notice", "4")
    demo.until(UNDERWAY)
    os.kill(demo.pid("charlie"), signal.SIGSTOP)
    assert demo.wait(within=60) == 3
    one_sentence(demo.err, "charlie (data owner) did not end with the others and had to be stopped")
    assert demo.gone()


@pytest.mark.parametrize("after", [None, UNDERWAY], ids=["at the start", "in a round"])
@pytest.mark.parametrize("group", [False, True], ids=["launcher", "group"])
def test_ctrl_c_ends_everything(numbers: Numbers, group: bool, after: str | None) -> None:
    demo = numbers(*LONG)
    demo.until(after or f"{LONG[1]} rounds")
    (os.killpg if group else os.kill)(demo.process.pid, signal.SIGINT)
    assert demo.wait(within=20) == 130
    assert demo.err == "tertium: interrupted\n"
    assert "Traceback" not in demo.out
    assert demo.gone()


def test_termination_ends_everything(numbers: Numbers) -> None:
    demo = numbers(*LONG, "--json")
    end = time.monotonic() + 40
    while len(demo.left()) < 5 and time.monotonic() < end:
        time.sleep(0.05)
    demo.process.terminate()
    assert demo.wait(within=20) == 143
    assert demo.out == ""
    assert demo.gone()


def test_nothing_survives_the_launcher(numbers: Numbers) -> None:
    demo = numbers(*LONG)
    demo.until(UNDERWAY)
    assert len(demo.left()) >= 5
    demo.process.kill()
    demo.wait()
    assert demo.gone(within=15)


def test_a_party_that_quits_is_named(numbers: Numbers) -> None:
    demo = numbers("--fault", "alice", "quit")
    assert demo.wait() == 3
    one_sentence(demo.err, "alice (data owner) ended with exit status 7 and no word")
    assert demo.gone()


def test_a_second_ctrl_c_ends_everything_at_once(numbers: Numbers) -> None:
    demo = numbers(*LONG, "--orderly", "300")
    demo.until("bob is connected")
    # One that does not end when it is asked to, and that only the second does not wait for.
    os.kill(demo.pid("charlie"), signal.SIGSTOP)
    demo.process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    demo.process.send_signal(signal.SIGINT)
    assert demo.wait(within=60) == 130
    assert "Traceback" not in demo.err
    assert demo.gone()


def test_a_reader_that_goes_away_ends_everything(numbers: Numbers) -> None:
    """`tertium demo | head -1` leaves nobody running."""
    demo = numbers(*LONG, pipe=True)
    assert demo.process.stdout is not None
    assert demo.process.stdout.readline().startswith(b"tertium demo numbers")
    demo.process.stdout.close()
    assert demo.wait(within=40) == 141
    assert demo.err == ""
    assert demo.gone()
