"""The commands that move stored runs by name: create, submit, cancel."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final, cast

import click

from runstate.cli._files import FILE, reading
from runstate.cli._options import AS_JSON, STORE, opened, told
from runstate.cli._output import emit_json
from runstate.cli._pairs import as_mapping, pair
from runstate.cli._queues import new_queue
from runstate.cli._stored_json import run_json
from runstate.lifecycle.errors import RunstateError
from runstate.run import codec
from runstate.run.errors import RunDecodeError
from runstate.run.json_values import escape, is_object
from runstate.store.errors import StoreError

__all__ = ["cancel", "create", "submit"]

_ACTOR: Final = click.option("--actor", default="cli", show_default=True, help="Who asks, for the history.")


@click.command()
@STORE
@click.option("--thread", required=True, metavar="ID", help="The thread it belongs to.")
@click.option("--assistant", required=True, metavar="ID", help="The assistant that answers.")
@click.option("--model", required=True, metavar="NAME", help="The model it shall use.")
@click.option("--metadata", multiple=True, type=pair, help="A pair to keep with it (repeatable).")
@click.option("--queue", default="default", show_default=True, metavar="NAME", help="Which workers claim it.")
@click.option("--priority", type=int, default=0, show_default=True, help="Higher is claimed first.")
@click.option("--idempotency-key", metavar="KEY", help="Asked again with the same key, it is the same run.")
@_ACTOR
@AS_JSON
def create(
    url: str,
    thread: str,
    assistant: str,
    model: str,
    metadata: tuple[tuple[str, str], ...],
    queue: str,
    priority: int,
    idempotency_key: str | None,
    actor: str,
    as_json: bool,
) -> None:
    """Create a run, queued, and print its id."""
    with opened(url) as store:
        remark = new_queue(store, queue)
        run = store.create(
            thread_id=thread,
            assistant_id=assistant,
            model=model,
            metadata=as_mapping(metadata, "--metadata"),
            queue=queue,
            priority=priority,
            idempotency_key=idempotency_key,
            actor=actor,
        )
    if as_json:
        emit_json(run_json(run))
    else:
        click.echo(run.id)
    if remark:
        click.echo(remark, err=True)


@click.command()
@click.argument("run_ids", metavar="ID...", nargs=-1, required=True)
@STORE
@_ACTOR
@AS_JSON
def cancel(run_ids: tuple[str, ...], url: str, actor: str, as_json: bool) -> None:
    """Ask that runs be cancelled. One that nobody works on is cancelled at once; of another its worker hears.

    Of many, each is asked, and those that refuse are told on stderr.
    """
    code = 0
    asked: list[dict[str, Any]] = []
    with opened(url) as store:
        for run_id in dict.fromkeys(run_ids):
            try:
                run = store.request_cancel(run_id, actor=actor)
            except StoreError:
                raise  # the next would meet the same trouble
            except RunstateError as error:
                refusal = told(error, url)
                refusal.show()
                code = max(code, refusal.exit_code)
                continue
            if as_json:
                asked.append(run_json(run))
            else:
                click.echo(f"{escape(run.id)} is {run.status}")
    if as_json:
        emit_json({"data": asked})
    sys.exit(code)


@click.command()
@click.argument("run_id", metavar="ID")
@click.argument("outputs", metavar="[CALL_ID=OUTPUT]...", nargs=-1, type=pair)
@STORE
@click.option("--file", "-f", type=FILE, metavar="FILE", help="JSON with the outputs (- is stdin).")
@_ACTOR
@AS_JSON
def submit(
    run_id: str, outputs: tuple[tuple[str, str], ...], url: str, file: str | None, actor: str, as_json: bool
) -> None:
    """Submit the outputs of all tool calls that a run waits for, in one request.

    They are given as CALL_ID=OUTPUT, or in a file: {"call_1": "sunny"}, or the API's list of objects with tool_call_id
    and output, alone or under "tool_outputs".
    """
    if bool(outputs) is (file is not None):
        raise click.UsageError("give the outputs either as CALL_ID=OUTPUT or with --file")
    answers = as_mapping(outputs, "outputs") if file is None else _outputs_in(file)
    with opened(url) as store:
        run = store.submit_tool_outputs(run_id, cast("Mapping[str, str]", answers), actor=actor)
    if as_json:
        emit_json(run_json(run))
    else:
        click.echo(f"{escape(run.id)} is {run.status}")


def _outputs_in(name: str) -> object:
    """Return what a file holds as outputs; whether they are such is the library's to say."""
    with reading(name) as file:
        text = file.read(codec.MAX_BYTES + 1)
    try:
        found = codec.parse(text)
    except RunDecodeError as error:
        raise click.UsageError(f"{name}: {'; '.join(map(str, error.errors))}") from None
    inner = found.get("tool_outputs") if is_object(found) else None
    return cast("object", inner) if isinstance(inner, list) else found
