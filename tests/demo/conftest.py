"""Demos as processes, one folder a test."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode puts no folder of tests there
from demos_started import NUMBERS, Demo, started


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    with started(tmp_path) as start:
        yield start


@pytest.fixture
def numbers(demo: Callable[..., Demo]) -> Callable[..., Demo]:
    """The demo without torch."""
    return lambda *words, **more: demo(NUMBERS, *words, **more)
