"""The command `runstate`: the law, its pictures, recorded runs judged, a demonstration; stored runs and their database.

Data goes to stdout, messages to stderr. Exit codes: 0 done, 1 the move was refused or a problem was found, 2 wrong
usage or no such store, 3 the store is away for now.

A command's module is imported when the command is asked for, so that none waits for what only another needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

import click

__all__ = ["LazyGroup", "cli"]

import_module("rich")  # most commands need it; whoever lacks it is to hear so here, not in the middle of one


_OF_RUNS = ("cancel", "create", "history", "list", "prune", "show", "submit", "sweep", "watch")
"""Commands of the group `runs`, which people ask for without it."""


class LazyGroup(click.Group):
    """A group that knows where its commands are, as `module:attribute`, and imports one when it is asked for."""

    def __init__(self, *args: Any, places: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name every command, without importing any."""
        return sorted({*self.places, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return one command, from its module if it is not here yet."""
        if cmd_name in self.places and cmd_name not in self.commands:
            module, _, attribute = self.places[cmd_name].partition(":")
            self.add_command(cast("click.Command", getattr(import_module(module), attribute)), cmd_name)
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is asked for; if there is none, the answer may name those that sound like it."""
        if args[0] not in self.places:  # click looks for those only among the commands that are here
            for name in self.places:
                self.get_command(ctx, name)
        if ctx.parent is None and args[0] not in self.commands and args[0] in _OF_RUNS:
            ctx.fail(f"No such command '{args[0]}'. Did you mean 'runs {args[0]}'?")
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    places={
        "check": "runstate.cli.commands.check:check",
        "ddl": "runstate.cli.commands.schema:ddl",
        "demo": "runstate.cli.commands.demo:demo",
        "diagram": "runstate.cli.commands.diagram:diagram",
        "doctor": "runstate.cli.commands.schema:doctor",
        "explain": "runstate.cli.commands.lifecycle:explain",
        "migrate": "runstate.cli.commands.schema:migrate",
        "runs": "runstate.cli.commands.runs:runs",
        "table": "runstate.cli.commands.lifecycle:table",
        "worker": "runstate.cli.commands.worker:worker",
    },
)
@click.version_option(package_name="runstate")
def cli() -> None:
    """The lifecycle of an Assistants API run: its law, its pictures, its recordings, and runs that are stored."""
