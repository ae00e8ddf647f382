"""The commands that maintain the runs of a store: sweep, prune."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import attrs
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
@click.option("--older-than", type=duration, help="Runs that ended longer ago than 15m, 2h, 30d.")
@click.option(
    "--events-older-than",
    type=duration,
    help="Only the output events, of runs that ended longer ago than 15m, 2h, 30d. The runs stay.",
)
@click.option("--dry-run", is_flag=True, help="Print how many there are, and delete nothing.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@json_option
def prune(
    url: str, older_than: float | None, events_older_than: float | None, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Delete runs that have ended, with their histories and all other data. Live runs are never deleted.

    With --events-older-than, delete output events of runs that have ended. Both options can be combined.
    """
    if older_than is None and events_older_than is None:
        raise click.UsageError("expected --older-than, --events-older-than or both")
    with store_from_url(url) as store:
        targets = [_runs(store, older_than)] if older_than is not None else []
        targets += [_events(store, events_older_than)] if events_older_than is not None else []
        found = [target for target in targets if target.prunable]
        if found and not dry_run:
            if not yes:
                _confirm(found, store.display_url)
            for target in found:
                _delete_in_batches(target)
    if as_json:
        print_json({"dry_run": dry_run, **{name: value for target in targets for name, value in target.counts()}})
        return
    for target in targets:
        if dry_run:
            click.echo(f"{target.describe(target.prunable)} would be deleted")
        else:
            click.echo(f"{target.describe(target.deleted)} deleted" if target.prunable else target.nothing)


@attrs.define
class _Target:
    """What is pruned: runs, or the output events of runs. Both are counted in runs."""

    describe: Callable[[int], str]
    nothing: str
    """What to print if there is nothing to delete."""
    prefix: str
    """The prefix of the counts in JSON."""
    delete: Callable[[int], int]
    """Delete those of at most so many runs, and return the number of runs."""
    prunable: int
    deleted: int = 0

    def counts(self) -> Iterator[tuple[str, int]]:
        yield f"{self.prefix}prunable", self.prunable
        yield f"{self.prefix}deleted", self.deleted


def _runs(store: Store, older_than: float) -> _Target:
    return _Target(
        lambda count: pluralize(count, "run"),
        "no run ended that long ago",
        "",
        lambda limit: store.prune(older_than, limit=limit),
        store.prune(older_than, dry_run=True),
    )


def _events(store: Store, older_than: float) -> _Target:
    return _Target(
        lambda count: f"the output events of {pluralize(count, 'run')}",
        "no run with output events ended that long ago",
        "events_",
        lambda limit: store.prune_events(older_than, limit=limit),
        store.prune_events(older_than, dry_run=True),
    )


def _confirm(targets: Sequence[_Target], display_url: str) -> None:
    """Ask for confirmation on a terminal. Raises if there is none, or if the answer is no."""
    what = " and ".join(target.describe(target.prunable) for target in targets)
    effect = f"{what} would be deleted from {display_url}"
    if any(not target.prefix for target in targets):
        effect += ", with all history"
    if not sys.stdin.isatty():
        raise InvalidUsage(f"{effect}, and there is no terminal to ask for confirmation: say --yes, or --dry-run")
    if not click.confirm(f"{effect}, forever. Go on?", err=True):
        raise Refused("nothing was deleted")


def _delete_in_batches(target: _Target) -> None:
    """Delete in batches, so that other transactions do not wait long, with a progress bar."""
    parts = (TextColumn("deleting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with progress_bar(*parts) as bar:
        task = bar.add_task("", total=target.prunable)
        while True:
            batch = target.delete(_PRUNE_LIMIT)
            target.deleted += batch
            bar.update(task, completed=target.deleted, total=max(target.prunable, target.deleted))
            if batch < _PRUNE_LIMIT:
                return
