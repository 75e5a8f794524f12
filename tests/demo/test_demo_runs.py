"""The real demos, short: what they learn, what the folder holds, and that one seed gives one model in every mode."""

import json
import os
import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

NEEDED = ("torch", "sklearn")
"""Looked for and not imported: the demos' processes do that, and every worker of the tests collects this file."""
pytestmark = [
    pytest.mark.skipif(any(find_spec(name) is None for name in NEEDED), reason="needs torch and scikit-learn"),
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("demo"),
]
TERTIUM = (sys.executable, "-m", "tertium", "demo")
TOY_NUMBERS = (sys.executable, str(Path(__file__).parent / "toy_numbers.py"))
LONG = os.environ.get("TERTIUM_LONG") == "1"


@pytest.mark.parametrize(
    "program", [TOY_NUMBERS, *([(*TERTIUM, "toy")] if LONG else [])], ids=lambda words: Path(words[-1]).name
)
def test_toy_is_three_acts(demo: Callable[..., Any], program: tuple[str, ...]) -> None:
    """Without torch, which 17 processes would load in turn; with `make long` as a person runs it."""
    run = demo(program)
    assert run.wait(within=150) == 0, run.err
    places = [run.out.index(f"act {number}: ") for number in ("one", "two", "three")]
    assert places == sorted(places)
    central = [float(loss) for loss in re.findall(r"^step [ \d]\d  loss ([\d.]+)$", run.out, re.MULTILINE)]
    assert len(central) == 20
    assert central[-1] < 0.01 < central[0]
    two, three = run.out[places[1] : places[2]], run.out[places[2] :]
    for party in ("alice", "bob"):
        assert len(re.findall(rf"^{party} +\| round \d+: trained on 2 examples, loss", two, re.MULTILINE)) == 10
        assert len(re.findall(rf"^{party} +\| round \d+: trained on 2 examples, loss", three, re.MULTILINE)) == 11
        assert not re.search(rf"^(?!{party}).*{party}.*loss", run.out, re.MULTILINE)
    # What the owner has of one update is the row; what it has of the mean is nobody's.
    bobs = r"computes, from one update of bob: row \[0\.000, [01]\.000\], target 0\.000: row [12] of the data"
    assert re.search(bobs, two)
    assert "the audit of act two: VIOLATION: 1 on record, by owner" in two
    assert re.search(r"computes, from the mean of one update of bob and one of alice: .*: nobody's row", three)
    assert "The audit of all ledgers: clean: no violation is on record" in three
    answers = [float(found) for found in re.findall(r"^\[[01], [01]\] +(-?[\d.]+)", run.out, re.MULTILINE)]
    assert [round(answer) for answer in answers] == [0, 0, 1, 1]
    assert run.gone()
    summary = json.loads((run.run / "summary.json").read_text())
    assert (summary["rounds"], summary["accuracy"]) == (11, 1.0)
    assert summary["tutorial"]["act_one"] == pytest.approx(central, abs=1e-6)
    assert summary["tutorial"]["act_two"]["is_row"] in (0, 1)
    assert summary["tutorial"]["act_three"]["is_row"] is None
    for name in ("report.html", "audit.html", "plain/audit.html"):
        assert (run.run / name).is_file()


def test_digits_with_one_seed_give_one_model_among_several_secure_workers_too(demo: Callable[..., Any]) -> None:
    """The second, with `make long`: that the mode changes no model is shown without torch in `test_demo_processes`."""
    models, learned = [], []
    for mode in ((), *([("--mode", "additive", "--secure-workers", "2")] if LONG else [])):
        run = demo(TERTIUM, "digits", "--rounds", "3", "--seed", "1", "--json", *mode)
        assert run.wait(within=120) == 0, run.err
        assert run.err == ""
        summary = json.loads(run.out)
        assert {party["role"] for party in summary["parties"]} == {"model_owner", "data_owner", "secure_worker"}
        models.append((run.run / "model.safetensors").read_bytes())
        learned.append((summary["accuracy"], summary["loss"], summary["centralised"]))
        assert "digits 0-3" in run.log("alice")
        assert run.gone()
    assert all(each == models[0] for each in models)
    assert all(each == learned[0] for each in learned)
