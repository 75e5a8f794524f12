"""The baseline a demo prints: the same model trained on everybody's data in one place.

Same initial model, same number of batches in total (rounds x batches x owners), same schedule of plans. It runs through
the interface every task has, so a task gets its baseline for nothing.
"""

import struct
from collections.abc import Callable, Iterable

import msgspec

from ..crypto.labels import Label, digest
from ..protocol.errors import SiteFileError
from ..protocol.training import Score, TrainingPlan, UpdateKind
from .task import GlobalModel, LocalUpdate, ServerOptimiser, Task, Values


def train_centralised(
    task: Task,
    plans: Iterable[TrainingPlan],
    *,
    owners: int,
    seed: int,
    optimiser: ServerOptimiser | None = None,
    each_round: Callable[[int, GlobalModel], None] | None = None,
    each_update: Callable[[int, LocalUpdate], None] | None = None,
) -> Score:
    """Train `task`, which holds the pooled data and a test set, and return the final score.

    `plans` are the plans of the federated rounds, in order. Where a plan counts batches, `owners` times as many are
    drawn here; epochs over the pooled data are as many batches already. For `gradients`, `optimiser` takes one step a
    round on the sum of the batches' gradients, divided by `owners` where it reduces by the mean; for other kinds it is
    not used: the local steps are the training. `each_round` is called with the round, from 1, and the model;
    `each_update` before it, with what the round's training gave: its figures are in `metrics`.

    Raises:
        SiteFileError: the task holds no test set, there is no plan, or `owners` is less than 1.
    """
    if owners < 1:
        raise SiteFileError("a baseline needs at least one owner's share of batches")
    trainer = task.trainer()
    model: GlobalModel | None = None
    for number, plan in enumerate(plans, start=1):
        gradients = plan.kind is UpdateKind.GRADIENTS
        if model is None:
            model = task.global_model(seed, (optimiser if gradients else None) or ServerOptimiser())
        # a difference would be rounded twice; setting the weights is what training in one place does
        pooled = msgspec.structs.replace(
            plan, batches=plan.batches * owners, kind=plan.kind if gradients else UpdateKind.WEIGHTS, clip_norm=None
        )
        stream = digest(Label.BATCH_ORDER, b"centralised", struct.pack(">QQ", seed, number))
        update = trainer.train(model.layout, model.to_bytes(), pooled, stream)
        if each_update is not None:
            each_update(number, update)
        values: tuple[Values, ...] = tuple(update.values)
        if gradients and (optimiser is None or optimiser.reduction == "mean"):
            values = tuple(array / owners for array in values)
        model.apply(pooled.kind, values)
        if each_round is not None:
            each_round(number, model)
    score = model.evaluate() if model is not None else None
    if score is None:
        raise SiteFileError("a baseline needs at least one round and a task with a test set")
    return score
