"""The group of commands about stored runs; each is in a module of its own kind, and loaded when it is asked for."""

from __future__ import annotations

import click

from runstate.cli import LazyGroup

__all__ = ["runs"]


@click.group(
    cls=LazyGroup,
    places={
        "cancel": "runstate.cli.runs_moving:cancel",
        "create": "runstate.cli.runs_moving:create",
        "history": "runstate.cli.runs_reading:history",
        "list": "runstate.cli.runs_reading:list_runs",
        "prune": "runstate.cli.runs_tending:prune",
        "show": "runstate.cli.runs_reading:show",
        "submit": "runstate.cli.runs_moving:submit",
        "sweep": "runstate.cli.runs_tending:sweep",
        "watch": "runstate.cli.runs_reading:watch",
    },
)
def runs() -> None:
    """Look at the runs of a store, and move them.

    Every command takes --store URL, or the variable RUNSTATE_STORE. Exit code 1 says that the law refused, 2 that the
    asking was a mistake or that there is no such store, 3 that the store is away, busy, full or read-only for now.
    """
