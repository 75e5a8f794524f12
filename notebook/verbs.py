"""The objects a notebook holds: a model, the copies of it that data owners train, and the mean of them.

Rules of the file:
- No object here holds an update, or a way to one: a copy is a name, and what its data owner is to do. What was trained
  leaves its owner sealed for the secure workers, who release the sum; there is no message that asks for less. Mode
  `plain` is the exception: there the model owner opens each update itself.
- `send`, `train` and `move` say what is wanted, and nothing leaves this process before `mean`: a round is asked of all
  of a cohort at once, or a data owner could be made to train for a round that never comes.
- A copy is good for one round of the model it is a copy of.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ..protocol.charter import TrainingLimits
from ..protocol.errors import SiteFileError
from ..protocol.site import OwnerPlan
from ..protocol.training import Score
from .errors import NotebookError, SingleUpdateRefused

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .federation import Federation

_TRAINED: Final = ("epochs", "batches", "batch_size", "learning_rate", "momentum", "clip_norm", "seed")


@dataclass(frozen=True)
class Model:
    """The federation's model as it was after a round; the model owner's own, to be looked at and used."""

    federation: "Federation"
    round: int
    """After which round; 0 before the first."""
    module: "nn.Module"
    """A torch module of its own with these weights: change it as you like, nothing follows."""
    score: Score | None
    """On the model owner's test data, where it has any."""

    def send(self, to: str) -> "Copy":
        """Return a copy for this data owner, which is sent with the round.

        Raises:
            NotebookError: there is no such data owner, or the federation is at another model.
        """
        self.federation.require_data_owner(to)
        if self.round != self.federation.model.round:
            raise NotebookError(
                f"this is the model after round {self.round} and the federation is at round "
                f"{self.federation.model.round}: send federation.model"
            )
        return Copy(self, to)

    def copy(self) -> "Model":
        """Return a model with a module of its own."""
        return Model(self.federation, self.round, copy.deepcopy(self.module), self.score)

    def __call__(self, inputs: "Tensor") -> "Tensor":
        """Return the outputs of the module for a batch of inputs, in evaluation mode and without gradients."""
        import torch

        training = self.module.training
        self.module.eval()
        with torch.no_grad():
            outputs: Tensor = self.module(inputs)
        self.module.train(training)
        return outputs

    def __repr__(self) -> str:
        return f"Model(after round {self.round})"


class Copy:
    """A copy of the model at one data owner: what it is to do, and with whom its update goes. Never the update."""

    def __init__(self, model: Model, owner: str) -> None:
        self.model = model
        self.owner = owner
        self.plan: OwnerPlan | None = None
        """What was asked for with `train`."""
        self.moved = False
        self.summed = False

    def train(self, **how: Any) -> "Copy":
        """Ask for local training, and return this copy.

        Args:
            how: `epochs` or `batches`, `batch_size` (0 is all of its data), `learning_rate`, `momentum`, `clip_norm`,
                `seed`, as in `[owner]` of a model owner's site file; what is left out is as the federation was opened.

        Raises:
            NotebookError: there is no such setting or not with this value, or it has been summed already.
        """
        self._require_unsummed()
        unknown = sorted(set(how) - set(_TRAINED))
        if unknown:
            raise NotebookError(f"train() takes {', '.join(_TRAINED)}, not {', '.join(unknown)}")
        if "epochs" in how or "batches" in how:
            how = {"epochs": 0, "batches": 0, **how}
        federation = self.model.federation
        plan = planned(federation.plan, how)
        _require_allowed(plan, federation.training_limits)
        self.plan = plan
        return self

    def move(self, *to: str) -> "Copy":
        """Move what is trained, sealed, to the secure worker, or all of several; return this copy.

        Raises:
            NotebookError: that is not who holds updates in this federation, or nothing was trained.
        """
        self._require_unsummed()
        holders = self.model.federation.secure_workers
        if to and set(to) != set(holders):
            raise NotebookError(
                f"updates go to {' and '.join(holders)}, all of them, as the charter says, not to {', '.join(to)}"
            )
        if self.plan is None:
            raise NotebookError(f"{self.owner}'s copy was not trained: call train() before move()")
        self.moved = True
        return self

    def get(self) -> None:
        """Refuse, always: no message gives out one data owner's update.

        Raises:
            SingleUpdateRefused: it says why.
            NotebookError: the mode is `plain`, where the model owner opens each update, with `mean`.
        """
        federation = self.model.federation
        if federation.opens_updates:
            raise NotebookError(
                f"in mode plain you open each update: mean() of {self.owner}'s copy alone is it, where the charter's "
                f"minimum cohort is 1; here it is {federation.minimum_cohort}"
            )
        where = "is sealed for" if self.summed else "will be sealed for"
        raise SingleUpdateRefused(
            f"{self.owner}'s update {where} {' and '.join(federation.secure_workers)} and no message returns it: "
            f"the model owner gets the sum over at least {federation.minimum_cohort} data owners, with mean()"
        )

    def _require_unsummed(self) -> None:
        if self.summed:
            raise NotebookError(f"{self.owner}'s copy has been summed: send() the new model for another round")

    def __repr__(self) -> str:
        state = "summed" if self.summed else "to be moved" if self.moved else "sent"
        return f"Copy(of the model after round {self.model.round}, at {self.owner}, {state})"


class Mean:
    """The mean of moved copies: a round that has been run."""

    def __init__(self, model: Model, contributors: tuple[str, ...], check: str) -> None:
        self._model = model
        self.contributors = contributors
        """Whose updates are in it."""
        self.check = check
        """What came of checking the sum: verified, or unverified."""

    def get(self) -> Model:
        """Return the model that the mean made; the federation is at it already."""
        return self._model

    def __repr__(self) -> str:
        return f"Mean(of {', '.join(self.contributors)}, {self.check}, round {self._model.round})"


def mean(*copies: Copy) -> Mean:
    """Run a round over these copies: each data owner trains, seals and uploads, the sum is checked, and set.

    Raises:
        NotebookError: they do not make a round, or it failed.
    """
    model, plan = _round_of(copies)
    found = model.federation.run(plan, tuple(sorted(each.owner for each in copies)))
    for each in copies:
        each.summed = True
    return found


def _round_of(copies: Sequence[Copy]) -> tuple[Model, OwnerPlan]:
    """Return the model and the plan that all copies share."""
    if not copies:
        raise NotebookError("mean() takes the copies to be summed, as mean(bobs, alices)")
    for each in copies:
        if not isinstance(each, Copy):
            raise NotebookError(
                f"mean() takes copies, as mean(bobs, alices), or mean(*copies) of a list; not a {type(each).__name__}"
            )
    first = copies[0]
    federation = first.model.federation
    names = [each.owner for each in copies]
    for each in copies:
        each._require_unsummed()
        if each.model.federation is not federation or each.model.round != first.model.round:
            raise NotebookError("the copies are not of one model")
        if not each.moved:
            raise NotebookError(f"{each.owner}'s copy was not moved: call move() first")
        if each.plan != first.plan:
            raise NotebookError(
                f"{each.owner} and {first.owner} were asked to train differently; a round asks all the same"
            )
    if len(set(names)) != len(names):
        raise NotebookError("a data owner is in a mean once")
    if len(names) < federation.minimum_cohort:
        raise SingleUpdateRefused(
            f"a mean of {' and '.join(names)} is of fewer than {federation.minimum_cohort}, the charter's minimum: "
            "no secure worker releases it"
        )
    if first.model.round != federation.model.round:
        raise NotebookError("the copies are of an earlier model: send() federation.model")
    assert first.plan is not None  # noqa: S101 - a moved copy was trained
    return first.model, first.plan


def _require_allowed(plan: OwnerPlan, limit: TrainingLimits) -> None:
    """Raise `NotebookError` for more than the charter allows: whoever is asked for it ends the session."""
    for name, asked, most in (("epochs", plan.epochs, limit.max_epochs), ("batches", plan.batches, limit.max_batches)):
        if asked > most:
            raise NotebookError(f"{asked} {name} are more than the {most} that the charter allows in a round")


def planned(plan: OwnerPlan, how: dict[str, Any]) -> OwnerPlan:
    """Return a plan with some settings changed, checked as a site file is; raises `NotebookError`."""
    try:
        return msgspec.convert({**msgspec.to_builtins(plan), "rounds": 1, **how}, OwnerPlan)
    except (msgspec.MsgspecError, SiteFileError, TypeError, ValueError) as error:
        raise NotebookError(f"training cannot be asked for like this: {error}") from None
