"""How a command ends: every error a person can cause becomes one sentence and an exit status."""

import os
import sys
from typing import TYPE_CHECKING

import click

from ..crypto.errors import Misbehaviour, TertiumError
from ..protocol.text import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

OK = 0
DIFFERENT = 1
MISUSE = 2
MISBEHAVIOUR = 3
INTERRUPTED = 130
NO_READER = 141
"""What a shell shows for SIGPIPE: neither success nor a finding, since nobody read to the end."""


def run(command: click.Command, arguments: "Sequence[str] | None" = None) -> int:
    """Run a click command to its end and return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # Not `Command.main`, which ends the process itself when the reader of its output has gone, with a status of 1.
        with command.make_context("tertium", words) as context:
            status = command.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.format_message())
        return OK
    except click.ClickException as error:
        return _say(_usage(error), MISUSE)
    except TertiumError as error:
        return _say(str(error), MISBEHAVIOUR if isinstance(error, Misbehaviour) else MISUSE)
    except (KeyboardInterrupt, click.Abort):
        return _say("interrupted", INTERRUPTED)
    except BrokenPipeError:
        return _quiet()
    except OSError as error:
        what = (error.strerror or type(error).__name__).lower()
        return _say(f"{error.filename}: {what}" if error.filename else what, MISUSE)
    return status if isinstance(status, int) else OK


def _say(sentence: str, status: int) -> int:
    """Write one line to stderr. Control characters in what a file or a peer said do not reach the terminal."""
    line = one_line(sentence)
    try:
        click.echo(f"tertium: {line}", err=True)
    except BrokenPipeError:
        return _quiet()
    return status


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    help_at = f" (see {context.command_path} --help)" if isinstance(context, click.Context) else ""
    message = error.format_message()
    return f"{message[:1].lower()}{message[1:].rstrip('.')}{help_at}"


def _quiet() -> int:
    """Whoever read our output has seen enough; point it at nothing, so that the interpreter's last flush is quiet."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(nowhere, stream.fileno())
        except (OSError, ValueError):
            continue
    os.close(nowhere)
    return NO_READER
