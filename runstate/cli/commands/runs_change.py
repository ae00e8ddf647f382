"""The commands that change single runs: create, repeat, submit, cancel."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final, cast

import click

from runstate.cli._files import FILE, open_input
from runstate.cli._key_values import as_mapping, key_value
from runstate.cli._options import json_option, run_of, store_from_url, store_option
from runstate.cli._output import print_json
from runstate.cli._queues import similar_queue_hint
from runstate.cli._stored_json import run_to_json
from runstate.cli._times import duration
from runstate.cli.errors import as_click_error
from runstate.clock import current as clock
from runstate.lifecycle.errors import RunstateError
from runstate.run import codec
from runstate.run.errors import RunDecodeError
from runstate.run.json_values import escape, is_object
from runstate.store.errors import StoreError

__all__ = ["cancel", "create", "repeat", "submit"]

_IN_FILE: Final = ("tools", "tool_choice", "parallel_tool_calls", "response_format", "truncation_strategy")
"""The settings that the file of `runs create` may have. All others are options."""

_actor_option: Final = click.option("--actor", default="cli", show_default=True, help="The actor in the history.")


@click.command()
@store_option
@click.option("--thread", "thread_id", required=True, metavar="ID", help="The thread of the run.")
@click.option("--assistant", "assistant_id", required=True, metavar="ID", help="The assistant of the run.")
@click.option("--model", required=True, metavar="NAME", help="The model of the run.")
@click.option("--id", metavar="ID", help="The id of the run; a new one by default.")
@click.option("--metadata", multiple=True, type=key_value, metavar="KEY=VALUE", help="Metadata (repeatable).")
@click.option("--queue", default="default", show_default=True, metavar="NAME", help="The queue of the run.")
@click.option("--priority", type=int, default=0, show_default=True, help="Higher is claimed first.")
@click.option("--instructions", metavar="TEXT", help="The system message.")
@click.option("--max-prompt-tokens", type=click.IntRange(1), metavar="N", help="The limit over the whole run.")
@click.option("--max-completion-tokens", type=click.IntRange(1), metavar="N", help="The limit over the whole run.")
@click.option("--temperature", type=click.FloatRange(0, 2), metavar="NUMBER", help="0 to 2.")
@click.option("--top-p", type=click.FloatRange(0, 1), metavar="NUMBER", help="0 to 1.")
@click.option("--settings", "file", type=FILE, metavar="FILE", help="A JSON file with tools, tool_choice and the like.")
@click.option("--expires-in", "expires_in_s", type=duration, default="10m", show_default=True, help="Its deadline.")
@click.option("--delay", "delay_s", type=duration, help="It is not claimed earlier than after this time.")
@click.option(
    "--one-live-run-per-thread",
    type=click.Choice(["reject", "queue"]),
    help="Whether a second live run of the thread is refused, or waits.",
)
@click.option("--idempotency-key", metavar="KEY", help="The same key never creates a second run.")
@_actor_option
@json_option
def create(
    url: str,
    metadata: tuple[tuple[str, str], ...],
    expires_in_s: float,
    delay_s: float | None,
    file: str | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Create a queued run, and print its id.

    The file of --settings has an object with further settings by their names in the API: tools, tool_choice,
    parallel_tool_calls, response_format, truncation_strategy.
    """
    more: Mapping[str, Any] = {} if file is None else _read_settings(file)
    with store_from_url(url) as store:
        hint = similar_queue_hint(store, settings["queue"])
        run = store.create(
            metadata=as_mapping(metadata, "--metadata"),
            expires_in_s=int(expires_in_s),
            not_before=None if delay_s is None else clock.time() + delay_s,
            **settings,
            **more,
        )
    if as_json:
        print_json(run_to_json(run))
    else:
        click.echo(run.id)
    if hint:
        click.echo(hint, err=True)


def _read_settings(name: str) -> Mapping[str, Any]:
    """Return the settings in a file. The store validates their values."""
    found = _read_json(name)
    if not is_object(found):
        raise click.UsageError(f"{name}: expected an object with settings")
    for key in found:
        if key not in _IN_FILE:
            raise click.UsageError(f"{name}: {escape(str(key))} is none of {', '.join(_IN_FILE)}: give it as an option")
    return cast("Mapping[str, Any]", found)


@click.command()
@click.argument("run_id", metavar="ID")
@store_option
@click.option("--expires-in", "expires_in_s", type=duration, default="10m", show_default=True, help="Its deadline.")
@click.option("--queue", metavar="NAME", help="Its queue; that of the old run by default.")
@click.option("--idempotency-key", metavar="KEY", help="The same key never creates a second run.")
@_actor_option
@json_option
def repeat(
    run_id: str,
    url: str,
    expires_in_s: float,
    queue: str | None,
    idempotency_key: str | None,
    actor: str,
    as_json: bool,
) -> None:
    """Create a new queued run like one that has ended, and print its id. The old run is not changed."""
    with store_from_url(url) as store:
        run = store.repeat(
            run_of(store, run_id),
            expires_in_s=int(expires_in_s),
            queue=queue,
            idempotency_key=idempotency_key,
            actor=actor,
        )
    if as_json:
        print_json(run_to_json(run))
    else:
        click.echo(run.id)


@click.command()
@click.argument("run_ids", metavar="ID...", nargs=-1, required=True)
@store_option
@_actor_option
@json_option
def cancel(run_ids: tuple[str, ...], url: str, actor: str, as_json: bool) -> None:
    """Request that runs be cancelled. A run without a worker is cancelled at once; otherwise its worker is notified.

    All ids are looked up before the first cancel. Then each run is tried. Refusals are printed on stderr.
    """
    exit_code = 0
    cancelled: list[dict[str, Any]] = []
    with store_from_url(url) as store:
        for run_id in dict.fromkeys([run_of(store, run_id) for run_id in run_ids]):
            try:
                run = store.request_cancel(run_id, actor=actor)
            except StoreError:
                raise  # the other runs would fail in the same way
            except RunstateError as error:
                refusal = as_click_error(error, url)
                refusal.show()
                exit_code = max(exit_code, refusal.exit_code)
                continue
            if as_json:
                cancelled.append(run_to_json(run))
            else:
                click.echo(f"{escape(run.id)} is {run.status}")
    if as_json:
        print_json({"data": cancelled})
    sys.exit(exit_code)


@click.command()
@click.argument("run_id", metavar="ID")
@click.argument("outputs", metavar="[CALL_ID=OUTPUT]...", nargs=-1, type=key_value)
@store_option
@click.option("--file", "-f", type=FILE, metavar="FILE", help="A JSON file with the outputs (- is stdin).")
@_actor_option
@json_option
def submit(
    run_id: str, outputs: tuple[tuple[str, str], ...], url: str, file: str | None, actor: str, as_json: bool
) -> None:
    """Submit the outputs of all tool calls that a run waits for.

    They are given as CALL_ID=OUTPUT, or in a file: {"call_1": "sunny"}, or the API's list of objects with tool_call_id
    and output, alone or under "tool_outputs".
    """
    if bool(outputs) is (file is not None):
        raise click.UsageError("give the outputs either as CALL_ID=OUTPUT or with --file")
    answers = as_mapping(outputs, "outputs") if file is None else _read_outputs(file)
    with store_from_url(url) as store:
        run = store.submit_tool_outputs(run_of(store, run_id), cast("Mapping[str, str]", answers), actor=actor)
    if as_json:
        print_json(run_to_json(run))
    else:
        click.echo(f"{escape(run.id)} is {run.status}")


def _read_json(name: str) -> object:
    """Return the value of a JSON file."""
    with open_input(name) as file:
        text = file.read(codec.MAX_BYTES + 1)
    try:
        return codec.parse(text)
    except RunDecodeError as error:
        raise click.UsageError(f"{name}: {'; '.join(map(str, error.errors))}") from None


def _read_outputs(name: str) -> object:
    """Return the outputs in a file. The store validates them."""
    found = _read_json(name)
    inner = found.get("tool_outputs") if is_object(found) else None
    return cast("object", inner) if isinstance(inner, list) else found
