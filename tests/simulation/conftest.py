"""Scenarios made by hand, and one invariant at a time held against them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tertium.simulation.invariants import ALL
from tertium.simulation.scenario import NAMES, Scenario
from tertium.simulation.world import World

BASE = Scenario(seed=1, family="by hand", data_owners=NAMES[:4], minimum=3, rounds=1)


class Player:
    """Plays scenarios that differ from a plain one in what is named."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.played = 0

    def scenario(self, **changes: Any) -> Scenario:
        return dataclasses.replace(BASE, **changes)

    def __call__(self, *invariants: Any, machines: Any = None, exchanges: Any = None, **changes: Any) -> World:
        self.played += 1
        scenario = self.scenario(**changes)
        folder = self.folder / f"owner-{self.played}"
        world = World(scenario, folder, invariants or ALL, machines=machines, exchanges=exchanges)
        world.play()
        return world


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., World]:
    return Player(tmp_path)
