"""The evaluator: is asked like a data owner, gets the model, answers with a signed score. It never holds updates."""

from typing import Any, ClassVar

from ..protocol.charter import Role
from ..protocol.errors import WrongSender
from ..protocol.machine import Work
from ..protocol.messages import Evaluated, Evaluation, Purpose
from ..protocol.progress import Said, Scored
from ..protocol.rounds import Phase, Step
from ..protocol.statements import sign
from ..protocol.training import Score
from .recipient import Asked, Recipient


class Evaluator(Recipient):
    """The machine of an evaluator."""

    role: ClassVar[Role] = Role.EVALUATOR
    purpose = Purpose.EVALUATE

    @property
    def essential(self) -> tuple[str, ...]:
        """Only the model owner."""
        return (self.owner,)

    def model_arrived(self, asked: Asked, now: float) -> None:
        """Score the model."""
        trainer, layout, model = self.trainers[asked.question.training.task], asked.layout, asked.model
        if layout is None or model is None:
            raise WrongSender("no model", party=self.owner)
        asked.deadline = now + self.charter.rules.deadlines.upload
        self.effect(Work(asked.open_round.hex(), lambda: trainer.evaluate(layout, model)))

    def worked(self, tag: str, result: Any, now: float) -> None:
        """Send the score."""
        asked = self.asked
        if asked is None or asked.open_round.hex() != tag or self.phase is not Phase.EVALUATING:
            return  # of another question, or of this one before it was asked again
        if not isinstance(result, Score):
            self.give_up(f"evaluation failed: {result}")
            return
        question = asked.question
        self.tell(
            Scored(question.round, self.name, result.examples, result.loss, result.accuracy, tuple(result.shares))
        )
        statement = Evaluation(open_round=asked.open_round, party=self.name, score=result)
        self.send(self.owner, Evaluated(evaluation=sign(self.identity, statement)))
        self.asked = None
        self.move(Step.EVALUATED)

    def decline(self, asked: Asked, reason: str) -> None:
        """Say that nothing was scored; why is for our operator alone."""
        super().decline(asked, reason)
        self.tell(Said(text=f"round {asked.question.round}: not scored: {reason}", warning=True))
