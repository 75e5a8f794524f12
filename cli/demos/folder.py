"""A demo's run folder: keys, cards, site files, the charter and everybody's signature, as people would make them.

    charter.toml  charter.signatures.toml      what all parties signed
    NAME/secret.toml  public.toml  site.toml   one folder a party, for its own eyes; later also `state/` and `log`
    model.safetensors  progress.png  progress.svg  summary.json

One program makes every key here. Only a demo may do that: whoever runs it could be every party.
"""

import contextlib
import secrets
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from ...crypto.files import create_file, reason, replace_file
from ...crypto.identity import Identity
from ...protocol import charter as charters
from ...protocol.charter import Charter, Mode, Party, Role, Rules, TrainingLimits
from ...protocol.site import OwnerPlan
from ..keygen import CARD, SECRET
from ..trust import Trust
from .errors import DemoError
from .recipes import DEADLINES, Member, Recipe

CHARTER = "charter.toml"
SITE = "site.toml"
DAYS = 7
"""How long a demo's charter is good for: long enough to run its commands again by hand."""
PORTS = range(10_240, 32_768)
"""Below what operating systems hand out by themselves: a port between being chosen and being used is not taken by an
outgoing connection, and a party that dials one too early cannot be connected to itself."""
_TRIES = 1000
_WHY_PLAIN = "a demo, to see what every other mode takes away"
_HEADER = "# The site file of {name}, {role}: what it is willing to do, and what runs here for a task.\n"


def default_folder(demo: str, now: datetime) -> Path:
    """Return a folder under `runs/` that is not there yet."""
    wanted = Path("runs") / f"{demo}-{now:%Y%m%d-%H%M%S}"
    path, number = wanted, 1
    while path.exists():
        number += 1
        path = wanted.with_name(f"{wanted.name}-{number}")
    return path


def make_folder(path: Path) -> None:
    """Make a run folder; raises `DemoError` if something else is there already."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise DemoError(f"{path} is not empty; name another folder")
    except OSError as error:
        raise DemoError(f"cannot make the folder {path}: {reason(error)}") from None


def write_parties(recipe: Recipe, trust: Trust, run: Path, plan: OwnerPlan) -> Charter:
    """Write every party's folder and the charter that all of them signed; return the charter."""
    ports = iter(free_ports(2 * sum(member.role.listens for member in recipe.members)))
    identities: dict[str, Identity] = {}
    cards = []
    for member in recipe.members:
        identity = Identity.generate(member.name)
        identities[member.name] = identity
        listens = member.role.listens
        card = Party(
            name=member.name,
            role=member.role,
            signing=identity.public.signing,
            curve=identity.public.curve,
            organisation=member.organisation,
            control=f"tcp://127.0.0.1:{next(ports)}" if listens else None,
            bulk=f"tcp://127.0.0.1:{next(ports)}" if listens else None,
        )
        folder = run / member.name
        try:
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise DemoError(f"cannot make the folder {folder}: {reason(error)}") from None
        identity.save(folder / SECRET)
        charters.dump_card(card, folder / CARD)
        write_site(recipe, trust, member, folder, plan)
        cards.append(card)
    charter = Charter(
        version=1,
        federation=recipe.federation or f"tertium demo {recipe.name}",
        serial=1,
        not_after=(datetime.now(UTC) + timedelta(days=DAYS)).replace(microsecond=0),
        rules=Rules(
            mode=trust.mode,
            scheme=trust.name,
            minimum_cohort=recipe.minimum_cohort,
            unsafe_small_cohort=recipe.unsafe_small_cohort if trust.mode is not Mode.PLAIN else None,
            unsafe_plain=_WHY_PLAIN if trust.mode is Mode.PLAIN else None,
            arithmetic=recipe.arithmetic,
            training=TrainingLimits(tasks=(recipe.task,)),
            deadlines=DEADLINES,
        ),
        parties=tuple(cards),
    )
    charters.dump(charter, run / CHARTER)
    for identity in identities.values():
        charters.sign(run / CHARTER, identity)
    return charter


def write_site(recipe: Recipe, trust: Trust, member: Member, folder: Path, plan: OwnerPlan) -> None:
    """Write one party's site file, over the one of an earlier act; only the model owner's holds `plan`."""
    table: dict[str, Any] = {}
    if member.options is not None:
        table["limits"] = {"tasks": [recipe.task]}
        if trust.mode is Mode.PLAIN:
            table["limits"]["modes"] = [trust.mode.value]
        table["tasks"] = {recipe.task: {"factory": recipe.factory, "options": dict(member.options)}}
        if recipe.own_models and member.role is Role.DATA_OWNER:
            table["tasks"][recipe.task]["evaluate_own_rounds"] = list(plan.evaluate_rounds)
    if member.role is Role.MODEL_OWNER:
        table["owner"] = {name: value for name, value in msgspec.to_builtins(plan).items() if value is not None}
    text = _HEADER.format(name=member.name, role=member.role.words) + tomli_w.dumps(table)
    write_text(folder / SITE, text, mode=0o600)


def write_text(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write a file whole, over an earlier one; raises `DemoError`."""
    try:
        replace_file(path, text.encode("utf-8"), mode=mode)
    except OSError as error:
        raise DemoError(f"cannot write {path}: {reason(error)}") from None


def copy_model(run: Path, owner: str) -> Path:
    """Copy the finished model out of the model owner's folder, for everybody to read; raises `DemoError`."""
    source, target = run / owner / "state" / "model.safetensors", run / "model.safetensors"
    try:
        create_file(target, source.read_bytes(), mode=0o644)
    except OSError as error:
        raise DemoError(f"cannot copy {source} to {target}: {reason(error)}") from None
    return target


def free_ports(count: int) -> list[int]:
    """Return TCP ports of this machine's loopback that nobody listens on now; raises `DemoError` if it finds none."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for _ in range(_TRIES):
            if len(found) == count:
                return found
            port = secrets.choice(PORTS)
            taken = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            with contextlib.suppress(OSError):
                taken.bind(("127.0.0.1", port))
                found.append(port)
    raise DemoError(f"found no {count} free ports on 127.0.0.1")
