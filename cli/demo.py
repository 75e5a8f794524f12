"""`tertium demo`: a whole federation on this machine, one process a party."""

from pathlib import Path
from typing import Any

import click

_EXAMPLE = """\b
Example:
  tertium demo
  tertium demo toy
  tertium demo mnist --data mnist
  tertium demo halfplane
  tertium demo digits --mode masked
  tertium demo digits --mode additive --secure-workers 3
  tertium demo digits --rounds 20 --seed 3 --out runs/short --json
"""


@click.command(epilog=_EXAMPLE, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", metavar="[digits|halfplane|mnist|toy]", default="digits")
@click.option(
    "--mode",
    default="trusted",
    show_default=True,
    help="Who is trusted with what: trusted, masked, additive, shamir, plain, or a scheme (tertium schemes).",
)
@click.option("--secure-workers", type=click.IntRange(1, 64), help="How many.  [default: the fewest of the mode]")
@click.option(
    "--rounds",
    type=click.IntRange(1, 100_000),
    help="How many rounds.  [default: digits, halfplane 100; mnist 40; toy 11]",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Repeats a run exactly.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="mnist: a folder with its four original files.  [default: this user's cache, filled on the first use]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The run folder, new or empty.  [default: runs/NAME-DATE-TIME]",
)
@click.option("--processes", is_flag=True, help="halfplane: six data owners, a process each, in place of 40 in one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end, and nothing else.")
@click.option("-v", "--verbose", is_flag=True, help="Print every line of every party.")
def demo(
    name: str,
    mode: str,
    secure_workers: int | None,
    rounds: int | None,
    seed: int,
    data: Path | None,
    processes: bool,
    **how: Any,
) -> int:
    """Run a whole federation on this machine: model owner, data owners and secure worker, one process each.

    digits: alice, bob and charlie hold different handwritten digits and train one network together.
    halfplane: of a population of 40 data owners each round asks 20 to 29; all of them share one process.
    mnist: digits with the 70,000 of MNIST, as the tutorial has it; each data owner scores its own model too.
    toy: the four rows and one linear layer of the tutorials, in three acts: in one place, plain, aggregated.

    The run folder then holds charter, keys, logs, the model and a plot. Only a demo makes all keys in one place.
    """
    from .demos.play import play
    from .demos.recipes import recipe, with_data
    from .demos.tutorial import play_toy
    from .trust import trust

    chosen = with_data(recipe(name, seed, processes=processes), data)
    how |= {"rounds": rounds, "seed": seed}
    return (play_toy if name == "toy" else play)(chosen, trust(mode, secure_workers), **how)
