"""The commands as processes: what a person sees, and the exit status a script sees."""

import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from tertium import cli
from tertium.cli import errors as cli_errors
from tertium.cli.lazy import group
from tertium.crypto.identity import Identity
from tertium.protocol.errors import CharterError, NotInCharter

Run = Callable[..., subprocess.CompletedProcess[str]]
NAMES = ("alice", "bob", "carol", "owner", "third")
WHERE = {"owner": 7000, "third": 7100, "fourth": 7200, "fifth": 7300}
ROLE = {"owner": "model_owner", **dict.fromkeys(("third", "fourth", "fifth"), "secure_worker")}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def tertium(*arguments: object, **more: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "import sys; from tertium.cli import main; sys.exit(main())", *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **more,
        )

    return tertium


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """The same in this process, which is faster."""
    monkeypatch.chdir(tmp_path)

    def tertium(*arguments: object) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        status = cli.main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(list(arguments), status, out, err)

    return tertium


def fails(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    """One sentence on stderr, nothing on stdout, no traceback."""
    assert done.returncode == status, done
    assert re.fullmatch(r"tertium: [^\n]+\n", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr, done.stderr


def keygen(call: Run, name: str, *more: object) -> subprocess.CompletedProcess[str]:
    port = WHERE.get(name)
    where = ("--control", f"tcp://127.0.0.1:{port}", "--bulk", f"tcp://127.0.0.1:{port + 1}") if port else ()
    return call("keygen", name, "--role", ROLE.get(name, "data_owner"), "--out", name, *where, *more)


def new(call: Run, *more: object, out: str = "charter.toml") -> subprocess.CompletedProcess[str]:
    cards = [part for name in NAMES for part in ("--party", f"{name}/public.toml")]
    return call("charter", "new", "--federation", "trial", "--minimum-cohort", 3, *cards, "--out", out, *more)


@pytest.fixture
def parties(call: Run) -> Run:
    for name in NAMES:
        assert keygen(call, name).returncode == 0
    return call


def test_from_keys_to_a_charter_that_all_signed(run: Run, tmp_path: Path) -> None:
    for name in NAMES:
        made = keygen(run, name)
        assert (made.returncode, made.stderr) == (0, "")
    assert stat.S_IMODE((tmp_path / "alice/secret.toml").stat().st_mode) == 0o600
    secret = (tmp_path / "alice/secret.toml").read_text()
    for value in re.findall(r"[0-9a-f]{64}", secret):
        assert value not in made.stdout
        assert value not in (tmp_path / "alice/public.toml").read_text()
    done = new(run)
    assert (done.returncode, done.stderr) == (0, "")
    assert run("charter", "verify", "charter.toml").returncode == 1
    for name in NAMES:
        assert f"Signed as {name}" in run("charter", "sign", "charter.toml", "--as", name).stdout
    done = run("charter", "verify", "charter.toml", "--json")
    facts = json.loads(done.stdout)
    assert done.returncode == 0
    assert facts["valid"] is True
    assert facts["parties"] == dict.fromkeys(NAMES, "signed")
    assert facts["serial"] == 1
    assert done.stdout.count("\n") == 1


def test_keygen_prints_what_scripts_need_and_no_secret(call: Run, tmp_path: Path) -> None:
    facts = json.loads(keygen(call, "third", "--json").stdout)
    identity = Identity.load(tmp_path / facts["secret"])
    assert facts["fingerprint"] == identity.public.fingerprint
    assert facts["curve"] == identity.public.curve.hex()
    assert identity.curve_secret.hex() not in json.dumps(facts)
    assert facts["role"] == "secure_worker"


def test_keygen_never_overwrites(call: Run, tmp_path: Path) -> None:
    keygen(call, "alice")
    before = {path: path.read_bytes() for path in (tmp_path / "alice").iterdir()}
    fails(keygen(call, "alice"), 2, "alice/secret.toml exists")
    (tmp_path / "alice/secret.toml").rename(tmp_path / "moved")
    fails(keygen(call, "alice"), 2, "alice/public.toml exists")
    assert not (tmp_path / "alice/secret.toml").exists()
    assert len(before) == 2


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("keygen",), "missing argument 'NAME'"),
        (("keygen", "Al ice", "--role", "data_owner", "--out", "x"), "a party's name is"),
        (("keygen", "alice", "--out", "x"), "--role"),
        (("keygen", "alice", "--role", "king", "--out", "x"), "king"),
        (("keygen", "alice", "--role", "secure_worker", "--out", "x"), "parties.alice.control: a secure worker needs"),
        (("keygen", "alice", "--role", "data_owner", "--bulk", "tcp://h:1", "--out", "x"), "only connects"),
        (("keygen", "alice", "--role", "data_owner", "--organisation", "\x1b[2J", "--out", "x"), "plain text"),
        (("keygen", "alice", "--role", "data_owner", "--out", "/proc/none"), "cannot make the folder"),
        (("charter", "sign", "none.toml", "--as", "nobody"), "cannot read the key file nobody/secret.toml"),
        (("charter", "verify", "none.toml"), "cannot read none.toml: no such file"),
        (("charter", "verify", "."), "cannot read .: it is a folder"),
        (("charter", "diff", "a.toml"), "NEW"),
        (("charter", "new", "--federation", "x", "--party", "none.toml", "--out", "c.toml"), "cannot read none.toml"),
        (("charter", "crown"), "no such command 'crown'"),
        (("crown",), "no such command 'crown'"),
        (("--crown",), "no such option"),
    ],
)
def test_every_mistake_is_one_sentence(call: Run, tmp_path: Path, arguments: tuple[str, ...], why: str) -> None:
    fails(call(*arguments), 2, why)
    assert list(tmp_path.iterdir()) == []


def test_a_charter_that_breaks_a_rule_is_not_written(parties: Run, tmp_path: Path) -> None:
    assert keygen(parties, "fourth").returncode == 0
    for more, why in (
        (("--minimum-cohort", 2), "unsafe_small_cohort"),
        (("--minimum-cohort", 4), "rules.minimum_cohort: 4 contributors can never"),
        (("--party", "alice/public.toml"), "parties.alice: two parties have this name"),
        (("--mode", "plain"), "unsafe_plain"),
        (("--unsafe-plain", "a lesson"), "rules.unsafe_plain: belongs to mode plain"),
        (("--mode", "shamir"), "parties: mode shamir shares among at least two secure workers, here is one"),
        (("--mode", "magic"), "there is no mode 'magic': known are additive"),
        (("--mode", "dummy"), "dummy"),
        (("--mode", "additive"), "parties: mode additive shares among at least two secure workers, here is one"),
        (("--mode", "replicated"), "parties: mode shared shares among at least two secure workers, here is one"),
        (("--party", "fourth/public.toml"), "parties: mode trusted has exactly one secure worker, this charter 2"),
        (
            ("--party", "fourth/public.toml", "--mode", "replicated"),
            "rules.scheme: the scheme replicated has 3 holder(s), not 2",
        ),
        (("--threshold", 2), "rules.scheme: the scheme trusted with 1 holder(s) has the threshold 1, not 2"),
        (("--threshold", 0), "--threshold"),
        (("--max-weight", 7), "weight rule uniform"),
        (("--value-range", 1e12, "--precision", 1e-12), "rules.arithmetic: "),
        (("--value-range", "nan"), "rules.arithmetic.value_range"),
        (("--serial", 0), "serial: expected int >= 1"),
        (("--deadline", "upload"), "STEP=SECONDS"),
        (("--deadline", "tea=5"), "unknown field tea"),
        (("--out", "none/charter.toml"), "cannot write none/charter.toml"),
        (("--out", "alice/public.toml"), "exists"),
    ):
        fails(new(parties, *more), 2, why)
    assert not (tmp_path / "charter.toml").exists()


@pytest.mark.parametrize(
    ("mode", "others", "more", "wanted"),
    [
        ("masked", (), (), {"mode": "masked", "scheme": {"name": "masked", "version": 1}}),
        ("plain", (), ("--unsafe-plain", "a lesson"), {"mode": "plain", "unsafe_plain": "a lesson"}),
        ("additive", ("fourth",), (), {"mode": "additive", "scheme": {"name": "additive", "version": 1}}),
        (
            "replicated",
            ("fourth", "fifth"),
            ("--threshold", 2),
            {"mode": "shared", "scheme": {"name": "replicated", "version": 1, "threshold": 2}},
        ),
    ],
)
def test_one_option_names_the_mode_and_its_scheme(
    parties: Run,
    tmp_path: Path,
    mode: str,
    others: tuple[str, ...],
    more: tuple[object, ...],
    wanted: dict[str, object],
) -> None:
    cards = [part for name in others for part in ("--party", f"{name}/public.toml")]
    for name in others:
        assert keygen(parties, name).returncode == 0
    made = new(parties, "--mode", mode, *more, *cards)
    assert made.returncode == 0, made.stderr
    assert ("UNSAFE" in made.stderr) is (mode == "plain")
    rules = tomllib.loads((tmp_path / "charter.toml").read_text())["rules"]
    assert {name: rules[name] for name in wanted} == wanted
    assert "digest" not in rules["scheme"]


def test_options_reach_the_charter(parties: Run) -> None:
    assert new(parties).returncode == 0
    more = ("--serial", 4, "--minimum-cohort", 2, "--unsafe-small-cohort", "a lesson", "--weight-rule", "examples",
            "--max-weight", 99, "--value-range", 2, "--precision", 1e-4, "--max-epochs", 1, "--task", "toy",
            "--deadline", "upload=5", "--stable-cohort", 2)  # fmt: skip
    made = new(parties, *more, out="second.toml")
    assert made.returncode == 0
    assert "UNSAFE" in made.stderr
    assert "a lesson" in made.stderr
    done = parties("charter", "diff", "charter.toml", "second.toml", "--json")
    lines = json.loads(done.stdout)["lines"]
    assert done.returncode == 1
    for line in (
        "serial: 1 -> 4",
        "rules.minimum_cohort: 3 -> 2",
        "rules.weight_rule: uniform -> examples",
        "rules.stable_cohort: (none) -> 2",
        "rules.unsafe_small_cohort: (none) -> a lesson",
        "rules.arithmetic.max_weight: 1 -> 99",
        "rules.arithmetic.value_range: 8.0 -> 2.0",
        "rules.training.max_epochs: 100 -> 1",
        "rules.training.tasks: [] -> [toy]",
        "rules.deadlines.upload: 600.0 -> 5.0",
    ):
        assert line in lines
    plain = parties("charter", "diff", "charter.toml", "second.toml")
    assert plain.stdout.splitlines() == lines
    same = parties("charter", "diff", "charter.toml", "charter.toml")
    assert (same.returncode, same.stdout) == (0, "")


def test_verify_says_who_is_missing_and_whose_does_not_verify(parties: Run, tmp_path: Path) -> None:
    new(parties)
    for name in ("alice", "bob"):
        parties("charter", "sign", "charter.toml", "--as", name)
    beside = tmp_path / "charter.signatures.toml"
    text = beside.read_text()
    at = text.index('bob = "') + 7
    beside.write_text(text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :])
    done = parties("charter", "verify", "charter.toml", "--json")
    assert done.returncode == 1
    expected = {"alice": "signed", "bob": "wrong", "carol": "missing", "owner": "missing", "third": "missing"}
    assert json.loads(done.stdout)["parties"] == expected
    text = parties("charter", "verify", "charter.toml").stdout
    assert re.search(r"wrong +bob", text)
    assert re.search(r"missing +carol", text)
    assert "1 of 5" in text


def test_an_expired_charter_does_not_verify(parties: Run) -> None:
    new(parties, "--days", 0)
    for name in NAMES:
        parties("charter", "sign", "charter.toml", "--as", name)
    done = parties("charter", "verify", "charter.toml")
    assert done.returncode == 1
    assert "It expired on" in done.stdout


def test_a_stranger_and_an_open_key_file_cannot_sign(parties: Run, tmp_path: Path) -> None:
    new(parties)
    keygen(parties, "mallory")
    fails(parties("charter", "sign", "charter.toml", "--as", "mallory"), 2, "mallory is not a party")
    (tmp_path / "alice/secret.toml").chmod(0o644)
    fails(parties("charter", "sign", "charter.toml", "--as", "alice"), 2, "mode 0644")
    assert not (tmp_path / "charter.signatures.toml").exists()


def test_what_a_file_says_cannot_paint_the_terminal(parties: Run, tmp_path: Path) -> None:
    new(parties)
    path = tmp_path / "charter.toml"
    path.write_text(path.read_text().replace('mode = "trusted"', 'mode = "\\u001b[2J\\nok"'))
    done = parties("charter", "verify", "charter.toml")
    fails(done, 2, "rules.mode")
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize("command", [(), *[(name,) for name in cli.COMMANDS]])
def test_help_of_every_command_has_an_example(call: Run, command: tuple[str, ...]) -> None:
    def check(words: tuple[str, ...], *, example: bool) -> None:
        done = call(*words, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert f"Usage: tertium {' '.join(words)}".strip() in done.stdout
        if example:
            assert re.search(rf"Example:.*tertium {' '.join(words)}", done.stdout, re.DOTALL), words

    found: click.Command = group(cli.COMMANDS)
    for word in command:
        found = found.get_command(click.Context(found), word)
    inner = found.commands if command and isinstance(found, click.Group) else ()
    check(command, example=not inner)
    for name in inner:
        check((*command, name), example=True)


def test_the_table_says_what_each_command_says_of_itself() -> None:
    top = group(cli.COMMANDS)
    for name, (_, line) in cli.COMMANDS.items():
        command = top.get_command(click.Context(top), name)
        assert command.name == name
        assert command.get_short_help_str(limit=200).startswith(line.rstrip("."))


def test_the_list_of_commands_imports_none_and_charters_never_load_torch(run: Run) -> None:
    script = (
        "import sys; from tertium.cli import main\n"
        "status = main(sys.argv[1:])\n"
        "print(sorted(m for m in ('torch', 'rich', 'numpy', 'zmq', 'tertium.cli.charter') if m in sys.modules))\n"
    )
    for arguments, loaded in ((("--help",), []), (("charter", "verify", "none.toml"), ["tertium.cli.charter"])):
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout.splitlines()[-1] == repr(loaded)


def test_version(run: Run) -> None:
    done = run("--version")
    assert done.returncode == 0
    assert re.fullmatch(r"tertium \d+\.\d+\.\d+\S*\n", done.stdout)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (NotInCharter("is no party", party="mallory"), 3, "tertium: mallory: is no party\n"),
        (CharterError("a\x9b2J\x07b\n\nc"), 2, "tertium: a\ufffd2J\ufffdb c\n"),
        (KeyboardInterrupt(), 130, "tertium: interrupted\n"),
        (OSError(28, "No space left on device"), 2, "tertium: no space left on device\n"),
        (PermissionError(13, "Permission denied", "/x"), 2, "tertium: /x: permission denied\n"),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
    ],
)
def test_how_errors_end(
    error: BaseException, status: int, said: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_errors, "_quiet", lambda: cli_errors.NO_READER)

    @click.command()
    def failing() -> None:
        raise error

    assert cli_errors.run(failing, []) == status
    assert capfd.readouterr().err.strip("\n") == said.strip("\n")


def test_a_bug_keeps_its_traceback() -> None:
    @click.command()
    def buggy() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        cli_errors.run(buggy, [])


def test_a_reader_that_leaves_ends_it_quietly(parties: Run, tmp_path: Path) -> None:
    new(parties)
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from tertium.cli import main; sys.exit(main())",
         "charter", "verify", "charter.toml"],
        cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
