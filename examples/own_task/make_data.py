"""Writes made-up stays for the example: one CSV file a hospital, and one to test on.

    python examples/own_task/make_data.py FOLDER

Nobody's data: ages, days, medicines and pulses are drawn from a seeded generator, and who is readmitted follows from
them by a rule that is not a line, with some noise. The hospitals differ in the age of their patients.
"""

import csv
import math
import sys
from pathlib import Path

import numpy as np

HOSPITALS = {"alice": 45.0, "bob": 65.0, "carol": 80.0}
STAYS = 400
TEST_STAYS = 600


def stay(source: np.random.Generator, age: float) -> dict[str, float]:
    """Return one stay of a hospital whose patients are about `age` years old."""
    years, days = source.normal(age, 9.0), source.lognormal(1.6, 0.5)
    medicines, pulse = max(0.0, source.normal(8.0, 4.0)), source.normal(80.0, 12.0)
    risk = (years - 65) / 15 + ((pulse - 80) / 12) ** 2 - 1 + 0.5 * (medicines - 8) / 4 * (days - 6) / 4
    again = source.random() < 1 / (1 + math.exp(-3 * risk))
    numbers = {"age": years, "days": days, "medicines": medicines, "pulse": pulse}
    return {name: round(float(value), 1) for name, value in numbers.items()} | {"readmitted": int(again)}


def write(path: Path, stays: list[dict[str, float]]) -> None:
    """Write stays as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(stays[0]))
        writer.writeheader()
        writer.writerows(stays)


def main(folder: Path) -> None:
    """Write `alice.csv`, `bob.csv`, `carol.csv` and `test.csv` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, age) in enumerate(HOSPITALS.items()):
        source = np.random.default_rng(number)
        write(folder / f"{name}.csv", [stay(source, age) for _ in range(STAYS)])
    source = np.random.default_rng(99)
    ages = list(HOSPITALS.values())
    write(folder / "test.csv", [stay(source, ages[index % len(ages)]) for index in range(TEST_STAYS)])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python make_data.py FOLDER")
    main(Path(sys.argv[1]))
