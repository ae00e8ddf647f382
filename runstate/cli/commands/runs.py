"""The group of commands about stored runs; each is in a module of its own kind, and loaded when it is asked for."""

from __future__ import annotations

import click

from runstate.cli import LazyGroup

__all__ = ["runs"]


@click.group(
    cls=LazyGroup,
    places={
        "cancel": "runstate.cli.commands.runs_moving:cancel",
        "create": "runstate.cli.commands.runs_moving:create",
        "history": "runstate.cli.commands.runs_reading:history",
        "list": "runstate.cli.commands.runs_reading:list_runs",
        "prune": "runstate.cli.commands.runs_tending:prune",
        "show": "runstate.cli.commands.runs_reading:show",
        "submit": "runstate.cli.commands.runs_moving:submit",
        "sweep": "runstate.cli.commands.runs_tending:sweep",
        "watch": "runstate.cli.commands.runs_reading:watch",
    },
)
def runs() -> None:
    """Look at the runs of a store, and move them.

    Every command takes --store URL, or the variable RUNSTATE_STORE. Exit code 1 says that the law refused, 2 that the
    asking was a mistake or that there is no such store, 3 that the store is away, busy, full or read-only for now.
    """
