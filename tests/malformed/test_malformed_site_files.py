"""Site files that are none, are laxer than the charter, or name code there is not: no party starts with one."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tertium.learning.registry import load_task
from tertium.protocol import charter as charters
from tertium.protocol.errors import SiteFileError
from tertium.protocol.site import load_site

Place = Any
Spoil = Callable[[Place, Path], object]
LINE = "tertium.learning.numpy_task:NumpyTask"


def swap(old: str, new: str) -> Spoil:
    return lambda place, path: place.edit(path, old, new)


def add(text: str) -> Spoil:
    """Put lines before what is there; `add("[limits]...")` gives a section the file does not have."""
    return lambda place, path: path.write_text(f"{text}\n{path.read_text()}")


def raw(content: bytes) -> Spoil:
    return lambda place, path: path.write_bytes(content)


def replaced(make: Callable[[Path], object]) -> Spoil:
    def spoil(place: Place, path: Path) -> None:
        path.unlink(missing_ok=True)
        make(path)

    return spoil


def owner(line: str) -> Spoil:
    """Another line in the [owner] section."""
    return swap("rounds = 2", line)


def factory(name: str) -> Spoil:
    return swap(LINE, name)


def options(text: str) -> Spoil:
    return swap("{ examples = 10 }", text)


# Whose file, what is wrong with it, what is said: refused by whoever reads it.
MALFORMED: dict[str, tuple[str, Spoil, str]] = {
    "a folder": ("alice", replaced(lambda path: path.mkdir()), "it is a folder"),
    "a pipe": ("judge", replaced(lambda path: os.mkfifo(path)), "not a regular file"),
    "a device": ("alice", replaced(lambda path: path.symlink_to("/dev/zero")), "not a regular file"),
    "a gigabyte": ("owner", lambda place, path: os.truncate(path, 2**30), "longer than"),
    "byte order mark": ("alice", lambda _, path: path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes()), "not valid"),
    "invalid UTF-8": ("alice", swap("[tasks", "# \udcff\n[tasks"), "not text in UTF-8"),
    "a NUL": ("third", raw(b"\0"), "not valid TOML"),
    "cut in a text": ("alice", lambda _, path: path.write_text(path.read_text()[:40]), "not valid TOML"),
    "brackets nested deep": ("alice", raw(b"limits = " + b"[" * 100_000), "too deeply nested"),
    "a key nested deep": ("alice", raw(b"tasks" + b".a" * 100_000 + b" = 1"), "a key is too deeply nested"),
    "options nested deep": ("alice", options("{ x = " + "[" * 100_000), "too deeply nested"),
    "a number of 5000 digits": ("alice", options("{ examples = " + "9" * 5000 + " }"), "too large"),
    "a section twice": ("owner", add('[owner]\ntask = "line"\n'), "not valid TOML"),
    "a section there is not": ("alice", add("[allow]\nall = true\n"), "unknown field allow"),
    "a section of a megabyte's name": ("alice", add(f"[{'s' * 500_000}]\n"), "unknown field sss"),
    "the charter": ("alice", lambda place, path: path.write_bytes(place.path.read_bytes()), "unknown field"),
    "a key file": (
        "alice",
        lambda place, path: path.write_bytes((place.root / "alice/secret.toml").read_bytes()),
        "unknown field",
    ),
    # the section limits
    "limits as a list": ("alice", add("[[limits]]\n"), "limits: expected object"),
    "an unknown limit": ("alice", add("[limits]\nmax_epoch = 2\n"), "limits: object contains unknown field max_epoch"),
    "epochs below nothing": ("alice", add("[limits]\nmax_epochs = -1\n"), "limits.max_epochs"),
    "epochs as text": ("alice", add('[limits]\nmax_epochs = "2"\n'), "limits.max_epochs"),
    "epochs as a fraction": ("alice", add("[limits]\nmax_epochs = 2.5\n"), "limits.max_epochs"),
    "epochs true": ("alice", add("[limits]\nmax_epochs = true\n"), "limits.max_epochs"),
    "epochs without end": ("alice", add("[limits]\nmax_epochs = inf\n"), "limits.max_epochs"),
    "batches beyond 64 bits": ("alice", add(f"[limits]\nmax_batches = {2**70}\n"), "limits.max_batches"),
    "a cohort of none": ("alice", add("[limits]\nsmallest_cohort = 0\n"), "limits.smallest_cohort"),
    "no mode at all": ("alice", add("[limits]\nmodes = []\n"), "limits.modes"),
    "a mode there is not": ("alice", add('[limits]\nmodes = ["mild"]\n'), "limits.modes"),
    "a mode as text": ("alice", add('[limits]\nmodes = "trusted"\n'), "limits.modes"),
    "tasks as text": ("alice", add('[limits]\ntasks = "line"\n'), "limits.tasks"),
    "a task that is no name": ("alice", add('[limits]\ntasks = ["../line"]\n'), "limits.tasks[0]"),
    "refusals below nothing": ("alice", add("[limits]\nmax_refusals = -1\n"), "limits.max_refusals"),
    "refusals beyond 64 bits": ("alice", add(f"[limits]\nmax_refusals = {2**64}\n"), "limits.max_refusals"),
    # the section tasks
    "tasks as a list of tables": ("alice", swap("[tasks.line]", "[[tasks]]"), "tasks: expected object"),
    "a task's name with a blank": ("alice", swap("tasks.line", "tasks.'a line'"), "a name"),
    "a task's name that is empty": ("alice", swap("tasks.line", "tasks.''"), "tasks"),
    "a task without a factory": ("alice", swap("factory = ", "# "), "missing required field factory"),
    "a task with another field": ("alice", swap("options = ", "option = "), "unknown field option"),
    "a factory without a class": ("alice", factory("tertium.learning.numpy_task"), "expected a factory"),
    "a factory of two classes": ("alice", factory("a:b:c"), "expected a factory"),
    "a factory that is called": ("alice", factory("os:system('x')"), "expected a factory"),
    "a factory that is an attribute": ("alice", factory("os:path.join"), "expected a factory"),
    "a factory that is a path": ("alice", factory("/tmp/task.py:Task"), "expected a factory"),
    "a factory with a line end": ("alice", factory("a:b\\n"), "expected a factory"),
    "a factory that is a number": ("alice", swap(f'"{LINE}"', "7"), "factory: expected str"),
    "a factory of a kilobyte": ("alice", factory(f"a:{'b' * 1000}"), "factory: expected str of length <= 400"),
    "options as a list": ("alice", options("[1, 2]"), "options: expected object"),
    "options as text": ("alice", options('"examples"'), "options: expected object"),
    # the section listen
    "an address of another transport": ("third", add('[listen]\ncontrol = "ipc:///x"\n'), "listen.control"),
    "an address without a port": ("third", add('[listen]\nbulk = "tcp://*"\n'), "listen.bulk"),
    "an address of port 70000": ("third", add('[listen]\nbulk = "tcp://*:70000"\n'), "there is no port 70000"),
    "an address of two": ("third", add('[listen]\nbulk = "tcp://a:1,tcp://b:2"\n'), "listen.bulk"),
    "an address that is a number": ("owner", add("[listen]\ncontrol = 7000\n"), "listen.control"),
    "an unknown lane": ("third", add('[listen]\nweb = "tcp://*:80"\n'), "listen: object contains unknown field web"),
    # the section owner
    "a plan without a task": ("owner", swap('task = "line"\n', ""), "owner: object missing required field task"),
    "a plan with another line": ("owner", owner("round = 2"), "owner: object contains unknown field round"),
    "no rounds": ("owner", owner("rounds = 0"), "owner.rounds"),
    "rounds without end": ("owner", owner("rounds = inf"), "owner.rounds"),
    "too many rounds": ("owner", owner("rounds = 1000001"), "owner.rounds"),
    "batches and epochs": ("owner", owner("batches = 2\nepochs = 1"), "owner: names both batches and epochs"),
    "a kind there is not": ("owner", owner('kind = "wits"'), "owner.kind"),
    "a rate below nothing": ("owner", owner("learning_rate = -0.1"), "owner.learning_rate"),
    "a rate that is no number": ("owner", owner("learning_rate = nan"), "owner.learning_rate"),
    "a rate without end": ("owner", owner("learning_rate = inf"), "owner.learning_rate"),
    "a last rate without end": ("owner", owner("final_learning_rate = inf"), "owner.final_learning_rate"),
    "a momentum of one": ("owner", owner("momentum = 1.0"), "owner.momentum"),
    "a norm of nothing": ("owner", owner("clip_norm = 0"), "owner.clip_norm"),
    "a norm that is no number": ("owner", owner("clip_norm = nan"), "owner.clip_norm"),
    "a seed of 64 bits": ("owner", owner(f"seed = {2**63}"), "owner.seed"),
    "a seed below nothing": ("owner", owner("seed = -1"), "owner.seed"),
    "a reduction there is not": ("owner", owner('reduction = "median"'), "owner.reduction"),
    "too many figures": (
        "owner",
        swap('["loss"]', str([f"m{at}" for at in range(17)])),
        "owner.metrics",
    ),
    "a figure that is no name": ("owner", swap('["loss"]', '["Loss!"]'), "owner.metrics[0]"),
    "an optimiser that is a path": (
        "owner",
        owner('optimiser = { name = "os.system" }'),
        "owner.optimiser.name",
    ),
    "an optimiser without a name": ("owner", owner("optimiser = {}"), "owner.optimiser"),
    "an optimiser that is text": ("owner", owner('optimiser = "Adam"'), "owner.optimiser: expected object"),
}
# A file that is sound by itself, and not under this charter or not for this role.
UNFIT: dict[str, tuple[str, Spoil, str]] = {
    "more epochs than agreed": ("alice", add("[limits]\nmax_epochs = 6\n"), "limits.max_epochs: 6 is laxer"),
    "more batches than agreed": ("alice", add("[limits]\nmax_batches = 51\n"), "limits.max_batches: 51 is laxer"),
    "a smaller cohort than agreed": ("judge", add("[limits]\nsmallest_cohort = 2\n"), "smallest_cohort: 2 is laxer"),
    "a larger cohort than there is": ("alice", add("[limits]\nsmallest_cohort = 4\n"), "only 3 data owners"),
    "a task that is not agreed": (
        "alice",
        add('[limits]\ntasks = ["line", "faces"]\n'),
        "limits.tasks: faces is laxer",
    ),
    "another mode than agreed": ("alice", add('[limits]\nmodes = ["shamir"]\n'), "limits.modes: the charter's mode is"),
    "another mode at the secure worker": ("third", add('[limits]\nmodes = ["plain"]\n'), "limits.modes"),
    "no task at a data owner": ("alice", raw(b""), "tasks: alice has none"),
    "no task at an evaluator": ("judge", raw(b"# none\n"), "tasks: judge has none"),
    "no task at the model owner": ("owner", raw(b'[owner]\ntask = "line"\n'), "owner.task: there is no [tasks.line]"),
    "a task at the secure worker": ("third", add(f'[tasks.line]\nfactory = "{LINE}"\n'), "never trains or scores"),
    "a plan at a data owner": ("alice", add('[owner]\ntask = "line"\n'), "owner: alice is not the model owner"),
    "a plan at an evaluator": ("judge", add('[owner]\ntask = "line"\n'), "owner: judge is not the model owner"),
    "a plan at the secure worker": (
        "third",
        add(f'[owner]\ntask = "line"\n[tasks.line]\nfactory = "{LINE}"\n'),
        "owner: third is not the model owner",
    ),
    "no plan at the model owner": (
        "owner",
        lambda place, path: path.write_text(path.read_text()[path.read_text().index("[tasks") :]),
        "owner: owner is the model owner",
    ),
    "an address at a data owner": ("alice", add('[listen]\ncontrol = "tcp://*:1"\n'), "listen: alice only connects"),
    "an address at an evaluator": ("judge", add('[listen]\nbulk = "tcp://*:1"\n'), "listen: judge only connects"),
    "a plan for an unknown task": ("owner", swap('task = "line"', 'task = "other"'), "there is no [tasks.other]"),
    "a plan for a task not agreed": ("owner", swap('task = "line"', 'task = "x"'), "the charter does not allow x"),
    "a plan of more epochs": ("owner", owner("epochs = 6"), "owner.epochs: 6"),
    "a plan of more batches": ("owner", owner("batches = 51"), "owner.batches: 51"),
    "a plan of a smaller cohort": ("owner", owner("cohort = 2"), "owner.cohort: 2"),
    "a plan of a larger cohort": ("owner", owner("cohort = 4"), "owner.cohort: 4"),
    "a range of cohorts without a beginning": ("owner", owner("cohort_most = 3"), "owner.cohort_most: is the end of"),
    "a range of cohorts that ends before it begins": (
        "owner",
        owner("cohort = 3\ncohort_most = 2"),
        "owner.cohort_most: 2 is less than the 3",
    ),
    "a range of cohorts beyond all data owners": (
        "owner",
        owner("cohort = 3\ncohort_most = 4"),
        "owner.cohort_most: 4 is more than the charter's 3",
    ),
    "a range of cohorts that is no number": ("owner", owner('cohort = 3\ncohort_most = "all"'), "cohort_most"),
}
MODULE = """
from tertium.learning.task import Task

class NotATask:
    pass

class Unfinished(Task):
    def trainer(self):
        return None

class Sound(Task):
    def trainer(self):
        return None
    def global_model(self, seed, optimiser):
        return None

class Strict(Sound):
    def __init__(self, *, rows: int) -> None:
        if rows > 5:
            raise ValueError("too many\\nrows \\x1b[2J")

class Divides(Sound):
    def __init__(self) -> None:
        1 / 0

class Exits(Sound):
    def __init__(self) -> None:
        raise SystemExit(7)

class Missing(Sound):
    def __init__(self) -> None:
        import no_such_package_anywhere

class Reads(Sound):
    def __init__(self) -> None:
        open("/nowhere/at/all")

function = len
number = 7
"""
# What runs here does not: the module, the class, the options, or what they do when they are asked.
UNRUNNABLE: dict[str, tuple[str, Spoil, str]] = {
    "a module there is not": ("alice", factory("no_such_module:Task"), "there is no module no_such_module"),
    "a module in a package there is not": ("judge", factory("no.such.module:Task"), "there is no module no"),
    "a module in a module": ("alice", factory("bad_wards.inner:Task"), "bad_wards"),
    "a module's name of dots": ("alice", factory("a..b:Task"), "must be written module:Class"),
    "a module's name that ends in a dot": ("alice", factory("json.:Task"), "must be written module:Class"),
    "a module that does not parse": ("alice", factory("bad_syntax:Task"), "the module bad_syntax cannot be imported"),
    "a module that divides by zero": ("alice", factory("bad_import:Task"), "ZeroDivisionError"),
    "a module that needs another": ("alice", factory("bad_needs:Task"), "no_such_package_anywhere"),
    "a module that ends the process": ("alice", factory("bad_exit:Task"), "the module bad_exit cannot be imported"),
    "a class there is not": ("alice", factory("bad_wards:Nothing"), "the module bad_wards has no class Nothing"),
    "a class of another kind": ("owner", factory("bad_wards:NotATask"), "is not a Task"),
    "a function": ("alice", factory("bad_wards:function"), "is not a Task"),
    "a number": ("alice", factory("bad_wards:number"), "is not a Task"),
    "a module of the system": ("alice", factory("os:system"), "is not a Task"),
    "the class of all tasks": ("alice", factory("tertium.learning.task:Task"), "is not a finished Task"),
    "a class that is not finished": ("alice", factory("bad_wards:Unfinished"), "does not define global_model"),
    "an option it does not take": ("alice", options("{ tea = 1 }"), "unexpected keyword argument 'tea'"),
    "an option it needs": (
        "alice",
        lambda p, path: (factory("bad_wards:Strict")(p, path), options("{}")(p, path)),
        "missing a required",
    ),
    "an option it refuses": (
        "alice",
        lambda p, path: (factory("bad_wards:Strict")(p, path), options("{ rows = 6 }")(p, path)),
        "does not accept its options: too many rows",
    ),
    "an option of another type": ("alice", options('{ examples = "ten" }'), "option examples is 'ten'"),
    "an option below nothing": ("judge", options("{ examples = -1 }"), "option examples is -1"),
    "an option that is true": ("alice", options("{ examples = true }"), "option examples is True"),
    "rows of different lengths": (
        "alice",
        options("{ inputs = [[1, 2], [3]], targets = [1, 2] }"),
        "option inputs is not a list of numbers",
    ),
    "inputs without targets": ("alice", options("{ inputs = [[1.0]] }"), "targets"),
    "inputs that are no number": ("alice", options("{ inputs = [[nan]], targets = [1] }"), "finite numbers"),
    "a class that divides by zero": (
        "alice",
        lambda p, path: (factory("bad_wards:Divides")(p, path), options("{}")(p, path)),
        "ZeroDivisionError",
    ),
    "a class that ends the process": (
        "alice",
        lambda p, path: (factory("bad_wards:Exits")(p, path), options("{}")(p, path)),
        "SystemExit",
    ),
    "a class that needs another": (
        "alice",
        lambda p, path: (factory("bad_wards:Missing")(p, path), options("{}")(p, path)),
        "no_such_package_anywhere",
    ),
    "a class whose data are not there": (
        "alice",
        lambda p, path: (factory("bad_wards:Reads")(p, path), options("{}")(p, path)),
        "/nowhere/at/all",
    ),
    "a figure it does not know": ("owner", swap('["loss"]', '["loss", "beds"]'), "has no beds"),
    "an optimiser it does not know": ("owner", owner('optimiser = { name = "Gradient" }'), "Gradient"),
}
CASES = {**MALFORMED, **UNFIT, **UNRUNNABLE}


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of an operator's own, each of them wrong."""
    folder = tmp_path / "code"
    folder.mkdir()
    for name, text in (
        ("bad_wards", MODULE),
        ("bad_syntax", "class Task(:\n"),
        ("bad_import", "1 / 0\n"),
        ("bad_needs", "import no_such_package_anywhere\n"),
        ("bad_exit", "import sys\nsys.exit(7)\n"),
    ):
        (folder / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_site_file_is_refused_at_every_door(
    place: Place, refused: Any, one_sentence: Any, doctor: Any, run_command: Any, name: str
) -> None:
    who, spoil, why = MALFORMED[name]
    path = place.root / who / "site.toml"
    path.touch()
    spoil(place, path)
    refused(place, SiteFileError, lambda: load_site(path), f"{who}/site.toml", why)
    one_sentence(*run_command(who), words=("site.toml", why))
    one_sentence(*run_command(who), "--json", words=("site.toml",))
    if name not in ("the charter", "a key file"):
        one_sentence("inspect", f"{who}/site.toml", words=("site.toml",))
    assert doctor(who)["site"]["status"] == "fail"


@pytest.mark.parametrize("name", UNFIT)
def test_a_site_file_that_does_not_fit_is_refused_at_every_door(
    place: Place, refused: Any, one_sentence: Any, doctor: Any, run_command: Any, name: str
) -> None:
    who, spoil, why = UNFIT[name]
    path = place.root / who / "site.toml"
    path.touch()
    spoil(place, path)
    charter = charters.load(place.path)
    refused(place, SiteFileError, lambda: load_site(path).check_against(charter, who), why)
    one_sentence(*run_command(who), words=("site.toml", why))
    assert doctor(who)["site"]["status"] == "fail"


@pytest.mark.parametrize("name", UNRUNNABLE)
def test_a_task_that_does_not_load_is_one_sentence(
    place: Place, refused: Any, one_sentence: Any, run_command: Any, code: None, name: str
) -> None:
    who, spoil, why = UNRUNNABLE[name]
    path = place.root / who / "site.toml"
    spoil(place, path)
    # Keys, charter and site file are sound, so the party may have made its journal by then.
    one_sentence(*run_command(who), words=(why,), starting=who)


def test_what_no_task_may_do_is_refused_without_a_site_file(code: None) -> None:
    for factory_, given in (("json:loads", {}), ("json", {}), ("bad_wards:Sound", {"x": 1}), ("bad_exit:Task", {})):
        with pytest.raises(SiteFileError):
            load_task(factory_, given)
