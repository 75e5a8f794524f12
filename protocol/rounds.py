"""The round, as data: for each role, in each phase, what may arrive and where it leads.

An input is a kind of message, or a `Step`: something this party's own program concluded (a deadline is one of its
reasons). A pair the table does not hold is an `IllegalMessage`, which names role, phase and message, and changes
nothing. Time, sockets and threads are elsewhere; `machine.py` is the only reader of these tables, `docs/protocol.md`
is drawn from them.

A few rows look too liberal, and are not:
- `Ready` and `Declined` stand in every phase of the secure worker: a slow data owner may send them at any time, and is
  answered with `TooLate`, by name, rather than accused.
- `Invitation` stands in every phase of a data owner: the model owner may give up an attempt the data owner still works
  on. It is admitted only for a later round or attempt.
- A party that comes back is sent again what it may have missed: `OfferRound`, `Release` and `Closed` stand in later
  phases of a model owner for that, and a secure worker that was restarted goes from idle to released.
- `OfferSession` stands in every phase of a model owner: where the others are enough a session begins without one that
  is slow, and its nonce comes late.
- `Ready` stands in every phase of a model owner: where the scheme makes it a holder a share may come at any time, and
  where it does not its machine refuses it.
- What belongs to the check of a sum stands in every phase of who answers (`MaskKeys`, `Challenge`, ...) and who asks
  (`OfferMaskKey`, `Answered`, ...): it runs beside the round, which never waits for a data owner's part in it for long.
- `Closed`, `RequestCosignature` and `RoundRecord` come over another connection than `Invitation`, so the record of a
  round can arrive after the invitation to the next.
"""

import enum
from collections.abc import Mapping
from typing import Final

from .charter import Role
from .check_messages import Answered, Challenge, Checked, MaskKeys, MaskSeeds, OfferMaskKey
from .messages import (
    Aborted,
    Acceptance,
    Closed,
    Closes,
    Cosign,
    Declined,
    Evaluated,
    Fetch,
    Grant,
    Invitation,
    Listed,
    Lists,
    Message,
    OfferRound,
    OfferSession,
    ProposeRound,
    Ready,
    Receipted,
    Refusal,
    Release,
    RequestCosignature,
    RequestSession,
    RoundRecord,
    SendModel,
    SessionOver,
)


class Phase(enum.Enum):
    """Where a party stands."""

    CONNECTING = "connecting"
    """Model owner: waits for those it cannot start without."""
    OPENING = "opening a session"
    IDLE = "between rounds"
    OFFERING = "waiting for round offers"
    COLLECTING = "collecting contributions"
    LISTED = "listed"
    """Secure worker, where there are several: what it counted is final, the others' lists are not here."""
    CLOSED = "closed"
    """The contributor set is final."""
    RECEIVING = "receiving"
    """Model owner: the aggregate. Data owner, evaluator: the model."""
    VERIFYING = "verifying the sum"
    APPLYING = "applying the aggregate"
    INVITED = "accepted, waiting for the model"
    TRAINING = "training"
    UPLOADING = "uploading"
    CONTRIBUTED = "receipted"
    EVALUATING = "evaluating"
    RELEASED = "released"
    ENDED = "ended"


class Step(enum.Enum):
    """What a party concludes by itself."""

    CONNECTED = "everyone needed is connected"
    SESSION_OPEN = "the holders that are here, q or more, gave their nonces"
    REOPENED = "a holder does not know this session any more"
    NEXT_ROUND = "a round, or another attempt at one, begins"
    NEXT_EVALUATION = "an evaluation begins"
    OFFERED = "every holder that takes part offered a key for this OpenRound"
    ROUND_OPEN = "this OpenRound is admitted"
    ACCEPTED = "this invitation is admitted"
    DECLINED = "no part in this round"
    MODEL_OPENED = "the model is open and is the one the OpenRound names"
    RESUMED = "another attempt at this round wants what is being trained"
    TRAINED = "the update is encoded"
    RECEIPTED = "every holder that takes part gave its receipt"
    LISTED = "what is counted here is final"
    SET_AGREED = "the contributor set is final here, and the others are to say the same"
    SET_CLOSED = "the contributor set is final"
    AGGREGATE_OPENED = "the aggregate is open"
    SUM_CHECKED = "the sum is verified, or cannot be"
    APPLIED = "aggregate applied, checkpoint written"
    ATTESTED = "the round statement is as complete as it will be"
    EVALUATED = "scores are in"
    GIVEN_UP = "this round ends here for this party"
    DONE = "nothing is left to do"


Input = type[Message] | Step
Row = Mapping[Input, Phase]
Table = Mapping[Phase, Row]

_P, _S = Phase, Step


def _secure_worker(phase: Phase, row: dict[Input, Phase]) -> Row:
    kinds: tuple[Input, ...] = (
        Ready,
        Declined,
        Cosign,
        Fetch,
        Lists,
        Closes,
        ProposeRound,
        RequestSession,
        Aborted,
        SessionOver,
        Refusal,
    )
    at_any_time = dict.fromkeys(kinds, phase)
    return {**at_any_time, _S.GIVEN_UP: _P.IDLE, _S.DONE: _P.ENDED, **row}


SECURE_WORKER: Final[Table] = {
    _P.IDLE: _secure_worker(
        _P.IDLE, {_S.ROUND_OPEN: _P.COLLECTING, _S.SET_AGREED: _P.CLOSED, _S.SET_CLOSED: _P.RELEASED}
    ),
    _P.COLLECTING: _secure_worker(_P.COLLECTING, {_S.LISTED: _P.LISTED, _S.SET_CLOSED: _P.RELEASED}),
    _P.LISTED: _secure_worker(_P.LISTED, {_S.SET_AGREED: _P.CLOSED}),
    _P.CLOSED: _secure_worker(_P.CLOSED, {_S.SET_CLOSED: _P.RELEASED}),
    _P.RELEASED: _secure_worker(_P.RELEASED, {_S.ATTESTED: _P.IDLE}),
    _P.ENDED: {},
}


def _data_owner(phase: Phase, row: dict[Input, Phase]) -> Row:
    kinds: tuple[Input, ...] = (
        Invitation,
        Closed,
        RequestCosignature,
        RoundRecord,
        MaskKeys,
        MaskSeeds,
        Challenge,
        Checked,
        Aborted,
        SessionOver,
        Refusal,
    )
    at_any_time = dict.fromkeys(kinds, phase)
    return {**at_any_time, _S.GIVEN_UP: _P.IDLE, _S.ACCEPTED: _P.INVITED, _S.DONE: _P.ENDED, **row}


DATA_OWNER: Final[Table] = {
    _P.IDLE: _data_owner(_P.IDLE, {}),
    _P.INVITED: _data_owner(_P.INVITED, {SendModel: _P.RECEIVING, _S.RESUMED: _P.TRAINING, _S.TRAINED: _P.UPLOADING}),
    _P.RECEIVING: _data_owner(
        _P.RECEIVING, {SendModel: _P.RECEIVING, Grant: _P.RECEIVING, _S.MODEL_OPENED: _P.TRAINING}
    ),
    _P.TRAINING: _data_owner(_P.TRAINING, {_S.TRAINED: _P.UPLOADING, _S.DECLINED: _P.IDLE}),
    _P.UPLOADING: _data_owner(
        _P.UPLOADING, {Grant: _P.UPLOADING, Receipted: _P.UPLOADING, _S.RECEIPTED: _P.CONTRIBUTED}
    ),
    _P.CONTRIBUTED: _data_owner(_P.CONTRIBUTED, {_S.SET_CLOSED: _P.CLOSED}),
    _P.CLOSED: _data_owner(_P.CLOSED, {_S.ATTESTED: _P.IDLE}),
    _P.ENDED: {},
}


def _evaluator(phase: Phase, row: dict[Input, Phase]) -> Row:
    kinds: tuple[Input, ...] = (
        Invitation,
        Aborted,
        SessionOver,
        Refusal,
    )
    at_any_time = dict.fromkeys(kinds, phase)
    return {**at_any_time, _S.GIVEN_UP: _P.IDLE, _S.ACCEPTED: _P.INVITED, _S.DONE: _P.ENDED, **row}


EVALUATOR: Final[Table] = {
    _P.IDLE: _evaluator(_P.IDLE, {}),
    _P.INVITED: _evaluator(_P.INVITED, {SendModel: _P.RECEIVING}),
    _P.RECEIVING: _evaluator(
        _P.RECEIVING, {SendModel: _P.RECEIVING, Grant: _P.RECEIVING, _S.MODEL_OPENED: _P.EVALUATING}
    ),
    _P.EVALUATING: _evaluator(_P.EVALUATING, {_S.EVALUATED: _P.IDLE}),
    _P.ENDED: {},
}


def _model_owner(phase: Phase, row: dict[Input, Phase]) -> Row:
    # A refusal, an abort or an interruption can reach a model owner at any time; answers to a question it no longer
    # asks (a late acceptance, a late score) are ignored by digest, not treated as a fault.
    kinds: tuple[Input, ...] = (
        Refusal,
        Aborted,
        Acceptance,
        Declined,
        Evaluated,
        Fetch,
        Ready,
        Listed,
        Closed,
        RoundRecord,
        OfferRound,
        OfferSession,
        OfferMaskKey,
        MaskSeeds,
        Answered,
    )
    at_any_time = dict.fromkeys(kinds, phase)
    return {**at_any_time, _S.DONE: _P.ENDED, **row}


MODEL_OWNER: Final[Table] = {
    _P.CONNECTING: _model_owner(_P.CONNECTING, {_S.CONNECTED: _P.OPENING}),
    _P.OPENING: _model_owner(_P.OPENING, {_S.SESSION_OPEN: _P.IDLE}),
    _P.IDLE: _model_owner(_P.IDLE, {_S.NEXT_ROUND: _P.OFFERING, _S.NEXT_EVALUATION: _P.EVALUATING}),
    _P.OFFERING: _model_owner(
        _P.OFFERING,
        {
            # One secure worker's release may come before another's Close list, after a restart of the model owner.
            Release: _P.OFFERING,
            RequestCosignature: _P.OFFERING,
            _S.OFFERED: _P.COLLECTING,
            _S.SET_CLOSED: _P.CLOSED,
            _S.GIVEN_UP: _P.IDLE,
            _S.REOPENED: _P.OPENING,
        },
    ),
    _P.COLLECTING: _model_owner(
        _P.COLLECTING,
        {
            Release: _P.COLLECTING,
            RequestCosignature: _P.COLLECTING,
            _S.SET_CLOSED: _P.CLOSED,
            _S.GIVEN_UP: _P.IDLE,
            _S.REOPENED: _P.OPENING,
        },
    ),
    _P.CLOSED: _model_owner(
        _P.CLOSED,
        {
            Release: _P.RECEIVING,
            RequestCosignature: _P.CLOSED,
            Grant: _P.CLOSED,
            # Of totals that were announced before the set was closed.
            _S.AGGREGATE_OPENED: _P.VERIFYING,
        },
    ),
    _P.RECEIVING: _model_owner(
        _P.RECEIVING,
        {
            Release: _P.RECEIVING,
            Grant: _P.RECEIVING,
            RequestCosignature: _P.RECEIVING,
            _S.AGGREGATE_OPENED: _P.VERIFYING,
        },
    ),
    _P.VERIFYING: _model_owner(
        _P.VERIFYING, {Release: _P.VERIFYING, RequestCosignature: _P.VERIFYING, _S.SUM_CHECKED: _P.APPLYING}
    ),
    _P.APPLYING: _model_owner(
        _P.APPLYING, {Release: _P.APPLYING, RequestCosignature: _P.APPLYING, _S.APPLIED: _P.RELEASED}
    ),
    _P.RELEASED: _model_owner(
        _P.RELEASED, {Release: _P.RELEASED, RequestCosignature: _P.RELEASED, _S.ATTESTED: _P.IDLE}
    ),
    _P.EVALUATING: _model_owner(_P.EVALUATING, {_S.EVALUATED: _P.IDLE}),
    _P.ENDED: {},
}

TABLES: Final[Mapping[Role, Table]] = {
    Role.MODEL_OWNER: MODEL_OWNER,
    Role.DATA_OWNER: DATA_OWNER,
    Role.SECURE_WORKER: SECURE_WORKER,
    Role.EVALUATOR: EVALUATOR,
}
