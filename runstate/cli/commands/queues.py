"""The group `queues`: which queues have runs waiting, and which are paused. And the command `workers`."""

from __future__ import annotations

import attrs
import click

from runstate.cli._options import json_option, store_from_url, store_option
from runstate.cli._output import print_json
from runstate.cli._stored_json import pause_to_json
from runstate.cli._tables import print_table
from runstate.cli._times import format_utc
from runstate.run.json_values import escape

__all__ = ["queues", "workers"]

_queue_argument = click.argument("queue", metavar="NAME")
_actor_option = click.option("--actor", default="cli", show_default=True, help="Who does it, for the record.")


@click.group()
def queues() -> None:
    """Show, pause and resume the queues of a store."""


@queues.command("list")
@store_option
@click.option("--ended", is_flag=True, help="Also show pauses that have ended.")
@json_option
def list_queues(url: str, ended: bool, as_json: bool) -> None:
    """List the queues that have runs waiting, and those that are paused."""
    with store_from_url(url) as store:
        waiting, pauses = store.queues(), store.pauses(ended=ended)
    if as_json:
        found = {"waiting": dict(waiting), "pauses": [*map(pause_to_json, pauses)]}
        print_json(found)
        return
    rows: list[tuple[str, ...]] = [
        (
            *(pause.queue, str(waiting.get(pause.queue, 0)), format_utc(pause.paused_at_us), pause.paused_by or ""),
            *(pause.reason or "", "" if pause.resumed_at_us is None else format_utc(pause.resumed_at_us)),
        )
        for pause in pauses
    ]
    lasting = {pause.queue for pause in pauses if pause.resumed_at_us is None}
    rows += [(queue, str(count), *("",) * 4) for queue, count in waiting.items() if queue not in lasting]
    if not rows:
        click.echo("no run waits, and no queue is paused", err=True)
        return
    print_table(("queue", "waiting", "paused (UTC)", "by", "reason", "resumed (UTC)"), rows, optional=("by", "reason"))


@queues.command()
@_queue_argument
@store_option
@click.option("--reason", help="Why, for the record.")
@_actor_option
@json_option
def pause(queue: str, url: str, reason: str | None, actor: str, as_json: bool) -> None:
    """Pause a queue: no run of it is claimed, retried or taken over until it is resumed. Running handlers go on."""
    with store_from_url(url) as store:
        is_new = store.pause(queue, reason=reason, actor=actor)
    if as_json:
        print_json({"queue": queue, "paused": True, "was_paused": not is_new})
    else:
        click.echo(f"{escape(queue)} is paused" if is_new else f"{escape(queue)} was paused already")


@queues.command()
@_queue_argument
@store_option
@_actor_option
@json_option
def resume(queue: str, url: str, actor: str, as_json: bool) -> None:
    """Resume a paused queue."""
    with store_from_url(url) as store:
        was_paused = store.resume(queue, actor=actor)
    if as_json:
        print_json({"queue": queue, "paused": False, "was_paused": was_paused})
    else:
        click.echo(f"{escape(queue)} is resumed" if was_paused else f"{escape(queue)} was not paused")


@click.command()
@store_option
@json_option
def workers(url: str, as_json: bool) -> None:
    """List the workers at work: their names, since when, and how many runs each has."""
    with store_from_url(url) as store:
        found = store.workers()
    if as_json:
        print_json({"workers": [attrs.asdict(worker) for worker in found]})
        return
    if not found:
        click.echo("no worker is at work", err=True)
        return
    rows = [
        (worker.name, str(worker.runs), format_utc(worker.began_at_us), format_utc(worker.lease_until_us))
        for worker in found
    ]
    print_table(("worker", "runs", "since (UTC)", "lease until (UTC)"), rows, optional=("since (UTC)",))
