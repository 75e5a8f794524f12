"""Where a scheme is found by its name: among the built-in ones, then among the entry points `tertium.schemes`.

Rules of this file:
- A built-in name is never looked for elsewhere, so that no installed package can take the place of `trusted`.
- Nothing is imported but what was asked for. An entry point runs the code of a package that this machine's operator
  installed; a name from a peer selects among those and is never an import path.
- What a charter names goes through `chartered`: name, version and digest must be those of the scheme found.
- `dummy` is in no list, and no package can register that name.
"""

import re
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING

from ..errors import BadScheme, UnknownScheme
from .base import Scheme

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "tertium.schemes"
DUMMY = "dummy"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

_BUILT_IN: dict[str, tuple[str, str]] = {
    "additive": ("additive", "Additive"),
    "masked": ("masked", "Masked"),
    "plain": ("plain", "Plain"),
    "replicated": ("replicated", "Replicated"),
    "shamir": ("shamir", "Shamir"),
    "trusted": ("trusted", "Trusted"),
}


def names() -> tuple[str, ...]:
    """Return the names `scheme` knows, sorted; imports none of them."""
    return tuple(sorted({*_BUILT_IN, *_registered()} - {DUMMY}))


def built_in() -> tuple[str, ...]:
    """Return the names of the schemes that every installation of this release has, sorted."""
    return tuple(sorted(_BUILT_IN))


def scheme(name: str, holders: int | None = None, threshold: int | None = None) -> Scheme:
    """Return the scheme of this name for so many holders, by default its fewest, and this threshold.

    Raises:
        UnknownScheme: there is none.
        BadScheme: what is registered under this name is no scheme, or cannot be imported.
        WrongHolders: it has not so many holders, or not this threshold.
        ForTestsOnly: the name is `dummy`, outside a test.
    """
    return find(name)(holders, threshold)


def chartered(
    name: str, version: int, digest: bytes | None, holders: int | None = None, threshold: int | None = None
) -> Scheme:
    """Return the scheme that a charter names, if it is the one this party has.

    `digest` is that of `naming.scheme_digest`; None, where a charter gives none, is accepted for built-in schemes only.

    Raises:
        UnknownScheme: there is none of this name, version or digest; `dummy` is never one.
        the errors of `scheme`.
    """
    from .naming import scheme_digest

    if name == DUMMY:
        raise UnknownScheme("the scheme dummy hides nothing and is for tests; no charter can name it")
    found = scheme(name, holders, threshold)
    if found.version != version:
        raise UnknownScheme(f"the charter names version {version} of the scheme {name}, and here is {found.version}")
    if digest is None:
        if name not in _BUILT_IN:
            raise UnknownScheme(f"the scheme {name} comes from another package, so the charter must give its digest")
    elif scheme_digest(found) != digest:
        raise UnknownScheme(
            f"the charter names the scheme {name} with digest {digest.hex()[:16]}..., and the one installed here has "
            f"{scheme_digest(found).hex()[:16]}...: install the same release everywhere"
        )
    return found


def find(name: str) -> type[Scheme]:
    """Return the class registered under a name; raises the errors of `scheme` but WrongHolders."""
    if name in _BUILT_IN:
        module, attribute = _BUILT_IN[name]
        return _class(getattr(import_module(f".{module}", __package__), attribute), name)
    if name == DUMMY:
        from .dummy import Dummy

        return Dummy
    found = _registered().get(name, ())
    if not found:
        raise UnknownScheme(f"no scheme is called {name[:64]!r}: known are {', '.join(names())}")
    if len({entry.value for entry in found}) > 1:
        raise BadScheme(f"the scheme {name} is registered by more than one package: {_packages(found)}")
    try:
        loaded = found[0].load()
    except Exception as error:
        # Anything can go wrong in foreign code; whatever it is, its package has to mend it.
        raise BadScheme(f"the scheme {name} of {_packages(found)} cannot be imported: {_said(error)}") from error
    kind = _class(loaded, name)
    if kind.name != name:
        raise BadScheme(f"{_packages(found)} registers the scheme {kind.name!r} under another name, {name!r}")
    return kind


def load(target: str) -> type[Scheme]:
    """Return the class of a registered name or of `package.module:Class`, for the kit; never for a charter.

    Raises:
        UnknownScheme: it is neither.
        BadScheme: it cannot be imported, or is no scheme.
    """
    module, colon, attribute = target.partition(":")
    if not colon:
        return find(target)
    try:
        found: object = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise BadScheme(f"{target} cannot be imported: {_said(error)}") from error
    return _class(found, target)


def _class(found: object, name: str) -> type[Scheme]:
    if not isinstance(found, type) or not issubclass(found, Scheme):
        raise BadScheme(f"{name} is no class derived from tertium.crypto.sharing.base.Scheme")
    missing = [each for each in ("name", "version", "domain", "fewest", "most", "survives") if not hasattr(found, each)]
    missing += sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise BadScheme(f"{name} does not say {', '.join(missing)}")
    if not isinstance(found.name, str) or not NAME.fullmatch(found.name):
        raise BadScheme(f"{name}: a scheme's name is of lower-case letters, digits and . _ - and at most 64 long")
    return found


def entry_points(group: str) -> "Iterable[EntryPoint]":
    """Return the entry points that the installed packages have in a group."""
    from importlib.metadata import entry_points as installed  # slow to import, and a built-in scheme needs none

    return installed(group=group)


def _registered() -> "dict[str, tuple[EntryPoint, ...]]":
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(GROUP):
        found[entry.name] = (*found.get(entry.name, ()), entry)
    return found


def _packages(found: "tuple[EntryPoint, ...]") -> str:
    return ", ".join(sorted({entry.dist.name if entry.dist else entry.value for entry in found}))


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
