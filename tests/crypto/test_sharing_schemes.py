"""The schemes themselves: shares against a slow oracle, even load, liars found, the registry, digests and the wire."""

import itertools
import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from tertium.crypto.errors import (
    BadScheme,
    ForTestsOnly,
    InconsistentTotals,
    TertiumError,
    UnknownScheme,
    WrongArray,
    WrongHolders,
    WrongLength,
    WrongShare,
)
from tertium.crypto.labels import Label, frame
from tertium.crypto.ring import Plan
from tertium.crypto.sharing import chartered, dummy, names, registry, scheme
from tertium.crypto.sharing.additive import Additive
from tertium.crypto.sharing.base import Kind, Scheme, Seat, Seed, kind, pieces
from tertium.crypto.sharing.conformance_aids import secrets as honest_secrets
from tertium.crypto.sharing.cost import measure, wire_bytes
from tertium.crypto.sharing.naming import scheme_digest
from tertium.crypto.sharing.replicated import Replicated
from tertium.crypto.sharing.wire import (
    share_bytes,
    share_from_sections,
    share_sections,
    total_bytes,
    total_from_section,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "shares.json").read_text())
PLANS = (
    Plan.fit(cohort=8, max_weight=50, value_range=4.0, precision=1e-3),
    Plan.fit(cohort=8, max_weight=50, value_range=4.0, precision=1e-12),
)
PLAN = PLANS[0]
BOTH = pytest.mark.parametrize("plan", PLANS, ids=["32", "64"])
EVERY = [
    ("trusted", 1),
    ("plain", 1),
    ("masked", 2),
    ("additive", 2),
    ("additive", 5),
    ("replicated", 3),
    ("shamir", 3),
]


def expanded(seed: bytes, count: int, size: int) -> list[int]:
    """The words of a seed, one AES block at a time: as slow as it is obvious."""
    key = blake3(frame(Label.KEYSTREAM, [b"tertium/1 share"]), key=seed).digest()
    data = b""
    for block in range(count * size // 2**20 + 1):
        counter = block.to_bytes(12, "big") + (2).to_bytes(4, "big")
        data += Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor().update(bytes(2**20))
    return [int.from_bytes(data[i * size : (i + 1) * size], "little") for i in range(count)]


def secret_of(plan: Plan, length: int) -> np.ndarray:
    return np.frombuffer(os.urandom(length * plan.dtype.itemsize), plan.dtype)


def value(piece, length: int, plan: Plan) -> list[int]:
    return expanded(piece.seed, length, plan.dtype.itemsize) if isinstance(piece, Seed) else piece.tolist()


@BOTH
@pytest.mark.parametrize("length", [1, 40, 2**18 + 3])
def test_additive_shares_add_up_to_the_secret_by_the_slow_oracle(plan, length):
    secret = secret_of(plan, length)
    shares = Additive(3).dealer(plan, length).split(secret, 1)
    assert [kind(share) for share in shares] == [Kind.SEED, Kind.VECTOR, Kind.SEED]
    columns = zip(*(value(share, length, plan) for share in shares), strict=True)
    assert [sum(words) % 2**plan.word_bits for words in columns] == secret.tolist()


@BOTH
def test_a_seed_holders_total_is_the_slow_oracles(plan):
    length, seeds = 2**18 + 3, [Seed(os.urandom(32)) for _ in range(2)]
    holder = scheme("masked").holder(plan, length, 1)
    total = holder.zero()
    total[:] = before = secret_of(plan, length)
    for seed in seeds:
        holder.accumulate(total, seed)
    columns = zip(before.tolist(), *(value(seed, length, plan) for seed in seeds), strict=True)
    assert total.tolist() == [sum(words) % 2**plan.word_bits for words in columns]


def test_a_seed_holder_makes_no_vector_beside_its_total():
    import tracemalloc

    length = 4_000_000
    holder = scheme("masked").holder(PLAN, length, 1)
    total = holder.zero()
    dealer, secret, out = scheme("additive", 3).dealer(PLAN, length), np.ones(length, PLAN.dtype), holder.zero()
    tracemalloc.start()
    try:
        holder.accumulate(total, Seed.fresh())
        dealer.split(secret, 0, out=out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * 2**20, "16 MB are a vector"


@BOTH
def test_replicated_pieces_add_up_by_the_slow_oracle(plan):
    secret = secret_of(plan, 40)
    for turn in range(3):
        shares = Replicated().dealer(plan, 40).split(secret, turn)
        held = {(i + 1 + at) % 3: piece for i, share in enumerate(shares) for at, piece in enumerate(pieces(share))}
        columns = zip(*(value(held[piece], 40, plan) for piece in range(3)), strict=True)
        assert [sum(words) % 2**plan.word_bits for words in columns] == secret.tolist()
        assert isinstance(held[turn], np.ndarray)


@pytest.mark.parametrize(("name", "holders"), [("additive", 2), ("additive", 5), ("replicated", 3), ("shamir", 4)])
def test_over_the_turns_every_holder_gets_as_many_vectors(name, holders):
    made = scheme(name, holders)
    got = [sum(made.form(index, turn).count(Kind.VECTOR) for turn in range(4 * holders)) for index in range(holders)]
    assert len(set(got)) == 1
    assert got[0] > 0


def test_masked_never_gives_the_model_owner_a_vector():
    masked = scheme("masked")
    assert masked.seats == (Seat.SECURE_WORKER, Seat.MODEL_OWNER)
    for turn in range(5):
        masked_share, seed = masked.dealer(PLAN, 4).split(np.zeros(4, PLAN.dtype), turn)
        assert isinstance(seed, Seed)
        with pytest.raises(WrongShare, match="takes a seed, and this share is a vector"):
            masked.holder(PLAN, 4, 1).accumulate(np.zeros(4, PLAN.dtype), masked_share)
        with pytest.raises(WrongShare, match="takes a vector, and this share is a seed"):
            masked.holder(PLAN, 4, 0).accumulate(np.zeros(4, PLAN.dtype), seed)


def test_a_share_is_never_written_over_the_secret():
    secret = np.ones(4, PLAN.dtype)
    for name, holders in (("masked", 2), ("additive", 3), ("replicated", 3), ("shamir", 3)):
        with pytest.raises(WrongArray, match="must not be written over the secret"):
            scheme(name, holders).dealer(PLAN, 4).split(secret, out=secret)
    assert secret.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("liar", [0, 1, 2])
def test_replicated_finds_a_holder_that_lies_alone(liar):
    made, secret = scheme("replicated"), np.arange(4, dtype=PLAN.dtype)
    totals = {}
    shares = made.dealer(PLAN, 4).split(secret)
    for index in range(3):
        totals[index] = made.holder(PLAN, 4, index).zero()
        made.holder(PLAN, 4, index).accumulate(totals[index], shares[index])
    for at in (0, 5):
        false = {**totals, liar: totals[liar].copy()}
        false[liar][at] += 1
        with pytest.raises(InconsistentTotals, match=rf"\b{liar}\b"):
            made.combiner(PLAN, 4).combine(false)
    assert made.combiner(PLAN, 4).combine(totals).tolist() == secret.tolist()


# --- shamir


def polynomial(made, shares, length, plan):
    """What each coordinate's shares are the values of, by holder, as Python's integers."""
    values = []
    for share in shares:
        if isinstance(share, Seed):
            words = np.empty(length, plan.dtype)
            share.keystream().elements(plan.field, 0, words)
            share = words
        values.append(share.tolist())
    return values


def at_zero(points, values, prime):
    """Lagrange's formula at 0, in Python's integers."""
    found = 0
    for i, (x, y) in enumerate(zip(points, values, strict=True)):
        above = below = 1
        for other in points[:i] + points[i + 1 :]:
            above, below = above * -other % prime, below * (x - other) % prime
        found += y * above * pow(below, -1, prime)
    return found % prime


@BOTH
@pytest.mark.parametrize(("holders", "threshold"), [(3, 2), (4, 2), (4, 3), (5, 3), (8, 7)])
def test_shamir_shares_are_points_by_the_slow_oracle(plan, holders, threshold):
    made, prime = scheme("shamir", holders, threshold), plan.field.modulus
    largest = plan.largest_sum
    signed = [0, 1, -1, 5, largest, -largest, 123456, *range(-20, 20)]
    secret = np.array([number % 2**plan.word_bits for number in signed], plan.dtype)
    for turn in range(holders):
        shares = made.dealer(plan, secret.size).split(secret, turn)
        assert [isinstance(share, Seed) for share in shares].count(True) == threshold - 1
        values = polynomial(made, shares, secret.size, plan)
        for chosen in itertools.combinations(range(holders), threshold):
            points = [index + 1 for index in chosen]
            for at, number in enumerate(signed):
                assert at_zero(points, [values[index][at] for index in chosen], prime) == number % prime


def totals_of(made, plan, secrets):
    holders = [made.holder(plan, secrets[0].size, index) for index in range(made.holders)]
    sums = [holder.zero() for holder in holders]
    for turn, secret in enumerate(secrets):
        for holder, total, share in zip(holders, sums, made.dealer(plan, secret.size).split(secret, turn), strict=True):
            holder.accumulate(total, share)
    return dict(enumerate(sums))


@BOTH
def test_any_t_totals_of_shamir_make_the_sum_and_fewer_do_not(plan):
    made = scheme("shamir", 5, 3)
    secrets = [secret_of(plan, 33) // plan.dtype.type(2**20) for _ in range(3)]
    totals = totals_of(made, plan, secrets)
    wanted = (secrets[0] + secrets[1] + secrets[2]).tolist()
    for size in (3, 4, 5):
        for chosen in itertools.combinations(range(5), size):
            assert made.combiner(plan, 33).combine({at: totals[at] for at in chosen}).tolist() == wanted
    for chosen in itertools.combinations(range(5), 2):
        with pytest.raises(WrongHolders, match="combines the totals of 3 of its 5"):
            made.combiner(plan, 33).combine({at: totals[at] for at in chosen})


@BOTH
@pytest.mark.parametrize("liar", range(4))
def test_a_total_of_shamir_that_lies_is_noticed_and_alone_named(plan, liar):
    made = scheme("shamir", 4, 2)
    totals = totals_of(made, plan, [np.arange(9, dtype=plan.dtype)])
    false = {**totals, liar: totals[liar].copy()}
    false[liar][8] = (int(false[liar][8]) + 2**31) % plan.field.modulus
    with pytest.raises(InconsistentTotals, match=rf"holder {liar} gives a total that contradicts all others"):
        made.combiner(plan, 9).combine(false)
    three = {at: false[at] for at in (liar, *(other for other in range(4) if other != liar))[:3]}
    with pytest.raises(InconsistentTotals, match="contradict each other"):
        made.combiner(plan, 9).combine(three)


def test_shamir_is_for_three_to_eight_and_fewer_than_all():
    for holders, threshold in ((2, 2), (3, 3), (3, 1), (9, 2)):
        with pytest.raises(WrongHolders):
            scheme("shamir", holders, threshold)


def test_a_total_of_shamir_outside_the_field_is_refused():
    made = scheme("shamir", 3)
    zeros = {index: made.holder(PLAN, 2, index).zero() for index in range(3)}
    bad = np.array([0, PLAN.field.modulus], PLAN.dtype)
    with pytest.raises(WrongShare, match="not in the field"):
        made.combiner(PLAN, 2).combine({**zeros, 1: bad})
    with pytest.raises(WrongShare, match="not in the field"):
        made.holder(PLAN, 2, 0).merge(zeros[0], bad)


# --- vectors in files


@pytest.mark.parametrize("vector", VECTORS["seeds"], ids=lambda v: v["comment"])
def test_seeds_expand_to_what_is_written_down(vector):
    for piece in vector["words"]:
        words = np.empty(piece["count"], f"<u{piece['word_bits'] // 8}")
        Seed(bytes.fromhex(vector["seed"])).keystream().words(piece["start"], words)
        assert words.tobytes().hex() == piece["hex"]


@pytest.mark.parametrize("vector", VECTORS["totals"], ids=lambda v: v["comment"])
def test_shares_on_the_wire_make_the_totals_written_down(vector):
    made, plan = scheme(vector["scheme"], vector["holders"]), {p.word_bits: p for p in PLANS}[vector["word_bits"]]
    length, totals = vector["length"], {}
    for index in range(made.holders):
        holder = made.holder(plan, length, index)
        totals[index] = holder.zero()
        for contribution in vector["contributions"]:
            sections = [bytes.fromhex(each) for each in contribution["shares"][index]]
            share = share_from_sections(made, plan, length, index, contribution["turn"], sections)
            holder.accumulate(totals[index], share)
        assert totals[index].tobytes().hex() == vector["totals"][index]
    assert made.combiner(plan, length).combine(totals).tobytes().hex() == vector["sum"]


@pytest.mark.parametrize("vector", VECTORS["bad_shares"], ids=lambda v: v["comment"])
def test_bad_shares_on_the_wire_are_refused(vector):
    made = scheme(vector["scheme"], vector["holders"])
    sections = [bytes.fromhex(each) for each in vector["sections"]]
    with pytest.raises(TertiumError) as caught:
        share_from_sections(made, PLAN, vector["length"], vector["holder"], vector["turn"], sections)
    assert caught.value.code == vector["must_fail_with"]


# --- the wire


@pytest.mark.parametrize(("name", "holders"), EVERY)
@BOTH
def test_shares_and_totals_survive_the_wire(name, holders, plan):
    # 8 words of 32 bits are as long as a seed: nothing but the form may tell them apart.
    made, length = scheme(name, holders), 8
    secret = honest_secrets(plan, length, 1, made.domain)
    totals = {}
    for index in range(holders):
        totals[index] = made.holder(plan, length, index).zero()
    for turn in range(3):
        for index, share in enumerate(made.dealer(plan, length).split(secret, turn)):
            sections = share_sections(share)
            assert [each.nbytes for each in sections] == share_bytes(made, plan, length, index, turn)
            back = share_from_sections(made, plan, length, index, turn, [bytes(each) for each in sections])
            made.holder(plan, length, index).accumulate(totals[index], back)
    for index, total in totals.items():
        assert total.nbytes == total_bytes(made, plan, length)
        totals[index] = total_from_section(made, plan, length, total.tobytes())
    assert made.combiner(plan, length).combine(totals).tolist() == (secret * plan.dtype.type(3)).tolist()


def test_a_total_of_another_length_is_refused():
    with pytest.raises(WrongLength):
        total_from_section(scheme("replicated"), PLAN, 8, bytes(8 * 4))


# --- finding schemes


def test_built_in_schemes_are_known_and_the_dummy_is_not():
    assert {"additive", "masked", "plain", "replicated", "trusted"} <= set(names())
    assert "dummy" not in names()
    with pytest.raises(ForTestsOnly):
        scheme("dummy")
    with pytest.raises(ForTestsOnly):
        dummy.Dummy()
    with dummy.allowed():
        assert scheme("dummy", 3).holders == 3
        with pytest.raises(UnknownScheme, match="no charter can name it"):
            chartered("dummy", 1, None)
    with pytest.raises(ForTestsOnly):
        scheme("dummy")


def test_the_dummys_totals_can_be_foretold_and_its_steps_replaced():
    secret, lost = np.array([10, 2**32 - 1, 0, 7], PLAN.dtype), []
    faults = dummy.Faults(
        split=lambda shares: shares[::-1],
        accumulate=lambda index, total, share: (lost.append(index), share)[1],
        combine=lambda total: total + PLAN.dtype.type(1),
    )
    with dummy.allowed():
        honest = scheme("dummy", 3)
    with dummy.allowed(faults):
        faulty = scheme("dummy", 3)
    shares = honest.dealer(PLAN, 4).split(secret)
    totals = {index: honest.holder(PLAN, 4, index).zero() for index in range(3)}
    for _ in range(2):
        for index, total in totals.items():
            honest.holder(PLAN, 4, index).accumulate(total, shares[index])
    assert totals[2].tolist() == [4, 4, 4, 4]
    assert totals[1].tolist() == [2, 2, 2, 2]
    assert honest.combiner(PLAN, 4).combine(totals).tolist() == [20, 2**32 - 2, 0, 14]
    assert faulty.combiner(PLAN, 4).combine(totals).tolist() == [21, 2**32 - 1, 1, 15]
    assert faulty.dealer(PLAN, 4).split(secret)[0].tolist() == [2, 2, 2, 2]
    faulty.holder(PLAN, 4, 1).accumulate(totals[1], shares[1])
    assert lost == [1]


class Given(Additive):
    name = "given"


class Unfinished(Scheme):
    name = "unfinished"


def registered(monkeypatch, *entries: tuple[str, str]):
    made = [EntryPoint(name, value, registry.GROUP) for name, value in entries]
    monkeypatch.setattr(registry, "entry_points", lambda group: made)
    monkeypatch.setitem(sys.modules, "somewhere", sys.modules[__name__])


def test_entry_points_are_found_and_cannot_take_a_built_in_name(monkeypatch):
    registered(monkeypatch, ("given", "somewhere:Given"), ("trusted", "somewhere:Given"), ("dummy", "somewhere:Given"))
    assert isinstance(scheme("given", 3), Given)
    assert "given" in names()
    assert "dummy" not in names()
    assert type(scheme("trusted")).__name__ == "Trusted"
    with pytest.raises(ForTestsOnly):
        scheme("dummy")


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([("given", "nowhere_at_all:Given")], "cannot be imported: ModuleNotFoundError"),
        ([("given", "somewhere:PLAN")], "no class derived from"),
        ([("given", "somewhere:Unfinished")], "does not say version, domain"),
        ([("other", "somewhere:Given")], "registers the scheme 'given' under another name"),
        ([("given", "somewhere:Given"), ("given", "somewhere:Additive")], "more than one package"),
    ],
)
def test_bad_entry_points_are_refused(entries, sentence, monkeypatch):
    registered(monkeypatch, *entries)
    with pytest.raises(BadScheme, match=sentence):
        scheme(entries[0][0])


def test_a_charter_gets_the_scheme_it_names_or_none(monkeypatch):
    registered(monkeypatch, ("given", "somewhere:Given"))
    digest = scheme_digest(scheme("additive", 3))
    assert chartered("additive", 1, digest, 3).holders == 3
    assert chartered("additive", 1, None).holders == 2
    for arguments, sentence in (
        (("additive", 2, None), "version 2 of the scheme additive, and here is 1"),
        (("additive", 1, digest, 2), "install the same release everywhere"),
        (("additive", 1, bytes(32)), "with digest 0000000000000000"),
        (("given", 1, None), "comes from another package, so the charter must give its digest"),
        (("os.system", 1, None), "no scheme is called"),
    ):
        with pytest.raises(UnknownScheme, match=sentence):
            chartered(*arguments)
    assert chartered("given", 1, scheme_digest(scheme("given"))).name == "given"
    with pytest.raises(WrongHolders):
        chartered("masked", 1, None, 3)
    with pytest.raises(WrongHolders):
        scheme("additive", 3, 2)


def test_a_digest_is_the_same_in_another_process_and_another_for_other_source(tmp_path):
    here = scheme_digest(scheme("masked")).hex()
    program = (
        "from tertium.crypto.sharing import scheme\nfrom tertium.crypto.sharing.naming import scheme_digest\n"
        "print(scheme_digest(scheme('masked')).hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == here
    source = "from tertium.crypto.sharing.additive import Additive\nclass Mine(Additive):\n    name = 'mine'\n"
    digests = []
    for folder, text in (("a", source), ("b", source.replace("\n", "\r\n")), ("c", source + "# other\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine_scheme.py").write_bytes(text.encode())
        program = (
            "from tertium.crypto.sharing.registry import load\n"
            "from tertium.crypto.sharing.naming import scheme_digest\n"
            "print(scheme_digest(load('mine_scheme:Mine')()).hex())"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path / folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        digests.append(done.stdout)
    assert digests[0] == digests[1] != digests[2]


def test_what_an_upload_costs():
    assert wire_bytes(scheme("trusted")) == (4.0, 0)
    assert wire_bytes(scheme("additive", 5)) == (4.0, 128)
    assert wire_bytes(scheme("replicated")) == (8.0, 128)
    cost = measure(scheme("masked"))[0]
    assert cost.upload_bytes / 4 <= 1.01
    assert cost.seed_holder_ns is not None
    assert cost.vector_holder_ns is not None
