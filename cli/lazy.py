"""A click group that imports a command's module when the command is used, and not for the list of commands."""

from collections.abc import Mapping
from importlib import import_module

import click


class LazyGroup(click.Group):
    """A group over a table of name -> (`module:attribute` in `tertium.cli`, one line of help)."""

    def __init__(self, table: Mapping[str, tuple[str, str]], *, help: str) -> None:  # noqa: A002 - click's word
        super().__init__("tertium", help=help, context_settings={"help_option_names": ["-h", "--help"]})
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in order."""
        return sorted({*super().list_commands(ctx), *self._table})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in self._table:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._table[cmd_name][0].partition(":")
        command = getattr(import_module(f".{module}", __package__), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"the table of commands names {module}:{attribute}, which is no click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._table[name][1]) for name in self.list_commands(ctx)])


def group(table: Mapping[str, tuple[str, str]]) -> click.Group:
    """Return the top group, `tertium`, over this table."""
    top = LazyGroup(
        table,
        help="Train one model on data that stays with its owners, through a third party that adds the updates up.\n\n"
        "Example: tertium keygen alice --role data_owner --out alice",
    )
    return click.version_option(package_name="tertium", prog_name="tertium", message="%(prog)s %(version)s")(top)
