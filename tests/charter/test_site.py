import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tertium.protocol import limits
from tertium.protocol.charter import Arithmetic, Mode, SchemeName, TrainingLimits
from tertium.protocol.errors import NotInCharter, SiteFileError
from tertium.protocol.site import Listen, LocalLimits, OwnerPlan, Site, TaskEntry, load_site
from tertium.protocol.training import TrainingPlan, UpdateKind

TASKS = {"digits": TaskEntry(factory="a:B")}
WHOLE = """\
[limits]
tasks = ["digits"]
max_epochs = 2
max_batches = 10
smallest_cohort = 3
modes = ["trusted"]
max_refusals = 4

[tasks.digits]
factory = "tertium.learning.tasks.digits:Digits"
options = { digits = [0, 1], test = false }

[listen]
control = "tcp://*:7000"
bulk = "tcp://0.0.0.0:0"

[owner]
task = "digits"
rounds = 10
kind = "weights"
batches = 10
learning_rate = 0.3
final_learning_rate = 0.0
clip_norm = 1
seed = 3
cohort = 3
reduction = "mean"
metrics = ["loss"]
evaluate_every = 3
optimiser = { name = "Adam", options = { betas = [0.9, 0.99] } }
"""


def read(folder: Path, text: str) -> Site:
    path = folder / "site.toml"
    path.write_text(text)
    return load_site(path)


def test_a_whole_site_file(tmp_path: Path, federation: Any) -> None:
    site = read(tmp_path, WHOLE)
    site.check_against(federation.charter(), "owner")
    assert site.tasks["digits"].options == {"digits": [0, 1], "test": False}
    assert site.limits.modes == (Mode.TRUSTED,)
    assert site.listen.bulk == "tcp://0.0.0.0:0"
    assert site.owner is not None
    assert site.owner.optimiser is not None
    assert site.owner.optimiser.options == {"betas": [0.9, 0.99]}
    assert site.owner.training_plan(5) == TrainingPlan(
        task="digits", batches=10, epochs=0, learning_rate=0.15, clip_norm=1.0, seed=3, metrics=("loss",)
    )
    assert [index for index in range(10) if site.owner.evaluates_after(index)] == [2, 5, 8, 9]
    named = msgspec.structs.replace(site.owner, evaluate_every=0, evaluate_rounds=(1, 4, 40))
    assert [index for index in range(10) if named.evaluates_after(index)] == [0, 3, 9]
    with pytest.raises(SiteFileError, match="evaluate_own_rounds"):
        read(tmp_path, WHOLE.replace("[listen]", "evaluate_own_rounds = [0]\n[listen]"))


def test_an_empty_site_file_is_as_strict_as_the_charter_and_refuses_plain(tmp_path: Path, federation: Any) -> None:
    site = read(tmp_path, "")
    assert site == Site()
    site.check_against(federation.charter())
    plain = federation.charter(
        rules=federation.rules(mode=Mode.PLAIN, scheme=SchemeName(name="plain"), unsafe_plain="a lesson")
    )
    with pytest.raises(SiteFileError, match=r'limits.modes: .* modes = \["plain"\]'):
        site.check_against(plain)
    read(tmp_path, '[limits]\nmodes = ["plain"]').check_against(plain)
    with pytest.raises(SiteFileError, match=r'limits.modes: .* modes = \["plain"\]'):
        Site(tasks=TASKS).check_against(plain, "alice")
    # It is not their update; but who says which modes it takes part in means it.
    for name in ("third", "judge"):
        Site(tasks=TASKS if name == "judge" else {}).check_against(plain, name)
        trusted = Site(tasks=TASKS if name == "judge" else {}, limits=LocalLimits(modes=(Mode.TRUSTED,)))
        trusted.check_against(federation.charter(), name)
        with pytest.raises(SiteFileError, match=r"limits.modes: the charter's mode is plain"):
            trusted.check_against(plain, name)


def test_an_evaluator_scores_in_any_mode_its_charter_names(federation: Any) -> None:
    rules = federation.rules(mode=Mode.PLAIN, scheme=SchemeName(name="plain"), unsafe_plain="a lesson")
    plain = federation.charter(rules=rules)
    asked: dict[str, Any] = {"task": "digits", "epochs": 1, "batches": 0, "cohort_size": 3, "mode": Mode.PLAIN}
    site = Site(tasks=TASKS)
    assert site.refuses(plain, **asked) == "mode plain is not one of limits.modes"
    assert site.refuses(plain, **asked, updates=False) is None
    stricter = Site(tasks=TASKS, limits=LocalLimits(modes=(Mode.TRUSTED,)))
    assert stricter.refuses(plain, **asked, updates=False) == "mode plain is not one of limits.modes"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("max_epochs = 2", "max_epochs = -1", "limits.max_epochs"),
        ("max_epochs = 2", "max_epoch = 2", "limits: object contains unknown field max_epoch"),
        ("[limits]", "[limit]", "unknown field limit"),
        ('modes = ["trusted"]', "modes = []", "limits.modes"),
        ('modes = ["trusted"]', 'modes = ["mild"]', "limits.modes"),
        ("tasks.digits", "tasks.'Di gits'", "a name"),
        ("tertium.learning.tasks.digits:Digits", "os.system", "a factory: package.module:Class"),
        ("tertium.learning.tasks.digits:Digits", "a:b:c", "a factory"),
        ("tertium.learning.tasks.digits:Digits", "a:b()", "a factory"),
        ("tcp://*:7000", "tcp://*:70000", "listen.control: there is no port 70000"),
        ("tcp://*:7000", "ipc:///x", "listen.control: expected an address to listen on"),
        ("batches = 10\nlearn", "batches = 10\nepochs = 1\nlearn", "owner: names both"),
        ("learning_rate = 0.3", "learning_rate = inf", "owner.learning_rate: must be a finite"),
        ("seed = 3", "seed = 9223372036854775808", "owner.seed"),
        ('reduction = "mean"', 'reduction = "median"', "owner.reduction"),
        ('kind = "weights"', 'kind = "wits"', "owner.kind"),
        ('name = "Adam"', 'name = "torch.Adam"', "owner.optimiser.name"),
        ("clip_norm = 1", "clip_norm = 0", "owner.clip_norm"),
        ("[listen]", "[listen", "not valid TOML"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, old: str, new: str, why: str) -> None:
    assert old in WHOLE
    with pytest.raises(SiteFileError) as caught:
        read(tmp_path, WHOLE.replace(old, new, 1))
    assert why in str(caught.value), str(caught.value)
    assert "site.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("site", "why"),
    [
        (Site(limits=LocalLimits(max_epochs=6)), "limits.max_epochs: 6 is laxer than the charter's 5"),
        (Site(limits=LocalLimits(max_batches=51)), "limits.max_batches: 51 is laxer than the charter's 50"),
        (Site(limits=LocalLimits(smallest_cohort=2)), "limits.smallest_cohort: 2 is laxer than the charter's 3"),
        (Site(limits=LocalLimits(smallest_cohort=4)), "only 3 data owners"),
        (Site(limits=LocalLimits(tasks=("digits", "faces"))), "limits.tasks: faces is laxer"),
        (Site(limits=LocalLimits(modes=(Mode.SHAMIR,))), "limits.modes: the charter's mode is trusted"),
        (Site(owner=OwnerPlan(task="faces")), "owner.task: the charter does not allow faces"),
        (Site(owner=OwnerPlan(task="digits")), "owner.task: there is no [tasks.digits]"),
    ],
)
def test_laxer_than_the_charter_is_refused_by_name(federation: Any, site: Site, why: str) -> None:
    training = TrainingLimits(max_epochs=5, max_batches=50, tasks=("digits",))
    charter = federation.charter(rules=federation.rules(training=training))
    with pytest.raises(SiteFileError) as caught:
        site.check_against(charter)
    assert why in str(caught.value)


def test_as_strict_as_the_charter_is_allowed(federation: Any) -> None:
    own = LocalLimits(max_epochs=100, max_batches=10_000, smallest_cohort=3, tasks=("any",))
    Site(limits=own).check_against(federation.charter())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"epochs": 6}, "owner.epochs: 6"),
        ({"batches": 51}, "owner.batches: 51"),
        ({"cohort": 2}, "owner.cohort: 2"),
        ({"cohort": 4}, "owner.cohort: 4"),
        ({"cohort": 3, "cohort_most": 4}, "owner.cohort_most: 4 is more than the charter's 3 data owners"),
        ({"turns": (("alice", "bob", "mallory"),)}, "owner.turns: mallory is no data owner of the charter"),
        ({"turns": (("alice", "bob"),)}, "owner.turns: alice, bob is fewer than the charter's minimum of 3"),
        ({"turns": (("alice", "bob", "bob"),)}, "or names somebody twice"),
    ],
)
def test_an_owner_plans_within_the_charter(tmp_path: Path, federation: Any, changes: dict[str, int], why: str) -> None:
    tasks = read(tmp_path, WHOLE).tasks
    rules = federation.rules(training=TrainingLimits(max_epochs=5, max_batches=50))
    charter = federation.charter(rules=rules)
    Site(tasks=tasks, owner=OwnerPlan(task="digits")).check_against(charter, "owner")
    with pytest.raises(SiteFileError, match=why):
        Site(tasks=tasks, owner=OwnerPlan(task="digits", **changes)).check_against(charter, "owner")


def test_a_range_of_cohorts_is_one(tmp_path: Path, federation: Any) -> None:
    for range_, why in (
        ({"cohort_most": 3}, "say in owner.cohort where it begins"),
        ({"cohort": 3, "turns": (("alice",),)}, "names both turns and a cohort"),
        ({"cohort": 3, "cohort_most": 2}, "owner.cohort_most: 2 is less than the 3 of owner.cohort"),
    ):
        with pytest.raises(SiteFileError, match=why):
            OwnerPlan(task="digits", **range_)
    tasks = read(tmp_path, WHOLE).tasks
    plan = OwnerPlan(task="digits", cohort=3, cohort_most=3)
    Site(tasks=tasks, owner=plan, limits=LocalLimits(smallest_cohort=3)).check_against(federation.charter(), "owner")


def test_an_owner_asks_no_smaller_cohort_than_its_own_file_wants(federation: Any) -> None:
    tasks = {"digits": TaskEntry(factory="package.module:Class")}
    charter = federation.charter(rules=federation.rules(minimum_cohort=2, unsafe_small_cohort="a test"))
    site = Site(tasks=tasks, owner=OwnerPlan(task="digits", cohort=2), limits=LocalLimits(smallest_cohort=3))
    with pytest.raises(SiteFileError, match=r"owner.cohort: 2 is laxer than this file's limits.smallest_cohort of 3"):
        site.check_against(charter, "owner")


def test_sections_belong_to_roles(tmp_path: Path, federation: Any) -> None:
    charter, whole = federation.charter(), read(tmp_path, WHOLE)
    own = {"digits": msgspec.structs.replace(whole.tasks["digits"], evaluate_own_rounds=(1, 3))}
    Site(tasks=own).check_against(charter, "alice")
    for site, name, why in (
        (whole, "alice", "owner: alice is not the model owner"),
        (Site(tasks=whole.tasks), "owner", "owner: owner is the model owner"),
        (Site(tasks=whole.tasks, listen=whole.listen), "alice", "listen: alice only connects"),
        (Site(), "alice", "tasks: alice has none"),
        (Site(tasks=whole.tasks), "third", "tasks: third is a secure worker"),
        (
            Site(tasks=own, owner=whole.owner),
            "owner",
            "tasks.digits.evaluate_own_rounds: only a data owner .* owner is none",
        ),
        (Site(tasks=own), "judge", "tasks.digits.evaluate_own_rounds: only a data owner .* judge is none"),
    ):
        with pytest.raises(SiteFileError, match=why):
            site.check_against(charter, name)
    Site(tasks=whole.tasks).check_against(charter, "alice")
    Site(listen=whole.listen).check_against(charter, "third")
    with pytest.raises(NotInCharter):
        Site().check_against(charter, "mallory")


def test_what_a_site_refuses(tmp_path: Path, federation: Any) -> None:
    charter = federation.charter(rules=federation.rules(training=TrainingLimits(max_epochs=5, max_batches=50)))
    asked = {"task": "digits", "epochs": 2, "batches": 0, "cohort_size": 3, "mode": Mode.TRUSTED}
    strict = read(tmp_path, WHOLE)
    lax = Site(tasks=strict.tasks)
    for site in (strict, lax):
        assert site.refuses(charter, **asked) is None
    for site, change, why in (
        (strict, {"epochs": 3}, "at most 2"),
        (lax, {"epochs": 6}, "at most 5"),
        (strict, {"batches": 11}, "at most 10"),
        (lax, {"batches": 51}, "at most 50"),
        (strict, {"cohort_size": 2}, "at least 3"),
        (lax, {"cohort_size": 2}, "at least 3"),
        (strict, {"task": "faces"}, "not allowed"),
        (lax, {"task": "faces"}, r"no \[tasks.faces\]"),
        (lax, {"mode": Mode.PLAIN}, "not the charter's"),
        (Site(tasks=strict.tasks, limits=LocalLimits(modes=(Mode.SHAMIR,))), {}, "limits.modes"),
        (Site(tasks=strict.tasks, limits=LocalLimits(tasks=())), {}, "not allowed"),
    ):
        with pytest.raises(AssertionError, match=why):
            raise AssertionError(site.refuses(charter, **{**asked, **change}))


@given(st.integers(1, 50), st.floats(0, 1), st.floats(0, 1))
def test_the_rate_falls_in_a_straight_line(rounds: int, first: float, last: float) -> None:
    plan = OwnerPlan(task="t", rounds=rounds, learning_rate=first, final_learning_rate=last)
    rates = [plan.learning_rate_at(index) for index in range(rounds + 1)]
    assert rates[0] == first
    assert rates[-1] == pytest.approx(last)
    for a, b in itertools.pairwise(rates):
        assert b - a == pytest.approx((last - first) / rounds, abs=1e-9)
    assert OwnerPlan(task="t", learning_rate=first).learning_rate_at(7) == first


def test_a_plan_without_batches_is_one_epoch() -> None:
    assert OwnerPlan(task="t").training_plan(0).epochs == 1
    assert OwnerPlan(task="t", batches=3).training_plan(0).epochs == 0
    assert OwnerPlan(task="t", kind=UpdateKind.DELTA).training_plan(0).kind is UpdateKind.DELTA


def test_a_huge_or_missing_site_file(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    with pytest.raises(SiteFileError, match="no such file"):
        load_site(path)
    with path.open("wb") as file:
        file.truncate(limits.SITE_BYTES + 1)
    with pytest.raises(SiteFileError, match="longer than"):
        load_site(path)


def test_structs_cannot_be_built_out_of_bounds() -> None:
    for kind, changes in (
        (OwnerPlan, {"task": "A"}),
        (OwnerPlan, {"task": "a", "momentum": 1.0}),
        (Listen, {"bulk": "tcp://h:70000"}),
        (LocalLimits, {"smallest_cohort": 0}),
    ):
        with pytest.raises(SiteFileError):
            kind(**changes)
    assert Arithmetic() == Arithmetic()
