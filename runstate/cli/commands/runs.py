"""The group `runs`: commands about stored runs."""

from __future__ import annotations

import click

from runstate.cli import LazyGroup

__all__ = ["runs"]


@click.group(
    cls=LazyGroup,
    lazy_commands={
        "cancel": "runstate.cli.commands.runs_change:cancel",
        "counts": "runstate.cli.commands.runs_read:counts",
        "create": "runstate.cli.commands.runs_change:create",
        "events": "runstate.cli.commands.runs_read:events",
        "history": "runstate.cli.commands.runs_read:history",
        "list": "runstate.cli.commands.runs_read:list_runs",
        "prune": "runstate.cli.commands.runs_maintain:prune",
        "repeat": "runstate.cli.commands.runs_change:repeat",
        "show": "runstate.cli.commands.runs_read:show",
        "submit": "runstate.cli.commands.runs_change:submit",
        "sweep": "runstate.cli.commands.runs_maintain:sweep",
        "watch": "runstate.cli.commands.runs_read:watch",
    },
)
def runs() -> None:
    """Show and change the runs of a store.

    Every command takes --store URL, or the variable RUNSTATE_STORE. Exit codes: 1 the request was refused, 2 the
    request is invalid or there is no such store, 3 the store is unavailable for now (down, busy, full or read-only).
    """
