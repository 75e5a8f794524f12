"""A federation on disk that is well in every line, to be spoilt in one; and what every refusal must look like."""

import hashlib
import importlib.util
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import tomli_w
from tertium import cli
from tertium.cli import running
from tertium.crypto.errors import TertiumError
from tertium.crypto.identity import Identity
from tertium.protocol import charter as charters
from tertium.protocol.charter import Charter, Mode, Party, Role, Rules, SchemeName, TrainingLimits

ROLES = {
    "alice": Role.DATA_OWNER,
    "bob": Role.DATA_OWNER,
    "carol": Role.DATA_OWNER,
    "judge": Role.EVALUATOR,
    "owner": Role.MODEL_OWNER,
    "third": Role.SECURE_WORKER,
}
PORTS = {"owner": 7000, "third": 7100}
COMMANDS = {
    Role.DATA_OWNER: "worker",
    Role.EVALUATOR: "evaluator",
    Role.MODEL_OWNER: "owner",
    Role.SECURE_WORKER: "secure-worker",
}
TASK = '[tasks.line]\nfactory = "tertium.learning.numpy_task:NumpyTask"\noptions = { examples = 10 }\n'
OWNER = '[owner]\ntask = "line"\nrounds = 2\nmetrics = ["loss"]\n'
LONGEST = 900
"""What a sentence may have, with the path of a temporary folder in it twice."""


class Place:
    """Six parties with keys, cards, site files and a charter that all signed and alice has run with."""

    def __init__(self, root: Path, identities: dict[str, Identity]) -> None:
        self.root = root
        self.identities = identities
        self.path = root / "charter.toml"
        self.beside = root / "charter.signatures.toml"

    def party(self, name: str, /, **changes: Any) -> Party:
        public = self.identities[name].public
        said: dict[str, Any] = {"name": name, "role": ROLES[name], "signing": public.signing, "curve": public.curve}
        if name in PORTS:
            said["control"] = f"tcp://127.0.0.1:{PORTS[name]}"
            said["bulk"] = f"tcp://127.0.0.1:{PORTS[name] + 1}"
        return Party(**{**said, **changes})

    def charter(self, **changes: Any) -> Charter:
        said = {
            "version": 1,
            "federation": "trial",
            "serial": 5,
            "not_after": datetime.now(UTC).replace(microsecond=0) + timedelta(days=300),
            "rules": Rules(
                mode=Mode.TRUSTED,
                scheme=SchemeName(name="trusted"),
                minimum_cohort=3,
                training=TrainingLimits(max_epochs=5, max_batches=50, tasks=("line", "other")),
            ),
            "parties": tuple(self.party(name) for name in self.identities if name in ROLES),
        }
        return Charter(**{**said, **changes})

    def too_few_holders(self) -> Charter:
        """A charter whose scheme wants a third secure worker; the judge is the second."""
        second = self.party("judge", role=Role.SECURE_WORKER, control="tcp://h:1", bulk="tcp://h:2")
        parties = (*(self.party(name) for name in ROLES if name != "judge"), second)
        rules = Rules(mode=Mode.SHAMIR, scheme=SchemeName(name="shamir"), minimum_cohort=3)
        return self.charter(serial=6, rules=rules, parties=parties)

    def write(self, charter: Charter, signers: tuple[str, ...] = tuple(ROLES)) -> None:
        """Put a charter in the place of the one that is there, with these signatures."""
        self.path.unlink(missing_ok=True)
        self.beside.unlink(missing_ok=True)
        charters.dump(charter, self.path)
        for name in signers:
            charters.sign(self.path, self.identities[name])

    def build(self) -> None:
        for name, identity in self.identities.items():
            folder = self.root / name
            folder.mkdir(mode=0o700)
            identity.save(folder / "secret.toml")
            charters.dump_card(self.party(name), folder / "public.toml")
            if name != "third":
                (folder / "site.toml").write_text((OWNER if name == "owner" else "") + TASK)
        self.write(self.charter())
        for name, identity in self.identities.items():
            state = self.root / name / "state"
            state.mkdir(mode=0o700)
            charters.admit(self.path, identity, state, datetime.now(UTC))

    def admit(self, name: str = "alice", now: datetime | None = None) -> Charter:
        state = self.root / name / "state"
        return charters.admit(self.path, self.identities[name], state, now or datetime.now(UTC))

    def edit(self, path: Path, old: str, new: str) -> None:
        """Replace `old`, which must be there, once; lone surrogates stand for bytes that are not UTF-8."""
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        assert old in text, old
        path.write_bytes(text.replace(old, new, 1).encode("utf-8", errors="surrogateescape"))


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Place:
    with pytest.MonkeyPatch.context() as patch:
        # dozens of small files; whether they survive a power failure is not what is tested here
        patch.setattr(os, "fsync", lambda descriptor: None)
        place = Place(tmp_path_factory.mktemp("sound"), {name: Identity.generate(name) for name in ROLES})
        place.build()
    return place


@pytest.fixture
def place(_template: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    root = tmp_path / "f"
    shutil.copytree(_template.root, root, symlinks=True)
    monkeypatch.chdir(root)
    return Place(root, dict(_template.identities))


def tree(root: str, into: dict[str, tuple[object, ...]] | None = None) -> dict[str, tuple[object, ...]]:
    """Everything at and below `root` by path: what it is, when it was last written, what is in it."""
    facts = {} if into is None else into
    # The times of a folder too: a file that was made in it and removed again shows there.
    said = os.lstat(root)
    content: object = None
    if stat.S_ISREG(said.st_mode) and said.st_size < 1 << 24:
        with open(root, "rb", buffering=0) as file:
            content = hashlib.sha256(file.read()).digest()
    facts[root] = (said.st_ino, said.st_mode, said.st_size, said.st_mtime_ns, said.st_ctime_ns, content)
    if stat.S_ISDIR(said.st_mode):
        for name in os.listdir(root):
            tree(f"{root}/{name}", facts)
    return facts


@pytest.fixture
def unchanged() -> Callable[[Path], Any]:
    """A context in which nothing below a folder may change, apart from what a party that starts makes in its state."""

    @contextmanager
    def watch(root: Path, starting: str | None = None) -> Iterator[None]:
        before = tree(str(root))
        yield
        after = tree(str(root))
        changed = {path for path in before | after if before.get(path) != after.get(path)}
        if starting is not None:
            state = f"{root}/{starting}/state"
            changed -= {path for path in after if path.startswith(state) and path not in before} | {state}
        assert sorted(changed) == []

    return watch


def is_a_sentence(text: str, longest: int = LONGEST) -> None:
    assert text
    assert "\n" not in text, text
    assert "Traceback" not in text
    assert len(text) < longest, (len(text), text[:2000])


@pytest.fixture
def refused(unchanged: Any) -> Callable[..., None]:
    """See that a call raises exactly this error, in one sentence with these words, and changes no file."""

    def see(place: Place, kind: type[TertiumError], action: Callable[[], object], *words: str) -> None:
        with unchanged(place.root), pytest.raises(TertiumError) as caught:
            action()
        assert type(caught.value) is kind, repr(caught.value)[:500]
        is_a_sentence(str(caught.value))
        for word in words:
            assert word in str(caught.value), str(caught.value)

    return see


@pytest.fixture
def tertium(
    place: Place, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, unchanged: Any
) -> Callable[..., SimpleNamespace]:
    """Run a command in this process; whatever it says, it changes no file, starts no party and shows no traceback."""

    def started(*_: object, **__: object) -> None:
        raise AssertionError("a party was started")

    monkeypatch.setattr(running, "ZmqLanes", started)

    def call(*arguments: object, status: int = 2, starting: str | None = None) -> SimpleNamespace:
        capfd.readouterr()
        with unchanged(place.root, starting):
            ended = cli.main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert ended == status, (arguments, ended, out, err)
        assert "Traceback" not in out + err
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out + err), (out, err)
        return SimpleNamespace(out=out, err=err)

    return call


@pytest.fixture
def one_sentence(tertium: Any) -> Callable[..., str]:
    """Run a command that must be refused: the status, one sentence on stderr, nothing else anywhere."""

    def see(
        *arguments: object,
        status: int = 2,
        words: tuple[str, ...] = (),
        longest: int = LONGEST,
        starting: str | None = None,
    ) -> str:
        said = tertium(*arguments, status=status, starting=starting)
        assert re.fullmatch(r"tertium: [^\n]+\n", said.err), said.err
        is_a_sentence(said.err[:-1], longest)
        if "run" in arguments and said.out:
            # Progress goes to stdout; the same sentence ends it, so that a launcher has one place to look.
            (line,) = said.out.splitlines()
            ended = msgspec.json.decode(line)["error"] if "--json" in arguments else line
            words_of = [re.findall(r"\w+", text) for text in (ended, said.err[len("tertium: ") :])]
            assert words_of[0][-len(words_of[1]) :] == words_of[1], said.out
        else:
            assert said.out == ""
        for word in words:
            assert word in said.err, said.err
        return said.err

    return see


@pytest.fixture
def doctor(tertium: Any) -> Callable[..., dict[str, Any]]:
    """Have the doctor look at a party: it says what cannot run, and changes nothing; its checks by name."""

    def look(name: str, *, healthy: bool = False) -> dict[str, Any]:
        said = tertium(
            "doctor", "--party", name, "--charter", "charter.toml", "--no-network", "--no-tasks", "--json",
            status=0 if healthy else 1,
        )  # fmt: skip
        assert said.err == ""
        assert said.out.count("\n") == 1
        checks = {check["name"]: check for check in msgspec.json.decode(said.out)["checks"]}
        assert any(check["status"] == "fail" for check in checks.values()) is not healthy
        for check in checks.values():
            is_a_sentence(check["sentence"])
        return checks

    return look


@pytest.fixture
def run_command() -> Callable[[str], tuple[str, ...]]:
    """The words that run a party of the place."""

    def words(name: str) -> tuple[str, ...]:
        return (COMMANDS[ROLES[name]], "run", "--party", name, "--charter", "charter.toml")

    return words


@pytest.fixture
def dumped() -> Callable[[dict[str, Any]], str]:
    return tomli_w.dumps


@pytest.fixture(scope="session")
def sampler() -> Any:
    """The maker of valid structs that tests/protocol has; it follows the messages as they are."""
    path = Path(__file__).resolve().parents[1] / "protocol" / "conftest.py"
    spec = importlib.util.spec_from_file_location("protocol_conftest_for_malformed", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by its name
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.Sampler
