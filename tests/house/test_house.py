"""The house itself: what the wheel holds, what is pinned, what may import what, and how long a file gets."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOT_PACKAGES = {"tests", "docs", "examples", "benchmarks", "deploy", "build", "dist", "runs"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout, so there is no list of the project's own files")
    return [ROOT / name for name in listed.stdout.split() if (ROOT / name).exists()]


def packages() -> set[str]:
    """Return every package there is, by its import name."""
    found = {"tertium"}
    for init in ROOT.rglob("__init__.py"):
        parts = init.parent.relative_to(ROOT).parts
        if parts and parts[0] not in NOT_PACKAGES and not parts[0].startswith("."):
            found.add(".".join(("tertium", *parts)))
    return found


def test_tests_of_a_group_run_in_one_process(request):
    """pytest-xdist adds its group to a test's name; where that has no effect, each repeats what they were to share."""
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("there are groups with --dist loadgroup only")
    grouped = {item.nodeid: item.get_closest_marker("xdist_group") for item in request.session.items}
    alone = [name for name, group in grouped.items() if group is not None and not name.endswith(f"@{group.args[0]}")]
    assert not alone, f"this pytest ignores groups; install what constraints.txt names: {alone[:3]}"


def test_pyproject_names_every_package():
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages()


def test_the_wheel_holds_every_module_and_nothing_else(tmp_path):
    # From a copy: setuptools leaves build/lib behind, and would pack what an earlier build left there.
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "dist", "runs", "*.egg-info", "tests"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert built.returncode == 0, built.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {"tertium/py.typed"}
    for package in packages():
        folder = ROOT.joinpath(*package.split(".")[1:])
        expected |= {f"tertium/{module.relative_to(ROOT).as_posix()}" for module in folder.glob("*.py")}
    assert names == expected


def test_every_dependency_is_pinned():
    pinned = {
        re.split(r"[=<>]", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    project = PROJECT["project"]
    wanted = [
        *project["dependencies"],
        *(item for extra in project["optional-dependencies"].values() for item in extra),
    ]
    names = {re.split(r"[\[<>=]", item)[0].lower().replace("_", "-") for item in wanted} - {"tertium"}
    assert names <= pinned
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().split()


def test_no_file_is_much_longer_than_500_lines():
    long = {path.name: lines for path in tracked() if (lines := len(path.read_text().splitlines())) > 550}
    assert long == {}


def test_imports_run_one_way():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


def test_no_pickle_and_no_torch_load_in_the_package():
    banned = re.compile(
        r"^\s*(import pickle|from pickle|import shelve|import marshal)|torch\.load\(|allow_pickle=True|recv_pyobj", re.M
    )
    outside = {"tests", "benchmarks"}
    found = [
        path.name
        for path in tracked()
        if path.relative_to(ROOT).parts[0] not in outside and banned.search(path.read_text())
    ]
    assert found == []


def test_numpy_and_torch_generators_stay_out_of_what_protects():
    """Randomness that protects anything comes from the operating system or an AES keystream."""
    banned = re.compile(
        r"np\.random|numpy\.random|torch\.(rand|manual_seed|Generator)|^import random|^from random", re.M
    )
    rooms = {"crypto", "protocol", "secure_worker", "owner", "workers"}
    found = [
        path.name for path in tracked() if path.relative_to(ROOT).parts[0] in rooms and banned.search(path.read_text())
    ]
    assert found == []
