"""Where the role machines refuse or drop something, found in the syntax of their code, and how one of them is removed.

A *site* is one place at which a message, a body or a party is turned away:
- `raise`: an error of the `Misbehaviour` family is raised; what stands there instead is `pass`
- `return`, `continue`: an `if` ends a function or a turn of a loop early, with nothing to show for it; likewise
- `call`: a statement that only checks (`CHECKS`); likewise
- `role`: statements are accepted of some roles only (`open_signed`); of any role instead

A condition of several parts joined by `or` is one site a part, and only that part is taken out. A site is named by
file, function, what it does and the source of its condition, so its name does not change when lines move, and does
when the condition changes.

Removal replaces the code of one function in the modules as they were imported, nothing else.
"""

import ast
import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import tertium
from tertium.crypto.errors import Misbehaviour

ROOT = Path(tertium.__file__).parent
_SHARED = (
    "exchange",
    "session",
    "statements",
    "vector",
    "transfers",
    "aborts",
    "machine",
    "lanes/tickets",
    "intake",
    "holder",
    "verification",
    "ledger_file",
    "view",
    "witness",
)
FILES = (
    *(
        path.relative_to(ROOT).as_posix()
        for role in ("secure_worker", "owner", "workers")
        for path in sorted((ROOT / role).glob("*.py"))
    ),
    *(f"protocol/{name}.py" for name in _SHARED),
    "crypto/sealing.py",
    "crypto/merkle.py",
)
"""Code whose guards are listed. What decides who is heard at all (ZAP, `Hello`, decoding) has tests of its own."""
CHECKS = frozenset(
    {
        "verify",
        "check_public_key",
        "check_question",
        "check_offer",
        "check_abort",
        "_check_order",
        "_from_owner",
        "_from_owner_to_several",
        "check_releases",
        "check_outcome",
        "read_answers",
        "neighbours_keys",
        "open_mask_key",
        "require",
        "examine",
        "examine_passed_on",
        "erase",
        "wipe",
    }
)


@dataclass(frozen=True, order=True)
class Site:
    """One place where something is turned away."""

    file: str
    function: str
    does: str
    when: str

    @property
    def name(self) -> str:
        """The name that the tables use."""
        return f"{self.file}:{self.function}: {self.does}: {self.when}"


@dataclass
class _Place:
    """A site in a syntax tree: its statement, the list that holds it, and the edit that removes it."""

    body: list[ast.stmt]
    statement: ast.stmt
    remove: Callable[[], None]

    def watch(self, name: str) -> None:
        """Have it say its name when it turns something away."""
        number = next(at for at, each in enumerate(self.body) if getattr(each, "watched", each) is self.statement)
        says = ast.parse(f"__fired__({name!r})").body
        if isinstance(self.statement, ast.Raise | ast.Return | ast.Continue) or ".erase(" in name or ".wipe(" in name:
            self.body[number:number] = says
            return
        handler = ast.ExceptHandler(type=None, name=None, body=[*says, ast.Raise()])
        around = ast.Try(body=[self.body[number]], handlers=[handler], orelse=[], finalbody=[])
        around.watched = self.statement  # type: ignore[attr-defined]
        self.body[number] = around


class _Found:
    """What a walk over one outermost function finds."""

    def __init__(self, file: str, module: str, function: str) -> None:
        self.file, self.function = file, function
        self._at: tuple[list[ast.stmt], ast.stmt]
        self.places: dict[Site, _Place] = {}
        self._misbehaviours = vars(importlib.import_module(module))

    def walk(self, body: list[ast.stmt], when: str, test: ast.If | None) -> None:
        for number, statement in enumerate(body):
            self._statement(body, number, statement, when, test)
            match statement:
                case ast.If():
                    self.walk(statement.body, ast.unparse(statement.test), statement)
                    self.walk(statement.orelse, f"else of {ast.unparse(statement.test)}", None)
                case ast.For() | ast.While() | ast.With():
                    self.walk(statement.body, "always", None)
                case ast.Try():
                    self.walk(statement.body, when, test)
                    for handler in statement.handlers:
                        self.walk(handler.body, f"except {ast.unparse(handler.type) if handler.type else ''}", None)
                    self.walk(statement.orelse, when, None)
                    self.walk(statement.finalbody, when, None)
                case ast.Match():
                    for case in statement.cases:
                        self.walk(case.body, f"case {ast.unparse(case.pattern)}", None)

    def _statement(
        self, body: list[ast.stmt], number: int, statement: ast.stmt, when: str, test: ast.If | None
    ) -> None:
        def nothing() -> None:
            body[number] = ast.copy_location(ast.Pass(), statement)

        self._at = body, statement

        match statement:
            case ast.Raise(exc=ast.expr() as error) if (kind := self._protocol_error(error)) is not None:
                self._conditional(f"raise {kind}", when, test, nothing)
            case ast.Raise(exc=None):
                self._conditional("raise", when, test, nothing)
            case ast.Return(value=value) if test is not None and _says_nothing(value):
                self._conditional(f"return {ast.unparse(value)}" if value else "return", when, test, nothing)
            case ast.Continue() if test is not None:
                self._conditional("continue", when, test, nothing)
            case ast.Expr(value=ast.Call() as call) if _called(call) in CHECKS:
                self._add(f"call {_called(call)}", ast.unparse(call), nothing)
        for call in _calls(statement):
            if _called(call) == "open_signed" and len(call.args) > 3:
                roles = [ast.unparse(argument) for argument in call.args[3:]]

                def of_any(call: ast.Call = call) -> None:
                    del call.args[3:]

                self._add(f"role {ast.unparse(call.args[2])}", ", ".join(roles), of_any)

    def _conditional(self, does: str, when: str, test: ast.If | None, nothing: Callable[[], None]) -> None:
        if test is None or not isinstance(test.test, ast.BoolOp) or not isinstance(test.test.op, ast.Or):
            if does.startswith("raise") or test is None or not _is_none(test.test):
                self._add(does, when, nothing)
            return
        condition = test.test
        for part in condition.values:
            if not does.startswith("raise") and _is_none(part):
                continue

            def without(part: ast.expr = part) -> None:
                rest = [each for each in condition.values if each is not part]
                test.test = rest[0] if len(rest) == 1 else ast.BoolOp(ast.Or(), rest)

            self._add(does, ast.unparse(part), without)

    def _add(self, does: str, when: str, edit: Callable[[], None]) -> None:
        site, count = Site(self.file, self.function, does, when), 1
        while site in self.places:
            count += 1
            site = Site(self.file, self.function, does, f"{when} #{count}")
        self.places[site] = _Place(*self._at, edit)

    def _protocol_error(self, error: ast.expr) -> str | None:
        name = error.func if isinstance(error, ast.Call) else error
        if isinstance(name, ast.Name):
            kind = self._misbehaviours.get(name.id)
            if isinstance(kind, type):
                return name.id if issubclass(kind, Misbehaviour) else None
            return name.id
        return ast.unparse(name)


def _says_nothing(value: ast.expr | None) -> bool:
    """Whether a returned value is none at all: None, True, False, a number, text or something empty."""
    match value:
        case None | ast.Constant():
            return True
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            return all(_says_nothing(each) for each in elements)
    return False


def _is_none(condition: ast.expr) -> bool:
    """Whether a condition says that there is nothing: ending early then drops nothing, and what follows needs it."""
    match condition:
        case ast.Compare(ops=[ast.Is()], comparators=[ast.Constant(value=None)]):
            return True
    return False


def _called(call: ast.Call) -> str:
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _calls(statement: ast.stmt) -> Iterator[ast.Call]:
    """The calls in a statement's own expressions, not those of the statements in it."""
    for child in ast.iter_child_nodes(statement):
        if isinstance(child, ast.expr):
            yield from (node for node in ast.walk(child) if isinstance(node, ast.Call))


def module_of(file: str) -> str:
    """Return the name under which a file is imported."""
    return f"tertium.{file.removesuffix('.py').replace('/', '.')}"


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    yield f"{node.name}.{inner.name}", inner


def _places(file: str, tree: ast.Module) -> dict[Site, _Place]:
    places: dict[Site, _Place] = {}
    for function, node in _functions(tree):
        found = _Found(file, module_of(file), function)
        found.walk(node.body, "always", None)
        places |= found.places
    return places


def sites() -> list[Site]:
    """Return every site of `FILES`, in the order of the code."""
    return [site for file in FILES for site in _places(file, ast.parse((ROOT / file).read_text()))]


def remove(site: Site) -> None:
    """Remove a site from the imported code, for the rest of this process."""
    tree = ast.parse((ROOT / site.file).read_text())
    _places(site.file, tree)[site].remove()
    ast.fix_missing_locations(tree)
    replace_code(site, tree)


def replace_code(site: Site, tree: ast.Module) -> None:
    """Give the imported function of a site the code it has in `tree`."""
    module = importlib.import_module(module_of(site.file))
    compiled = compile(tree, module.__file__ or site.file, "exec", dont_inherit=True)
    imported = _plain(inspect.getattr_static(_owner(module, site.function), site.function.rsplit(".", 1)[-1]))
    imported.__code__ = _code(compiled, site.function)


def _owner(module: Any, function: str) -> Any:
    owner, dot, _ = function.rpartition(".")
    return getattr(module, owner) if dot else module


def _plain(function: Any) -> FunctionType:
    """The function behind a property, a class method or a context manager."""
    function = getattr(function, "fget", function)
    function = getattr(function, "__func__", function)
    plain = inspect.unwrap(function)
    if not isinstance(plain, FunctionType):
        raise TypeError(f"{function!r} is no function")
    return plain


def _code(compiled: CodeType, function: str) -> CodeType:
    for name in function.split("."):
        (compiled,) = [each for each in compiled.co_consts if isinstance(each, CodeType) and each.co_name == name]
    return compiled


def watch(wanted: Sequence[Site]) -> None:
    """Have every one of these sites say `__fired__(name)` whenever it turns something away, in this process."""
    for file in {site.file for site in wanted}:
        tree = ast.parse((ROOT / file).read_text())
        for site, place in _places(file, tree).items():
            if site in wanted:
                place.watch(site.name)
        ast.fix_missing_locations(tree)
        for function in {site.function for site in wanted if site.file == file}:
            replace_code(Site(file, function, "", ""), tree)
