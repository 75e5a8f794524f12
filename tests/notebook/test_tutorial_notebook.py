"""The tutorial's notebook in a real kernel, from the first cell to the last: `make notebook`."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "tutorial.ipynb"
pytestmark = pytest.mark.skipif(
    os.environ.get("TERTIUM_NOTEBOOK") != "1", reason="about a minute: run by `make notebook` (TERTIUM_NOTEBOOK=1)"
)


def printed(cell: Any) -> str:
    shown = [each.get("text") or each.get("data", {}).get("text/plain", "") for each in cell.get("outputs", [])]
    return "".join(shown)


@pytest.mark.timeout(600)
def test_every_cell_runs_and_says_what_it_promises(tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, 4)
    client = nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    text = "\n".join(printed(cell) for cell in notebook.cells)
    central = [float(each) for each in re.findall(r"step .*loss ([0-9.]+)", text)]
    rounds = [float(each) for each in re.findall(r"^round +[0-9]+  loss ([0-9.]+)", text, re.MULTILINE)]
    assert (len(central), len(rounds)) == (20, 10)
    assert central[-1] < 0.01
    assert central[0] > 1
    assert rounds[-1] < rounds[0] / 10
    (row,) = re.findall(r"Bob's row, from his update: \[\[([-0-9.e]+), ([-0-9.e]+)\]\]", text)
    assert [round(float(each), 4) for each in row] == [0.0, 1.0]
    assert text.count("no message returns it") == 2
    assert "clean: no violation is on record" in text
    accuracies = [float(each) for each in re.findall(r"accuracy ([0-9.]+)% on 94", text)]
    assert len(accuracies) == 10
    assert accuracies[-1] >= 85
    assert all(cell.get("outputs") or cell["cell_type"] == "markdown" for cell in notebook.cells)
