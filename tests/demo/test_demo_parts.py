"""The parts of a demo that need no process: recipes, folders, lines, pictures, and what is refused."""

import io
import re
import socket
from datetime import datetime
from pathlib import Path

import pytest
from rich.console import Console
from tertium import cli
from tertium.cli.demos import folder as folders
from tertium.cli.demos.launcher import Line, command
from tertium.cli.demos.picture import draw
from tertium.cli.demos.recipes import RECIPES, TOY_INPUTS, TOY_TARGETS, Recipe, in_trust, population
from tertium.cli.demos.screen import Panes, Plain, Quiet
from tertium.cli.trust import trust
from tertium.crypto.identity import Identity
from tertium.protocol import charter as charters
from tertium.protocol.charter import Role
from tertium.protocol.progress import Opened, RoundClosed, RoundDone, Said, Scored, Started, TrainedLocally
from tertium.protocol.site import load_site
from tertium.protocol.text import printable
from tertium.protocol.training import Score


@pytest.fixture(params=sorted(RECIPES))
def recipe(request: pytest.FixtureRequest) -> Recipe:
    # Of the population five, who are made like forty; `test_halfplane_demo.py` counts the forty.
    return population(0, 5, (3, 5)) if request.param == "halfplane" else RECIPES[request.param]


@pytest.mark.parametrize(
    ("mode", "workers"), [("trusted", 1), ("masked", 1), ("additive", 3), ("replicated", 3), ("plain", 1)]
)
def test_every_file_of_a_run_folder_is_one_the_parties_accept(
    recipe: Recipe, tmp_path: Path, mode: str, workers: int
) -> None:
    trusted = trust(mode, workers)
    recipe = in_trust(recipe, trusted)
    acts = recipe.acts(recipe.rounds, 5)
    made = folders.write_parties(recipe, trusted, tmp_path, acts[0].plan)
    assert len(made.secure_workers) == workers
    assert made.rules.scheme.name == mode
    for member in recipe.members:
        identity = Identity.load(tmp_path / member.name / "secret.toml")
        state = tmp_path / member.name / "state"
        state.mkdir()
        admitted = charters.admit(tmp_path / "charter.toml", identity, state, datetime.now().astimezone())
        assert admitted == made
        admitted.require(member.name, member.role)
        site = load_site(tmp_path / member.name / "site.toml")
        site.check_against(admitted, member.name)
        assert (site.owner == acts[0].plan) is (member.role is Role.MODEL_OWNER)
        assert charters.load_card(tmp_path / member.name / "public.toml") == admitted.party(member.name)
    assert str(tmp_path) not in (tmp_path / "charter.toml").read_text()


def test_acts_cover_the_rounds_once(recipe: Recipe) -> None:
    for rounds in (1, 2, recipe.rounds):
        acts = recipe.acts(rounds, 3)
        covered = [number for act in acts for number in range(act.first, act.plan.rounds + 1)]
        assert covered == list(range(1, rounds + 1))
        assert {act.plan.seed for act in acts} == {3}


def test_digits_are_the_recipe_that_was_tried() -> None:
    digits = RECIPES["digits"]
    (act,) = digits.acts(digits.rounds, 0)
    first, last = act.plan.training_plan(0), act.plan.training_plan(99)
    assert (act.plan.rounds, first.batches, first.batch_size, first.learning_rate) == (100, 10, 32, 0.3)
    assert last.learning_rate == pytest.approx(0.003)
    assert digits.minimum_cohort == 3
    assert digits.unsafe_small_cohort is None
    held = {member.name: member.options["digits"] for member in digits.members if member.options}
    assert held == {"owner": [], "alice": [0, 1, 2, 3], "bob": [4, 5, 6], "charlie": [7, 8, 9]}


def test_toy_acts_are_the_tutorials() -> None:
    toy = RECIPES["toy"]
    first, second = toy.acts(toy.rounds, 0)
    plans = [first.plan.training_plan(0), second.plan.training_plan(1)]
    assert [(plan.epochs, plan.batch_size, plan.learning_rate) for plan in plans] == [(10, 0, 0.1), (5, 0, 0.1)]
    assert (first.plan.rounds, second.first, second.plan.rounds) == (1, 2, 11)


def test_toy_rows_are_those_of_the_task() -> None:
    toy = pytest.importorskip("tertium.learning.tasks.toy")
    assert toy.INPUTS == TOY_INPUTS
    assert tuple(value for (value,) in toy.TARGETS) == TOY_TARGETS


def test_toy_answers_are_computed_from_the_file(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "model.safetensors"
    safetensors.save_file({"weight": torch.tensor([[1.0, 0.0]]), "bias": torch.tensor([0.5])}, path)
    closing = RECIPES["toy"].closing
    assert closing is not None
    lines = closing(path)
    assert [line.split()[-2:] for line in lines[1:5]] == [
        *(["0.5000", "0"], ["0.5000", "0"], ["1.5000", "1"], ["1.5000", "1"])
    ]
    assert lines[-1] == "sum of squared errors 1.000000"


def test_commands_are_the_public_ones(recipe: Recipe) -> None:
    words = {member.name: command(member, "charter.toml", resume=True) for member in recipe.members}
    assert words["owner"] == [
        "owner",
        "run",
        "--party",
        "owner",
        "--charter",
        "charter.toml",
        "--resume",
        "--new-session",
    ]
    for member in recipe.named(Role.DATA_OWNER):
        assert words[member.name] == ["worker", "run", "--party", member.name, "--charter", "charter.toml"]
    assert words["third"] == ["secure-worker", "run", "--party", "third", "--charter", "charter.toml", "--once"]


def test_free_ports_differ_and_can_be_bound() -> None:
    ports = folders.free_ports(8)
    assert len(set(ports)) == 8
    assert all(port in folders.PORTS for port in ports)
    for port in ports:
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", port))


def test_default_folders_do_not_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    now = datetime(2026, 1, 2, 3, 4, 5)
    first = folders.default_folder("toy", now)
    assert first == Path("runs/toy-20260102-030405")
    first.mkdir(parents=True)
    assert folders.default_folder("toy", now) == Path("runs/toy-20260102-030405-2")


def refused(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["demo", *words]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(r"tertium: [^\n]+\n", err), err
    return err


def test_refusals_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "demos: digits, halfplane, mnist, toy" in refused(capfd, "nothing")
    assert "--processes is for halfplane" in refused(capfd, "toy", "--processes")
    assert "has 3 to 8 holder(s), not 2" in refused(capfd, "toy", "--mode", "shamir", "--secure-workers", "2")
    assert "there is no mode 'magic': known are additive" in refused(capfd, "toy", "--mode", "magic")
    assert "the scheme dummy hides nothing" in refused(capfd, "toy", "--mode", "dummy")
    for mode in ("trusted", "masked", "plain"):
        sentence = refused(capfd, "toy", "--mode", mode, "--secure-workers", "3")
        assert f"mode {mode} has one secure worker, not 3" in sentence
    assert "has 2 to 16 holder(s), not 1" in refused(capfd, "toy", "--mode", "additive", "--secure-workers", "1")
    assert "has 3 holder(s), not 2" in refused(capfd, "toy", "--mode", "replicated", "--secure-workers", "2")
    assert "--secure-workers" in refused(capfd, "toy", "--secure-workers", "0")
    assert "--rounds" in refused(capfd, "toy", "--rounds", "0")
    assert "--seed" in refused(capfd, "toy", "--seed", "-1")
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("keep")
    assert "full is not empty" in refused(capfd, "toy", "--out", str(full))
    assert (full / "mine").read_text() == "keep"
    assert "cannot make the folder" in refused(capfd, "toy", "--out", str(full / "mine"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_help_has_an_example(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--help"]) == 0
    out, _ = capfd.readouterr()
    assert "tertium demo toy" in out
    for option in ("--mode", "--secure-workers", "--rounds", "--seed", "--out", "--json"):
        assert option in out


def lines_of(rounds: int) -> list[Line]:
    found = []
    for number in range(1, rounds + 1):
        for party, progress in (
            ("alice", TrainedLocally(number, 320, {"loss": 1 / number}, 0.1)),
            ("third", Opened(number, "contribution", "alice", 99)),
            ("third", RoundClosed(number, ("alice",))),
            ("alice", RoundClosed(number, ("alice",))),
            ("owner", RoundDone(number, 3, {}, 0.1)),
            ("owner", Scored(number, "owner", 359, 1.0, 0.5)),
        ):
            found.append(Line(party, progress, progress.line()))
    return found


def test_a_pipe_gets_every_tenth_round_and_the_ends(capfd: pytest.CaptureFixture[str]) -> None:
    screen = Plain(RECIPES["digits"], 101, verbose=False)
    for line in lines_of(101):
        screen.line(line)
    shown = re.findall(r"^alice   \| round (\d+): trained", capfd.readouterr().out, re.MULTILINE)
    assert shown == ["1", *(str(number) for number in range(10, 101, 10)), "101"]


def test_a_pipe_gets_everything_when_asked(capfd: pytest.CaptureFixture[str]) -> None:
    screen = Plain(RECIPES["digits"], 101, verbose=True)
    lines = lines_of(101)
    for line in lines:
        screen.line(line)
    assert len(capfd.readouterr().out.splitlines()) == len(lines)


def test_a_short_run_shows_every_round(capfd: pytest.CaptureFixture[str]) -> None:
    screen = Plain(RECIPES["toy"], 11, verbose=False)
    for line in lines_of(11):
        screen.line(line)
    out = capfd.readouterr().out
    assert len(re.findall(r"^alice \| round \d+: trained", out, re.MULTILINE)) == 11
    assert len(re.findall("contribution", out)) == 1


def test_a_warning_all_parties_repeat_is_printed_once(capfd: pytest.CaptureFixture[str]) -> None:
    screen = Plain(RECIPES["toy"], 11, verbose=False)
    screen.warn("UNSAFE: two")
    for party in ("alice", "bob", "third"):
        said = Said(text="UNSAFE: two", warning=True)
        screen.line(Line(party, said, said.line()))
    assert capfd.readouterr().out == "UNSAFE: two\n"


def test_json_keeps_standard_output_clean(capfd: pytest.CaptureFixture[str]) -> None:
    with Quiet() as screen:
        for line in lines_of(2):
            screen.line(line)
        screen.note("a note")
        screen.warn("UNSAFE\x1b[2J")
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "UNSAFE\N{REPLACEMENT CHARACTER}[2J\n"


def panes(width: int, height: int) -> tuple[Panes, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, height=height, legacy_windows=False)
    return Panes(RECIPES["digits"], 100, console), out


def test_a_terminal_gets_a_pane_a_party() -> None:
    screen, out = panes(140, 40)
    with screen:
        started = Started(party="alice", role="data owner", pid=1, text="digits 0-3")
        screen.line(Line("alice", started, started.line()))
        for line in lines_of(57):
            screen.line(line)
        screen.line(Line("bob", None, "[bold]not markup[/bold] \x1b[2J"))
        screen.note("nearly there")
    text = out.getvalue()
    for member in RECIPES["digits"].members:
        assert f"{member.name}, {member.role.words}" in text
    assert "57/100" in text
    assert "pid 1, digits 0-3" in text
    assert "57: trained, loss 0.0175" in text
    assert "accuracy 50.0%" in text
    assert "[bold]not markup[/bold]" in text
    assert "\x1b[2J" not in text
    assert "nearly there" in text
    assert text.rstrip().endswith("\x1b[?25h")


def test_panes_fit_a_small_terminal() -> None:
    screen, out = panes(80, 14)
    with screen:
        for line in lines_of(30):
            screen.line(line)
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue()).splitlines()
    assert max(len(line) for line in last) <= 80
    assert sum("owner, model owner" in line for line in last) >= 1


def test_what_is_printed_cannot_steer_a_terminal() -> None:
    assert printable("a\x1b]0;x\x07\n\u202eb") == "a\ufffd]0;x\ufffd\ufffd\ufffdb"


@pytest.mark.parametrize("accuracy", [0.5, None])
def test_the_picture_is_drawn_without_a_display(tmp_path: Path, accuracy: float | None) -> None:
    pytest.importorskip("matplotlib")
    scores = [Scored(number, "owner", 10, 1 / number, accuracy) for number in range(1, 30)]
    files: dict[str, list[bytes]] = {}
    for name, score in (("a", Score(examples=10, loss=0.01, accuracy=accuracy)), ("b", None), ("c", None)):
        written = draw(tmp_path / name, "a", scores, score)
        assert [path.name for path in written] == [f"{name}.png", f"{name}.svg"]
        files[name] = [path.read_bytes() for path in written]
    assert files["a"][0].startswith(b"\x89PNG")
    assert b">round</text>" in files["a"][1]
    assert b"loss on test data" in files["a"][1]
    assert files["a"] != files["b"] == files["c"]
