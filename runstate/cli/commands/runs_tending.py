"""The commands that look after a store's runs as a whole: sweep, prune."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import click
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from runstate.cli._durations import duration
from runstate.cli._options import AS_JSON, STORE, Mistaken, Refused, opened
from runstate.cli._output import emit_json, progress_bar
from runstate.run.json_values import escape
from runstate.run.validators import pluralize

if TYPE_CHECKING:
    from runstate.store import Store, SweepResult

__all__ = ["prune", "sweep"]

_KINDS: Final = ("expired", "failed", "cancelled", "promoted")
_AT_ONCE: Final = 500  # runs of a kind that one sweep moves
_BATCH: Final = 1000  # runs that are deleted in one transaction


class _DryRun(Exception):
    """Raised to leave a transaction so that nothing of it stays."""


@click.command()
@STORE
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--max-attempts", type=click.IntRange(1), default=3, show_default=True, help="Then a lapsed run fails.")
@click.option("--actor", default="sweep", show_default=True, help="Who asks, for the history.")
@AS_JSON
def sweep(url: str, dry_run: bool, max_attempts: int, actor: str, as_json: bool) -> None:
    """Do what time has made due: expire runs, close lapsed leases, end what these leave, ready what may be claimed.

    Workers do this by themselves, every few seconds.
    """
    moved: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    lapsed = adrift = 0
    more = True
    with opened(url) as store:
        while more:
            swept = _sweep_once(store, dry_run, max_attempts, actor)
            found: dict[str, tuple[str, ...]] = {kind: getattr(swept, kind) for kind in _KINDS}
            for kind, run_ids in found.items():
                moved[kind] += run_ids
            lapsed, adrift = lapsed + swept.expired_leases, swept.orphaned
            more = any(len(run_ids) == _AT_ONCE for run_ids in found.values())
            if dry_run:
                break
    if as_json:
        emit_json({"dry_run": dry_run, **moved, "expired_leases": lapsed, "orphaned": adrift, "more": more})
        return
    for kind, ended in moved.items():
        for run_id in ended:
            click.echo(f"{escape(run_id)} {'would be ' if dry_run else ''}{kind}")
    counts = [f"{len(ended)} {kind}" for kind, ended in moved.items() if ended]
    counts += [f"{pluralize(lapsed, 'lease')} closed"] * bool(lapsed)
    counts += [f"{adrift} {'waits' if adrift == 1 else 'wait'} to be taken over"] * bool(adrift)
    summary = ", ".join(counts) or "nothing is due"
    click.echo(f"{'dry run: ' if dry_run else ''}{summary}{', and more' if more else ''}", err=True)


def _sweep_once(store: Store, dry_run: bool, max_attempts: int, actor: str) -> SweepResult:
    if not dry_run:
        return store.sweep(max_attempts=max_attempts, actor=actor, limit=_AT_ONCE)
    # What the real thing says it has done is what it would do: it is asked inside a transaction that is rolled back.
    session = store.database.open()
    done: list[SweepResult] = []
    try:
        with suppress(_DryRun), session.transaction():
            with store.within(getattr(session, "connection", None)) as bound:
                done.append(bound.sweep(max_attempts=max_attempts, actor=actor, limit=_AT_ONCE))
            raise _DryRun
    finally:
        session.close()
    return done[0]


@click.command()
@STORE
@click.option("--older-than", type=duration, required=True, help="Those that ended longer ago, as 15m, 2h, 30d.")
@click.option("--dry-run", is_flag=True, help="Say how many there are, and delete nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@AS_JSON
def prune(url: str, older_than: float, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Delete runs that have ended, with their histories and all that belongs to them. Live runs are never deleted."""
    deleted = 0
    with opened(url) as store:
        prunable = store.prune(older_than, dry_run=True)
        if prunable and not dry_run:
            if not yes:
                _ask(prunable, str(store.database.display_url))
            deleted = _prune(store, older_than, prunable)
    if as_json:
        emit_json({"dry_run": dry_run, "prunable": prunable, "deleted": deleted})
    elif dry_run or not prunable:
        click.echo(f"{pluralize(prunable, 'run')} would be deleted" if dry_run else "no run has ended so long ago")
    else:
        click.echo(f"{pluralize(deleted, 'run')} deleted")


def _ask(prunable: int, shown: str) -> None:
    """Go on only if a person says so."""
    told = f"{pluralize(prunable, 'run')} would be deleted from {shown}, history and all"
    if not sys.stdin.isatty():
        raise Mistaken(f"{told}, and nobody is here to be asked: say --yes, or --dry-run")
    if not click.confirm(f"{told}, for ever. Go on?", err=True):
        raise Refused("nothing was deleted")


def _prune(store: Store, older_than: float, prunable: int) -> int:
    """Delete in batches, so that nobody else waits for long; show on stderr how far it is."""
    parts = (TextColumn("deleting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    deleted = 0
    with progress_bar(*parts) as bar:
        shown = bar.add_task("", total=prunable)
        while True:
            some = store.prune(older_than, limit=_BATCH)
            deleted += some
            bar.update(shown, completed=deleted, total=max(prunable, deleted))
            if some < _BATCH:
                return deleted
