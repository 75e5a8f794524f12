"""Packages that only some parties need: imported where they are used, with a sentence that says how to get them."""

import importlib
from types import ModuleType

from ..protocol.errors import SiteFileError

EXTRA_OF = {
    "torch": "demo",
    "safetensors": "demo",
    "sklearn": "demo",
    "pooch": "demo",
    "requests": "demo",
    "matplotlib": "demo",
}


def missing(package: str) -> SiteFileError:
    """Return the error to raise for a package that is not installed."""
    extra = EXTRA_OF.get(package.partition(".")[0])
    if extra is None:
        return SiteFileError(f"the package {package} is not installed")
    return SiteFileError(f"{package} is not installed; run: pip install 'tertium[{extra}]'")


def require(module: str) -> ModuleType:
    """Import a module of an extra; raises `SiteFileError` saying what to install where it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing(error.name or module) from error
