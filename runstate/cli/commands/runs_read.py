"""The commands that read stored runs: list, counts, show, history, watch, events."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import click
from rich.text import Text

from runstate.cli._key_values import as_mapping, key_value
from runstate.cli._options import json_option, listen_url_option, run_of, store_from_url, store_option
from runstate.cli._output import draw_lanes, position_of, print_json, stdout_console
from runstate.cli._queues import empty_queue_hint
from runstate.cli._stored_json import attempt_to_json, entry_to_json, event_to_json, run_to_json, step_to_json
from runstate.cli._tables import print_pairs, print_table, status_style
from runstate.cli._times import duration, format_utc
from runstate.clock import format_duration, time_us
from runstate.lifecycle import RUN_LIFECYCLE, RunStatus
from runstate.run.json_values import escape
from runstate.store import Attempt, Entry, Event, StepRecord, StoredRun

if TYPE_CHECKING:
    from runstate.store import Store

__all__ = ["counts", "events", "history", "list_runs", "show", "watch"]

_VERSION: Final = re.compile(r"[0-9]{1,100}")  # the store refuses those that are too large
_STATUSES: Final = [status.value for status in RunStatus]


def _split_statuses(ctx: click.Context, option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Return the statuses of an option that is repeatable and takes lists with commas."""
    choice = click.Choice(_STATUSES)
    return tuple(choice.convert(word.strip(), option, ctx) for words in values for word in words.split(","))


@click.command("list")
@store_option
@click.option("--thread", metavar="ID", help="Runs of this thread.")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    metavar="STATUS",
    callback=_split_statuses,
    help=f"Runs in this status (repeatable, or with commas): {', '.join(_STATUSES)}.",
)
@click.option("--queue", metavar="NAME", help="Runs of this queue.")
@click.option(
    "--metadata", multiple=True, type=key_value, metavar="KEY=VALUE", help="Runs with this metadata (repeatable)."
)
@click.option("--older-than", type=duration, help="Runs created longer ago than 90s, 15m, 2h, 30d.")
@click.option("--younger-than", type=duration, help="Runs created less long ago.")
@click.option("--changed-within", type=duration, help="Runs whose last transition is less long ago.")
@click.option("--unchanged-for", type=duration, help="Runs whose last transition is longer ago.")
@click.option("--ended-within", type=duration, help="Runs that ended less long ago.")
@click.option("--attempts-above", type=click.IntRange(0), metavar="N", help="Runs in a later attempt than this.")
@click.option("--past-deadline", is_flag=True, help="Live runs whose deadline has come.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="The most runs to list.")
@click.option(
    "--order", type=click.Choice(["asc", "desc"]), default="desc", show_default=True, help="The order by age."
)
@click.option("--after", metavar="ID", help="Runs after this one in the list.")
@click.option("--before", metavar="ID", help="Runs before this one in the list.")
@json_option
def list_runs(
    url: str,
    thread: str | None,
    statuses: tuple[str, ...],
    queue: str | None,
    metadata: tuple[tuple[str, str], ...],
    older_than: float | None,
    younger_than: float | None,
    changed_within: float | None,
    unchanged_for: float | None,
    ended_within: float | None,
    attempts_above: int | None,
    past_deadline: bool,
    limit: int,
    order: str,
    after: str | None,
    before: str | None,
    as_json: bool,
) -> None:
    """List runs, the newest first."""
    with store_from_url(url) as store:
        page = store.list(
            thread_id=thread,
            status=statuses or None,
            queue=queue,
            metadata=as_mapping(metadata, "--metadata"),
            older_than_s=older_than,
            younger_than_s=younger_than,
            changed_within_s=changed_within,
            unchanged_for_s=unchanged_for,
            ended_within_s=ended_within,
            attempts_above=attempts_above,
            past_deadline=past_deadline,
            limit=limit,
            order=cast("Literal['asc', 'desc']", order),
            after=after,
            before=before,
        )
        hint = empty_queue_hint(store, [queue]) if queue is not None and not page.data and not as_json else ""
    if as_json:
        ends = {"first_id": page.first_id, "last_id": page.last_id, "has_more": page.has_more}
        print_json({"object": "list", "data": [run_to_json(run) for run in page.data], **ends})
        return
    if page.data:
        _print_list(page.data)
    else:
        click.echo(f"no such runs; {hint}" if hint else "no such runs", err=True)
    if page.has_more:
        option = f"--before {page.first_id}" if before is not None and after is None else f"--after {page.last_id}"
        click.echo(escape(f"there are more: {option}"), err=True)


def _print_list(runs: Sequence[StoredRun]) -> None:
    now = time_us()
    print_table(
        ("id", "status", "for", "created (UTC)", "thread", "queue", "model"),
        [
            (
                *(run.id, run.status, format_duration(now - run.changed_at_us), format_utc(run.created_at * 1_000_000)),
                *(run.thread_id, run.queue, run.model or ""),
            )
            for run in runs
        ],
        optional=("model", "queue", "created (UTC)", "thread", "for"),
        style_of=lambda column, cell: status_style(cell) if column == "status" else "",
    )


@click.command()
@store_option
@json_option
def counts(url: str, as_json: bool) -> None:
    """Count the runs in each status."""
    with store_from_url(url) as store:
        found = store.counts()
    if as_json:
        print_json({str(status): count for status, count in found.items()})
        return
    rows = [(str(status), str(count)) for status, count in found.items()]
    print_table(("status", "runs"), rows, style_of=lambda column, cell: status_style(cell))


@click.command()
@click.argument("run_id", metavar="ID")
@store_option
@json_option
def show(run_id: str, url: str, as_json: bool) -> None:
    """Show a run: its position in the lifecycle, its fields, and its history."""
    with store_from_url(url) as store:
        run_id = run_of(store, run_id)
        # The history is read first: entries that come in between are then in the run, and are cut or read again.
        entries = store.history(run_id)
        run = store.get(run_id)
        if run.version != len(entries):
            entries = store.history(run_id)[: run.version]
        progress = store.progress(run_id)
        steps, attempts = store.steps(run_id), store.attempts(run_id)
    if as_json:
        beside = {"progress": progress, **_history_to_json(entries, steps, attempts)}
        print_json({**run_to_json(run), **beside})
        return
    console = stdout_console()
    console.print(Text.from_ansi(draw_lanes(console, position_of(run))))
    console.print()
    print_pairs([*_facts(run), ("progress", progress or "")])
    console.print()
    _print_history(entries)
    _print_beside(steps, attempts, entries)


def _history_to_json(
    entries: Sequence[Entry], steps: Sequence[StepRecord], attempts: Sequence[Attempt]
) -> dict[str, list[dict[str, Any]]]:
    return {
        "history": [entry_to_json(entry) for entry in entries],
        "attempts": [attempt_to_json(attempt) for attempt in attempts],
        "steps": [step_to_json(step) for step in steps],
    }


def _print_beside(steps: Sequence[StepRecord], attempts: Sequence[Attempt], entries: Sequence[Entry]) -> None:
    """Print what a run has beside its history: attempts without an outcome, steps, and tracebacks."""
    console = stdout_console()
    if attempts:
        console.print()
        _print_attempts(attempts)
    if steps:
        console.print()
        _print_steps(steps)
    told = [(f"attempt {each.attempt}", each.error or {}) for each in attempts]
    told += [(f"{entry.event}, version {entry.version}", entry.detail or {}) for entry in entries]
    for what, detail in told:
        if isinstance(trace := detail.get("traceback"), str):
            console.print()
            click.echo("\n".join((f"{what}:", *map(escape, trace.splitlines()))))


def _print_attempts(attempts: Sequence[Attempt]) -> None:
    """Print the attempts of a run that ended without an outcome."""
    print_table(
        ("attempt", "ended (UTC)", "result", "next (UTC)", "by", "error"),
        [
            (
                *(str(each.attempt), format_utc(each.ended_at_us, digits=3), each.result),
                *("" if each.next_at_us is None else format_utc(each.next_at_us, digits=3), each.actor or ""),
                "" if each.error is None else str(each.error.get("message", "")),
            )
            for each in attempts
        ],
        optional=("by", "next (UTC)", "ended (UTC)"),
    )


def _facts(run: StoredRun) -> list[tuple[str, str]]:
    now = time_us()
    usage, error, waits_for = run.usage, run.last_error, run.required_action
    expires = "" if run.expires_at is None else format_utc(run.expires_at * 1_000_000)
    if run.expires_at is not None:
        ahead = run.expires_at * 1_000_000 - now
        expires += f" (in {format_duration(ahead)})" if ahead > 0 else f" ({format_duration(-ahead)} ago)"
    calls = () if waits_for is None else waits_for.tool_calls
    return [
        ("id", run.id),
        ("status", run.status),
        ("thread", run.thread_id),
        ("assistant", run.assistant_id),
        ("model", run.model or ""),
        (
            "created",
            f"{format_utc(run.created_at * 1_000_000)} ({format_duration(now - run.created_at * 1_000_000)} ago)",
        ),
        ("expires", expires),
        ("queue", run.queue + (f", priority {run.priority}" if run.priority else "")),
        ("attempt", _attempt_of(run)),
        ("repeats", run.repeats or ""),
        ("ready", "" if run.claimable or run.is_terminal else "no: before its time, or behind its thread's live run"),
        ("waits for", ", ".join(f"{call.id}: {call.name}({call.arguments})" for call in calls)),
        ("error", "" if error is None else f"{error.code}: {error.message}"),
        ("incomplete", "" if run.incomplete_details is None else run.incomplete_details.reason),
        ("usage", "" if usage is None else f"{usage.prompt_tokens} + {usage.completion_tokens} tokens"),
        ("metadata", ", ".join(f"{key}={value}" for key, value in run.metadata.items())),
    ]


def _attempt_of(run: StoredRun) -> str:
    """Return the number of the attempt, and how many of the claims before it were lost or failed."""
    before = [f"{count} {what}" for count, what in ((run.lost, "lost"), (run.failed, "failed")) if count]
    return f"{run.attempt} ({', '.join(before)} before)" if before else str(run.attempt or "")


def _print_history(entries: Sequence[Entry]) -> None:
    """Print the entries, each with the time that the run stayed in its status."""
    durations = [format_duration(after.at_us - before.at_us) for before, after in pairwise(entries)]
    if entries and not RUN_LIFECYCLE.is_terminal(entries[-1].target):
        durations.append(f"{format_duration(time_us() - entries[-1].at_us)} so far")
    durations += [""] * (len(entries) - len(durations))
    print_table(
        ("version", "at (UTC)", "event", "to", "for", "by"),
        [
            (
                *(str(entry.version), format_utc(entry.at_us, digits=3), entry.event or "created", entry.target),
                *(lasted, entry.actor or ""),
            )
            for entry, lasted in zip(entries, durations, strict=True)
        ],
        optional=("by", "version", "event"),
        style_of=lambda column, cell: status_style(cell) if column == "to" else "",
    )


def _print_steps(steps: Sequence[StepRecord]) -> None:
    """Print the steps of a run, each with its duration and its tokens."""
    print_table(
        ("step", "key", "began (UTC)", "took", "tokens", "attempt"),
        [
            (
                *(step.name, step.key, format_utc(step.began_at_us, digits=3)),
                "not ended" if step.ended_at_us is None else format_duration(step.ended_at_us - step.began_at_us),
                f"{step.usage.prompt_tokens} + {step.usage.completion_tokens}" if step.usage.total_tokens else "",
                str(step.attempt),
            )
            for step in steps
        ],
        optional=("key", "began (UTC)", "tokens", "attempt"),
    )


@click.command()
@click.argument("run_id", metavar="ID")
@store_option
@json_option
def history(run_id: str, url: str, as_json: bool) -> None:
    """Print the history of a run: each move, its actor, and how long the run stayed in that status; and its steps."""
    with store_from_url(url) as store:
        run_id = run_of(store, run_id)
        entries = store.history(run_id)
        steps, attempts = store.steps(run_id), store.attempts(run_id)
    if as_json:
        print_json({"run_id": run_id, **_history_to_json(entries, steps, attempts)})
        return
    _print_history(entries)
    _print_beside(steps, attempts, entries)


@click.command()
@click.argument("run_id", metavar="[ID]", required=False)
@store_option
@listen_url_option
@click.option(
    "--after", metavar="VERSION|CURSOR", help="Resume after a version of the run, or after a cursor from --json."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, for programs.")
def watch(run_id: str | None, url: str, listen_url: str | None, after: str | None, as_json: bool) -> None:
    """Print new entries: of one run, from its first entry until it has ended, or of all runs from now on."""
    resume_after: str | int | None = after
    if after is not None and not after.strip():
        raise click.UsageError("--after: is empty; leave it out to watch from now on")
    if run_id is not None and after is not None:
        if not _VERSION.fullmatch(after):
            raise click.UsageError(f"--after {after[:40]!r}: of one run it is a version, a number")
        resume_after = int(after)
    console = stdout_console()
    with store_from_url(url, listen_url) as store:
        run_id = None if run_id is None else run_of(store, run_id)
        for entry in store.watch(run_id, after=resume_after):
            if as_json:
                click.echo(json.dumps(entry_to_json(entry)))
                continue
            change = f"{entry.event}: {entry.source} -> " if entry.event else "created: "
            line = Text.assemble(f"{format_utc(entry.at_us, digits=3)}  {escape(entry.run_id)}  {change}")
            line.append(entry.target, status_style(entry.target))
            line.append(f"  by {escape(entry.actor)}" if entry.actor else "")
            console.print(line)
            console.file.flush()


@click.command()
@click.argument("run_id", metavar="ID")
@store_option
@listen_url_option
@click.option(
    "--after", type=click.IntRange(0), default=0, metavar="N", help="Resume after the event with this number."
)
@click.option(
    "--follow/--no-follow",
    default=True,
    show_default=True,
    help="Wait for new events until the run has ended, or print only those that are there.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, for programs.")
def events(run_id: str, url: str, listen_url: str | None, after: int, follow: bool, as_json: bool) -> None:
    """Print the output events that the handler of a run emits: the number, the time, the attempt and the data.

    A later attempt of a run may emit the same data again.
    """
    with store_from_url(url, listen_url) as store:
        run_id = run_of(store, run_id)
        for event in store.events(run_id, after=after) if follow else _events_so_far(store, run_id, after):
            if as_json:
                click.echo(json.dumps(event_to_json(event)))
                continue
            at, data = format_utc(event.at_us, digits=3), json.dumps(event.data, ensure_ascii=False)
            click.echo(f"{event.number}  {at}  attempt {event.attempt}  {escape(data)}")


def _events_so_far(store: Store, run_id: str, after: int) -> Iterator[Event]:
    while page := store.events_page(run_id, after):
        yield from page
        after = page[-1].number
