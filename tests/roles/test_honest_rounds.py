"""Rounds in which everybody is honest: the exact sum, the same in any order, signed, and nothing kept."""

import itertools
import random
from typing import Any

import numpy as np
import pytest
from tertium.crypto.identity import verify
from tertium.crypto.labels import Label
from tertium.learning.numpy_task import NumpyTask
from tertium.owner.machine import ModelOwner
from tertium.protocol import limits
from tertium.protocol.charter import Arithmetic, Mode, SchemeName
from tertium.protocol.messages import OpenRound, RoundStatement
from tertium.protocol.progress import RoundClosed, RoundDone, RoundOpened, Scored
from tertium.protocol.rounds import Phase
from tertium.protocol.site import LocalLimits, Optimiser
from tertium.protocol.statements import open_signed
from tertium.protocol.training import UpdateKind, WeightRule
from tertium.protocol.vector import decode_vector
from tertium.secure_worker.machine import SecureWorker
from tertium.workers.data_owner import DataOwner

# `make` is the fixture of conftest.py; conftest cannot be imported for its types.
Maker = Any
Run = Any


class Remembering(ModelOwner):
    """A model owner whose totals a test can look at."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.questions: list[OpenRound] = []
        self.keys: list[Any] = []
        self.sums: list[Any] = []

    def _ask(self, *args: Any, **kwargs: Any) -> Any:
        asking = super()._ask(*args, **kwargs)
        self.questions.append(asking.question)
        self.keys.append(asking.key)
        return asking

    def _apply(self, question: Any, total: Any, contributors: int, *, scored: bool) -> Any:
        self.sums.append(total.copy())
        return super()._apply(question, total, contributors, scored=scored)


def honest(run: Run) -> Run:
    """Run to the end, and see that nobody complained about anybody."""
    assert set(run.run().values()) == {None}
    assert not run.all_refused
    assert not [line for name in run.progress for line in run.said(name) if line.warning]
    return run


# --- the sum


@pytest.mark.parametrize("order", list(itertools.permutations(("alice", "bob", "carol"))))
def test_the_aggregate_is_the_exact_sum_whatever_the_order(make: Maker, plain_sum: Any, order: tuple[str, ...]) -> None:
    run = honest(make(machines={"owner": Remembering}, order=("owner", "third", *order)))
    (total,) = run.machines["owner"].sums
    np.testing.assert_array_equal(total, plain_sum(run, 1, order))


def test_the_aggregate_is_the_exact_sum_of_many_rounds_and_parties(make: Maker, plain_sum: Any) -> None:
    run = honest(make(7, machines={"owner": Remembering}, plan=make.plan(rounds=4)))
    assert run.released == [1, 2, 3, 4]
    for number, total in enumerate(run.machines["owner"].sums, 1):
        np.testing.assert_array_equal(total, plain_sum(run, number, make.names))


def test_the_aggregate_is_exact_over_bodies_of_many_records(make: Maker, plain_sum: Any) -> None:
    run = honest(make(planted=700_000, machines={"owner": Remembering}))
    np.testing.assert_array_equal(run.machines["owner"].sums[0], plain_sum(run, 1, make.names[:3]))
    model = np.frombuffer(run.model.to_bytes(), "<f4")
    np.testing.assert_allclose(model, 0.5, atol=1e-5)


@pytest.mark.parametrize("value_range", [2.0, 1000.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_decoded_mean_is_within_the_plans_bound(make: Maker, value_range: float, seed: int) -> None:
    weights = [random.Random(seed).randint(1, 50) for _ in range(5)]
    rules = make.rules(
        weight_rule=WeightRule.EXAMPLES, arithmetic=Arithmetic(max_weight=50, value_range=value_range, precision=1e-4)
    )
    run = honest(make(5, rules=rules, examples=lambda at: weights[at], machines={"owner": Remembering}))
    owner = run.machines["owner"]
    question, total = owner.questions[0], owner.sums[0]
    decoded = decode_vector(question, run.model.layout, total, 5)
    assert decoded.total_weight == sum(weights)
    flat = [np.concatenate([v.astype(np.float64) for v in run.updates[(name, 1)].values]) for name in make.names[:5]]
    expected = np.average(flat, axis=0, weights=weights)
    bound = question.plan.error_bound(question.plan.values, 5, sum(weights))
    assert np.abs(np.concatenate(decoded.means()) - expected).max() <= bound <= 1e-4
    losses = np.average([run.updates[(name, 1)].metrics[0] for name in make.names[:5]], weights=weights)
    assert abs(decoded.metrics["loss"] - losses) <= question.plan.error_bound(question.plan.metrics, 5, sum(weights))


def test_a_repeated_run_gives_the_same_model_byte_for_byte(make: Maker) -> None:
    runs = [honest(make(5, plan=make.plan(rounds=3, batches=4, batch_size=8))) for _ in range(2)]
    assert runs[0].model.to_bytes() == runs[1].model.to_bytes()
    written = [run.store.folder.joinpath("model.npz").read_bytes() for run in runs]
    assert written[0] == written[1]
    other = honest(make(5, plan=make.plan(rounds=3, batches=4, batch_size=8, seed=8)))
    assert other.model.to_bytes() != runs[0].model.to_bytes()


# --- kinds, weights, sampling


def locally(run: Run, names: tuple[str, ...], number: int = 1) -> list[Any]:
    return [np.concatenate([v.astype(np.float64) for v in run.updates[(name, number)].values]) for name in names]


@pytest.mark.parametrize("kind", UpdateKind, ids=lambda kind: kind.value)
@pytest.mark.parametrize("rule", WeightRule, ids=lambda rule: rule.value)
def test_every_kind_and_rule_against_a_direct_computation(make: Maker, kind: UpdateKind, rule: WeightRule) -> None:
    weighted = rule is WeightRule.EXAMPLES
    rules = make.rules(weight_rule=rule, arithmetic=Arithmetic(max_weight=64 if weighted else 1, precision=1e-6))
    optimiser = Optimiser(name="SGD", options={"lr": 0.5}) if kind is UpdateKind.GRADIENTS else None
    plan = make.plan(kind=kind, optimiser=optimiser, batch_size=0)
    run = make(rules=rules, plan=plan)
    names = make.names[:3]
    start = np.frombuffer(run.model.to_bytes(), "<f4").astype(np.float64)
    honest(run)

    # Each party's update, computed here from its task alone.
    rate, updates = np.float32(plan.learning_rate), []
    for at, name in enumerate(names):
        task = NumpyTask(party=at, examples=20 + 5 * at)
        gradient = task.gradient(start.astype(np.float32), task.trainer()._rows)
        local = start.astype(np.float32) - rate * gradient
        updates.append(
            {
                UpdateKind.WEIGHTS: local,
                UpdateKind.DELTA: local - start.astype(np.float32),
                UpdateKind.GRADIENTS: gradient,
            }[kind]
        )
        # Rows lie in another order in a batch, so float32 sums over them differ in their last bit.
        np.testing.assert_allclose(locally(run, (name,))[0], updates[-1].astype(np.float64), rtol=0, atol=2e-6)
    mean = np.average(np.array(updates, np.float64), axis=0, weights=[20, 25, 30] if weighted else None)
    after = {
        UpdateKind.WEIGHTS: mean,
        UpdateKind.DELTA: start + mean,
        UpdateKind.GRADIENTS: start - 0.5 * mean,
    }[kind]
    np.testing.assert_allclose(np.frombuffer(run.model.to_bytes(), "<f4"), after, rtol=0, atol=5e-6)


def test_a_sum_is_a_sum(make: Maker) -> None:
    plan = make.plan(kind=UpdateKind.GRADIENTS, reduction="sum", optimiser=Optimiser(name="SGD", options={"lr": 0.01}))
    run = make(plan=plan)
    start = np.frombuffer(run.model.to_bytes(), "<f4").astype(np.float64)
    honest(run)
    expected = start - 0.01 * sum(locally(run, make.names[:3]))
    np.testing.assert_allclose(np.frombuffer(run.model.to_bytes(), "<f4"), expected, rtol=0, atol=1e-6)


def test_a_cohort_is_drawn_anew_and_only_it_contributes(make: Maker) -> None:
    run = honest(make(7, plan=make.plan(rounds=8, cohort=3)))
    cohorts = [opened.cohort for opened in run.said("owner", RoundOpened)]
    assert all(len(cohort) == 3 for cohort in cohorts)
    assert len(set(cohorts)) > 1
    for number, cohort in enumerate(cohorts, 1):
        assert run.statement(number).contributors == cohort
        assert {name for name, at in run.encoded if at == number} == set(cohort)
    again = honest(make(7, plan=make.plan(rounds=8, cohort=3)))
    assert [opened.cohort for opened in again.said("owner", RoundOpened)] == cohorts


# --- evaluators


def test_an_evaluator_scores_every_round_and_never_gets_an_update(make: Maker) -> None:
    judge = NumpyTask(party=50, examples=40)
    run = honest(make(plan=make.plan(rounds=2), evaluators={"judge": judge}))
    scores = [score for score in run.said("owner", Scored) if score.by == "judge"]
    assert [score.round for score in scores] == [1, 2]
    expected = judge.trainer().evaluate(run.model.layout, run.model.to_bytes())
    assert (scores[-1].loss, scores[-1].examples) == (expected.loss, 40)
    assert {handled.label for handled in run.handled["judge"]} == {Label.MODEL}
    assert "judge" not in {handled.peer for handled in run.handled["third"]}
    assert all("judge" not in run.statement(number).contributors for number in (1, 2))


def test_an_evaluator_scores_in_mode_plain_without_a_word_in_its_site_file(make: Maker) -> None:
    """Only a site that gives updates has to agree to `plain` in its own file."""
    rules = make.rules(mode=Mode.PLAIN, scheme=SchemeName(name="plain"), unsafe_plain="a lesson")
    limits_of = dict.fromkeys(make.names[:3], LocalLimits(modes=tuple(Mode)))
    run = make(rules=rules, limits_of=limits_of, evaluators={"judge": NumpyTask(party=50, examples=40)})
    assert set(run.run().values()) == {None}
    assert [score.examples for score in run.said("owner", Scored) if score.by == "judge"] == [40]
    assert not [line.text for line in run.said("judge") if "declined" in line.text]


def test_an_evaluator_that_is_silent_holds_nothing_up_for_good(make: Maker) -> None:
    run = make(plan=make.plan(rounds=2), evaluators={"judge": NumpyTask(party=50)})
    run.run(until=lambda: run.said("owner", RoundDone))
    run.lose("judge")
    assert set(run.run().values()) == {None}
    assert run.released == [1, 2]


# --- who holds what


def test_every_envelope_goes_where_the_table_says(make: Maker) -> None:
    run = honest(make(evaluators={"judge": NumpyTask(party=50)}))
    seen = {
        (handled.label, name, handled.peer)
        for name, each in run.handled.items()
        for handled in each
        if not handled.sealed
    }
    owners = make.names[:3]
    assert seen == {
        *((Label.CONTRIBUTION, "third", name) for name in owners),
        *((Label.MODEL, name, "owner") for name in (*owners, "judge")),
        (Label.AGGREGATE, "owner", "third"),
        *((Label.MASK_SEED, two, one) for one, two in itertools.combinations(sorted(owners), 2)),
    }


def test_round_keys_are_erased_by_everybody(make: Maker) -> None:
    keys: dict[str, list[Any]] = {"third": [], "alice": [], "owner": []}

    class Worker(SecureWorker):
        def _on_propose_round(self, peer: str, message: Any, now: float) -> None:
            super()._on_propose_round(peer, message, now)
            keys["third"].append(self._intake.key)  # type: ignore[union-attr]

    run = make(plan=make.plan(rounds=2), machines={"third": Worker, "owner": Remembering})
    alice = run.machines["alice"]
    send = alice.send

    def note(peer: str, message: Any) -> None:
        if alice.asked is not None and alice.asked.key not in keys["alice"]:
            assert not alice.asked.key.erased
            keys["alice"].append(alice.asked.key)
        send(peer, message)

    alice.send = note
    run.run(until=lambda: keys["third"])
    assert not keys["third"][0].erased
    honest(run)
    keys["owner"] = run.machines["owner"].keys
    for name, used in keys.items():
        assert len(used) == 2, name
        assert all(key.erased for key in used), name


def test_the_secure_worker_erases_its_key_before_anything_is_released(make: Maker) -> None:
    states: list[bool] = []

    class Worker(SecureWorker):
        def _settle_on(self, intake: Any, *rest: Any) -> None:
            self.key = intake.key
            super()._settle_on(intake, *rest)

        def send(self, peer: str, message: Any) -> None:
            if type(message).__name__ in ("Closed", "Release"):
                states.append(self.key.erased)
            super().send(peer, message)

    honest(make(machines={"third": Worker}))
    assert len(states) == 5
    assert all(states)


def test_reprs_show_no_update_no_model_and_no_key(make: Maker) -> None:
    shown: list[str] = []

    class Worker(SecureWorker):
        def opened(self, peer: str, incoming: Any, sections: Any, now: float) -> None:
            super().opened(peer, incoming, sections, now)
            shown.extend((repr(self), repr(self._intake), repr(incoming)))
            shown.extend(repr(vars(self)).splitlines())

    class Owner(Remembering):
        def _apply(self, *args: Any, **kwargs: Any) -> Any:
            shown.extend((repr(self), repr(self._asking)))
            return super()._apply(*args, **kwargs)

    run = make(machines={"third": Worker, "owner": Owner}, planted=2000, plan=make.plan(rounds=2))
    alice = run.machines["alice"]
    move = alice.move

    def note(step: Any) -> None:
        shown.extend((repr(alice), repr(alice.asked), repr(alice._uploads), repr(alice._sent)))
        move(step)

    alice.move = note
    honest(run)
    patterns = [repr(bytes(vector.tobytes()[:16]))[2:-1] for vector in run.encoded.values()]
    patterns += [repr(vector[:4])[6:30] for vector in run.encoded.values()]
    # The model after the first round, 0.5 everywhere, as float32.
    patterns += [repr(np.full(4, 0.5, "<f4").tobytes())[2:-1], "array(", "PrivateKey"]
    for text in shown:
        for pattern in patterns:
            assert pattern not in text, text[:400]


# --- what is signed


def test_a_record_verifies_and_lists_everybody(make: Maker) -> None:
    run = honest(make(5))
    record = run.record(1)
    statement = open_signed(run.charter, record.statement, RoundStatement)
    assert statement.contributors == make.names[:5]
    assert sorted(each.party for each in record.cosignatures) == sorted(("owner", *make.names[:5]))
    assert record.absent == ()
    for each in record.cosignatures:
        key = run.charter.party(each.party).identity.signing
        verify(key, Label.ROUND_STATEMENT, record.statement.statement, each.signature, party=each.party)
    assert [done.absent_cosigners for done in run.said("owner", RoundDone)] == [()]


def test_a_cosigner_that_is_silent_is_listed(make: Maker) -> None:
    class Silent(DataOwner):
        def _on_request_cosignature(self, peer: str, message: Any, now: float) -> None:
            pass

    run = make(machines={"bob": Silent}, plan=make.plan(rounds=2))
    run.run(until=lambda: run.released)
    record = run.record(1)
    assert record.absent == ("bob",)
    assert sorted(each.party for each in record.cosignatures) == ["alice", "carol", "owner"]
    assert [done.absent_cosigners for done in run.said("owner", RoundDone)] == [("bob",)]


def test_a_cosigner_that_is_gone_is_not_waited_for(make: Maker) -> None:
    class Silent(DataOwner):
        def _on_request_cosignature(self, peer: str, message: Any, now: float) -> None:
            pass

    run = make(machines={"bob": Silent})
    run.run(until=lambda: run.machines["third"].phase is Phase.RELEASED)
    gone = run.clock.now
    run.lose("bob")
    run.run(until=lambda: run.released)
    assert run.record(1).absent == ("bob",)
    assert limits.ABSENCE <= run.clock.now - gone < limits.ABSENCE + 2 < run.charter.rules.deadlines.statement


def test_commitments_stand_in_the_close_list_and_the_statement(make: Maker) -> None:
    run = honest(make())
    sealed = {
        name: handled
        for name in make.names[:3]
        for handled in run.handled[name]
        if handled.sealed and handled.label is Label.CONTRIBUTION
    }
    opened = {handled.peer: handled for handled in run.handled["third"] if not handled.sealed}
    assert {name: each.commitment for name, each in sealed.items()} == {
        name: each.commitment for name, each in opened.items()
    }
    (release,) = [handled for handled in run.handled["third"] if handled.sealed]
    assert run.statement(1).release == release.header
    assert run.statement(1).commitment == release.commitment


def test_everybody_goes_through_the_phases_of_the_table(make: Maker) -> None:
    run = make()
    phases: dict[str, list[Phase]] = {name: [] for name in run.machines}

    def note() -> bool:
        for name, machine in run.machines.items():
            if not phases[name] or phases[name][-1] is not machine.phase:
                phases[name].append(machine.phase)
        return all(party.done for party in run.parties.values())

    run.run(until=note)
    assert {each[-1] for each in phases.values()} == {Phase.ENDED}
    assert Phase.COLLECTING in phases["third"]
    assert Phase.COLLECTING in phases["owner"]
    assert Phase.CONTRIBUTED in phases["alice"] or Phase.CLOSED in phases["alice"]
    assert [closed.contributors for closed in run.said("alice", RoundClosed)] == [make.names[:3]]
