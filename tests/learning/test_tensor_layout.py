"""A module's tensors as a layout and bytes, and back."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tertium.learning.errors import BadUpdate, UnsupportedTensor
from tertium.learning.tensors import (
    TORCH_TYPES,
    integer_difference,
    layout_of,
    load_model,
    model_to_bytes,
    moved,
    tensors_of,
    to_values,
)
from tertium.learning.updates import clip, moved_integers
from tertium.protocol.errors import MalformedMessage, SiteFileError
from tertium.protocol.training import DType, Entry, Layout, UpdateKind
from torch import nn


class Bag(nn.Module):
    """A module that holds whatever tensors a test hands it."""

    def hold(self, name: str, tensor: torch.Tensor, *, parameter: bool = False, trained: bool = True) -> None:
        if parameter:
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=trained))
        else:
            self.register_buffer(name, tensor)


def arbitrary(dtype: DType, shape: tuple[int, ...], seed: int, how: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype is DType.BOOL:
        tensor = torch.randint(0, 2, shape, generator=generator).to(torch.bool)
    elif dtype.is_float:
        tensor = torch.randn(shape, generator=generator, dtype=torch.float64).to(TORCH_TYPES[dtype])
    else:
        info = torch.iinfo(TORCH_TYPES[dtype])
        tensor = torch.randint(info.min // 2, info.max // 2, shape, generator=generator).to(TORCH_TYPES[dtype])
    if how == "transposed" and tensor.dim() >= 2:
        return tensor.transpose(0, 1)
    if how == "strided" and tensor.dim() >= 1:
        return tensor.repeat(*([2] + [1] * (tensor.dim() - 1)))[::2]
    return tensor


TENSORS = st.lists(
    st.tuples(
        st.sampled_from(list(DType)),
        st.lists(st.integers(0, 4), max_size=3).map(tuple),
        st.sampled_from(["plain", "transposed", "strided"]),
        st.sampled_from(["buffer", "parameter", "frozen"]),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


def build(specs, seed: int) -> Bag:
    bag = Bag()
    for number, (dtype, shape, how, kind, tied) in enumerate(specs):
        name = f"t{number}"
        if kind != "buffer" and dtype.is_float:
            bag.hold(name, arbitrary(dtype, shape, seed + number, how), parameter=True, trained=kind == "parameter")
            if tied:
                setattr(bag, f"{name}_tied", getattr(bag, name))
        else:
            bag.hold(name, arbitrary(dtype, shape, seed + number, how))
            if tied:
                bag.register_buffer(f"{name}_tied", getattr(bag, name))
    return bag


@settings(max_examples=40, deadline=None)
@given(TENSORS)
def test_a_model_survives_the_round_trip(specs):
    ours, theirs = build(specs, 0), build(specs, 1000)
    layout = layout_of(ours)
    assert layout == layout_of(theirs)
    model = model_to_bytes(ours, layout)
    assert len(model) == layout.model_bytes
    load_model(theirs, layout, memoryview(model))
    for name, tensor in ours.state_dict().items():
        other = theirs.state_dict()[name]
        assert tensor.dtype == other.dtype
        assert torch.equal(tensor, other)
    assert model_to_bytes(theirs, layout) == model
    tied = sorted(entry.name for entry in layout.entries if entry.aliases)
    assert tied == [f"t{n}" for n, spec in enumerate(specs) if spec[4]]
    for name in tied:
        assert getattr(theirs, name) is getattr(theirs, f"{name}_tied")


def test_the_bytes_are_little_endian_in_state_dict_order():
    bag = Bag()
    bag.hold("second", torch.tensor(258, dtype=torch.int32))
    bag.hold("first", torch.tensor([1.0], dtype=torch.bfloat16), parameter=True)
    layout = layout_of(bag)
    assert [entry.name for entry in layout.entries] == ["first", "second"]  # torch lists parameters before buffers
    assert model_to_bytes(bag, layout) == bytes.fromhex("803f02010000")


def test_batch_norm_travels_whole_and_in_its_own_types():
    entries = {entry.name: entry for entry in layout_of(nn.BatchNorm1d(3)).entries}
    assert list(entries) == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert [entry.trainable for entry in entries.values()] == [True, True, False, False, False]
    assert entries["num_batches_tracked"] == Entry("num_batches_tracked", DType.INT64, (), False)
    layout = layout_of(nn.BatchNorm1d(3))
    assert layout.coordinates(UpdateKind.WEIGHTS) == 13
    assert layout.coordinates(UpdateKind.GRADIENTS) == 6


def test_tied_weights_travel_once_and_stay_tied():
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    ours, theirs = tied(), tied()
    layout = layout_of(ours)
    assert [(e.name, e.aliases) for e in layout.entries] == [
        ("0.weight", ("1.weight",)),
        ("0.bias", ()),
        ("1.bias", ()),
    ]
    load_model(theirs, layout, model_to_bytes(ours, layout))
    assert theirs[1].weight is theirs[0].weight
    assert torch.equal(theirs[1].weight, ours[0].weight)


def test_two_views_of_one_tensor_are_one_entry():
    bag, shared = Bag(), torch.arange(4.0)
    bag.hold("one", shared)
    bag.hold("two", shared.view(4))
    assert [(e.name, e.aliases) for e in layout_of(bag).entries] == [("one", ("two",))]


def test_neighbours_in_one_memory_are_two_entries():
    bag, flat = Bag(), torch.arange(6.0)
    bag.hold("head", flat[:2])
    bag.hold("tail", flat[2:])
    assert [e.name for e in layout_of(bag).entries] == ["head", "tail"]


def test_what_is_not_persistent_does_not_travel():
    bag = Bag()
    bag.hold("kept", torch.zeros(2))
    bag.register_buffer("cache", torch.zeros(5), persistent=False)
    assert [entry.name for entry in layout_of(bag).entries] == ["kept"]


def quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: torch.zeros(2, dtype=torch.complex64), "complex"),
        (quantised, "quantised"),
        (lambda: torch.zeros(2, 2).to_sparse(), "sparse"),
        (lambda: torch.zeros(2).to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (lambda: torch.zeros(2, dtype=torch.uint16), "uint16"),
        (lambda: torch.zeros(2, device="meta"), "meta"),
        (lambda: torch.zeros(1).expand(3), "expanded"),
        (lambda: torch.zeros([1] * 17), "shape"),
    ],
)
def test_what_no_layout_holds_is_refused_by_name(make, word):
    bag = Bag()
    bag.hold("fine", torch.zeros(2))
    bag.hold("odd", make())
    with pytest.raises(UnsupportedTensor, match="odd") as caught:
        layout_of(bag)
    assert word in str(caught.value)


def test_overlapping_tensors_are_refused():
    bag, flat = Bag(), torch.arange(6.0)
    bag.hold("head", flat[:4])
    bag.hold("tail", flat[3:])
    with pytest.raises(UnsupportedTensor, match="head and tail share"):
        layout_of(bag)


def test_lazy_modules_empty_modules_and_extra_state_are_refused():
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"anything": 1}

    class Hooked(nn.Linear):
        def _save_to_state_dict(self, destination, prefix, keep_vars):
            super()._save_to_state_dict(destination, prefix, keep_vars)
            destination[prefix + "packed"] = torch.zeros(2)

    for module, word in ((nn.LazyLinear(2), "lazy"), (nn.ReLU(), "no parameter"), (Extra(1, 1), "_extra_state")):
        with pytest.raises(UnsupportedTensor, match=word):
            layout_of(module)
    with pytest.raises(UnsupportedTensor, match="packed"):
        layout_of(Hooked(1, 1))


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (nn.Linear(3, 2), "weight .*shape"),
        (nn.Linear(2, 2).double(), "weight .*type"),
        (nn.Linear(2, 2, bias=False), "bias"),
        (nn.Linear(2, 2).requires_grad_(False), "weight .*training"),
        (nn.BatchNorm1d(2), "weight .*shape"),
        (nn.Sequential(nn.Linear(2, 2)), "0.weight"),
    ],
)
def test_a_foreign_layout_is_refused_by_tensor(other, word):
    module = nn.Linear(2, 2)
    before = model_to_bytes(module, layout_of(module))
    layout = layout_of(other)
    with pytest.raises(SiteFileError, match=word):
        load_model(module, layout, model_to_bytes(other, layout))
    assert model_to_bytes(module, layout_of(module)) == before


def test_bytes_of_another_length_and_false_booleans_are_refused():
    bag = Bag()
    bag.hold("number", torch.zeros(1))
    bag.hold("mask", torch.zeros(2, dtype=torch.bool))
    layout = layout_of(bag)
    for model in (bytes(5), bytes(7), b""):
        with pytest.raises(SiteFileError, match="bytes"):
            load_model(bag, layout, model)
    with pytest.raises(MalformedMessage, match="mask"):
        load_model(bag, layout, np.ones(1, "<f4").tobytes() + b"\x01\x02")
    assert bag.number.item() == 0.0  # nothing was written


def test_values_have_the_exchange_types():
    expected = {DType.FLOAT64: np.float64, DType.INT64: np.float64, DType.UINT8: np.float64}
    for dtype in DType:
        if dtype is DType.BOOL:
            continue
        tensor = torch.tensor([[1, 2], [3, 4]]).to(TORCH_TYPES[dtype]).t()
        values = to_values(Entry("x", dtype, (2, 2), False), tensor)
        is_wide = dtype is DType.FLOAT64 or not dtype.is_float
        assert values.dtype == expected.get(dtype, np.float64 if is_wide else np.float32)
        assert values.tolist() == [1, 3, 2, 4]


def test_integer_differences_are_exact_or_refused():
    entry = Entry("counter", DType.INT64, (2,), False)
    base = torch.tensor([2**62, -5])
    assert integer_difference(entry, base + torch.tensor([7, -2]), base).tolist() == [7.0, -2.0]
    with pytest.raises(BadUpdate, match="counter"):
        integer_difference(entry, torch.tensor([-(2**62), 0]), torch.tensor([2**62, 0]))


@given(st.lists(st.tuples(st.integers(-120, 120), st.integers(-1000, 1000)), min_size=1, max_size=20))
def test_integers_move_by_the_mean_rounded_half_to_even(pairs):
    entry = Entry("x", DType.INT8, (len(pairs),), False)
    current = np.array([a for a, _ in pairs], np.int64)
    mean = np.array([b / 4 for _, b in pairs])
    wanted = [a + round(b / 4) for a, b in pairs]
    if all(-128 <= value <= 127 for value in wanted):
        assert moved_integers(entry, current, mean).tolist() == wanted
    else:
        with pytest.raises(BadUpdate, match="int8"):
            moved_integers(entry, current, mean)


def test_integers_at_the_ends_of_int64_do_not_wrap():
    entry = Entry("x", DType.INT64, (1,), False)
    for current, step in ((2**63 - 1, 1.0), (-(2**63), -1.0)):
        with pytest.raises(BadUpdate):
            moved_integers(entry, np.array([current]), np.array([step]))
        assert moved_integers(entry, np.array([current]), np.array([-step])).tolist() == [current - int(step)]
    with pytest.raises(BadUpdate):
        moved_integers(entry, np.array([0]), np.array([2.0**60]))


def test_a_mean_beyond_the_type_is_refused():
    with pytest.raises(BadUpdate, match="float16"):
        moved(Entry("x", DType.FLOAT16, (1,), True), torch.zeros(1).half(), np.array([1e6]), add=False)


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30), st.floats(0.01, 500))
def test_clipping_bounds_the_length_and_keeps_the_direction(numbers, limit):
    arrays = [np.array(numbers, np.float32), np.array(numbers[:1], np.float64)]
    length = float(np.sqrt(sum((a.astype(np.float64) ** 2).sum() for a in arrays)))
    result, clipped = clip(arrays, limit)
    assert clipped == (length > limit)
    assert [a.dtype for a in result] == [a.dtype for a in arrays]
    factor = min(1.0, limit / length) if length else 1.0
    for before, after in zip(arrays, result, strict=True):
        np.testing.assert_allclose(after, before * factor, rtol=1e-5, atol=1e-30)


def test_the_tensors_of_a_module_are_the_live_ones():
    module = nn.Linear(2, 2)
    layout = layout_of(module)
    assert isinstance(layout, Layout)
    assert tensors_of(module, layout)[0] is module.weight
