"""Writes the marked blocks of the documents from the code, so that no table can say something else than the program.

    python docs/tables.py            writes
    python docs/tables.py --check    prints a diff and exits 1 if a block is out of date

Rules of the file:
- A block stands between `<!-- generated: NAME -->` and `<!-- end -->`; NAME is a key of `BLOCKS`. A name that is not
  there, and a block without an end, are errors: a document must never keep a table that nobody checks.
- Sentences come from docstrings, values from the imported modules. What a source file says only in its text (a field's
  docstring, who verifies which statement) is read with `ast`, never guessed.
- The table of modes is the one thing written here by hand, once, for all documents that show it; whether a mode runs
  is asked of the charter.
"""

import ast
import difflib
import functools
import importlib
import inspect
import itertools
import re
import sys
import typing
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parent.parent
MARK = re.compile(r"<!-- generated: ([a-z-]+) -->\n(.*?)<!-- end -->", re.DOTALL)
STEP = "own step: "

MODES = (
    (
        "trusted",
        "the secure worker opens each update",
        "the secure worker",
        "data owners leaving",
    ),
    (
        "masked",
        "secure worker: update plus mask; model owner: the 32-byte mask seeds",
        "secure worker **with** model owner",
        "data owners leaving",
    ),
    ("additive", "each of m secure workers: one additive share", "all m together", "data owners leaving"),
    (
        "shamir",
        "each of m secure workers: one point",
        "any t together",
        "data owners leaving; of m secure workers m - q before the set is signed and m - t after it, 2q > m + t - 1",
    ),
    (
        "shared",
        "each of several secure workers: the share that the charter's scheme gives it",
        "the sets that the scheme declares; with `replicated`, any two of three",
        "data owners leaving; with `replicated`, one of three once the set is signed",
    ),
    ("plain", "the model owner opens each update", "the model owner", "data owners leaving"),
)
"""Mode, who holds what, who can read one update (the collusion set), what a round survives."""

HOLDING = {"*self._holding": {"SECURE_WORKER", "MODEL_OWNER"}}
"""Roles that are a variable in a call of `open_signed`: a model owner is a holder where the scheme seats it."""

OF_SHARED = "replicated"
"""A built-in scheme of mode `shared`, to ask whether that mode runs."""


def module(name: str) -> typing.Any:
    """Import a module of the package."""
    return importlib.import_module(f"tertium.{name}")


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def code(text: str) -> str:
    """Return `text` as inline code; nothing for nothing."""
    return f"`{text}`" if text else ""


def sentence(text: str | None) -> str:
    """Return a docstring as one line; double backquotes and line ends do not survive a table cell."""
    return " ".join(inspect.cleandoc(text or "").split())


def first_paragraph(text: str | None) -> str:
    """Return the first paragraph of a docstring as one line."""
    return sentence(inspect.cleandoc(text or "").split("\n\n")[0])


@functools.cache
def parsed(source: Path) -> ast.Module:
    """Return the syntax tree of a source file."""
    return ast.parse(source.read_text(encoding="utf-8"))


def source_of(owner: object) -> Path:
    """Return the file in which a class or module is written."""
    return Path(inspect.getsourcefile(owner) or "")  # type: ignore[arg-type]


def field_notes(kind: type) -> dict[str, str]:
    """Return the docstrings that stand under the fields of a class, and of its bases in this package."""
    notes: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not base.__module__.startswith("tertium."):
            continue
        tree = parsed(source_of(base))
        found = next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == base.__name__)
        notes |= notes_after(found.body)
    return notes


def notes_after(body: list[ast.stmt]) -> dict[str, str]:
    """Return, by name, the string that follows directly after an assignment."""
    notes = {}
    for before, after in itertools.pairwise(body):
        if not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)):
            continue
        target = before.targets[0] if isinstance(before, ast.Assign) else getattr(before, "target", None)
        if isinstance(target, ast.Name) and isinstance(after.value.value, str):
            notes[target.id] = sentence(after.value.value)
    return notes


def fields(kind: type) -> tuple[msgspec.structs.FieldInfo, ...]:
    """Return the fields of a struct in the order in which they lie."""
    return msgspec.structs.fields(kind)


def subclasses(root: type, of: typing.Any) -> list[typing.Any]:
    """Return the classes of a module that derive from `root`, in the order of the file; not `root`."""
    found = [item for item in vars(of).values() if inspect.isclass(item) and item.__module__ == of.__name__]
    return [item for item in found if issubclass(item, root) and item is not root]


# --- statements, messages, header ---------------------------------------------------------------------------------


@functools.cache
def signers() -> dict[str, str]:
    """Return, by statement, which roles its receivers require of the signer: the arguments of `open_signed` calls."""
    found: dict[str, set[str]] = {}
    for folder in ("protocol", "owner", "workers", "secure_worker"):
        for source in sorted((ROOT / folder).rglob("*.py")):
            for call in ast.walk(parsed(source)):
                if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
                    continue
                if call.func.id != "open_signed" or len(call.args) < 3:
                    continue
                roles = found.setdefault(ast.unparse(call.args[2]), set())
                for role in call.args[3:]:
                    roles |= HOLDING.get(ast.unparse(role)) or {ast.unparse(role).removeprefix("Role.")}
    return {kind: " or ".join(sorted(roles)).lower().replace("_", " ") for kind, roles in found.items()}


def statements() -> str:
    """Return the table of signed statements."""
    messages = module("protocol.messages")
    rows = [
        (
            code(kind.__name__),
            code(kind.label.value),
            signers().get(kind.__name__) or "any party",
            ", ".join(code(field.name) for field in fields(kind)),
            first_paragraph(kind.__doc__),
        )
        for kind in (
            *subclasses(messages.Statement, messages),
            *subclasses(messages.Statement, module("protocol.check_messages")),
            *subclasses(messages.Statement, module("protocol.ledger")),
        )
    ]
    return table(("statement", "label", "signed by", "fields", "what it says"), rows)


def ledger_entry() -> str:
    """Return the table of what an entry of a view ledger holds."""
    of = module("protocol.ledger")
    notes = field_notes(of.LedgerEntry)
    notes |= {"act": words(of.Act), "data": words(of.DataClass), "charter": "Digest of the charter it was done under."}
    return table(
        ("field", "what it says"), ((code(each.name), notes.get(each.name, "")) for each in fields(of.LedgerEntry))
    )


def words(kind: typing.Any) -> str:
    """Return the values of an enum, as one line."""
    return ", ".join(each.value for each in kind) + "."


def takers() -> dict[str, list[str]]:
    """Return, by message, the roles whose table has a row for it."""
    found: dict[str, list[str]] = {}
    for role, phases in module("protocol.rounds").TABLES.items():
        for kind in {key for row in phases.values() for key in row if inspect.isclass(key)}:
            found.setdefault(kind.__name__, []).append(role.words)
    return found


def messages() -> str:
    """Return the table of control messages."""
    taken = takers()
    rows = []
    for kind in typing.get_args(module("protocol.codec").AnyMessage):
        given = kind.__struct_config__.tag
        rows.append(
            (
                code(str(given)),
                ", ".join(taken.get(kind.__name__, ["every party, below the role machines"])),
                ", ".join(code(field.name) for field in fields(kind)),
                first_paragraph(kind.__doc__),
            )
        )
    return table(("tag", "taken by", "fields", "what it is"), rows)


def header() -> str:
    """Return the table of the envelope header's fields."""
    kind = module("protocol.messages").Header
    notes = field_notes(kind)
    fixed = {
        "version": f"{module('protocol.exchange').VERSION}",
        "suite": f"`{module('crypto.sealing').SUITE}`",
        "label": "what the envelope holds: contribution, model, aggregate or mask seed",
        "charter": "digest of the charter",
        "session": "id of the session",
        "round": "number of the round",
        "attempt": "number of the attempt",
        "sender": "name of the party that signs",
        "recipient": "name of the party that can open",
        "recipient_key": "first 16 bytes of the digest of the recipient's round key",
        "open_round": "digest of the signed OpenRound",
        "commitment": "BLAKE3 over the binding, the salt and the plaintext; empty in a mask seed, which has no body",
    }
    rows = []
    for number, field in enumerate(fields(kind), 1):
        said = notes.get(field.name) or fixed.get(field.name)
        if said is None:
            raise SystemExit(f"docs/tables.py: the header's field {field.name} has no description")
        rows.append((str(number), code(field.name), said))
    return table(("no.", "field", "meaning"), rows)


def may_send() -> str:
    """Return the table of what may be sealed by whom for whom."""
    of = module("protocol.exchange")
    ordered = sorted((label.value, ours.words, theirs.words) for label, ours, theirs in of.MAY_SEND)
    label, ours, theirs = of.TO_AN_OWNER_THAT_HOLDS
    ordered.append((label.value, ours.words, f"{theirs.words}, where the charter's scheme makes it a holder"))
    return table(("label", "sealed by", "opened by"), ((code(a), b, c) for a, b, c in ordered))


# --- rounds -------------------------------------------------------------------------------------------------------


def rounds(role_name: str) -> str:
    """Return one role's round table; what holds in every phase stands once, above it."""
    of = module("protocol.rounds")
    table_of = of.TABLES[module("protocol.charter").Role(role_name)]
    open_phases = [phase for phase in table_of if table_of[phase]]

    def what(key: typing.Any) -> str:
        return code(key.__name__) if inspect.isclass(key) else f"*{key.value}*"

    def target(phase: typing.Any, key: typing.Any) -> typing.Any:
        return "stays" if table_of[phase].get(key) in (phase, None) else table_of[phase][key]

    everywhere = [key for key in table_of[open_phases[0]] if all(key in table_of[phase] for phase in open_phases)]
    taken = [key for key in everywhere if all(target(phase, key) == "stays" for phase in open_phases)]
    ends = {
        key: phases.pop()
        for key in everywhere
        if key not in taken and len(phases := {table_of[phase][key] for phase in open_phases}) == 1
    }
    lines = [f"Taken in every phase but the last, without leaving it: {', '.join(what(key) for key in taken)}."]
    led = "; ".join(f"{what(key)} → **{to.value}**" for key, to in ends.items())
    lines.append(f"From every phase but the last: {led}.")
    rows = []
    for phase, row in table_of.items():
        own = [key for key in row if key not in taken and key not in ends]
        stays = ", ".join(what(key) for key in own if row[key] is phase)
        leads = "; ".join(f"{what(key)} → **{row[key].value}**" for key in own if row[key] is not phase)
        rows.append((f"**{phase.value}**", leads, stays))
    return "\n".join(lines) + "\n\n" + table(("phase", "what leads on", "what else is taken"), rows)


# --- checks -------------------------------------------------------------------------------------------------------


def numbered(name: str) -> str:
    """Return a module's docstring from its first numbered list on, as text."""
    text = inspect.cleandoc(module(name).__doc__ or "")
    paragraphs = text.split("\n\n")
    kept = [part for part in paragraphs if re.search(r"^ ?\d+\. ", part, re.MULTILINE)]
    if not kept:
        raise SystemExit(f"docs/tables.py: {name} has no numbered checks in its docstring")
    return "```text\n" + "\n\n".join(kept) + "\n```\n"


def charter_steps() -> str:
    """Return the numbered comments of `charter.admit`, which are its checks."""
    source = inspect.getsource(module("protocol.charter").admit)
    steps = re.findall(r"^    # (\d+\. .*(?:\n    #    .*)*)", source, re.MULTILINE)
    lines = [re.sub(r"\n    # +", " ", step) for step in steps]
    if [line.split(".")[0] for line in lines] != [str(number) for number in range(1, len(lines) + 1)]:
        raise SystemExit("docs/tables.py: the steps of charter.admit are not numbered in order")
    return "\n".join(lines) + "\n"


# --- numbers, labels, errors --------------------------------------------------------------------------------------


def limits() -> str:
    """Return the table of all bounds, grouped as the file groups them."""
    of = module("protocol.limits")
    source = source_of(of)
    notes = notes_after(parsed(source).body)
    rows: list[tuple[str, str, str]] = []
    for line in source.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            rows.append((f"**{line[2:]}**", "", ""))
        found = re.match(r"([A-Z_]+) = ", line)
        if found and found[1] not in ("KIB", "MIB"):
            value = getattr(of, found[1])
            shown = f"{value:,}" if isinstance(value, int) else f"{value:g}"
            rows.append((code(found[1]), shown, notes.get(found[1], "")))
    function = of.control_frame
    example = f"64 KiB + {function(1) - function(0)} bytes a party; {function(5):,} for 5 parties"
    rows.append((code("control_frame(parties)"), example, first_paragraph(function.__doc__)))
    return table(("bound", "value", "why"), rows)


def labels() -> str:
    """Return the table of labels."""
    of = module("crypto.labels")
    rows = [(code(label.name), code(label.value)) for label in of.Label]
    return table(("label", "bytes (ASCII)"), rows)


@functools.cache
def raised() -> frozenset[str]:
    """Return the names of all classes that are called somewhere in the package: an error that is not is reserved."""
    folders = ("crypto", "protocol", "learning", "owner", "workers", "secure_worker", "simulation", "audit", "cli")
    calls = [
        node
        for folder in folders
        for source in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(parsed(source))
    ]
    # Passed on by name too: `load_toml(path, limit, CharterError)` raises what it is given.
    return frozenset(node.id for node in calls if isinstance(node, ast.Name))


def errors() -> str:
    """Return the table of named errors, both families."""
    root = module("crypto.errors")
    rows = []
    for name in ("crypto.errors", "protocol.errors", "learning.errors", "audit.errors"):
        for kind in subclasses(root.TertiumError, module(name)):
            if kind in (root.Misuse, root.Misbehaviour):
                continue
            family = "ours" if issubclass(kind, root.Misuse) else "theirs"
            meaning = first_paragraph(kind.__doc__)
            if kind.__name__ not in raised():
                meaning += " *Reserved: nothing raises it yet.*"
            rows.append((code(kind.__name__), code(kind.code), family, meaning))
    rows.sort(key=lambda row: (row[2], row[0]))
    return table(("error", "code on the wire and in logs", "whose fault", "meaning"), rows)


# --- files and commands -------------------------------------------------------------------------------------------


def settings(prefix: str, kind: type) -> list[tuple[str, str, str]]:
    """Return the rows of one table of a TOML file."""
    notes = field_notes(kind)
    rows = []
    for field in fields(kind):
        default: object = field.default
        if default is msgspec.NODEFAULT:
            default = "required" if field.default_factory is msgspec.NODEFAULT else "empty"
        elif default is None:
            default = "not set"
        elif isinstance(default, tuple):
            default = ", ".join(str(getattr(item, "value", item)) for item in default) or "empty"
        elif isinstance(default, msgspec.Struct):
            continue
        else:
            default = str(getattr(default, "value", default))
        rows.append((code(f"{prefix}{field.name}"), default, notes.get(field.name, "")))
    return rows


def site_file() -> str:
    """Return the table of everything a site file can say."""
    of = module("protocol.site")
    parts = (
        ("limits.", of.LocalLimits),
        ("tasks.NAME.", of.TaskEntry),
        ("listen.", of.Listen),
        ("audit.", of.Audit),
        ("owner.", of.OwnerPlan),
        ("owner.optimiser.", of.Optimiser),
    )
    rows = [row for prefix, kind in parts for row in settings(prefix, kind)]
    return table(("line", "default", "note"), [row for row in rows if row[0] != "`owner.optimiser`"])


def charter_rules() -> str:
    """Return the table of a charter's rules."""
    of = module("protocol.charter")
    parts = (
        ("rules.", of.Rules),
        ("rules.scheme.", of.SchemeName),
        ("rules.arithmetic.", of.Arithmetic),
        ("rules.training.", of.TrainingLimits),
        ("rules.deadlines.", of.Deadlines),
    )
    rows = [row for prefix, kind in parts for row in settings(prefix, kind)]
    return table(("line", "default", "note"), [row for row in rows if row[0] != "`rules.scheme`"])


def commands() -> str:
    """Return the table of commands."""
    rows = sorted((code(f"tertium {name}"), line) for name, (_, line) in module("cli").COMMANDS.items())
    return table(("command", "what it does"), rows)


def runs(mode: str) -> bool:
    """Return whether this release runs a mode; asks a charter, since that is what refuses it."""
    of, federation = module("protocol.charter"), module("simulation.federation")
    kind = of.Mode(mode)
    several = kind in (of.Mode.ADDITIVE, of.Mode.SHAMIR, of.Mode.SHARED)
    roles = dict.fromkeys(("first", "second", "third") if several else ("third",), of.Role.SECURE_WORKER)
    roles |= {"owner": of.Role.MODEL_OWNER, "alice": of.Role.DATA_OWNER, "bob": of.Role.DATA_OWNER}
    roles |= {"carol": of.Role.DATA_OWNER}
    identities = {name: module("crypto.identity").Identity.generate(name) for name in roles}
    rules = of.Rules(
        mode=kind,
        scheme=of.SchemeName(name=OF_SHARED if kind is of.Mode.SHARED else mode),
        minimum_cohort=3,
        unsafe_plain="a table" if kind is of.Mode.PLAIN else None,
    )
    made = federation.make_charter(identities, roles, rules)
    try:
        made.require_runnable()
    except module("protocol.errors").CharterError:
        return False
    return True


def modes() -> str:
    """Return the table of modes with their collusion sets."""
    known = {mode.value for mode in module("protocol.charter").Mode}
    if known != {row[0] for row in MODES}:
        raise SystemExit("docs/tables.py: MODES does not list the modes a charter can name")
    rows = [
        (code(mode), holds, reads, survives, "**yes**" if runs(mode) else "no: reserved, refused")
        for mode, holds, reads, survives in MODES
    ]
    rows.append(
        (
            "*every mode*",
            "",
            "all other contributors of a released sum together",
            "",
            "",
        )
    )
    head = ("mode", "who holds what", "who can read one update (collusion set)", "a round survives", "runs today")
    return table(head, rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "audit-words": lambda: table(("word", "it means"), module("audit.glossary").TERMS),
    "charter-rules": charter_rules,
    "charter-steps": charter_steps,
    "checks-ledger": lambda: numbered("protocol.ledger_file"),
    "checks-envelope": lambda: numbered("protocol.exchange"),
    "checks-invitation": lambda: numbered("workers.recipient"),
    "checks-secure-worker": lambda: numbered("secure_worker.admission"),
    "commands": commands,
    "errors": errors,
    "header": header,
    "labels": labels,
    "ledger-entry": ledger_entry,
    "limits": limits,
    "may-send": may_send,
    "messages": messages,
    "modes": modes,
    "rounds-data-owner": lambda: rounds("data_owner"),
    "rounds-evaluator": lambda: rounds("evaluator"),
    "rounds-model-owner": lambda: rounds("model_owner"),
    "rounds-secure-worker": lambda: rounds("secure_worker"),
    "site-file": site_file,
    "statements": statements,
}


def documents() -> list[Path]:
    """Return the files that may hold blocks."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def regenerated(text: str, name: str) -> str:
    """Return a document's text with every block as the code has it now."""
    if text.count("<!-- generated:") != len(MARK.findall(text)):
        raise SystemExit(f"{name}: a generated block has a malformed mark or no end")

    def fill(found: re.Match[str]) -> str:
        block = BLOCKS.get(found[1])
        if block is None:
            raise SystemExit(f"{name}: there is no generated block called {found[1]}")
        return f"<!-- generated: {found[1]} -->\n{block()}<!-- end -->"

    return MARK.sub(fill, text)


def main(arguments: list[str]) -> int:
    """Write or check all blocks; return the exit status."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python docs/tables.py [--check]\n")
        return 2
    if not source_of(module("cli")).resolve().is_relative_to(ROOT):
        raise SystemExit(f"docs/tables.py: the tertium that is installed is not the one in {ROOT}")
    stale = 0
    for path in (*documents(), ROOT / "docs" / "audit.schema.json"):
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        after = regenerated(before, path.name) if path.suffix == ".md" else module("audit.report").schema()
        if before == after:
            continue
        stale = 1
        if arguments:
            name = str(path.relative_to(ROOT))
            old, new = before.splitlines(True), after.splitlines(True)
            sys.stdout.writelines(difflib.unified_diff(old, new, name, f"{name} (regenerated)"))
        else:
            path.write_text(after, encoding="utf-8")
    return stale if arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
