"""What `tertium owner run` does about what an earlier run left: nothing is lost, and no two runs are mixed."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tertium import cli
from tertium.cli import owner as owner_command
from tertium.crypto.sealing import RoundKey
from tertium.learning.registry import load_task
from tertium.learning.task import ServerOptimiser
from tertium.owner.memory import Memory, ReachedKept
from tertium.owner.questions import new_question
from tertium.owner.store import OwnerStore
from tertium.protocol import charter as charters
from tertium.protocol import site
from tertium.protocol.charter import Role
from tertium.protocol.journal import FILE, Journal
from tertium.protocol.messages import Purpose
from tertium.protocol.site import OwnerPlan
from tertium.protocol.training import model_digest

NONCES = (b"o" * 32, {"third": b"h" * 32})
Left = Callable[..., None]
Run = Callable[..., SimpleNamespace]


def first_model() -> Any:
    task = load_task("tertium.learning.numpy_task:NumpyTask", {"examples": 40})
    return task.global_model(0, ServerOptimiser(None, {}, OwnerPlan(task="line", rounds=2).reduction))


def digest(model: Any) -> bytes:
    return model_digest(model.layout, model.to_bytes())


def after(rounds: int, step: float = 0.5) -> Any:
    """A model that has changed in each of these rounds."""
    model = first_model()
    kind = OwnerPlan(task="line", rounds=2).training_plan(0).kind
    for number in range(rounds):
        entries = model.layout.updated(kind)
        model.apply(kind, [np.full(math.prod(entry.shape), step + number) for entry in entries])
    return model


@pytest.fixture
def out(place: Any) -> Path:
    return place.root / "owner" / "state"


@pytest.fixture
def left(place: Any, out: Path) -> Left:
    """Leave what a run leaves that was ended: checkpoints, a session that came to some round, a question."""

    def leave(
        rounds: int = 0,
        *,
        folder: Path | None = None,
        checkpoints: int | None = None,
        session: bool = True,
        question: bool = False,
        finished: bool = False,
        step: float = 0.5,
    ) -> None:
        out.mkdir(mode=0o700, exist_ok=True)
        store = OwnerStore(folder or out)
        store.prepare()
        for number in range(1, (rounds if checkpoints is None else checkpoints) + 1):
            store.checkpoint(after(number, step), number)
        if session:
            identity, charter = place.identities["owner"], charters.load(place.path)
            journal = Journal.of(identity, Role.MODEL_OWNER, out)
            memory, model = Memory(charter, journal), after(rounds)
            memory.open_session(*NONCES, ReachedKept(rounds, digest(model), store.place, finished))
            if question:
                plan = OwnerPlan(task="line", rounds=2, metrics=("loss",))
                asked = new_question(
                    identity,
                    charter,
                    plan,
                    model,
                    NONCES,
                    purpose=Purpose.TRAIN,
                    number=rounds + 1,
                    cohort=("alice", "bob", "carol"),
                )
                memory.sign_question(asked[1], asked[2])
            journal.close()

    return leave


@pytest.fixture
def run(place: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command up to where it would connect; the machine it made has begun."""

    def it(*options: str) -> SimpleNamespace:
        made: list[Any] = []

        def begin(workplace: Any, machine: Any, text: str, *, watch_stdin: bool) -> int:
            machine.start(0.0)
            made.append(machine)
            return 0

        monkeypatch.setattr(owner_command, "run_machine", begin)
        capfd.readouterr()
        words = ["owner", "run", "--party", str(place.root / "owner"), "--charter", str(place.path), *options]
        status = cli.main(words)
        said, err = capfd.readouterr()
        assert err.count("\n") == (0 if status == 0 else 1)
        assert status == (0 if made else 2)
        machine = made[0] if made else None
        return SimpleNamespace(out=said, err=err, machine=machine)

    return it


def in_a_session(machine: Any) -> bool:
    """Whether the machine goes on in the session that was left."""
    assert machine is not None
    return machine._session is not None


def test_an_unfinished_session_is_not_begun_beside(run: Run, left: Left, out: Path) -> None:
    left(question=True)
    before = (out / FILE).read_bytes()
    for options in ((), ("--out", str(out.parent / "other"))):
        done = run(*options)
        assert done.machine is None
        assert "left its session unfinished after round 0" in done.err
        assert str(out) in done.err
        assert "--resume" in done.err
    assert (out / FILE).read_bytes() == before
    assert not (out.parent / "other").exists()


def test_a_crash_in_the_first_round_is_gone_on_from(run: Run, left: Left) -> None:
    left(question=True)
    done = run("--resume")
    assert in_a_session(done.machine)
    question, _, key = done.machine._pending
    assert (question.round, question.attempt) == (1, 0)
    assert isinstance(key, RoundKey)
    assert "no checkpoint: beginning with the first round" in done.out


@pytest.mark.parametrize("question", [False, True])
def test_a_crash_in_a_later_round_is_gone_on_from(run: Run, left: Left, question: bool) -> None:
    left(1, question=question)
    done = run("--resume")
    assert in_a_session(done.machine)
    assert (done.machine._pending is not None) is question
    assert done.machine._round == 1
    assert "no checkpoint" not in done.out


def test_a_crash_between_checkpoint_and_journal_is_gone_on_from(run: Run, left: Left, place: Any, out: Path) -> None:
    left(0, checkpoints=1, question=True)
    done = run("--resume")
    assert in_a_session(done.machine)
    assert (done.machine._round, done.machine._pending) == (1, None)
    journal = Journal.of(place.identities["owner"], Role.MODEL_OWNER, out)
    memory = Memory(charters.load(place.path), journal)
    assert memory.question() is None
    assert memory.goes_on_from(1, digest(after(1)), "elsewhere")
    journal.close()


@pytest.mark.parametrize(
    ("rounds", "question", "there"),
    [(1, True, 0), (1, False, 0), (1, True, 2), (2, False, 1), (0, True, 1), (1, False, 1), (2, True, 2)],
)
def test_another_folder_than_the_one_of_the_interrupted_run_is_refused_and_nothing_is_lost(
    run: Run, left: Left, place: Any, out: Path, rounds: int, question: bool, there: int
) -> None:
    place.admitted("owner")
    left(rounds, question=question)
    other = out.parent / "other"
    left(there, folder=other, session=False, step=0.25)
    before = {path: path.read_bytes() for path in out.parent.rglob("*") if path.is_file()}
    done = run("--resume", "--out", str(other))
    assert done.machine is None
    assert f"left unfinished after round {rounds} goes on from the checkpoints in {out}" in done.err
    assert f"{other} is at another model" in done.err
    assert {path: path.read_bytes() for path in out.parent.rglob("*") if path.is_file()} == before
    assert in_a_session(run("--resume").machine)


def test_a_folder_that_was_moved_is_the_same_run(run: Run, left: Left, out: Path) -> None:
    left(1, folder=out.parent / "results", question=True)
    (out.parent / "results").rename(out.parent / "moved")
    assert in_a_session(run("--resume", "--out", str(out.parent / "moved")).machine)


def test_a_session_can_be_given_up(run: Run, left: Left, out: Path) -> None:
    left(1, question=True)
    other = str(out.parent / "other")
    assert not in_a_session(run("--new-session", "--out", other).machine)
    assert not in_a_session(run("--new-session", "--resume", "--out", other).machine)
    assert run("--new-session").machine is None  # its checkpoints are still not written over
    done = run("--new-session", "--resume")
    assert not in_a_session(done.machine)
    assert done.machine._round == 1


def test_a_run_that_was_finished_stands_in_nobodys_way(run: Run, left: Left, out: Path) -> None:
    left(2, finished=True)
    assert not in_a_session(run("--out", str(out.parent / "next")).machine)
    assert not in_a_session(run("--out", str(out.parent / "next"), "--resume").machine)
    assert "holds a checkpoint of round 2: add --resume" in run().err
    assert in_a_session(run("--resume").machine)  # to say goodbye again


def test_resuming_from_nothing_begins_with_the_first_round_and_says_so(run: Run) -> None:
    done = run("--resume")
    assert "no checkpoint: beginning with the first round" in done.out
    assert (done.machine._round, in_a_session(done.machine)) == (0, False)
    assert "no checkpoint" not in run().out


def test_a_session_under_another_charter_is_over(run: Run, left: Left, place: Any) -> None:
    left(1, question=True)
    place.write(serial=2)
    done = run("--resume")
    assert not in_a_session(done.machine)
    assert done.machine._round == 1


@pytest.mark.parametrize("name", ["owner", "third", "alice", "tester"])
@pytest.mark.parametrize(
    ("what", "words"),
    [("garbage", "it is damaged"), ("folder", "is not a regular file"), ("another's", "is the journal of somebody")],
)
def test_a_journal_that_cannot_be_used_is_one_sentence_for_every_role(
    place: Any, capfd: pytest.CaptureFixture[str], name: str, what: str, words: str
) -> None:
    role = charters.load(place.path).party(name).role
    state = place.root / name / "state"
    state.mkdir(mode=0o700)
    if what == "garbage":
        (state / FILE).write_bytes(os.urandom(9000))
    elif what == "folder":
        (state / FILE).mkdir()
    else:
        Journal(state / FILE, party="somebody", role=role, signing=bytes(32)).close()
    command = {"owner": "owner", "third": "secure-worker", "tester": "evaluator"}.get(name, "worker")
    status = cli.main([command, "run", "--party", str(place.root / name), "--charter", str(place.path)])
    said, err = capfd.readouterr()
    assert status == 2
    assert err.startswith("tertium: ")
    assert words in err
    assert err.count("\n") == 1
    assert words in said  # the last line of progress too


def test_the_plan_of_these_tests_is_the_one_on_disk(place: Any) -> None:
    plan = site.load_site(place.root / "owner" / "site.toml").owner
    assert plan == OwnerPlan(task="line", rounds=2, metrics=("loss",))
