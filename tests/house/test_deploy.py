"""What `deploy/` holds: units that systemd accepts, that take away what they should, and whose commands exist."""

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import click
import pytest
from tertium.cli import COMMANDS
from tertium.cli.lazy import group

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
HARDENED = {
    "DynamicUser": "yes",
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "CapabilityBoundingSet": "",
    "LimitCORE": "0",
    "MemorySwapMax": "0",
    "UMask": "0077",
    "StateDirectoryMode": "0700",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces": "yes",
    "SystemCallArchitectures": "native",
}


def service(path: Path) -> dict[str, list[str]]:
    """Return a unit's [Service] section; a key may stand more than once."""
    found: dict[str, list[str]] = {}
    section = path.read_text().partition("[Service]")[2].partition("[Install]")[0]
    for line in section.splitlines():
        if line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def parses(words: list[str]) -> None:
    command: click.Command = group(COMMANDS)
    context = click.Context(command, info_name="tertium")
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, words
        command, words = found, words[1:]
        context = click.Context(command, info_name=command.name, parent=context)
    known = {name for option in command.params for name in option.opts}
    assert {word for word in words if word.startswith("-")} <= known, words


def test_there_is_a_unit_for_each_role_that_runs_for_long() -> None:
    runs = {line.split()[1] for unit in UNITS for line in service(unit)["ExecStart"]}
    assert runs == {"secure-worker", "owner", "worker"}


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_takes_away_what_a_party_does_not_need(unit: Path) -> None:
    has = service(unit)
    assert {key: has.get(key, ["missing"])[0] for key in HARDENED} == HARDENED
    assert has["SystemCallFilter"][:2] == ["@system-service", "~@privileged @resources @mount @debug"]
    # the key is root's, and comes as a credential; nothing of the party stands in the environment
    assert any(value.startswith("secret.toml:/etc/tertium/") for value in has["LoadCredential"])
    assert not any("secret" in value for value in has["Environment"])
    assert ("MemoryDenyWriteExecute" in has) is ("secure-worker" in unit.name)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_comes_back_from_a_crash_and_not_from_what_a_person_has_to_mend(unit: Path) -> None:
    has = service(unit)
    assert (has["Restart"], has["RestartPreventExitStatus"]) == (["on-failure"], ["2"])
    # only what goes on from where it was may be started again by itself
    assert ("--resume" in has["ExecStart"][0].split()) is ("owner" in unit.name)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_runs_commands_that_exist_with_their_options(unit: Path) -> None:
    has = service(unit)
    lines = [line for line in has["ExecStartPre"] + has["ExecStart"] if line.startswith("/opt/tertium/bin/tertium ")]
    assert next(line.split()[1] for line in lines) == "doctor"
    for line in lines:
        parses(shlex.split(line)[1:])


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_accepts_the_unit(unit: Path, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze here")
    copy = tmp_path / unit.name.replace("@.", "@alice.")
    # The program that is installed later, in place of which any that exists does for the check.
    copy.write_text(unit.read_text().replace("/opt/tertium/bin/tertium", "/bin/true"))
    done = subprocess.run(
        [analyze, "verify", "--man=no", copy], capture_output=True, text=True, timeout=60, check=False
    )
    if "Failed to initialize manager" in done.stderr or "Failed to connect" in done.stderr:
        pytest.skip(f"systemd-analyze cannot work here: {done.stderr.strip()[:200]}")
    complaints = [line for line in done.stderr.splitlines() if copy.name in line or "tertium" in line]
    assert (done.returncode, complaints) == (0, [])


def test_the_image_holds_every_package_by_name_and_runs_as_nobody() -> None:
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    wanted = {name.split(".")[1] for name in packages if "." in name}
    copied = {line.split()[1].rstrip("/") for line in lines if re.fullmatch(r"COPY \S+/ \S+/", line)}
    assert copied == wanted
    files = next(line for line in lines if line.startswith("COPY pyproject.toml")).split()[1:-1]
    assert all((ROOT / name).is_file() for name in files)
    assert not any(re.match(r"COPY \. ", line) for line in lines)
    assert lines.index("USER 10001:10001") > lines.index("COPY --from=build /opt/tertium /opt/tertium")


def test_the_readme_names_every_file_and_its_commands_exist() -> None:
    text = (DEPLOY / "README.md").read_text()
    for path in set(DEPLOY.iterdir()) - {DEPLOY / "README.md"}:
        assert path.name in text, path.name
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        assert (DEPLOY / target).exists(), target
