"""The halfplane: the population in one process against plain arithmetic, what its folder holds, and how it ends."""

import json
import os
import re
import signal
import struct
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from tertium import cli
from tertium.cli.demos import baseline, halfplane_pictures
from tertium.cli.demos import folder as folders
from tertium.cli.demos.errors import DemoError, PartyFailed, StoppedByOperator
from tertium.cli.demos.launcher import Launcher, Line
from tertium.cli.demos.play import play
from tertium.cli.demos.population import Population
from tertium.cli.demos.recipes import Act, Member, Recipe, few, in_trust, population, recipe
from tertium.cli.demos.screen import Plain
from tertium.cli.trust import trust
from tertium.learning.points import BOUNDARY, held_out_points, training_points
from tertium.protocol.charter import Role
from tertium.protocol.errors import CharterError, SiteFileError
from tertium.protocol.progress import Ended, Opened, RoundDone, RoundOpened, Said, Scored, Started, TrainedLocally
from tertium.protocol.site import OwnerPlan

TORCH = find_spec("torch") is not None
TERTIUM = (sys.executable, "-m", "tertium", "demo")
OWNERS, COHORT, ROUNDS, SEED = 7, (3, 5), 4, 3


def drawn(number: int, names: list[str]) -> list[str]:
    """The cohort of a round, computed as a stranger would."""

    def framed(label: str, *parts: bytes) -> bytes:
        return blake3(b"".join(struct.pack(">Q", len(part)) + part for part in (label.encode(), *parts))).digest()

    at, (least, most) = (struct.pack(">Q", SEED), struct.pack(">Q", number)), COHORT
    size = least + int.from_bytes(framed("tertium/1 cohort size", *at), "big") % (most - least + 1)
    return sorted(sorted(names, key=lambda name: framed("tertium/1 cohort sample", *at, name.encode()))[:size])


def plainly(start: np.ndarray, cohorts: list[list[str]]) -> np.ndarray:
    """Three parameters, w1, w2 and the constant, after the same rounds: float64, gradients by hand, Adam by its paper.

    A sum over an owner's batches of 1,000 of mean gradients, all at one model, is a thousandth of the sum over its
    points, in whatever order they come.
    """
    weights, first, second = start.copy(), np.zeros(3), np.zeros(3)
    for number, cohort in enumerate(cohorts, 1):
        gradient = np.zeros(3)
        for name in cohort:
            party = int(name[1:]) - 1
            inputs, labels = training_points(SEED, party, 1000 * (5 + party % 5))
            inputs = np.hstack([inputs.astype(np.float64), np.ones((len(inputs), 1))])
            score = inputs @ weights
            slope = np.where(score > 0, 1.0, 0.2)
            gradient += ((1 / (1 + np.exp(-score * slope)) - labels) * slope) @ inputs / 1000
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        weights -= (first / (1 - 0.9**number)) / (np.sqrt(second / (1 - 0.999**number)) + 1e-8)
    return weights


class BaselineHere:
    """The baseline's answer, without a process of its own and the seconds torch takes to load there."""

    done = True

    def __init__(self, recipe: Recipe, acts: tuple[Act, ...], seed: int, owners: int, folder: Path) -> None:
        rounds = tuple((act.first, act.plan) for act in acts)
        self._question = baseline.Question(recipe.factory, dict(recipe.pooled), rounds, owners, seed)

    def answer(self) -> baseline.Answer:
        return baseline.answer(self._question)

    def close(self) -> None:
        pass


@pytest.mark.skipif(not TORCH, reason="needs torch")
def test_a_small_population_trains_as_one_process_would(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr("tertium.cli.demos.play.Baseline", BaselineHere)
    run, small = tmp_path / "run", population(SEED, OWNERS, COHORT)
    done = play(small, trust("trusted"), rounds=ROUNDS, seed=SEED, out=run, as_json=False, verbose=False)
    out = capfd.readouterr().out
    assert done == 0

    names = [member.name for member in small.named(Role.DATA_OWNER)]
    cohorts = [drawn(number, names) for number in range(1, ROUNDS + 1)]
    asked = re.findall(r"round \d+: asking (.*)", (run / "owner" / "log").read_text())
    assert [line.split(", ") for line in asked] == cohorts
    assert {len(cohort) for cohort in cohorts} == {3, 4, 5}

    torch.manual_seed(SEED)
    fresh = torch.nn.Linear(2, 1)
    start = torch.cat([fresh.weight.detach().reshape(-1), fresh.bias.detach()]).double().numpy()
    constant, *weights = halfplane_pictures.learned(run / "model.safetensors")
    np.testing.assert_allclose([*weights, constant], plainly(start, cohorts), rtol=0, atol=2e-5)

    inputs, labels = held_out_points(SEED)
    right = float(((inputs @ weights + constant > 0) == (labels > 0.5)).mean())
    pooled = plainly(start, [names] * ROUNDS)
    in_one_place = float(((inputs @ pooled[:2] + pooled[2] > 0) == (labels > 0.5)).mean())
    summary = json.loads((run / "summary.json").read_text())
    assert summary["accuracy"] == pytest.approx(right, abs=2e-4)
    assert summary["checks"] == {"verified": ROUNDS}
    assert summary["centralised"]["accuracy"] == pytest.approx(in_one_place, abs=2e-4)
    assert {party["pid"] for party in summary["parties"]} == {os.getpid()}

    updates = sum(map(len, cohorts))
    assert f"third (secure worker) opened each single update of {', '.join(names)}, {updates} in all" in out
    assert f"owner (model owner) got {ROUNDS} sums, each over 3 or 4 or 5 updates, and 0 single ones." in out
    assert "Pictures, each as PNG and SVG: boundary, loss, accuracy." in out
    for picture in ("progress", "boundary", "loss", "accuracy"):
        assert (run / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (run / f"{picture}.svg").read_text()
    for member in small.members:
        assert (run / member.name / "state" / "journal.db").stat().st_mode & 0o777 == 0o600
    assert "points: 5000 examples" in (run / "p01" / "log").read_text()

    assert cli.main(["audit", str(run), "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["verdict"] == "clean"
    assert [each["contributors"] for each in report["attempts"]] == cohorts


# --- the population's machinery, without torch


def numbers(owners: int = 4, **changes: Any) -> Recipe:
    """A regression in one process; `changes` are of the plan."""
    plan = {"task": "numbers", "batches": 2, "batch_size": 8, "seed": 5, "cohort": 2, "cohort_most": 4, **changes}
    options = [{"party": number, "examples": 40, "features": 3} for number in range(1, owners + 1)]
    return Recipe(
        name="numbers",
        title="a regression",
        task="numbers",
        factory="tertium.learning.numpy_task:NumpyTask",
        members=(
            Member("owner", Role.MODEL_OWNER, "cyan", "", {"examples": 0, "test_examples": 50, "features": 3}),
            *(Member(f"p{each['party']}", Role.DATA_OWNER, "green", "", each) for each in options),
            Member("third", Role.SECURE_WORKER, "yellow", ""),
        ),
        pooled={"examples": 160, "test_examples": 50, "features": 3},
        rounds=2,
        acts=lambda rounds, seed: (Act("", OwnerPlan(rounds=rounds, **plan)),),
        minimum_cohort=2,
        unsafe_small_cohort="a test",
        needs=(),
        in_one_process=True,
    )


def placed(small: Recipe, run: Path, mode: str = "trusted", workers: int | None = None) -> Population:
    trusted = trust(mode, workers)
    small = in_trust(small, trusted)
    run.mkdir()
    folders.write_parties(small, trusted, run, small.acts(small.rounds, 0)[0].plan)
    return Population(small.members, run, folders.CHARTER)


def test_one_seed_gives_one_model_in_every_mode(tmp_path: Path) -> None:
    models, opened = {}, {}
    for mode, workers in (("trusted", 1), ("masked", 1), ("additive", 2), ("shamir", 3), ("plain", 1)):
        lines: list[Line] = []
        placed(numbers(3, cohort_most=3), tmp_path / mode, mode, workers).act(lines.append, resume=False)
        models[mode] = (tmp_path / mode / "owner" / "state" / "model.safetensors").read_bytes()
        cohorts = [
            line.progress.cohort for line in lines if line.party == "owner" and isinstance(line.progress, RoundOpened)
        ]
        opened[mode] = sum(isinstance(line.progress, Opened) and line.party.startswith("third") for line in lines)
        assert len(cohorts) == 2
        told = [line.progress for line in lines if isinstance(line.progress, Ended)]
        assert len(told) == 3 + 1 + workers
        assert {progress.error for progress in told} == {None}
        assert len([line for line in lines if isinstance(line.progress, Started)]) == 3 + 1 + workers
    assert len(set(models.values())) == 1
    assert opened["additive"] == 2 * opened["trusted"] > 0


def test_seconds_are_those_of_this_machine(tmp_path: Path) -> None:
    lines: list[Line] = []
    placed(numbers(), tmp_path / "run").act(lines.append, resume=False)
    rounds = sum(line.progress.seconds for line in lines if isinstance(line.progress, RoundDone))
    trained = sum(line.progress.seconds for line in lines if isinstance(line.progress, TrainedLocally))
    stamps = [float(line.split()[0]) for line in (tmp_path / "run" / "owner" / "log").read_text().splitlines()]
    assert 0 < trained < rounds <= stamps[-1] + 0.001  # stamps are rounded to a millisecond
    assert stamps == sorted(stamps)


def test_a_party_that_does_not_agree_ends_the_run_by_name(tmp_path: Path) -> None:
    run = tmp_path / "run"
    parties = placed(numbers(), run)
    site = run / "p2" / "site.toml"
    site.write_text(site.read_text().replace("[limits]", '[limits]\nmodes = ["masked"]'))
    with pytest.raises(SiteFileError, match=r"p2/site.toml: limits.modes: the charter's mode is trusted"):
        parties.act(lambda line: None, resume=False)
    assert not (run / "owner" / "state" / "journal.db").exists()
    assert not (run / "owner" / "state" / "model.safetensors").exists()


def test_a_run_that_fails_names_the_party_and_leaves_its_ledgers(tmp_path: Path) -> None:
    run = tmp_path / "run"
    parties = placed(numbers(2, cohort=0, cohort_most=None, metrics=("no_such",)), run)
    with pytest.raises(PartyFailed, match=r"^\S+ \((model owner|data owner|secure worker)\) failed: "):
        parties.act(lambda line: None, resume=False)
    assert all((run / name / "state" / "journal.db").exists() for name in ("owner", "third", "p1", "p2"))
    assert cli.main(["audit", str(run), "--json"]) in (0, 1)


def test_a_signal_ends_it_between_two_turns(tmp_path: Path) -> None:
    run = tmp_path / "run"
    parties = placed(numbers(), run)

    def stop(line: Line) -> None:
        if isinstance(line.progress, RoundDone):
            os.kill(os.getpid(), signal.SIGTERM)

    with parties.signals(), pytest.raises(StoppedByOperator) as caught:
        parties.act(stop, resume=False)
    assert caught.value.number == signal.SIGTERM
    assert (run / "owner" / "state" / "journal.db").exists()
    assert not (run / "owner" / "state" / "model.safetensors").exists()


def test_a_second_act_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CharterError, match="one act"):
        placed(numbers(), tmp_path / "run").act(lambda line: None, resume=True)


# --- recipes, lines, pictures


def test_the_population_is_the_published_one() -> None:
    small = recipe("halfplane", 4)
    (act,) = small.acts(small.rounds, 4)
    plan = act.plan
    assert (plan.rounds, plan.cohort, plan.cohort_most, plan.reduction, plan.kind.value) == (
        100,
        20,
        29,
        "sum",
        "gradients",
    )
    assert plan.optimiser is not None
    assert (plan.optimiser.name, plan.optimiser.options) == ("Adam", {"lr": 1.0})
    assert (plan.training_plan(0).epochs, plan.training_plan(0).batch_size) == (1, 1000)
    held = [member.options for member in small.named(Role.DATA_OWNER)]
    assert len(held) == 40
    assert {each["batches"] for each in held} == {5, 6, 7, 8, 9}
    assert {each["seed"] for each in held} == {4}
    assert len({each["party"] for each in held}) == 40
    assert small.pooled["pooled"] == [each["batches"] for each in held]
    assert BOUNDARY == (0.3, 0.2, 0.8)
    assert small.minimum_cohort == 20
    assert small.in_one_process


def test_the_few_have_a_process_each() -> None:
    six = recipe("halfplane", 2, processes=True)
    assert six.members == few(2).members
    (act,) = six.acts(3, 2)
    assert (len(six.named(Role.DATA_OWNER)), act.plan.cohort, act.plan.cohort_most, six.minimum_cohort) == (6, 5, 6, 5)
    assert not six.in_one_process
    with pytest.raises(DemoError, match="--processes is for halfplane"):
        recipe("toy", processes=True)


def test_a_launcher_of_processes_is_not_a_population() -> None:
    from tertium.cli.demos.play import _launcher_of

    assert _launcher_of(few(0)) is Launcher
    assert _launcher_of(population(0)) is Population


def test_of_a_crowd_only_what_matters_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Plain(population(0), 100, verbose=False)
    for party, progress in (
        ("p07", TrainedLocally(1, 5000, {"loss": 0.5}, 0.1)),
        ("p07", Said(text="something is odd", warning=True)),
        ("owner", Said(text="p07 is connected")),
        ("third", Opened(1, "contribution", "p07", 24)),
        ("p07", Ended()),
        ("p08", Ended(error="no more disk")),
        ("owner", Scored(10, "owner", 10_000, 0.5, 0.9)),
    ):
        screen.line(Line(party, progress, progress.line()))
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0].strip() for line in shown] == ["p07", "p08", "owner"]
    assert "something is odd" in shown[0]
    assert "no more disk" in shown[1]


@pytest.mark.parametrize(
    ("line", "ends"),
    [
        ((0.3, 0.2, 0.8), [(-1.0, -0.125), (1.0, -0.625)]),
        ((0.5, 1.0, 0.0), [(-0.5, -1.0), (-0.5, 1.0)]),
        ((0.0, 1.0, 1.0), [(-1.0, 1.0), (1.0, -1.0)]),
        ((5.0, 1.0, 1.0), []),
        ((0.0, 0.0, 0.0), []),
    ],
)
def test_a_line_is_drawn_from_edge_to_edge(line: tuple[float, float, float], ends: list[tuple[float, float]]) -> None:
    found = halfplane_pictures._ends(*line)
    assert len(found) == len(ends)
    for one, other in zip(found, ends, strict=True):
        assert one == pytest.approx(other)


@pytest.mark.skipif(find_spec("safetensors") is None, reason="needs safetensors")
@pytest.mark.parametrize(
    ("weights", "shown"), [((1.0, 4.0), "+0.200 x1 +0.800 x2"), ((1.0, -4.0), "+1.000 x1 -4.000 x2")]
)
def test_the_learned_line_is_told_in_the_scale_of_the_true_one(
    tmp_path: Path, weights: tuple[float, float], shown: str
) -> None:
    from safetensors.numpy import save_file

    save_file(
        {"0.weight": np.array([weights], dtype=np.float32), "0.bias": np.array([1.5], dtype=np.float32)},
        tmp_path / "model.safetensors",
    )
    true, learned = halfplane_pictures.closing(tmp_path / "model.safetensors")
    assert "+0.300 +0.200 x1 +0.800 x2 > 0" in true
    assert shown in learned


@pytest.mark.skipif(
    not os.environ.get("TERTIUM_TORTURE") or not TORCH, reason="eight torch processes: TERTIUM_TORTURE=1"
)
@pytest.mark.timeout(300)
def test_six_data_owners_run_as_processes(demo: Callable[..., Any]) -> None:
    run = demo(TERTIUM, "halfplane", "--processes", "--rounds", "4", "--seed", "1", "--json")
    assert run.wait(within=240) == 0, run.err
    summary = json.loads(run.out)
    assert len({party["pid"] for party in summary["parties"]}) == 8
    asked = re.findall(r"round \d+: asking (.*)", run.log("owner"))
    assert {len(line.split(", ")) for line in asked} <= {5, 6}
    assert len(asked) == 4
    assert (run.run / "boundary.svg").exists()
    assert run.gone()
