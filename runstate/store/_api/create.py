"""The methods of a store that create runs."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, Required, TypeAlias, TypedDict, Unpack, cast

from runstate.run import DEFAULT_EXPIRES_IN_S, Run, validators
from runstate.run.errors import FieldError, InvalidRun
from runstate.run.ids import new_run_id
from runstate.run.json_values import json_path
from runstate.run.record import FIELDS, JsonObject, ResponseFormat, ToolChoice
from runstate.run.values import TruncationStrategy, raise_if_invalid
from runstate.store._engine.commands import CreateRuns, InTransaction, NewRunRow
from runstate.store._engine.execute_create import execute_create, first_row
from runstate.store._engine.transport import StoreBase
from runstate.store._notifier import Change
from runstate.store._sql.connection import Connection
from runstate.store._sql.rows import config_json, decode_run
from runstate.store._types import StoredRun
from runstate.store.errors import RunIsLive, RunNotFound

__all__ = ["DEFAULT_QUEUE", "CreateMixin", "Exclusive", "NewRun"]

Exclusive: TypeAlias = Literal["reject", "queue"]
"""Whether a second live run of a thread is refused, or waits until the first has ended."""

DEFAULT_QUEUE: Final = "default"
MOST_AT_ONCE: Final = 10_000
_PRIORITIES: Final = range(-(2**31), 2**31)
_IDENTIFIERS: Final = ("assistant_id", "model", "actor", "trace_context")
_INDEXED: Final = ("thread_id", "id", "idempotency_key")


class NewRun(TypedDict, total=False):
    """The arguments of `Store.create`, which describes each of them."""

    thread_id: Required[str]
    assistant_id: Required[str]
    model: Required[str]
    id: str | None
    instructions: str | None
    tools: Sequence[JsonObject] | None
    metadata: Mapping[str, str] | None
    max_prompt_tokens: int | None
    max_completion_tokens: int | None
    truncation_strategy: TruncationStrategy | JsonObject | None
    tool_choice: ToolChoice | None
    parallel_tool_calls: bool | None
    response_format: ResponseFormat | None
    temperature: float | None
    top_p: float | None
    expires_in_s: int
    queue: str
    priority: int
    not_before: datetime | float | None
    one_live_run_per_thread: Exclusive | None
    idempotency_key: str | None
    actor: str | None
    trace_context: str | None


_ARGUMENTS: Final = tuple(NewRun.__annotations__)
_NAMES: Final[frozenset[str]] = frozenset(("thread_id", "assistant_id", "model"))
_OWN: Final = (
    "queue",
    "priority",
    "not_before",
    "one_live_run_per_thread",
    "idempotency_key",
    "actor",
    "trace_context",
)


def _searchable(path: str, value: object) -> Iterator[FieldError]:
    """Yield the errors of texts in settings. PostgreSQL stores such a text in JSON, but cannot search metadata then."""
    if isinstance(value, str):
        yield from validators.plain_text(path, value)
    elif isinstance(value, Sequence):
        for place, item in enumerate(cast("Sequence[object]", value)):
            yield from _searchable(json_path(path, place), item)
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[str, object]", value).items():
            yield from validators.plain_text(json_path(path, key), key)
            yield from _searchable(json_path(path, key), item)


def _faults(values: Mapping[str, Any]) -> list[FieldError]:
    found: list[FieldError] = []
    for name in _IDENTIFIERS:
        if values.get(name) is not None:
            found += validators.identifier(name, values[name])
    for name in _INDEXED:
        if values.get(name) is not None:
            found += validators.indexed_identifier(name, values[name])
    found += validators.indexed_identifier("queue", values.get("queue", DEFAULT_QUEUE))
    priority = values.get("priority", 0)
    if type(priority) is not int or priority not in _PRIORITIES:
        found.append(FieldError("priority", f"expected an integer of 32 bits, got {validators.preview(priority)}"))
    exclusive = values.get("one_live_run_per_thread")
    if exclusive not in (None, "reject", "queue"):
        expected = "expected 'reject' or 'queue'"
        found.append(FieldError("one_live_run_per_thread", f"{expected}, got {validators.preview(exclusive)}"))
    return found


def _microseconds(not_before: datetime | float | None) -> int | None:
    """Return a time in Unix microseconds. Raises `InvalidRun` for other values."""
    if not_before is None:
        return None
    if isinstance(not_before, datetime):
        if not_before.tzinfo is None:
            raise_if_invalid(
                [FieldError("not_before", "is a datetime without a time zone: add one, such as datetime.UTC")]
            )
        return int(not_before.timestamp() * 1_000_000)
    raise_if_invalid(_A_MOMENT("not_before", not_before))
    return int(not_before * 1_000_000)


_A_MOMENT: Final = validators.number(0, validators.YEAR_10000)


def _wanted(values: Mapping[str, Any], function: str = "Store.create()", *, repeats: str | None = None) -> NewRunRow:
    """Return the row of a new run. Raises `InvalidRun` with all errors of values, and `TypeError` for wrong names."""
    bare = not values.keys() ^ _NAMES  # most runs have only the required values
    if not bare:
        _check_names(values, function)
    run = Run.create(**(values if bare else {name: value for name, value in values.items() if name not in _OWN}))
    named = f"{run.thread_id}{run.assistant_id}{run.model}"
    if not bare or len(named) > validators.MAX_NAME or not named.isprintable():
        raise_if_invalid(_faults(values))
    trace_context = None if bare else values.get("trace_context")
    settings = None if bare else config_json(run) or (None if trace_context is None else "{}")
    if settings is not None and ("\\u0000" in settings or "\\ud" in settings):
        raise_if_invalid(tuple(_searchable("", json.loads(settings))))
    not_before = _microseconds(values.get("not_before"))
    if not_before is not None and run.expires_at is not None and not_before >= run.expires_at * 1_000_000:
        raise_if_invalid(
            [
                FieldError(
                    "not_before", "is past the deadline: the run would expire unclaimed; give it more expires_in_s"
                )
            ]
        )
    return NewRunRow(
        run,
        (
            *(run.id, run.thread_id, run.assistant_id, run.model, values.get("expires_in_s", DEFAULT_EXPIRES_IN_S)),
            *(values.get("queue", DEFAULT_QUEUE), values.get("priority", 0), not_before),
            *(values.get("one_live_run_per_thread"), values.get("idempotency_key"), repeats),
            *(1 if not_before is None else 0, values.get("actor"), settings, trace_context),
        ),
    )


def _check_names(values: Mapping[str, Any], function: str) -> None:
    """Raise `TypeError` for an unknown or missing argument. `function` is the name of the called method."""
    for name in values:
        if name not in _ARGUMENTS:
            from difflib import get_close_matches

            like = get_close_matches(str(name), _ARGUMENTS, 1)
            meant = f". Did you mean {like[0]!r}?" if like else ""
            raise TypeError(f"{function} got an unexpected keyword argument {name!r}{meant}")
    missing = [repr(name) for name in _ARGUMENTS if name in _NAMES and name not in values]
    if missing:
        what = "argument" if len(missing) == 1 else "arguments"
        raise TypeError(f"{function} missing {len(missing)} required keyword-only {what}: {', '.join(missing)}")


def _one_of_many(place: int, values: object) -> NewRunRow:
    """Return the row of one of many new runs. Raises like `_wanted`, with the position of the run."""
    if not isinstance(values, Mapping):
        raise_if_invalid(validators.wrong_type(f"[{place}]", "what `create` takes, as an object", values))
    try:
        return _wanted(cast("Mapping[str, Any]", values), f"Store.create_many() [{place}]")
    except InvalidRun as refused:
        raise InvalidRun(
            [FieldError(json_path(f"[{place}]", fault.path), fault.message) for fault in refused.errors]
        ) from None


def _first(runs: list[StoredRun]) -> StoredRun:
    return runs[0]


def _result(create: CreateRuns[StoredRun]) -> StoredRun:
    return create.result()


def _all(runs: list[StoredRun]) -> list[StoredRun]:
    return runs


class CreateMixin(StoreBase):
    """The methods of a store that create runs."""

    def create(self, **values: Unpack[NewRun]) -> StoredRun:
        """Create a queued run, and return it. It is durable when this returns.

        Required arguments:

        - `thread_id`: the id of the thread that the run belongs to
        - `assistant_id`: the id of the assistant
        - `model`: the name of the model

        What the API has too; None means the default:

        - `id`: the id of the run; a new one by default
        - `instructions`: the system message
        - `tools`: the tools that the run may call, as JSON objects; none by default
        - `metadata`: up to 16 pairs of texts, by which `Store.list` finds runs
        - `max_prompt_tokens`: the limit on prompt tokens over the whole run; none by default
        - `max_completion_tokens`: the limit on completion tokens over the whole run; none by default
        - `truncation_strategy`: how much of the thread the model sees; `auto` by default
        - `tool_choice`: whether the model may call tools, or which; `"auto"` by default
        - `parallel_tool_calls`: whether the model may call several tools at once; True by default
        - `response_format`: the format of the response; `"auto"` by default
        - `temperature`: 0 to 2; 1 by default
        - `top_p`: 0 to 1; 1 by default

        What only a store has:

        - `expires_in_s`: the seconds from the creation to the deadline; 600 by default
        - `queue`: the queue from which workers claim the run; `"default"` by default
        - `priority`: runs with a higher one are claimed first; 0 by default
        - `not_before`: when the run may be claimed at the earliest: an aware datetime, or Unix seconds
        - `one_live_run_per_thread`: if the thread has a live run that was created with this option, `"reject"` raises
          `ThreadBusy`, and `"queue"` makes the new run wait behind it
        - `idempotency_key`: there is one run per key; the same request with the same key returns that run
        - `actor`: the name of the client, for the history
        - `trace_context`: the W3C `traceparent` of the caller, for the traces of the worker

        Raises `InvalidRun` with all errors of the arguments, `ThreadBusy`, `IdempotencyKeyReused` if the key belongs
        to a run that was created with other values, and `TypeError` for an argument that is not listed here.
        """
        return self._transport.execute(CreateRuns([_wanted(cast("Mapping[str, Any]", values))], _first))

    def create_many(self, runs: Iterable[NewRun]) -> list[StoredRun]:
        """Create up to 10,000 runs in one transaction, all or none, and return them in the same order.

        Each item is a dictionary with the arguments of `create`. Raises like `create`, with the position of the wrong
        value, such as `[3].metadata`.
        """
        wanted = [_one_of_many(place, one) for place, one in enumerate(runs)]
        if len(wanted) > MOST_AT_ONCE:
            raise_if_invalid([FieldError("", f"expected at most {MOST_AT_ONCE} runs at once, got {len(wanted)}")])
        return self._transport.execute(CreateRuns(wanted, _all))

    def repeat(
        self,
        run_id: str,
        *,
        expires_in_s: int = DEFAULT_EXPIRES_IN_S,
        queue: str | None = None,
        priority: int | None = None,
        not_before: datetime | float | None = None,
        id: str | None = None,  # noqa: A002
        idempotency_key: str | None = None,
        actor: str | None = None,
        trace_context: str | None = None,
    ) -> StoredRun:
        """Create a new queued run like one that has ended, and return it. The ended run is not changed.

        The new run has the thread, the assistant, the model and all settings of the old one, its queue, priority and
        `one_live_run_per_thread`, and the old run's id as `repeats`. It begins anew: without the checkpoint, the steps
        and the events of the old run. The arguments are those of `create`; `queue` and `priority` are the old run's by
        default, and the deadline is 600 seconds after the creation, whatever the old run had.

        Raises `RunNotFound`, `RunIsLive` if the run has not ended, and what `create` raises.
        """
        # The id is chosen here: the request is repeated after a lost reply, and must not create a second run.
        new_id = new_run_id() if id is None else id
        given: dict[str, Any] = {"expires_in_s": expires_in_s, "not_before": not_before, "id": new_id, "actor": actor}
        given |= {"idempotency_key": idempotency_key, "trace_context": trace_context}
        chosen = {name: value for name, value in {"queue": queue, "priority": priority}.items() if value is not None}
        raise_if_invalid([*validators.identifier("run_id", run_id), *_faults({**given, **chosen})])

        def perform(session: Connection) -> CreateRuns[StoredRun]:
            row = first_row(session.execute(session.statements.by_id, {"id": run_id}))
            if row is None:
                raise RunNotFound(run_id)
            old = decode_run(row)
            if not old.is_terminal:
                raise RunIsLive(old)
            policy = session.execute(session.statements.thread_policy, {"run": old.seq})[0][0]
            like = {name: getattr(old, name) for name in _LIKE}
            like |= {"queue": old.queue, "priority": old.priority, "one_live_run_per_thread": policy}
            values = {**like, **given, **chosen}
            create = CreateRuns([_wanted(values, "Store.repeat()", repeats=old.id)], _first)
            execute_create(session, [create])
            return create

        return self._transport.execute(InTransaction(perform, _result, change=Change.ENTRY | Change.QUEUED))


_LIKE: Final = tuple(name for name in _ARGUMENTS if name in FIELDS and name not in ("id",))
"""The arguments of `create` that a run shows."""


def new_token() -> int:
    """Return a random number for a session, never 0."""
    return secrets.randbelow(2**63 - 1) + 1
