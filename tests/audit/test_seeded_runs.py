"""Simulated runs with drop-outs, restarts and slow parties, audited: nobody honest is accused of anything."""

import os
from pathlib import Path

import pytest
from tertium.audit.examine import examine
from tertium.audit.reading import read_run
from tertium.audit.report import Kind, Severity
from tertium.protocol.charter import Mode
from tertium.simulation.exported import export
from tertium.simulation.scenario import draw
from tertium.simulation.torture import play, scratch

SEEDS = 600 if os.environ.get("TERTIUM_TORTURE") else 4


@pytest.mark.timeout(3600 if SEEDS > 100 else 120)
def test_nobody_honest_is_accused() -> None:
    honest = 0
    with scratch() as folder:
        for seed in range(SEEDS):
            scenario = draw(seed)
            done = audited(seed, folder)
            wrong = [each for each in done if each.kind is not Kind.PLAIN_ACCESS or scenario.mode is not Mode.PLAIN]
            accused = {each.party for each in wrong} - {None}
            assert accused <= scenario.liars, (seed, wrong)
            assert scenario.liars or not wrong, (seed, wrong)
            honest += not scenario.liars
    assert honest > SEEDS // 2


def audited(seed: int, folder: Path) -> list:  # type: ignore[type-arg]
    world = play(seed, folder)
    with read_run(export(world, folder / f"run-{seed}")) as run:
        return list(examine(run).report.of(Severity.VIOLATION))
