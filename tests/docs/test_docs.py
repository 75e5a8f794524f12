"""The documents say what the program does: tables, commands, links, names of tests, and the commands of the README."""

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from tertium.cli import COMMANDS
from tertium.cli.lazy import group

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
DEADLINE = 280.0
"""Seconds for all commands of the README, of which five start torch, on a machine that does four times as much."""


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def commands(path: Path) -> list[str]:
    """Return every `tertium ...` command of a document, from code blocks and from inline code."""
    plain = text(path).replace("\\\n", " ")
    fences = re.findall(r"```sh\n(.*?)```", plain, re.DOTALL)
    outside = re.sub(r"```.*?```", "", plain, flags=re.DOTALL)
    lines = "\n".join([*fences, *re.findall(r"^ {4}(\S.*)$", outside, re.MULTILINE)]).splitlines()
    lines += re.findall(r"`(tertium [^`]+)`", outside)
    return [line for line in lines if line.startswith("tertium ")]


def parse(line: str) -> None:
    """Follow a command to its click command, and parse its options; runs nothing. Ellipses stand for what follows."""
    words = [word for word in shlex.split(line)[1:] if word != "..."]
    command: click.Command = group(COMMANDS)
    context = click.Context(command, info_name="tertium")
    while isinstance(command, click.Group) and words:
        found = command.get_command(context, words[0])
        assert found is not None, f"{line}: there is no command {words[0]}"
        command, words = found, words[1:]
        context = click.Context(command, info_name=command.name, parent=context)
    assert command.get_help(context)
    known = {name for option in command.params if isinstance(option, click.Option) for name in option.opts}
    known |= {"--help", "-h"}
    for word in words:
        if word.startswith("-"):
            assert word.partition("=")[0] in known, f"{line}: {command.name} has no option {word}"
    if isinstance(command, click.Group):
        assert not words, f"{line}: {words[0]} belongs to no command"


def tables(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(ROOT / "docs" / "tables.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_the_tables_are_up_to_date() -> None:
    done = tables("--check")
    assert done.returncode == 0, f"run python docs/tables.py\n{done.stdout[:4000]}{done.stderr[:2000]}"


def test_every_document_with_a_table_has_one() -> None:
    marks = {name for path in DOCUMENTS for name in re.findall(r"<!-- generated: ([a-z-]+) -->", text(path))}
    source = text(ROOT / "docs" / "tables.py")
    blocks = set(re.findall(r'^    "([a-z-]+)": ', source[source.index("BLOCKS:") :], re.MULTILINE))
    assert blocks == marks


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_exists_with_its_options(path: Path) -> None:
    for line in commands(path):
        parse(line)


def test_commands_are_found_and_bad_ones_refused() -> None:
    assert len(commands(ROOT / "README.md")) >= 20
    parse("tertium charter sign charter.toml --as alice")
    for line in ("tertium charter sing x", "tertium owner run --partty x", "tertium nothing", "tertium owner walk"):
        with pytest.raises(AssertionError):
            parse(line)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text(path)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        assert found.exists(), f"{path.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", text(found), re.MULTILINE)
            slugs = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{path.name}: {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_named_tests_exist(path: Path) -> None:
    for name, test in re.findall(r"(test_\w+\.py)::(test_\w+)", text(path)):
        found = list((ROOT / "tests").rglob(name))
        assert len(found) == 1, f"{path.name} names {name}"
        assert re.search(rf"^def {test}\(", text(found[0]), re.MULTILINE), f"{path.name} names {name}::{test}"


def test_the_readme_shows_how_to_begin() -> None:
    readme = text(ROOT / "README.md")
    wanted = [
        "make demo",
        "tertium demo",
        "## What you see",
        "## Who sees what",
        "## What it does not protect",
        "## Your own",
    ]
    at = [readme.index(part) for part in [*wanted, "## Layout"]]
    assert at == sorted(at)
    targets = set(re.findall(r"^([a-z]+):", text(ROOT / "Makefile"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)", readme)) == targets
    assert "make test" in readme


def test_decisions_are_numbered_and_say_what_got_worse() -> None:
    files = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [path.name[:4] for path in files] == [f"{number:04d}" for number in range(1, len(files) + 1)]
    for path in files:
        assert text(path).startswith(f"# {path.name[:4]}: ")
        for part in ("**Context.**", "**Decision.**", "**What got worse.**"):
            assert part in text(path), f"{path.name}: {part}"


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.mark.slow
@pytest.mark.timeout(DEADLINE + 20)
def test_the_commands_for_real_hosts_run_as_written(tmp_path: Path) -> None:
    readme = text(ROOT / "README.md")
    section = readme[readme.index("## Real hosts") : readme.index("## Layout")]
    for written, port in zip(("7100", "7101", "7102", "7103"), free_ports(4), strict=True):
        section = section.replace(f":{written}", f":{port}")
    section = section.replace("rounds = 100", "rounds = 2")
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    bin_folder = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    until = time.monotonic() + DEADLINE
    running: list[subprocess.Popen[bytes]] = []
    try:
        for line in "".join(blocks).splitlines():
            # The model owner's is the last of the five and ends when all is done; the others wait beside it.
            if re.match(r"tertium \S+ run ", line) and not line.startswith("tertium owner"):
                with (tmp_path / f"{len(running)}.log").open("wb") as log:
                    running.append(
                        subprocess.Popen(
                            shlex.split(line),
                            cwd=tmp_path,
                            env=environment,
                            stdout=log,
                            stderr=log,
                            start_new_session=True,
                        )
                    )
                continue
            done = subprocess.run(
                ["sh", "-c", line],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=max(1.0, until - time.monotonic()),
                check=False,
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        assert [process.wait(max(1.0, until - time.monotonic())) for process in running] == [0, 0, 0, 0]
        assert (tmp_path / "results" / "model.safetensors").exists()
    finally:
        for process in running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
