"""What one update of the tutorials' model gives away, and what a sum of two does not."""

from pathlib import Path

import pytest
from tertium.cli.demos.errors import DemoError
from tertium.cli.demos.recipes import TOY_INPUTS, TOY_TARGETS
from tertium.cli.demos.tutorial import RATE, Guess, guess

torch = pytest.importorskip("torch")
save_file = pytest.importorskip("safetensors.torch").save_file


def stepped(folder: Path, batches: list[list[int]]) -> Guess:
    """One local step of each data owner from one model, averaged: as rounds 4 and 5 of a model owner's folder."""
    torch.manual_seed(3)
    model = torch.nn.Linear(2, 1)
    trained = []
    for rows in batches:
        local = torch.nn.Linear(2, 1)
        local.load_state_dict(model.state_dict())
        inputs, targets = torch.tensor(TOY_INPUTS)[rows], torch.tensor(TOY_TARGETS)[rows][:, None]
        (local(inputs) - targets).square().sum().backward()
        torch.optim.SGD(local.parameters(), lr=RATE).step()
        trained.append(local.state_dict())
    mean = {name: sum(each[name] for each in trained) / len(trained) for name in trained[0]}
    (folder / "checkpoints").mkdir()
    for number, tensors in ((4, model.state_dict()), (5, mean)):
        save_file(dict(tensors), folder / "checkpoints" / f"round-{number:06d}.safetensors")
    return guess(folder, 5)


@pytest.mark.parametrize("row", range(4))
def test_one_update_of_one_row_is_that_row(tmp_path: Path, row: int) -> None:
    found = stepped(tmp_path, [[row]])
    assert found.place == row
    assert found.row == pytest.approx(TOY_INPUTS[row], abs=1e-4)
    assert found.target == pytest.approx(TOY_TARGETS[row], abs=1e-4)


@pytest.mark.parametrize("batches", [[[1], [2]], [[0], [3]], [[1], [3]]])
def test_a_mean_of_two_is_nobodys_row(tmp_path: Path, batches: list[list[int]]) -> None:
    assert stepped(tmp_path, batches).place is None


def test_a_step_that_is_none_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for number in (4, 5):
        tensors = {"weight": torch.ones(1, 2), "bias": torch.ones(1)}
        save_file(tensors, tmp_path / "checkpoints" / f"round-{number:06d}.safetensors")
    assert guess(tmp_path, 5).place is None
    with pytest.raises(DemoError, match="checkpoints of rounds 5 and 6 are not both"):
        guess(tmp_path, 6)
