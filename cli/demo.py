"""`tertium demo`: a whole federation on this machine, one process a party."""

from pathlib import Path

import click

_EXAMPLE = """\b
Example:
  tertium demo
  tertium demo toy
  tertium demo digits --rounds 20 --seed 3 --out runs/short --json
"""


@click.command(epilog=_EXAMPLE, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", metavar="[digits|toy]", default="digits")
@click.option("--mode", default="trusted", show_default=True, help="Who is trusted with what; this release: trusted.")
@click.option("--rounds", type=click.IntRange(1, 100_000), help="How many rounds.  [default: digits 100, toy 11]")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Repeats a run exactly.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The run folder, new or empty.  [default: runs/NAME-DATE-TIME]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end, and nothing else.")
@click.option("-v", "--verbose", is_flag=True, help="Print every line of every party.")
def demo(name: str, mode: str, rounds: int | None, seed: int, out: Path | None, as_json: bool, verbose: bool) -> int:
    """Run a whole federation on this machine: model owner, data owners and secure worker, one process each.

    digits: alice, bob and charlie hold different handwritten digits and train one network together.
    toy: the four rows and one linear layer of the tutorials.

    The run folder then holds charter, keys, logs, the model and a plot. Only a demo makes all keys in one place.
    """
    from .demos.play import play
    from .demos.recipes import recipe

    return play(recipe(name), mode=mode, rounds=rounds, seed=seed, out=out, as_json=as_json, verbose=verbose)
