"""The first 60 seeds, and the command that plays more of them."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tertium.crypto.sharing.registry import built_in
from tertium.protocol.charter import Mode, Role
from tertium.simulation import torture
from tertium.simulation.conspiracy import CONSPIRACIES
from tertium.simulation.lies import AMONG_SEVERAL, lies_of
from tertium.simulation.scenario import CONSPIRACY, FAMILIES, WORKERS, draw, kinds
from tertium.simulation.torture import Verdict, explain, main, replay_command, run

SEEDS, SHARE, LONG = 60, 20, 500
"""What is played here, in one test, and with `make long`."""


@pytest.mark.parametrize("first", range(0, SEEDS, SHARE))
def test_no_invariant_breaks(first: int) -> None:
    broken = [each for each in run(range(first, first + SHARE)) if each.broken]
    assert not broken, "\n".join(explain(each.seed, each.broken) for each in broken)


def test_the_seeds_of_the_tests_are_of_every_family() -> None:
    families = [draw(seed).family for seed in range(LONG)]
    for family, share in FAMILIES.items():
        assert families.count(family) >= LONG * share / 200, family
    assert sum(FAMILIES.values()) == 100


def test_every_mode_that_runs_is_drawn_soon() -> None:
    """Nobody has to remember a new mode, a new scheme, or another number of secure workers."""
    drawn = [draw(seed) for seed in range(200)]
    seen = {(each.mode, each.rules.scheme.name, len(each.workers)) for each in drawn}
    assert seen == {(kind.mode, kind.scheme, kind.workers) for kind in kinds()}
    assert {kind.scheme for kind in kinds()} == set(built_in())
    assert {kind.mode for kind in kinds()} == set(Mode)
    assert any(kind.spare for kind in kinds())
    assert any(len(each.workers) > 1 and each.mode is Mode.SHARED for each in drawn)


def test_in_every_mode_somebody_lies_and_every_lie_is_told() -> None:
    lying = [each for each in map(draw, range(8000)) if each.hostile]
    seen = {(each.mode, each.rules.scheme.name, len(each.workers), each.roles[each.hostile or ""]) for each in lying}
    assert seen == {(kind.mode, kind.scheme, kind.workers, role) for kind in kinds() for role in Role}
    told = {(each.roles[each.hostile or ""], each.lie) for each in lying if each.lie}
    conspiracies = {(Role.MODEL_OWNER, lie) for lie in CONSPIRACIES}
    assert told == {(role, lie) for role in Role for lie in lies_of(role)} | conspiracies
    assert {each.hostile for each in lying} >= set(WORKERS)
    assert not any(each.lie in AMONG_SEVERAL[Role.SECURE_WORKER] for each in lying if len(each.workers) == 1)


def test_a_scenario_is_the_same_each_time_and_in_words() -> None:
    for seed in range(50):
        assert draw(seed) == draw(seed)
        assert all("\n" not in line and line for line in draw(seed).words())
    assert len({repr(draw(seed)) for seed in range(50)}) == 50


def test_two_processes_play_what_one_does() -> None:
    assert list(run(range(4), 2)) == list(run(range(4)))


def test_the_command_names_seed_invariant_scenario_and_replay(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks_at_three(seed: int, folder: Path, family: str | None = None) -> Verdict:
        return Verdict(seed, ("ExactSum: one too many",) if seed == 3 else (), 1, 0, 10)

    monkeypatch.setattr(torture, "verdict", breaks_at_three)
    assert main(["--seeds", "0:5"]) == 1
    said = capsys.readouterr().out
    assert "seed 3: ExactSum: one too many" in said
    assert all(line in said for line in draw(3).words())
    assert f"replay: {replay_command(3)}" in said
    assert "5 simulations" in said
    assert main(["--seeds", "0:3"]) == 0
    assert main(["--seeds", "0:5", "--family", "full disk"]) == 1
    said = capsys.readouterr().out
    assert all(line in said for line in draw(3, "full disk").words())
    assert f"replay: {replay_command(3, 'full disk')}" in said


def test_one_family_alone_can_be_played(capsys: pytest.CaptureFixture[str]) -> None:
    assert {draw(seed, "calm").family for seed in range(20)} == {"calm"}
    words = shlex.split(replay_command(2, CONSPIRACY))
    assert main(words[3:]) == 0
    said = capsys.readouterr().out
    assert "is its accomplice" in said
    assert "owner ended: it has what it came for" in said


def test_the_replay_command_plays_one_seed_with_all_that_happened(capsys: pytest.CaptureFixture[str]) -> None:
    words = replay_command(2).split()
    assert words[:3] == ["python", "-m", "tertium.simulation.torture"]
    assert main(words[3:]) == 0
    said = capsys.readouterr().out
    assert "says" in said
    assert "seed 2: no invariant broken" in said
    assert "owner ended: " in said


@pytest.mark.parametrize("seeds", ["5:5", "9:2", "x", "1:y"])
def test_seeds_that_are_none_are_refused(seeds: str) -> None:
    command = [sys.executable, "-m", "tertium.simulation.torture", "--seeds", seeds]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_the_table_of_invariants_is_the_documented_one(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "simulation.md").read_text()
    documented = page.split("<!-- invariants -->\n")[1].split("<!-- end of invariants -->")[0]
    assert main(["--invariants"]) == 0
    assert capsys.readouterr().out == documented
