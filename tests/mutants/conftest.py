"""The tables of guards, and the command that removes them, as tests use both."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

COMMAND = Path(__file__).parent / "mutants.py"


@pytest.fixture(scope="session")
def mutants() -> Any:
    """The module that is the command."""
    spec = importlib.util.spec_from_file_location("guard_mutants", COMMAND)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command in a process of its own."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        said = [sys.executable, str(COMMAND), *arguments]
        return subprocess.run(said, capture_output=True, text=True, timeout=580, check=False)

    return run
