"""The MNIST demo: its data, its table and pictures, and eleven rounds beside the same batches in plain PyTorch."""

import gzip
import io
import json
import os
import re
import socket
import struct
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tertium import cli
from tertium.cli.demos import folder as folders
from tertium.cli.demos import mnist
from tertium.cli.demos.errors import DemoError
from tertium.cli.demos.launcher import Line
from tertium.cli.demos.mnist import FEDERATED, Group, gather, prepare, table
from tertium.cli.demos.recipes import MNIST
from tertium.cli.demos.screen import Panes, Plain
from tertium.cli.trust import trust
from tertium.learning import datasets
from tertium.learning.errors import DatasetError
from tertium.protocol.progress import Scored, ScoredOwn, Started
from tertium.protocol.site import load_site

ROOT = Path(__file__).resolve().parents[2]
FILES = tuple(datasets.MNIST_FILES)
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = FILES
COUNTS = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
"""Training images of each digit."""
OWNERS = {"alice": (0, 1, 2, 3), "bob": (4, 5, 6), "charlie": (7, 8, 9)}
GROUPS = [Group(name, digits, share) for (name, digits), share in zip(OWNERS.items(), (0.4, 0.3, 0.3), strict=True)]
LONG = os.environ.get("TERTIUM_LONG") == "1"
ROUNDS, SEED = 11, 1
TESTED = 1000
"""Test images of the run: scoring all 10,000 eight times would cost more than the eleven rounds."""


def idx(array: Any) -> bytes:
    array = np.asarray(array, dtype=np.uint8)
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder with an image of each digit to train on, and three to test on."""
    folder = tmp_path / "small"
    folder.mkdir()
    contents = (np.zeros((10, 28, 28)), range(10), np.zeros((3, 28, 28)), [0, 0, 9])
    for name, content in zip(FILES, contents, strict=True):
        (folder / name).write_bytes(gzip.compress(idx(content), mtime=0))
    return folder


# --- its data


def test_every_party_gets_the_folder_and_the_owners_their_rounds(small: Path, tmp_path: Path) -> None:
    recipe = prepare(MNIST, small)
    (act,) = recipe.acts(recipe.rounds, 5)
    folders.write_parties(recipe, trust("trusted", None), tmp_path, act.plan)
    for member in recipe.members:
        site = load_site(tmp_path / member.name / "site.toml")
        if member.options is None:
            assert site.tasks == {}
            continue
        task = site.tasks["mnist"]
        assert task.options == {"data": str(small), "digits": list(OWNERS.get(member.name, ())), "test": True}
        assert task.evaluate_own_rounds == ((1, 11, 21, 31, 40) if member.name in OWNERS else ())
    assert MNIST.members[0].options == {"digits": [], "test": True}


def test_the_plan_is_the_tutorials() -> None:
    (act,) = MNIST.acts(MNIST.rounds, 0)
    first, last = act.plan.training_plan(0), act.plan.training_plan(39)
    assert first == last
    assert (act.plan.rounds, first.batches, first.batch_size, first.learning_rate) == (40, 10, 32, 0.1)
    assert (first.momentum, first.kind.value, act.plan.reduction) == (0.0, "weights", "mean")
    evaluated = {
        rounds: [at + 1 for at in range(rounds) if MNIST.acts(rounds, 0)[0].plan.evaluates_after(at)]
        for rounds in (1, 2, 11, 12, 40, 41)
    }
    assert evaluated == {
        1: [1],
        2: [1, 2],
        11: [1, 11],
        12: [1, 11, 12],
        40: [1, 11, 21, 31, 40],
        41: [1, 11, 21, 31, 41],
    }
    assert {member.name: tuple(member.options["digits"]) for member in MNIST.members if member.options} == {
        "owner": (),
        **OWNERS,
    }


def without(folder: Path, name: str) -> None:
    (folder / name).unlink()


def truncated(folder: Path) -> None:
    (folder / TRAIN_IMAGES).write_bytes((folder / TRAIN_IMAGES).read_bytes()[:-9])


def other_sizes(folder: Path) -> None:
    (folder / TEST_IMAGES).write_bytes(idx(np.zeros((3, 8, 9))))


def nothing_to_test_on(folder: Path) -> None:
    (folder / TEST_IMAGES).write_bytes(idx(np.zeros((0, 28, 28))))
    (folder / TEST_LABELS).write_bytes(idx([]))


def nothing_for_bob(folder: Path) -> None:
    (folder / TRAIN_LABELS).write_bytes(idx([0, 1, 2, 3, 7, 7, 7, 7, 8, 9]))


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    **{f"no {name}": (lambda folder, name=name: without(folder, name), f"small/{name}") for name in FILES},  # type: ignore[misc]
    "truncated": (truncated, "is truncated"),
    "other images": (other_sizes, "images of 8 x 9 pixels, not 28 x 28"),
    "no test image": (nothing_to_test_on, "holds no test image"),
    "nothing for bob": (nothing_for_bob, "holds no training image of the digits 4-6"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_folder_is_checked_before_anything_is_written(
    small: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    spoil, words = BAD[what]
    spoil(small)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", "mnist", "--data", str(small)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(r"tertium: [^\n]+\n", err), err
    assert words in err
    assert "--data names a folder with the four original files of MNIST" in err
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_data_for_a_demo_that_has_its_own_are_refused(
    small: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for demo in ("toy", "digits"):
        assert cli.main(["demo", demo, "--data", str(small)]) == 2
        assert capfd.readouterr() == (
            "",
            f"tertium: --data is for the demo mnist; {demo} has its data with it, so leave --data out\n",
        )
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_without_a_folder_the_users_cache_is_filled_once(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pooch")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = []

    def fetch(cache: Path) -> Path:
        asked.append(cache)
        cache.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (cache / name).write_bytes((small / name).read_bytes())
        return cache

    monkeypatch.setattr(mnist, "fetch_mnist", fetch)
    for said in ("fetching MNIST (11 MB), once, into ", ""):
        recipe = prepare(MNIST, None)
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith(said)
        assert bool(err) is bool(said)
    assert asked == [tmp_path / "cache" / "tertium" / "mnist"] * 2
    assert recipe.member("alice").options["data"] == str(asked[0])


def test_without_a_network_one_sentence_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pooch")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, and nobody listens
        url, fetch = f"http://127.0.0.1:{nobody.getsockname()[1]}", datasets.fetch_mnist
        monkeypatch.setattr(mnist, "fetch_mnist", lambda cache: fetch(cache, url, timeout=5))
        with pytest.raises(DemoError, match=r"could not be downloaded from .*ConnectionError; .* with --data$") as why:
            prepare(MNIST, None)
    assert "\n" not in str(why.value)


def test_labels_are_those_of_both_halves(small: Path) -> None:
    train, test = datasets.mnist_labels(small)
    assert (train.tolist(), test.tolist()) == (list(range(10)), [0, 0, 9])
    without(small, TEST_LABELS)
    with pytest.raises(DatasetError, match="no file"):
        datasets.mnist_labels(small)


# --- what it shows


def shares(*group: float) -> tuple[float, ...]:
    """Return shares of ten digits that lie in three groups."""
    return tuple(group[place] / len(digits) for place, digits in enumerate(OWNERS.values()) for _ in digits)


def own(number: int, accuracy: float, *group: float) -> ScoredOwn:
    return ScoredOwn(number, 10_000, 2.5, accuracy, shares(*group))


FEDERATED_SCORES = [
    Scored(1, "owner", 10_000, 2.25, 0.17, shares(0.1, 0.2, 0.7)),
    Scored(11, "owner", 10_000, 0.5, 0.87, shares(0.4, 0.3, 0.3)),
]
OWN_SCORES = {
    "bob": [own(1, 0.09, 0, 1, 0)],
    "alice": [own(1, 0.1, 0, 1, 0), own(1, 0.2875, 1, 0, 0), own(11, 0.5, 1, 0, 0)],
}


def test_the_table_is_what_the_parties_said() -> None:
    found = gather(GROUPS, FEDERATED_SCORES, OWN_SCORES)
    assert found.groups == ("0-3", "4-6", "7-9")
    assert [(row.round, row.model) for row in found.rows] == [
        *((1, "alice"), (1, "bob"), (1, FEDERATED), (11, "alice"), (11, FEDERATED))
    ]
    assert found.of("alice")[0].accuracy == 0.2875  # of a round that was scored twice, the last
    assert [round(share, 9) for share in found.of(FEDERATED)[0].shares] == [0.1, 0.2, 0.7]
    lines = [line.split() for line in table(found)]
    assert ["1", "alice", "100.00%", "0.00%", "0.00%", "2.5000", "28.75%"] in lines
    assert ["bob", "0.00%", "100.00%", "0.00%", "2.5000", "9.00%"] in lines
    assert ["11", "alice", "100.00%", "0.00%", "0.00%", "2.5000", "50.00%"] in lines
    assert ["federated", "40.00%", "30.00%", "30.00%", "0.5000", "87.00%"] in lines
    assert ["true", "shares", "40.00%", "30.00%", "30.00%"] in lines


def test_the_table_stands_in_the_run_folder_as_a_file_and_as_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    lines = mnist.evaluation(GROUPS, tmp_path, FEDERATED_SCORES, OWN_SCORES)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(written) == {
        "evaluation.json",
        *(f"{name}.{kind}" for name in ("accuracy", "digit-groups") for kind in ("png", "svg")),
    }
    assert all(name in lines[-1] for name in written)
    found = json.loads(written["evaluation.json"])
    assert found["true_shares"] == [0.4, 0.3, 0.3]
    assert found["rows"][-1] == {
        "round": 11,
        "model": "federated",
        "examples": 10_000,
        "shares": pytest.approx([0.4, 0.3, 0.3]),
        "loss": 0.5,
        "accuracy": 0.87,
    }
    for name in ("accuracy", "digit-groups"):
        assert written[f"{name}.png"].startswith(b"\x89PNG")
    for words in ("accuracy, %", "round", "federated", "alice&#x27;s own, trained on 0-3"):
        assert f">{words}</text>".replace("&#x27;", "'").encode() in written["accuracy.svg"], words
    for words in ("share of answers, %", "0-3, true share", "7-9 (charlie's)"):
        assert f">{words}</text>".encode() in written["digit-groups.svg"], words


def test_a_pipe_shows_each_of_the_few_scores(capfd: pytest.CaptureFixture[str]) -> None:
    screen = Plain(MNIST, 40, verbose=False)
    for number in (1, 11, 21):
        for party, said in (("alice", own(number, 0.5, 1, 0, 0)), ("owner", Scored(number, "owner", 9, 1.0, 0.5))):
            screen.line(Line(party, said, said.line()))
    out = capfd.readouterr().out
    assert re.findall(r"^alice   \| round (\d+): own model on 10000", out, re.MULTILINE) == ["1", "11", "21"]
    assert re.findall(r"^owner   \| round (\d+): global model on 9", out, re.MULTILINE) == ["1", "11", "21"]


def test_a_pane_shows_all_counts() -> None:
    out = io.StringIO()
    with Panes(MNIST, 40, Console(file=out, force_terminal=True, width=120, height=40, legacy_windows=False)) as screen:
        text = f"mnist: digits 0-3: 24754 examples (0: {COUNTS[0]}, 1: {COUNTS[1]}, 2: {COUNTS[2]}, 3: {COUNTS[3]})"
        started = Started(party="alice", role="data owner", pid=1, text=text)
        screen.line(Line("alice", started, started.line()))
        screen.line(Line("alice", said := own(11, 0.5, 1, 0, 0), said.line()))
    for count in COUNTS[:4]:
        assert str(count) in out.getvalue()
    assert "11: own model 50.00%, loss 2.5000" in out.getvalue()


# --- eleven rounds with the real data


def real() -> Path | None:
    """Return the folder with the original files, where there is one."""
    named = os.environ.get("TERTIUM_MNIST")
    folder = Path(named) if named else ROOT.parent / "shared" / "data" / "mnist"
    return folder if folder.is_dir() else None


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """The original training images, and the first of the test images."""
    source = real()
    if source is None:
        pytest.skip("the MNIST files are not here; TERTIUM_MNIST names their folder")
    folder = tmp_path / "cut"
    folder.mkdir()
    for name in (TRAIN_IMAGES, TRAIN_LABELS):
        (folder / name).symlink_to(source.resolve() / name)
    for name in (TEST_IMAGES, TEST_LABELS):
        (folder / name).write_bytes(gzip.compress(idx(datasets.read_idx(source / name)[:TESTED]), 1))
    return folder


@pytest.mark.skipif(any(find_spec(name) is None for name in ("torch", "matplotlib")), reason="needs torch")
@pytest.mark.skipif(not LONG, reason="set TERTIUM_LONG=1, or run make long")
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.xdist_group("demo")
def test_eleven_rounds_are_those_of_one_plain_process(
    demo: Callable[..., Any], cut: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from safetensors.numpy import load_file

    from benchmarks.mnist import plain

    words = (sys.executable, "-m", "tertium", "demo")
    run = demo(words, "mnist", "--data", str(cut), "--rounds", str(ROUNDS), "--seed", str(SEED))
    expected = plain(cut, SEED, ROUNDS)
    assert run.wait(within=400) == 0, run.err
    assert run.gone()

    for digits in OWNERS.values():
        counts = ", ".join(f"{digit}: {COUNTS[digit]}" for digit in digits)
        assert f"{sum(COUNTS[digit] for digit in digits)} examples ({counts})" in run.out
    assert f"test: {TESTED} examples (0: " in next(line for line in run.out.splitlines() if "model owner owner" in line)

    found = json.loads((run.run / "evaluation.json").read_text())
    rows = {(row["round"], row["model"]): row for row in found["rows"]}
    assert set(rows) == {(number, model) for number in (1, ROUNDS) for model in (*OWNERS, FEDERATED)}
    for place, owner in enumerate(OWNERS):
        blind = rows[1, owner]
        assert blind["accuracy"] <= found["true_shares"][place] + 0.01
        assert blind["shares"][place] > 0.95
        # Each owner's figures stand in its own pane, and with nobody else.
        assert run.log(owner).count("own model on") == 2
    for other in ("owner", "third"):
        assert "own model" not in run.log(other)
    for line in table(gather([], [], {}))[:1]:
        assert line in run.out

    trained = load_file(run.run / "model.safetensors")
    assert set(trained) == set(expected.weights)
    for name, value in expected.weights.items():
        np.testing.assert_allclose(trained[name], value.numpy(), rtol=0, atol=1e-4, err_msg=name)
    assert abs(rows[ROUNDS, FEDERATED]["accuracy"] - expected.accuracy) <= 0.002
    assert rows[ROUNDS, FEDERATED]["accuracy"] > 0.7
