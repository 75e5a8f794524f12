from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tertium.crypto.identity import Identity
from tertium.protocol import charter as charters
from tertium.protocol.charter import Charter, Mode, Party, Role, Rules, SchemeName

ROLES = {
    "owner": Role.MODEL_OWNER,
    "third": Role.SECURE_WORKER,
    "alice": Role.DATA_OWNER,
    "bob": Role.DATA_OWNER,
    "carol": Role.DATA_OWNER,
    "judge": Role.EVALUATOR,
}
PORTS = {"owner": 7000, "third": 7100}


class Federation:
    """Six parties with keys, and a way to make and sign charters of theirs."""

    now = datetime(2030, 1, 1, tzinfo=UTC)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "charter.toml"
        self.state = folder / "state"
        self.state.mkdir()
        self.identities = {name: Identity.generate(name) for name in ROLES}

    def party(self, name: str, /, **changes: Any) -> Party:
        public = self.identities[name].public
        said = {"name": name, "role": ROLES[name], "signing": public.signing, "curve": public.curve}
        if name in PORTS:
            said["control"] = f"tcp://127.0.0.1:{PORTS[name]}"
            said["bulk"] = f"tcp://127.0.0.1:{PORTS[name] + 1}"
        return Party(**{**said, **changes})

    def rules(self, **changes: Any) -> Rules:
        said = {"mode": Mode.TRUSTED, "scheme": SchemeName(name="trusted"), "minimum_cohort": 3}
        return Rules(**{**said, **changes})

    def charter(self, **changes: Any) -> Charter:
        said = {
            "version": 1,
            "federation": "trial",
            "serial": 1,
            "not_after": datetime(2031, 1, 1, tzinfo=UTC),
            "rules": self.rules(),
            "parties": tuple(self.party(name) for name in self.identities),
        }
        return Charter(**{**said, **changes})

    def write(self, charter: Charter | None = None, *, signers: Any = None) -> Charter:
        """Put a charter and everybody's signatures (or those of `signers`) in the place of any before."""
        written = charter or self.charter()
        self.path.unlink(missing_ok=True)
        charters.signatures_path(self.path).unlink(missing_ok=True)
        charters.dump(written, self.path)
        for name in self.identities if signers is None else signers:
            charters.sign(self.path, self.identities[name])
        return written

    def edit(self, old: str, new: str) -> None:
        text = self.path.read_text()
        assert old in text
        self.path.write_text(text.replace(old, new, 1))

    def admit(self, name: str = "alice") -> Charter:
        return charters.admit(self.path, self.identities[name], self.state, self.now)


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path)


@pytest.fixture
def make(federation: Federation) -> Callable[..., Charter]:
    return federation.charter
