"""The tables of this folder hold at least as many named cases as were agreed on, and cannot quietly get shorter."""

import importlib.util
from pathlib import Path

import pytest

LEAST = {
    "charters": 180,
    "command_lines": 170,
    "headers": 180,
    "inspected": 70,
    "keys": 75,
    "messages": 2500,
    "signatures": 45,
    "site_files": 130,
}
AGREED = 300


def names(table: str) -> list[str]:
    path = Path(__file__).with_name(f"test_malformed_{table}.py")
    spec = importlib.util.spec_from_file_location(f"counted_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.CASES)


@pytest.mark.parametrize("table", LEAST)
def test_a_table_has_its_cases(table: str) -> None:
    assert len(names(table)) >= LEAST[table]


def test_there_are_three_hundred_cases_without_those_that_follow_from_the_structs() -> None:
    written = [name for table in LEAST if table != "messages" for name in names(table)]
    assert len(written) >= AGREED
    assert all(name.strip() for name in written)


def test_every_table_is_counted() -> None:
    found = {path.stem.removeprefix("test_malformed_") for path in Path(__file__).parent.glob("test_malformed_*.py")}
    assert found == {*LEAST, "count"}
