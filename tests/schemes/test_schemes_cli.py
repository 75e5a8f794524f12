"""`tertium schemes`, and a scheme of another package: installed, listed, found by name, checked."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tertium.cli import main

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "standby"
DEMOS = ROOT / "tests" / "demo"
"""Where the demo without torch is, as a program and as what its parties import."""

BROKEN = """
from tertium.crypto.sharing.additive import Additive

class Wrong(Additive):
    name = "wrong"
    def combiner(self, plan, length):
        inner = super().combiner(plan, length)
        class Off:
            def combine(self, partials):
                return inner.combine(partials) + plan.dtype.type(1)
        return Off()
"""


def test_the_list_says_whom_each_scheme_trusts(capsys):
    assert main(["schemes"]) == 0
    said = capsys.readouterr().out
    for line in (
        "reads one update  both secure workers together",
        "reads one update  the secure worker with the model owner",
        "reads one update  any 2 of the 3 secure workers together",
        "2 of 3 partial totals make the sum",
        "4 bytes a float32 weight and 32 bytes of seeds",
        "all other contributors of a released set together can read one update",
        "imprint or trap weights",
        "Differencing over rounds",
    ):
        assert line in said
    assert "dummy" not in said


def test_the_list_as_json(capsys):
    assert main(["schemes", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    by_name = {each["name"]: each for each in said["schemes"]}
    assert by_name["masked"]["collusion_sets"] == [[0, 1]]
    assert by_name["masked"]["seats"] == ["secure worker", "model owner"]
    assert by_name["additive"]["upload_bytes_per_weight"] == 4.0
    assert len(by_name["plain"]["digest"]) == 64
    assert len(said["no_mode_stops"]) == 2


def test_a_check_that_passes(capsys):
    assert main(["schemes", "check", "masked", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["passed"] is True
    assert [each["wrong"] for each in said["checks"]] == [None] * len(said["checks"])
    assert said["error_probability"] <= 1e-6
    assert said["costs"][0]["upload_bytes"] / 4 <= 1.01


def test_a_check_that_fails_has_a_sentence_and_a_status(tmp_path, monkeypatch, capsys):
    (tmp_path / "wrong_scheme.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["schemes", "check", "wrong_scheme:Wrong"]) == 1
    said = capsys.readouterr().out
    assert re.search(r"FAILED +3/11 .*\n +wrong: the combined sum .* is wrong: word 0 is", said)
    assert "ns a word" not in said


UNDECLARED = """
from tertium.crypto.sharing.additive import Additive

class Odd(Additive):
    name = "odd"
    @property
    def seats(self):
        raise ValueError("no seats")
"""


def test_a_scheme_that_cannot_be_described_is_a_finding_and_no_traceback(tmp_path, monkeypatch, capsys):
    (tmp_path / "odd_scheme.py").write_text(UNDECLARED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["schemes", "check", "odd_scheme:Odd", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["name"] == "odd"
    assert said["checks"][0]["wrong"] == "it raises ValueError where it should not: no seats"
    monkeypatch.setattr("tertium.cli.schemes.names", lambda: ("odd_scheme:Odd", "trusted"))
    assert main(["schemes"]) == 0
    listed = capsys.readouterr().out
    assert "odd_scheme:Odd: odd cannot be described: ValueError: no seats" in listed
    assert "trusted (version 1" in listed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing"], "no scheme is called 'nothing'"),
        (["nowhere_at_all:Scheme"], "cannot be imported: ModuleNotFoundError"),
        (["json:loads"], "is no class derived from"),
        (["additive", "--holders", "1"], "has 2 to 16 holder(s), not 1"),
        (["additive", "--holders", "3", "--threshold", "2"], "has the threshold 3, not 2"),
        (["dummy"], "the scheme dummy hides nothing"),
    ],
)
def test_what_a_person_gets_wrong_is_one_sentence(arguments, sentence, capsys):
    assert main(["schemes", "check", *arguments]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def run(folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder / "site"), str(DEMOS)])},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the example installed in `site`, from a copy and without a network."""
    folder = tmp_path_factory.mktemp("standby")
    source = folder / "source"
    source.mkdir()
    for path in EXAMPLE.iterdir():
        if path.is_file():
            (source / path.name).write_bytes(path.read_bytes())
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    done = run(folder, "-m", "pip", "install", *options, "--target", str(folder / "site"), str(source))
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_the_example_is_found_by_its_name_once_installed(installed):
    program = "import sys; from tertium.cli import main; sys.exit(main(['schemes', '--json']))"
    done = run(installed, "-c", program)
    assert done.returncode == 0, done.stderr
    (found,) = [each for each in json.loads(done.stdout)["schemes"] if each["name"] == "standby"]
    assert found["collusion_sets"] == [[0, 2], [0, 3], [1, 2], [1, 3]]
    assert found["collusion"].startswith("secure workers 0 and 2; or secure workers 0 and 3")
    assert found["upload_bytes_per_weight"] == 8.0


@pytest.mark.parametrize("target", ["standby", "tertium_standby:Standby"])
def test_the_example_passes_the_kit(installed, target):
    program = f"import sys; from tertium.cli import main; sys.exit(main(['schemes', 'check', '{target}']))"
    done = run(installed, "-c", program)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


@pytest.mark.slow
def test_the_examples_own_tests_pass(installed):
    done = run(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(installed / "source"))
    assert done.returncode == 0, done.stdout[-3000:]
    assert "11 passed" in done.stdout


@pytest.mark.timeout(300)
def test_the_example_runs_the_demo_and_makes_the_same_model(installed):
    models = []
    for mode in ("trusted", "standby"):
        words = ["--mode", mode, "--rounds", "2", "--seed", "7", "--json", "--out", str(installed / mode)]
        done = run(installed, str(DEMOS / "numbers_demo.py"), *words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["mode"] == mode
        models.append((installed / mode / "model.safetensors").read_bytes())
    assert models[0] == models[1]


def test_a_charter_cannot_name_it_without_its_digest(installed):
    program = (
        "from tertium.crypto.sharing import chartered, scheme\n"
        "from tertium.crypto.sharing.naming import scheme_digest\n"
        "digest = scheme_digest(scheme('standby'))\n"
        "assert chartered('standby', 1, digest).holders == 4\n"
        "chartered('standby', 1, None)\n"
    )
    done = run(installed, "-c", program)
    assert "UnknownScheme" in done.stderr
    assert "must give its digest" in done.stderr


def test_the_example_is_short():
    lines = (EXAMPLE / "tertium_standby.py").read_text().splitlines()
    assert len(lines) < 100


def test_the_kit_is_imported_without_pytest():
    program = "import sys; import tertium.crypto.sharing.conformance; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0


def test_the_document_shows_the_example_as_it_is():
    document = (ROOT / "docs" / "schemes.md").read_text(encoding="utf-8")
    shown = re.findall(r"```(?:python|toml)\n(.*?)```", document, re.DOTALL)
    written = "".join(
        (EXAMPLE / name).read_text(encoding="utf-8") for name in sorted(os.listdir(EXAMPLE)) if "." in name
    )
    missing = [block for block in shown if block not in written and "dummy" not in block]
    assert missing == []
    assert len(shown) == 8


def test_the_documents_use_of_the_dummy_works():
    from tertium.crypto.sharing import dummy, scheme

    document = (ROOT / "docs" / "schemes.md").read_text(encoding="utf-8")
    (program,) = [block for block in re.findall(r"```python\n(.*?)```", document, re.DOTALL) if "dummy" in block]
    names: dict[str, object] = {"dummy": dummy, "scheme": scheme}
    exec(compile(program, "schemes.md", "exec"), names)
    assert names["made"].holders == 3
