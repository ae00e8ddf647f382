"""The commands that look at stored runs: list, show, history, watch."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Literal, cast

import click
from rich.text import Text

from runstate.cli._durations import duration, moment
from runstate.cli._options import AS_JSON, LISTEN, STORE, opened
from runstate.cli._output import emit_json, lanes, position_of, screen
from runstate.cli._pairs import as_mapping, pair
from runstate.cli._queues import empty_queues
from runstate.cli._stored_json import entry_json, run_json
from runstate.cli._tables import fitted, pairs, status_style
from runstate.clock import format_duration, time_us
from runstate.lifecycle import RUN_LIFECYCLE, RunStatus
from runstate.run.json_values import escape
from runstate.store import Entry, StoredRun

__all__ = ["history", "list_runs", "show", "watch"]

_VERSION: Final = re.compile(r"[0-9]{1,100}")  # the store tells which of these is too much
_STATUSES: Final = [status.value for status in RunStatus]


def _statuses(ctx: click.Context, option: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Return the statuses of an option that may be repeated, and may name several with commas."""
    choice = click.Choice(_STATUSES)
    return tuple(choice.convert(word.strip(), option, ctx) for words in given for word in words.split(","))


@click.command("list")
@STORE
@click.option("--thread", metavar="ID", help="Of this thread.")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    metavar="STATUS",
    callback=_statuses,
    help=f"In this status (repeatable, or with commas): {', '.join(_STATUSES)}.",
)
@click.option("--queue", metavar="NAME", help="Of this queue.")
@click.option("--metadata", multiple=True, type=pair, help="With this pair (repeatable).")
@click.option("--older-than", type=duration, help="Created longer ago, as 90s, 15m, 2h, 30d.")
@click.option("--younger-than", type=duration, help="Created shorter ago.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="At most so many.")
@click.option("--order", type=click.Choice(["asc", "desc"]), default="desc", show_default=True, help="By age.")
@click.option("--after", metavar="ID", help="Those that come after this run.")
@click.option("--before", metavar="ID", help="Those that come before this run.")
@AS_JSON
def list_runs(
    url: str,
    thread: str | None,
    statuses: tuple[str, ...],
    queue: str | None,
    metadata: tuple[tuple[str, str], ...],
    older_than: float | None,
    younger_than: float | None,
    limit: int,
    order: str,
    after: str | None,
    before: str | None,
    as_json: bool,
) -> None:
    """List runs, the newest first."""
    with opened(url) as store:
        page = store.list(
            thread_id=thread,
            status=statuses or None,
            queue=queue,
            metadata=as_mapping(metadata, "--metadata"),
            older_than_s=older_than,
            younger_than_s=younger_than,
            limit=limit,
            order=cast("Literal['asc', 'desc']", order),
            after=after,
            before=before,
        )
        remark = empty_queues(store, [queue]) if queue is not None and not page.data and not as_json else ""
    if as_json:
        ends = {"first_id": page.first_id, "last_id": page.last_id, "has_more": page.has_more}
        emit_json({"object": "list", "data": [run_json(run) for run in page.data], **ends})
        return
    if page.data:
        _print_list(page.data)
    else:
        click.echo(f"no such runs; {remark}" if remark else "no such runs", err=True)
    if page.has_more:
        way = f"--before {page.first_id}" if before is not None and after is None else f"--after {page.last_id}"
        click.echo(escape(f"there are more: {way}"), err=True)


def _print_list(runs: Sequence[StoredRun]) -> None:
    now = time_us()
    fitted(
        ("id", "status", "for", "created (UTC)", "thread", "queue", "model"),
        [
            (
                *(run.id, run.status, format_duration(now - run.changed_at_us), moment(run.created_at * 1_000_000)),
                *(run.thread_id, run.queue, run.model or ""),
            )
            for run in runs
        ],
        spared=("model", "queue", "created (UTC)", "thread", "for"),
        style_of=lambda column, cell: status_style(cell) if column == "status" else "",
    )


@click.command()
@click.argument("run_id", metavar="ID")
@STORE
@AS_JSON
def show(run_id: str, url: str, as_json: bool) -> None:
    """Show a run: where it stands, what it holds, and how it got there."""
    with opened(url) as store:
        # The history first: what comes in between is in the run then, and the two fit up to its version.
        entries = store.history(run_id)
        run = store.get(run_id)
        if run.version != len(entries):
            entries = store.history(run_id)[: run.version]
        progress = store.progress(run_id)
    if as_json:
        emit_json({**run_json(run), "progress": progress, "history": [entry_json(entry) for entry in entries]})
        return
    console = screen()
    console.print(Text.from_ansi(lanes(console, position_of(run))))
    console.print()
    pairs([*_facts(run), ("progress", progress or "")])
    console.print()
    _print_history(entries)


def _facts(run: StoredRun) -> list[tuple[str, str]]:
    now = time_us()
    usage, error, waits_for = run.usage, run.last_error, run.required_action
    left = "" if run.expires_at is None else moment(run.expires_at * 1_000_000)
    if run.expires_at is not None:
        ahead = run.expires_at * 1_000_000 - now
        left += f" (in {format_duration(ahead)})" if ahead > 0 else f" ({format_duration(-ahead)} ago)"
    calls = () if waits_for is None else waits_for.tool_calls
    return [
        ("id", run.id),
        ("status", run.status),
        ("thread", run.thread_id),
        ("assistant", run.assistant_id),
        ("model", run.model or ""),
        ("created", f"{moment(run.created_at * 1_000_000)} ({format_duration(now - run.created_at * 1_000_000)} ago)"),
        ("expires", left),
        ("queue", run.queue + (f", priority {run.priority}" if run.priority else "")),
        ("attempt", str(run.attempt) if run.attempt else ""),
        ("ready", "" if run.claimable or run.is_terminal else "no: before its time, or behind its thread's live run"),
        ("waits for", ", ".join(f"{call.id}: {call.name}({call.arguments})" for call in calls)),
        ("error", "" if error is None else f"{error.code}: {error.message}"),
        ("incomplete", "" if run.incomplete_details is None else run.incomplete_details.reason),
        ("usage", "" if usage is None else f"{usage.prompt_tokens} + {usage.completion_tokens} tokens"),
        ("metadata", ", ".join(f"{key}={value}" for key, value in run.metadata.items())),
    ]


def _print_history(entries: Sequence[Entry]) -> None:
    """Print the entries, each with how long the run then stood there."""
    stood = [format_duration(after.at_us - before.at_us) for before, after in pairwise(entries)]
    if entries and not RUN_LIFECYCLE.is_terminal(entries[-1].target):
        stood.append(f"{format_duration(time_us() - entries[-1].at_us)} so far")
    stood += [""] * (len(entries) - len(stood))
    fitted(
        ("version", "at (UTC)", "event", "to", "for", "by"),
        [
            (
                *(str(entry.version), moment(entry.at_us, digits=3), entry.event or "created", entry.target),
                *(lasted, entry.actor or ""),
            )
            for entry, lasted in zip(entries, stood, strict=True)
        ],
        spared=("by", "version", "event"),
        style_of=lambda column, cell: status_style(cell) if column == "to" else "",
    )


@click.command()
@click.argument("run_id", metavar="ID")
@STORE
@AS_JSON
def history(run_id: str, url: str, as_json: bool) -> None:
    """Print a run's history: what was asked when and by whom, and how long it stood where that led."""
    with opened(url) as store:
        entries = store.history(run_id)
    if as_json:
        emit_json({"run_id": run_id, "history": [entry_json(entry) for entry in entries]})
    else:
        _print_history(entries)


@click.command()
@click.argument("run_id", metavar="[ID]", required=False)
@STORE
@LISTEN
@click.option("--after", metavar="PLACE", help="Resume: after a version of the run, or a cursor from --json.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one object a line.")
def watch(run_id: str | None, url: str, listen_url: str | None, after: str | None, as_json: bool) -> None:
    """Print entries as they come: of one run from its birth until it has ended, or of all runs from now on."""
    place: str | int | None = after
    if after is not None and not after.strip():
        raise click.UsageError("--after: is empty; leave it out to see what comes from now on")
    if run_id is not None and after is not None:
        if not _VERSION.fullmatch(after):
            raise click.UsageError(f"--after {after[:40]!r}: of one run it is a version, a number")
        place = int(after)
    console = screen()
    with opened(url, listen_url) as store:
        for entry in store.watch(run_id, after=place):
            if as_json:
                click.echo(json.dumps(entry_json(entry)))
                continue
            came = f"{entry.event}: {entry.source} -> " if entry.event else "created: "
            line = Text.assemble(f"{moment(entry.at_us, digits=3)}  {escape(entry.run_id)}  {came}")
            line.append(entry.target, status_style(entry.target))
            line.append(f"  by {escape(entry.actor)}" if entry.actor else "")
            console.print(line)
            console.file.flush()
