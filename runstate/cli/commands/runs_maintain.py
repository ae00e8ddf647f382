"""The commands that maintain the runs of a store: sweep, prune."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import click
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from runstate.cli._options import json_option, store_from_url, store_option
from runstate.cli._output import print_json, progress_bar
from runstate.cli._times import duration
from runstate.cli.errors import InvalidUsage, Refused
from runstate.run.json_values import escape
from runstate.run.validators import pluralize

if TYPE_CHECKING:
    from runstate.store import Store, SweepResult

__all__ = ["prune", "sweep"]

_KINDS: Final = ("expired", "failed", "cancelled", "promoted")
_SWEEP_LIMIT: Final = 500  # runs of each kind in one sweep
_PRUNE_LIMIT: Final = 1000  # runs in one transaction


class _DryRun(Exception):
    """Raised inside a transaction to roll it back."""


@click.command()
@store_option
@click.option("--dry-run", is_flag=True, help="Print what would be done, and change nothing.")
@click.option(
    "--max-attempts",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="An orphaned run fails after so many attempts.",
)
@click.option("--actor", default="sweep", show_default=True, help="The actor in the history.")
@json_option
def sweep(url: str, dry_run: bool, max_attempts: int, actor: str, as_json: bool) -> None:
    """Do what is due: expire runs, close expired leases, promote runs.

    Of the runs under such a lease, those with a requested cancel are cancelled, and those without an attempt left fail.
    Workers sweep every few seconds.
    """
    moved: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    expired_leases = orphaned = 0
    more = True
    with store_from_url(url) as store:
        while more:
            result = _sweep_once(store, dry_run, max_attempts, actor)
            by_kind: dict[str, tuple[str, ...]] = {kind: getattr(result, kind) for kind in _KINDS}
            for kind, run_ids in by_kind.items():
                moved[kind] += run_ids
            expired_leases, orphaned = expired_leases + result.expired_leases, result.orphaned
            more = any(len(run_ids) == _SWEEP_LIMIT for run_ids in by_kind.values())
            if dry_run:
                break
    if as_json:
        print_json({"dry_run": dry_run, **moved, "expired_leases": expired_leases, "orphaned": orphaned, "more": more})
        return
    for kind, ended in moved.items():
        for run_id in ended:
            click.echo(f"{escape(run_id)} {'would be ' if dry_run else ''}{kind}")
    counts = [f"{len(ended)} {kind}" for kind, ended in moved.items() if ended]
    counts += [f"{pluralize(expired_leases, 'lease')} closed"] * bool(expired_leases)
    counts += [f"{orphaned} {'waits' if orphaned == 1 else 'wait'} to be taken over"] * bool(orphaned)
    summary = ", ".join(counts) or "nothing is due"
    click.echo(f"{'dry run: ' if dry_run else ''}{summary}{', and more' if more else ''}", err=True)


def _sweep_once(store: Store, dry_run: bool, max_attempts: int, actor: str) -> SweepResult:
    if not dry_run:
        return store.sweep(max_attempts=max_attempts, actor=actor, limit=_SWEEP_LIMIT)
    # A real sweep in a transaction that is rolled back: its result is what a sweep would do.
    from runstate.store._api.store import database_of

    session = database_of(store).open()
    results: list[SweepResult] = []
    try:
        with suppress(_DryRun), session.transaction():
            with store.within(getattr(session, "connection", None)) as bound:
                results.append(bound.sweep(max_attempts=max_attempts, actor=actor, limit=_SWEEP_LIMIT))
            raise _DryRun
    finally:
        session.close()
    return results[0]


@click.command()
@store_option
@click.option("--older-than", type=duration, required=True, help="Runs that ended longer ago than 15m, 2h, 30d.")
@click.option("--dry-run", is_flag=True, help="Print how many there are, and delete nothing.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@json_option
def prune(url: str, older_than: float, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Delete runs that have ended, with their histories and all other data. Live runs are never deleted."""
    deleted = 0
    with store_from_url(url) as store:
        prunable = store.prune(older_than, dry_run=True)
        if prunable and not dry_run:
            if not yes:
                _confirm(prunable, store.display_url)
            deleted = _prune_in_batches(store, older_than, prunable)
    if as_json:
        print_json({"dry_run": dry_run, "prunable": prunable, "deleted": deleted})
    elif dry_run or not prunable:
        click.echo(f"{pluralize(prunable, 'run')} would be deleted" if dry_run else "no run ended that long ago")
    else:
        click.echo(f"{pluralize(deleted, 'run')} deleted")


def _confirm(prunable: int, display_url: str) -> None:
    """Ask for confirmation on a terminal. Raises if there is none, or if the answer is no."""
    effect = f"{pluralize(prunable, 'run')} would be deleted from {display_url}, with all history"
    if not sys.stdin.isatty():
        raise InvalidUsage(f"{effect}, and there is no terminal to ask for confirmation: say --yes, or --dry-run")
    if not click.confirm(f"{effect}, forever. Go on?", err=True):
        raise Refused("nothing was deleted")


def _prune_in_batches(store: Store, older_than: float, prunable: int) -> int:
    """Delete in batches, so that other transactions do not wait long, with a progress bar."""
    parts = (TextColumn("deleting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    deleted = 0
    with progress_bar(*parts) as bar:
        task = bar.add_task("", total=prunable)
        while True:
            batch = store.prune(older_than, limit=_PRUNE_LIMIT)
            deleted += batch
            bar.update(task, completed=deleted, total=max(prunable, deleted))
            if batch < _PRUNE_LIMIT:
                return deleted
