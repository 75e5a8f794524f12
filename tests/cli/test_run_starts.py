"""The `run` commands before they connect: what is refused is one sentence, and leaves nothing behind."""

import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tertium import cli
from tertium.cli.running import exchange_of, open_workplace
from tertium.protocol.charter import Role
from tertium.protocol.journal import FILE, Journal

COMMANDS = {"owner": "owner", "third": "secure-worker", "tester": "evaluator", "alice": "worker"}
ROLES = {
    "owner": Role.MODEL_OWNER,
    "third": Role.SECURE_WORKER,
    "tester": Role.EVALUATOR,
    "alice": Role.DATA_OWNER,
}
BREAKS = """
from tertium.learning.numpy_task import NumpyTask

class Breaks(NumpyTask):
    def trainer(self):
        {raises}

    def global_model(self, seed, optimiser):
        {raises}

class BreaksLater(NumpyTask):
    def trainer(self):
        return Mute()

class Mute:
    def describe(self):
        {raises}
"""
Start = Callable[..., SimpleNamespace]


@pytest.fixture
def start(place: Any, capfd: pytest.CaptureFixture[str]) -> Start:
    """Run a party's command in this process."""

    def it(name: str, command: str | None = None) -> SimpleNamespace:
        capfd.readouterr()
        words = [command or COMMANDS[name], "run", "--party", str(place.root / name), "--charter", str(place.path)]
        status = cli.main(words)
        said, err = capfd.readouterr()
        return SimpleNamespace(status=status, said=said, err=err)

    return it


@pytest.fixture
def breaking(
    place: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Path]]:
    """Give a party a task whose class does something while it is set up."""
    folder = tmp_path_factory.mktemp("code")
    monkeypatch.syspath_prepend(str(folder))

    def give(name: str, raises: str, kind: str = "Breaks") -> Path:
        sys.modules.pop("breaking_wards", None)
        path = folder / "breaking_wards.py"
        path.write_text(BREAKS.format(raises=raises))
        place.site(name, tasks={"line": {"factory": f"breaking_wards:{kind}"}})
        return path

    yield give
    sys.modules.pop("breaking_wards", None)


def one_sentence(done: SimpleNamespace, *words: str) -> None:
    """One line on stderr, and the same as the last line of progress."""
    assert done.status == 2, done
    assert done.err.startswith("tertium: ")
    assert done.err.count("\n") == 1, done.err
    assert not [word for word in words if word not in done.err], done.err
    assert done.err.removeprefix("tertium: ").strip() in done.said


@pytest.mark.parametrize("name", COMMANDS)
def test_a_site_file_that_is_a_link_to_nothing_is_no_absent_one(place: Any, start: Start, name: str) -> None:
    path = place.root / name / "site.toml"
    path.unlink(missing_ok=True)
    path.symlink_to(place.root / "nowhere.toml")
    one_sentence(start(name), f"cannot read {path}")


def _another_command(place: Any) -> str:
    return "evaluator"


def _gone(place: Any) -> None:
    (place.root / "alice" / "site.toml").unlink()


def _laxer(place: Any) -> None:
    place.site("alice", limits={"minimum_cohort": 2})


REFUSED: dict[str, tuple[Callable[[Any], object], str]] = {
    "a charter there is not": (lambda place: place.path.unlink(), "charter.toml"),
    "a charter that is over": (lambda place: place.write(expires=-timedelta(days=1)), "expired"),
    "a charter nobody signed": (lambda place: place.write(signers=()), "not signed by"),
    "another command": (_another_command, "stands in the charter as a data owner"),
    "no site file": (_gone, "site.toml does not exist"),
    "a laxer site file": (_laxer, "site.toml: "),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_refused_start_makes_no_folder(place: Any, start: Start, why: str) -> None:
    spoil, words = REFUSED[why]
    command = spoil(place)
    before = place.files()
    one_sentence(start("alice", command if isinstance(command, str) else None), words)
    assert place.files() == before


@pytest.mark.parametrize("name", ["owner", "alice", "tester"])
@pytest.mark.parametrize("raises", ["raise SystemExit(7)", "raise SystemExit", "import sys; sys.exit('no beds')"])
def test_a_task_that_ends_the_process_while_it_is_set_up_is_one_sentence(
    start: Start, breaking: Callable[..., Path], name: str, raises: str
) -> None:
    path = breaking(name, raises)
    one_sentence(start(name), "task line cannot be set up: SystemExit", str(path))


@pytest.mark.parametrize("raises", ["raise SystemExit(7)", "1 / 0"])
def test_so_is_one_that_cannot_describe_its_data(start: Start, breaking: Callable[..., Path], raises: str) -> None:
    path = breaking("alice", raises, kind="BreaksLater")
    one_sentence(start("alice"), "task line cannot be set up: ", str(path))


@pytest.mark.parametrize("name", ["owner", "alice"])
def test_an_interrupt_while_a_task_is_set_up_ends_the_command(
    start: Start, breaking: Callable[..., Path], name: str
) -> None:
    breaking(name, "raise KeyboardInterrupt")
    done = start(name)
    assert (done.status, done.err) == (130, "tertium: interrupted\n")


@pytest.mark.parametrize("name", ["owner", "alice", "tester"])
@pytest.mark.parametrize("raises", ["1 / 0", "raise SystemExit(7)", "raise KeyboardInterrupt"])
def test_the_journal_is_closed_when_a_task_cannot_be_set_up(
    place: Any, start: Start, breaking: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, name: str, raises: str
) -> None:
    opened = []
    real = Journal.__init__

    def kept(journal: Journal, *args: Any, **more: Any) -> None:
        real(journal, *args, **more)
        opened.append(journal)  # or it would be closed as soon as nobody refers to it

    monkeypatch.setattr(Journal, "__init__", kept)
    breaking(name, raises)
    assert start(name).status != 0
    assert len(opened) == 1
    # it is locked for as long as it is open
    state = place.root / name / "state"
    assert (state / FILE).exists()
    Journal.of(place.identities[name], ROLES[name], state).close()


@pytest.mark.parametrize("keeps", [False, True])
def test_openings_are_kept_only_where_the_site_file_says_so(place: Any, keeps: bool) -> None:
    site = place.root / "alice" / "site.toml"
    if keeps:
        site.write_text(site.read_text() + "\n[audit]\nkeep_openings = true\n")
    with open_workplace(Role.DATA_OWNER, place.root / "alice", place.path, as_json=True) as workplace:
        exchange = exchange_of(workplace)
        assert (exchange._openings is not None) is keeps
        assert not keeps or exchange._openings.folder == workplace.state / "openings"
        assert exchange.view.checkpoint() is not None
