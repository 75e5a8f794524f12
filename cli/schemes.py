"""`tertium schemes`: which secret-sharing schemes there are, whom each trusts, and whether one keeps the rules.

The list never says only "no single party": it names who together can read one update, and what no mode stops.
"""

import json
import os
import sys
from typing import Any

import click
import msgspec

from ..crypto.errors import BadScheme, TertiumError
from ..crypto.sharing import names
from ..crypto.sharing.base import Scheme
from ..crypto.sharing.naming import CONTRIBUTORS, NOT_STOPPED, REMEDY, collusion_words, scheme_digest
from ..crypto.sharing.registry import load
from ..protocol.text import plural
from .errors import DIFFERENT, OK

_EXAMPLE = """\b
Example:
  tertium schemes
  tertium schemes --json
  tertium schemes check additive --holders 3
  tertium schemes check my_package.my_module:MyScheme
"""
_CHECK_EXAMPLE = """\b
Example:
  tertium schemes check my_package.my_module:MyScheme --holders 4
  tertium schemes check replicated --json
"""


@click.group(invoke_without_command=True, epilog=_EXAMPLE, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def schemes(context: click.Context, *, as_json: bool) -> int:
    """List the secret-sharing schemes, or check one.

    The list says of each how many holders and partial totals it needs, who together reads one update, what an upload
    costs, and whose absence it survives. A scheme of another package is listed once that package is installed here.
    """
    if context.invoked_subcommand is not None:
        return OK
    found, broken = [], {}
    for name in names():
        try:
            found.append(_described(_built(name, None, None)))
        except TertiumError as error:
            broken[name] = str(error)
    if as_json:
        every = {"collusion_in_every_mode": CONTRIBUTORS, "no_mode_stops": NOT_STOPPED, "remedy": REMEDY}
        click.echo(json.dumps({"schemes": found, "broken": broken, **every}, indent=2))
        return OK
    for each in found:
        seeds = f" and {each['upload_seed_bytes']} bytes of seeds" if each["upload_seed_bytes"] else ""
        click.echo(f"{each['name']} (version {each['version']}, digest {each['digest'][:16]})")
        click.echo(
            f"  holders           {each['holders_allowed']}; here for {each['holders']}: {', '.join(each['seats'])}"
        )
        click.echo(f"  threshold         {each['threshold']} of {each['holders']} partial totals make the sum")
        click.echo(f"  reads one update  {each['collusion']}")
        click.echo(f"  upload            {each['upload_bytes_per_weight']:g} bytes a float32 weight{seeds}")
        click.echo(f"  survives          {each['survives']}")
    for name, why in broken.items():
        click.echo(f"{name}: {why}")
    click.echo(f"\n{CONTRIBUTORS}\nWhat no mode stops:")
    for line in NOT_STOPPED:
        click.echo(f"  - {line}")
    click.echo(REMEDY)
    return OK


@schemes.command("check", epilog=_CHECK_EXAMPLE, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("target")
@click.option("--holders", type=click.IntRange(min=1), help="Check it for this many holders; by default its fewest.")
@click.option("--threshold", type=click.IntRange(min=1), help="Check it with this threshold; by default its usual one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(*, target: str, holders: int | None, threshold: int | None, as_json: bool) -> int:
    """Run the conformance kit on a scheme: a registered name, or package.module:Class.

    Looks for modules in the current folder too, and runs the scheme's code. The exit status is 1 if a check fails.
    """
    from ..crypto.sharing.conformance import CHECKS, Finding, check
    from ..crypto.sharing.cost import measure
    from ..crypto.sharing.independence import ERROR

    # Last, so that a file lying about does not take the place of an installed module.
    sys.path.append(os.getcwd())
    made = _built(target, holders, threshold)
    done = 0

    def told(finding: Finding) -> None:
        nonlocal done
        done += 1
        mark = "ok    " if finding.wrong is None else "FAILED"
        click.echo(f"{mark} {done:2}/{len(CHECKS)}  {finding.meaning}")
        if finding.wrong is not None:
            click.echo(f"       {made.name}: {finding.wrong}")

    if not as_json:
        click.echo(f"{made.name} version {made.version}, {plural(made.holders, 'holder')}, threshold {made.threshold}")
    report = check(made, None if as_json else told)
    costs = measure(made) if report.passed else ()
    if as_json:
        content = {
            **_described(made, broken=not report.passed),
            "passed": report.passed,
            "error_probability": ERROR,
            "checks": [{"check": each.check, "meaning": each.meaning, "wrong": each.wrong} for each in report.findings],
            "costs": msgspec.to_builtins(costs),
        }
        click.echo(json.dumps(content, indent=2))
        return OK if report.passed else DIFFERENT
    for cost in costs:
        times = {
            "dealer": cost.dealer_ns,
            "vector holder": cost.vector_holder_ns,
            "seed holder": cost.seed_holder_ns,
            "combiner": cost.combiner_ns,
        }
        shown = ", ".join(f"{who} {ns:.2f}" for who, ns in times.items() if ns is not None)
        click.echo(f"{cost.word_bits}-bit words: ns a word: {shown}; {cost.upload_bytes:.4f} bytes a word uploaded")
    failed = sum(each.wrong is not None for each in report.findings)
    click.echo(
        f"passed; a sound scheme fails the statistical test once in {1 / ERROR:,.0f} runs"
        if report.passed
        else f"{failed} of {len(CHECKS)} checks failed"
    )
    return OK if report.passed else DIFFERENT


def _built(target: str, holders: int | None, threshold: int | None) -> Scheme:
    try:
        return load(target)(holders, threshold)
    except TertiumError:
        raise
    except Exception as error:
        raise BadScheme(f"{target} cannot be built: {type(error).__name__}: {error}") from error


def _described(made: Scheme, *, broken: bool = False) -> dict[str, Any]:
    """Return what is listed of a scheme; of a broken one perhaps its name alone."""
    try:
        return _facts(made)
    except Exception as error:
        if broken:
            return {"name": made.name}
        raise BadScheme(f"{made.name} cannot be described: {type(error).__name__}: {error}") from error


def _facts(made: Scheme) -> dict[str, Any]:
    from ..crypto.sharing.cost import wire_bytes

    per_weight, seeds = wire_bytes(made)
    kind = type(made)
    return {
        "name": made.name,
        "version": made.version,
        "digest": scheme_digest(made).hex(),
        "domain": made.domain.value,
        "holders": made.holders,
        "holders_allowed": str(kind.fewest) if kind.fewest == kind.most else f"{kind.fewest} to {kind.most}",
        "threshold": made.threshold,
        "seats": [seat.value for seat in made.seats],
        "collusion_sets": [sorted(each) for each in made.collusion_sets],
        "collusion": collusion_words(made),
        "upload_bytes_per_weight": per_weight,
        "upload_seed_bytes": seeds,
        "survives": made.survives,
    }
