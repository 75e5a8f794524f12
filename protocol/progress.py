"""What a party tells its own operator while it runs: typed, so that a terminal, a pipe and a demo show the same facts.

Nothing of this crosses the network. A data owner's local loss appears here, on its own screen, and nowhere else.
"""

import msgspec


class Progress(msgspec.Struct, frozen=True, tag_field="event", omit_defaults=True):
    """The root of all progress lines."""

    def line(self) -> str:
        """Return the sentence a person reads."""
        raise NotImplementedError


class Started(Progress, frozen=True, tag="started"):
    """The party runs and, if it listens, is ready."""

    party: str
    role: str
    pid: int
    text: str = ""
    listening: str = ""

    def line(self) -> str:
        """Return the sentence a person reads."""
        where = f", listening on {self.listening}" if self.listening else ""
        what = f": {self.text}" if self.text else ""
        return f"{self.role} {self.party} started (pid {self.pid}){where}{what}"


class Said(Progress, frozen=True, tag="said"):
    """A plain sentence; `warning` for one that needs attention."""

    text: str
    warning: bool = False

    def line(self) -> str:
        """Return the sentence a person reads."""
        return f"warning: {self.text}" if self.warning else self.text


class RefusedProgress(Progress, frozen=True, tag="refused"):
    """Something a peer sent was refused, by the name of the error."""

    code: str
    text: str

    def line(self) -> str:
        """Return the sentence a person reads."""
        return f"refused ({self.code}): {self.text}"


class RoundOpened(Progress, frozen=True, tag="round-opened"):
    """A round began."""

    round: int
    cohort: tuple[str, ...]

    def line(self) -> str:
        """Return the sentence a person reads."""
        return f"round {self.round}: asking {', '.join(self.cohort)}"


class TrainedLocally(Progress, frozen=True, tag="trained"):
    """A data owner trained; the figures are its own and stay on its own screen."""

    round: int
    examples: int
    metrics: dict[str, float]
    seconds: float

    def line(self) -> str:
        """Return the sentence a person reads."""
        figures = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
        return f"round {self.round}: trained on {self.examples} examples, {figures} ({self.seconds:.2f} s)"


class Sealed(Progress, frozen=True, tag="sealed"):
    """An envelope was sealed for a peer."""

    round: int
    label: str
    peer: str
    size: int

    def line(self) -> str:
        """Return the sentence a person reads."""
        return f"round {self.round}: {self.label} of {self.size:,} bytes sealed for {self.peer}"


class Opened(Progress, frozen=True, tag="opened"):
    """An envelope of a peer was opened."""

    round: int
    label: str
    peer: str
    size: int

    def line(self) -> str:
        """Return the sentence a person reads."""
        return f"round {self.round}: {self.label} of {self.size:,} bytes from {self.peer} opened"


class RoundClosed(Progress, frozen=True, tag="round-closed"):
    """The contributor set of a round is final."""

    round: int
    contributors: tuple[str, ...]
    declined: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def line(self) -> str:
        """Return the sentence a person reads."""
        tail = f"; declined: {', '.join(self.declined)}" if self.declined else ""
        tail += f"; not heard from: {', '.join(self.missing)}" if self.missing else ""
        return f"round {self.round}: closed with {', '.join(self.contributors)}{tail}"


class RoundDone(Progress, frozen=True, tag="round-done"):
    """A round's aggregate is applied and its statement signed; figures are means over the contributors."""

    round: int
    contributors: int
    metrics: dict[str, float]
    seconds: float
    absent_cosigners: tuple[str, ...] = ()
    check: str = ""
    """What came of checking the sum (`check_messages.SumState`)."""
    silent: tuple[str, ...] = ()
    """Contributors without whose answer it could not be checked."""

    def line(self) -> str:
        """Return the sentence a person reads."""
        figures = "".join(f", mean {name} {value:.4f}" for name, value in self.metrics.items())
        absent = f"; without the signature of {', '.join(self.absent_cosigners)}" if self.absent_cosigners else ""
        check = f", {self.check}" if self.check else ""
        silent = f" ({', '.join(self.silent)} silent)" if self.silent else ""
        done = f"aggregate of {self.contributors} applied{check}{silent}{figures}"
        return f"round {self.round}: {done} ({self.seconds:.2f} s){absent}"


class SumChecked(Progress, frozen=True, tag="sum-checked"):
    """A sum that this data owner is in was checked, or could not be."""

    round: int
    state: str
    silent: tuple[str, ...] = ()
    contradicted: tuple[str, ...] = ()

    def line(self) -> str:
        """Return the sentence a person reads."""
        silent = f"; silent: {', '.join(self.silent)}" if self.silent else ""
        lied = (
            f"; not in it, because it contradicts the rest: {', '.join(self.contradicted)}" if self.contradicted else ""
        )
        return f"round {self.round}: sum {self.state}{silent}{lied}"


class Scored(Progress, frozen=True, tag="scored"):
    """The global model was scored on `by`'s test data."""

    round: int
    by: str
    examples: int
    loss: float
    accuracy: float | None = None
    shares: tuple[float, ...] = ()

    def line(self) -> str:
        """Return the sentence a person reads."""
        accuracy = f", accuracy {self.accuracy:.2%}" if self.accuracy is not None else ""
        return f"round {self.round}: global model on {self.examples} test examples: loss {self.loss:.4f}{accuracy}"


class ScoredOwn(Progress, frozen=True, tag="scored-own"):
    """A data owner scored the model it had just trained, before it was averaged; the figures stay on its own screen."""

    round: int
    examples: int
    loss: float
    accuracy: float | None = None
    shares: tuple[float, ...] = ()
    """Share of its answers that is each class, in class order; empty where a task has no classes."""

    def line(self) -> str:
        """Return the sentence a person reads."""
        accuracy = f", accuracy {self.accuracy:.2%}" if self.accuracy is not None else ""
        return f"round {self.round}: own model on {self.examples} test examples: loss {self.loss:.4f}{accuracy}"


class Ended(Progress, frozen=True, tag="ended"):
    """The party is done; `error` says why, if it failed."""

    error: str | None = None

    def line(self) -> str:
        """Return the sentence a person reads."""
        return f"failed: {self.error}" if self.error else "done"


AnyProgress = (
    Started
    | Said
    | RefusedProgress
    | RoundOpened
    | TrainedLocally
    | Sealed
    | Opened
    | RoundClosed
    | RoundDone
    | SumChecked
    | Scored
    | ScoredOwn
    | Ended
)
