"""The command `runstate`: the lifecycle, its diagrams, recorded runs, a demonstration; stored runs and their database.

Data goes to stdout, messages go to stderr. Exit codes: 0 success; 1 findings, or the request was refused; 2 the request
is invalid, or there is no such store; 3 the store is unavailable for now.

The module of a command is imported when the command is called, so that no command waits for the imports of another.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

import click

__all__ = ["LazyGroup", "cli"]

import_module("rich")  # most commands need it: without it, fail now and not in the middle of a command


_RUNS_COMMANDS = (
    "cancel",
    "counts",
    "create",
    "events",
    "history",
    "list",
    "prune",
    "repeat",
    "show",
    "submit",
    "sweep",
    "watch",
)
"""Commands of the group `runs`. They are often called without its name, and the error suggests it."""


_MEANT = {
    **dict.fromkeys(("retry", "rerun", "requeue"), "runs repeat"),
    **dict.fromkeys(("init", "setup", "upgrade"), "migrate"),
    **dict.fromkeys(("delete", "purge"), "runs prune"),
    "pause": "queues pause",
    "resume": "queues resume",
    "wait": "runs watch",
    "health": "doctor --live",
}
"""What the commands of other queues are called here."""


class LazyGroup(click.Group):
    """A group with lazy commands: each is named as `module:attribute`, and imported when it is called."""

    def __init__(self, *args: Any, lazy_commands: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy_commands = lazy_commands

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, without importing any."""
        return sorted({*self.lazy_commands, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; import its module if that has not been done."""
        if cmd_name in self.lazy_commands and cmd_name not in self.commands:
            module, _, attribute = self.lazy_commands[cmd_name].partition(":")
            self.add_command(cast("click.Command", getattr(import_module(module), attribute)), cmd_name)
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that was called. If there is none, the error may suggest similar names."""
        if args[0] not in self.lazy_commands:  # click suggests only commands that have been imported
            for name in self.lazy_commands:
                self.get_command(ctx, name)
        if args[0] not in self.commands and args[0] in _MEANT:
            ctx.fail(f"No such command '{args[0]}'. Did you mean '{_MEANT[args[0]]}'?")
        if ctx.parent is None and args[0] not in self.commands and args[0] in _RUNS_COMMANDS:
            ctx.fail(f"No such command '{args[0]}'. Did you mean 'runs {args[0]}'?")
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    lazy_commands={
        "check": "runstate.cli.commands.check:check",
        "ddl": "runstate.cli.commands.schema:ddl",
        "demo": "runstate.cli.commands.demo:demo",
        "diagram": "runstate.cli.commands.diagram:diagram",
        "doctor": "runstate.cli.commands.schema:doctor",
        "explain": "runstate.cli.commands.lifecycle:explain",
        "migrate": "runstate.cli.commands.schema:migrate",
        "queues": "runstate.cli.commands.queues:queues",
        "runs": "runstate.cli.commands.runs:runs",
        "table": "runstate.cli.commands.lifecycle:table",
        "worker": "runstate.cli.commands.worker:worker",
        "workers": "runstate.cli.commands.queues:workers",
    },
)
@click.option("--store", "store_url", metavar="URL", help="The store, for every command that takes one.")
@click.version_option(package_name="runstate")
def cli(store_url: str | None) -> None:
    """The lifecycle of an Assistants API run: its transitions and diagrams, recorded runs, and stored runs."""
