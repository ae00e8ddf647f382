"""The commands `table` and `explain`: all transitions, or one status and event."""

from __future__ import annotations

from typing import Any

import click

from runstate.cli._output import print_json, print_text
from runstate.cli._tables import print_folded_table
from runstate.lifecycle import RUN_LIFECYCLE, Lifecycle, RunEvent, RunStatus, Transition, documented

__all__ = ["explain", "table"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.option("--documented", "only_documented", is_flag=True, help="Only the transitions that the vendor documented.")
def table(as_json: bool, only_documented: bool) -> None:
    """Print every legal transition, with its stamp and the reason why it is legal."""
    lifecycle = documented() if only_documented else RUN_LIFECYCLE
    if as_json:
        print_json({"statuses": _statuses_to_json(lifecycle), "transitions": _transitions_to_json(lifecycle)})
        return
    rows = lifecycle.transitions
    cells = [
        (row.event, row.source, row.target, _until(row), row.stamp or "", f"{row.basis}: {row.evidence}")
        for row in rows
    ]
    print_folded_table(("event", "from", "to", "until", "stamps", "because"), cells)


def _until(row: Transition) -> str:
    return "deadline" if row.until_deadline else ""


def _statuses_to_json(lifecycle: Lifecycle) -> list[dict[str, Any]]:
    return [
        {
            "status": status.value,
            "terminal": lifecycle.is_terminal(status),
            "allowed_events": [event.value for event in lifecycle.allowed_events(status)],
            "meaning": status.meaning,
        }
        for status in RunStatus
    ]


def _transitions_to_json(lifecycle: Lifecycle) -> list[dict[str, Any]]:
    return [
        {
            "event": row.event.value,
            "source": row.source.value,
            "target": row.target.value,
            "stamp": row.stamp,
            "basis": row.basis.value,
            "evidence": row.evidence,
            "until_deadline": row.until_deadline,
        }
        for row in lifecycle.transitions
    ]


class _EitherOrder(click.Command):
    """A command with the arguments STATUS and EVENT in either order. No word is both."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the status first."""
        places = [place for place, word in enumerate(args) if not word.startswith("-")]
        if len(places) == 2:
            first, second = places
            if args[first].lower() in set(RunEvent) and args[second].lower() in set(RunStatus):
                args[first], args[second] = args[second], args[first]
            _check_kinds(args[first], args[second])
        return super().parse_args(ctx, args)


def _check_kinds(status: str, event: str) -> None:
    """Raise `click.UsageError` if an event is given as the status, or a status as the event."""
    if status.lower() in set(RunEvent):
        raise click.UsageError(
            f"{status} is an event; the status is {RUN_LIFECYCLE.target_of(RunEvent(status.lower()))}"
        )
    if event.lower() in set(RunStatus):
        target = RunStatus(event.lower())
        expected = next(one for one in RunEvent if RUN_LIFECYCLE.target_of(one) is target)
        raise click.UsageError(f"{event} is a status; the event is {expected}")


@click.command(cls=_EitherOrder)
@click.argument(
    "status", metavar="STATUS", type=click.Choice([status.value for status in RunStatus], case_sensitive=False)
)
@click.argument("event", metavar="EVENT", type=click.Choice([event.value for event in RunEvent], case_sensitive=False))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def explain(status: str, event: str, as_json: bool) -> None:
    """Explain whether EVENT is legal in STATUS, why, and the shortest way to it."""
    source, requested = RunStatus(status), RunEvent(event)
    row = RUN_LIFECYCLE.find(source, requested)
    path = RUN_LIFECYCLE.path_to_event(source, requested)
    if as_json:
        answer: dict[str, Any] = {"status": status, "event": event, "legal": row is not None}
        answer["target"] = RUN_LIFECYCLE.target_of(requested).value
        answer["stamp"] = None if row is None else row.stamp
        answer["until_deadline"] = None if row is None else row.until_deadline
        answer["because"] = None if row is None else f"{row.basis}: {row.evidence}"
        answer["allowed_events"] = [allowed.value for allowed in RUN_LIFECYCLE.allowed_events(source)]
        answer["shortest_path"] = None if path is None else [step.value for step in path]
        print_json(answer)
        return
    print_text(f"{status}: {source.meaning}")
    if row is not None:
        stamp = f", stamping {row.stamp}" if row.stamp else ""
        until = " until the run's deadline" if row.until_deadline else ""
        print_text(f"{event} is legal there{until} and leads to {row.target}{stamp} ({row.basis}: {row.evidence}).")
    elif RUN_LIFECYCLE.is_terminal(source):
        print_text(f"{event} is illegal there: {status} is terminal, nothing leaves it.")
    else:
        print_text(f"{event} is illegal there: no transition {event} leaves {status}.")
        print_text(f"Allowed there: {', '.join(RUN_LIFECYCLE.allowed_events(source))}.")
        print_text(f"Shortest way: {' -> '.join(path)}." if path else f"No way leads to {event} from there.")
