"""Every guard of the role machines is listed, and a test fails for each that is removed.

`make test` holds the tables against the code, and the command against a guard that is caught and one that is not;
`make mutants`, with TERTIUM_MUTANTS set, removes every guard.
"""

import ast
import os
import re
from pathlib import Path
from typing import Any

import pytest
from tertium.crypto import errors as crypto_errors
from tertium.protocol import errors as protocol_errors

Mutants = Any
Command = Any
PEERS = {
    name
    for module in (crypto_errors, protocol_errors)
    for name, each in vars(module).items()
    if isinstance(each, type) and issubclass(each, crypto_errors.Misbehaviour)
}
TESTS = Path(__file__).resolve().parents[1]
SHARES = 6
MUTANTS = bool(os.environ.get("TERTIUM_MUTANTS"))

CAUGHT = "roles/test_release_gate.py::test_a_round_is_released_once[another set]"
BLIND = "roles/test_release_gate.py::test_a_round_of_another_session_is_another_round"
SITE = "raise GateShut: self._journal.read(SlotKept, _slot(question.session, question.round)) is not None"


def table(folder: Path, test: str, site: str = SITE) -> str:
    row = f'sites = ["{site}"]\nwhy = "a round is released once"\ntests = ["{test}"]\n'
    (folder / "gate.toml").write_text(f'[["secure_worker/gate.py"."ReleaseGate.decide"]]\n{row}')
    return str(folder)


def test_every_guard_in_the_code_is_in_the_tables_and_no_other(mutants: Mutants) -> None:
    wrong = mutants.mismatch(mutants.read_tables())
    assert not wrong, "\n".join(wrong)


def test_every_guard_has_a_reason_and_tests_that_exist(mutants: Mutants) -> None:
    there: dict[str, set[str]] = {}
    for guard in mutants.read_tables().guards:
        assert guard.why
        assert guard.tests
        for test in guard.tests:
            file, _, name = test.partition("::")
            if file not in there:
                tree = ast.parse((TESTS / file).read_text())
                there[file] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert name.partition("[")[0] in there[file], test


def test_every_exemption_says_why(mutants: Mutants) -> None:
    for exemption in mutants.read_tables().exemptions:
        assert len(exemption.because.split()) > 4, exemption


def test_the_errors_of_peers_are_guards_wherever_they_are_raised(mutants: Mutants) -> None:
    """As many as a plain search finds, so that no way to write one is overlooked."""
    found = mutants.found
    sites = found.sites()
    for file in found.FILES:
        raised = set(re.findall(r"^ +raise ([A-Z]\w+)\(", (found.ROOT / file).read_text(), re.MULTILINE))
        listed = {site.does.removeprefix("raise ") for site in sites if site.file == file}
        assert {name for name in raised if name in PEERS} <= listed, file


if MUTANTS:

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    @pytest.mark.parametrize("share", range(1, SHARES + 1))
    def test_every_mutant_is_caught(command: Command, share: int) -> None:
        done = command("--shard", f"{share}/{SHARES}")
        assert done.returncode == 0, f"{done.stdout[-3000:]}{done.stderr[-2000:]}"


@pytest.mark.parametrize(("test", "said"), [(CAUGHT, "caught"), (BLIND, "survived")])
def test_a_mutant_whose_tests_pass_survived(command: Command, tmp_path: Path, test: str, said: str) -> None:
    done = command("--tables", table(tmp_path, test))
    assert f"{said:9} secure_worker/gate.py:ReleaseGate.decide: {SITE}" in done.stdout
    assert done.returncode == (0 if said == "caught" else 1)


def test_a_guard_that_is_not_in_the_code_is_refused(command: Command, tmp_path: Path) -> None:
    done = command("--tables", table(tmp_path, CAUGHT, "raise GateShut: the moon is full"))
    assert "not in the code: secure_worker/gate.py:ReleaseGate.decide: raise GateShut: the moon is full" in done.stdout
    assert done.returncode == 2


def test_a_test_that_does_not_exist_catches_nothing(command: Command, tmp_path: Path) -> None:
    done = command("--tables", table(tmp_path, "roles/test_release_gate.py::test_that_is_not_there"))
    assert done.returncode == 2
    assert "caught" not in done.stdout
