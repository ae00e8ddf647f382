"""Names, wherever one is taken: what is empty or blank, from an unset variable say, is never taken for one.

What takes text is found by looking at the signatures of the library and at the options of its command. Each parameter
stands here as a name, or as what else it is; so one that is added later cannot be forgotten.
"""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import click
import pytest

import runstate
import runstate.store
import runstate.testing
import runstate.testing.conformance
import runstate.worker
from runstate import InvalidRun, Run, ToolCall
from runstate.cli import cli
from runstate.run.snapshot import RunSnapshot
from runstate.store import AsyncStore, Lease, NewRun, Store, open_store
from runstate.store._api.methods import StoreMethods
from runstate.testing import Probe, a_run
from runstate.testing.conformance import HttpAdapter, StoreAdapter
from runstate.worker import Context, Dispatcher, Worker, drive, drive_async
from tests.store.support import Prompt, birth, bring_in_store, insert, names
from tests.support.cli_runner import CliRunner
from tests.support.lifecycle import new_run

EMPTY = ("", " ", "\t\n", "\u00a0\u2003")
"""What is no name: nothing, and nothing but white space."""

UNKEPT = ("a\0b", "\ud800")
"""What no database keeps."""

NAMES = frozenset(
    (
        *("actor", "after", "assistant_id", "before", "id", "idempotency_key", "model", "name", "queue", "queues"),
        *("prefix", "run_id", "thread_id", "trace_context"),
    )
)
"""Parameters that take a name, or several."""

TEXTS = frozenset(
    (
        *("arguments", "checkpoint", "code", "cursor", "detail", "instructions", "message", "progress", "text"),
        *(
            "outputs",
            "tool_outputs",
            "calls",
            "given",
            "runs",
            "values",
            "params",
            "outcomes",
            "reason",
            "traceback",
            "usage",
        ),
        *("metadata", "tools", "tool_choice", "response_format", "truncation_strategy"),  # a wire's keys may be empty
        "key",  # of a step, which need not have one
        *("status", "order", "one_live_run_per_thread", "send"),  # words of a list, or no text at all
    )
)
"""Parameters that take text of another kind."""


def taking_text(function: Callable[..., Any]) -> list[str]:
    """Return the parameters of a callable whose type has text in it."""
    signature = inspect.signature(function)
    return [name for name, parameter in signature.parameters.items() if "str" in str(parameter.annotation)]


# --- the store --------------------------------------------------------------------------------------------------------

GIVEN: Mapping[str, Any] = {
    "run_id": "run_1",
    "calls": [ToolCall("call_1", "weather")],
    "outputs": {"call_1": "sunny"},
    "reason": "max_prompt_tokens",
    "code": "server_error",
    "message": "it broke",
    "older_than_s": 1.0,
    "outcomes": (),
    "number": 1,
    "result": None,
    "trace_context": "00-1-2-01",
    "prefix": "run_",
}
"""What a method needs besides."""

METHODS = {name: method for name, method in inspect.getmembers(StoreMethods, inspect.isfunction) if name[0] != "_"}
PLACES = [
    (method, parameter)
    for method, function in METHODS.items()
    if not method.startswith("create")
    for parameter in taking_text(function)
    if parameter in NAMES and (method, parameter) != ("entries", "after")  # of which the empty one is the beginning
]
BORN_WITH = [name for name, kind in NewRun.__annotations__.items() if "str" in str(kind) and name in NAMES]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store with a run in it."""
    on_sqlite = request.param == "sqlite"
    place = f"sqlite:///{tmp_path / 'runs.db'}" if on_sqlite else str(request.getfixturevalue("postgres_url"))
    with open_store(place, migrate=True) as store:
        bring_in_store(store, "in_progress", id="run_1")
    return place


def faces(store: Store, connection: Any) -> Iterator[Callable[..., object]]:
    """Yield the ways to call a method by its name: by a thread, by a coroutine, in a transaction of one's own."""

    def of_thread(method: str, **given: Any) -> object:
        return getattr(store, method)(**given)

    def of_coroutine(method: str, **given: Any) -> object:
        async def ask() -> object:
            return await getattr(store.aio, method)(**given)

        return asyncio.run(ask())

    def within(method: str, **given: Any) -> object:
        with store.within(connection) as bound:
            return getattr(bound, method)(**given)

    yield from (of_thread, of_coroutine, within)


def asked(function: Callable[..., Any], parameter: str, word: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call: what it needs, and a word in one place."""
    needed = [
        name
        for name, one in inspect.signature(function).parameters.items()
        if one.default is one.empty and name != "self" and name != parameter
    ]
    return {**{name: given[name] for name in needed}, parameter: [word] if parameter == "queues" else word}


def test_every_text_of_a_store_is_known() -> None:
    """What takes text is a name, or stands among the other texts."""
    found = {name for method in METHODS.values() for name in taking_text(method)}
    found |= {name for name, kind in NewRun.__annotations__.items() if "str" in str(kind)}
    assert set() == found - NAMES - TEXTS
    assert len(PLACES) > 30
    assert {"thread_id", "assistant_id", "model", "id", "queue", "idempotency_key", "actor", "trace_context"} == set(
        BORN_WITH
    )


def test_no_method_takes_an_empty_name(url: str) -> None:
    """Each is refused with a sentence that names the argument, by all three faces, and nothing has moved."""
    with open_store(url) as store, Prompt(url) as prompt, closing(own_connection(url)) as connection:
        given = {**GIVEN, "lease": store.open_lease("w1"), "run": store.get("run_1")}
        before = prompt.everything()
        for ask in faces(store, connection):
            for method, parameter in PLACES:
                for word in (*EMPTY, *UNKEPT):
                    with pytest.raises(InvalidRun) as refusal:
                        ask(method, **asked(METHODS[method], parameter, word, given))
                    (fault,) = refusal.value.errors
                    assert fault.path in (parameter, f"{parameter}[0]"), (method, parameter, word)
                    wanted = "is empty" if word == "" else "is blank" if word in EMPTY else "holds"
                    assert fault.message.startswith(wanted), (method, parameter, word)
        assert before == prompt.everything()


def own_connection(url: str) -> Any:
    if url.startswith("sqlite:"):
        return sqlite3.connect(url.removeprefix("sqlite:///"))
    import psycopg

    return psycopg.connect(url)


def test_no_run_is_born_with_an_empty_name(url: str) -> None:
    """Alone, among many, by all three faces: an empty key would make two requests one run."""
    with open_store(url) as store, Prompt(url) as prompt, closing(own_connection(url)) as connection:
        before = prompt.everything()
        for ask in faces(store, connection):
            for name in BORN_WITH:
                for word in (*EMPTY, *UNKEPT):
                    wanted = names(**{name: word})
                    for method, given in (("create", {**wanted}), ("create_many", {"runs": [names(), wanted]})):
                        with pytest.raises(InvalidRun) as refusal:
                            ask(method, **given)
                        path = name if method == "create" else f"[1].{name}"
                        assert [path] == [fault.path for fault in refusal.value.errors], (method, name, word)
        assert before == prompt.everything()


def test_the_database_takes_no_empty_name_either(url: str) -> None:
    """By plain SQL no run is born with an empty id, thread, assistant, queue or key."""
    with Prompt(url) as prompt:
        before = prompt.everything()
        for name in ("id", "thread_id", "assistant_id", "queue", "idempotency_key"):
            sentence = prompt.refusal(*insert(birth("run_2", **{name: ""})))
            assert "runstate: a run is born queued" in (sentence or "accepted"), name
        assert before == prompt.everything()


def test_older_rows_are_read_as_they_are(url: str) -> None:
    """What earlier versions took for names is listed, read, told and moved by the run's id as ever."""
    odd = {"thread_id": " ", "assistant_id": " ", "model": "", "queue": " ", "idempotency_key": " ", "actor": ""}
    with Prompt(url) as prompt, open_store(url) as store:
        prompt.run(*insert(birth("run_2", **odd)))
        prompt.run("INSERT INTO runstate_worker_session VALUES (7, '', 0, 0, 1)")
        run = store.get("run_2")
        assert (" ", " ", "", " ", "") == (run.thread_id, run.assistant_id, run.model, run.queue, run.actor)
        assert {"run_1", "run_2"} == {one.id for one in store.list().data}
        assert "" == store.history("run_2")[0].actor
        claim = store.claim_id(store.open_lease("w1"), "run_2")
        assert claim is not None
        store.close_lease(Lease(7, "old", 30.0))
        assert "completed" == store.complete("run_2").status
        done = CliRunner().invoke(cli, ["runs", "show", "run_2", "--store", url], catch_exceptions=False)
        assert 0 == done.exit_code


# --- what else takes names --------------------------------------------------------------------------------------------


def nothing(ctx: Context) -> None:
    """A handler that is never called here."""


def run_in_loop(store: Store, **given: Any) -> object:
    return asyncio.run(drive_async(store, handler=nothing, **given))


OTHERS: Mapping[str, Callable[[Store, str], object]] = {
    "Worker.queues": lambda store, word: Worker(store, nothing, queues=["default", word]),
    "Worker.name": lambda store, word: Worker(store, nothing, name=word),
    "Dispatcher.queue": lambda store, word: Dispatcher(store, print, queue=word),
    "drive.run_id": lambda store, word: drive(store, word, nothing),
    "drive.name": lambda store, word: drive(store, "run_1", nothing, name=word),
    "drive_async.run_id": lambda store, word: run_in_loop(store, run_id=word),
    "drive_async.name": lambda store, word: run_in_loop(store, run_id="run_1", name=word),
    "Context.tool_call.name": lambda store, word: Context.tool_call(word),
    "ToolCall.id": lambda store, word: store.require_action("run_1", [ToolCall(word, "weather")]),
    "ToolCall.name": lambda store, word: Context.require_action(mock.Mock(Context), [ToolCall("call_1", word)]),
    "Lease.actor": lambda store, word: Lease(1, word, 30.0),
    "Store.watch.run_id": lambda store, word: list(store.watch(word)),
    "AsyncStore.watch.run_id": lambda store, word: asyncio.run(anext(store.aio.watch(word))),  # type: ignore[arg-type]
    **{
        f"Run.create.{name}": lambda store, word, name=name: new_run(**{name: word})  # type: ignore[misc]
        for name in ("id", "thread_id", "assistant_id", "model")
    },
    **{
        f"a_run.settings.{name}": lambda store, word, name=name: a_run(store=store, **{name: word})  # type: ignore[misc]
        for name in BORN_WITH
    },
    "Probe.effect.name": lambda store, word: Probe().effect(word),
    "Probe.count.name": lambda store, word: Probe().count(word),
    "HttpAdapter.thread_id": lambda store, word: HttpAdapter("http://localhost:1", thread_id=word),
    "StoreAdapter.settings": lambda store, word: StoreAdapter(store, queue=word).create(),
    "StoreAdapter.claim.worker": lambda store, word: StoreAdapter(store).claim(word, "run_1"),
    "StoreAdapter.load.run": lambda store, word: StoreAdapter(store).load(word),
}
"""Whatever else takes a name, with a word in its place."""

CALLED = {
    "Worker.queues": "queues[1]",
    "ToolCall.id": "tool_calls[0].id",
    "ToolCall.name": "tool_calls[0].name",
    "StoreAdapter.settings": "queue",
    "StoreAdapter.claim.worker": "actor",
    "StoreAdapter.load.run": "run_id",
}
"""What the sentence calls it, where that is not the parameter."""

NO_NAMES = frozenset(
    (
        # What is read, or given out.
        *(
            "Claim",
            "Entry",
            "Checkpoint",
            "StepRecord",
            "Attempt",
            "PausedQueue",
            "Handled",
            "StepInterrupted",
            "RetryLater",
            "TraceContexts",
            "WorkerInfo",
            "Context.redact",
            "Context.retry",
            "Context.settle_retry",
            "Worker.redact",
            "drive.redact",
            "drive_async.redact",
            "handle",
            "handle_async",
            "migrate_within",
            "Context.step",  # tests/worker/test_steps.py
            "SweepResult",
            "Settle",
            "StoredRun",
            "Run",
            "TrackedRun",
            "IncompleteDetails",
            "LastError",
        ),
        *(
            "RequiredAction",
            "TruncationStrategy",
            "Usage",
            "ConformanceReport",
            "CrashFinding",
            "CrashReport",
            "Violation",
            "Transition",
            "Lifecycle",
            "FieldError",
        ),
        # Addresses, words of the law, statements, titles of a report.
        *("open_store", "assert_history", "assert_moves", "assert_plausible", "assert_refused", "assert_stamps"),
        *("FunctionAdapter", "ObjectAdapter", "SqlTableAdapter", "SystemUnderTest"),
        # Protocols and what only looks like a callable of one's own.
        *("Clock", "SystemClock", "RunEvent", "RunStatus", "Basis", "ErrorCode", "IncompleteReason", "NewRun"),
        *(
            "HttpAdapter.url",
            "HttpAdapter.routes",
            "HttpAdapter.headers",
            "HttpAdapter.body",
            "HttpAdapter.name",
            "HttpAdapter.send",
            "HttpAdapter.read",
        ),
        *(
            "StoreAdapter.send",
            "StoreAdapter.read",
            "StoreAdapter.lapse",
            "StoreAdapter.settle",
        ),  # of what it made itself
        *(
            "StoreAdapter.claim.run",
            "ToolCall.arguments",
            "ToolCall.type",
            "ToolCall.extra",
            "a_run.status",
            "a_run.path",
        ),
        *("Context.fail", "Context.progress", "Context.settle_error", "Context.tool_call.arguments"),
        *("Dispatcher.send", "Store.watch.after", "AsyncStore.watch.after"),
        *("Run.create.instructions", "Run.create.metadata"),
    )
)
"""What takes text that is no name: by the class, the method or the parameter."""


def public_texts() -> Iterator[str]:
    """Yield `owner.method.parameter` of all public callables of the library that take text, but for a store's own."""
    for room in (runstate, runstate.store, runstate.worker, runstate.testing, runstate.testing.conformance):
        for name in room.__all__:
            value = getattr(room, name)
            if inspect.isfunction(value):
                yield from (f"{name}.{one}" for one in taking_text(value))
            elif inspect.isclass(value) and not issubclass(value, Exception | StoreMethods | AsyncStore):
                yield from (f"{name}.{one}" for one in constructed_with(value))
                for method, function in () if issubclass(value, RunSnapshot) else inspect.getmembers(value):
                    if method[0] != "_" and inspect.isfunction(function):
                        yield from (f"{name}.{method}.{one}" for one in taking_text(function))
    yield from (f"Store.watch.{one}" for one in taking_text(Store.watch))
    yield from (f"AsyncStore.watch.{one}" for one in taking_text(AsyncStore.watch))
    yield from (f"Run.create.{one}" for one in taking_text(Run.create))


def constructed_with(kind: type) -> list[str]:
    try:
        return taking_text(kind)
    except ValueError:  # a class that is not constructed by name
        return []


def test_every_other_text_is_known() -> None:
    """Each public callable that takes text is asked here with names that are none, or takes no name."""
    unknown = [
        place
        for place in dict.fromkeys(public_texts())
        if place not in OTHERS and not any(place == known or place.startswith(f"{known}.") for known in NO_NAMES)
    ]
    assert [] == unknown


@pytest.mark.parametrize("place", OTHERS)
def test_nothing_else_takes_an_empty_name(place: str, tmp_path: Path) -> None:
    """It is refused with a sentence, before anything is done."""
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    with open_store(url) as store, Prompt(url) as prompt:
        bring_in_store(store, "in_progress", id="run_1")
        before = {**prompt.everything(), "runstate_worker_session": []}
        for word in EMPTY:
            with pytest.raises(ValueError, match=r": is (empty|blank)") as refusal:
                OTHERS[place](store, word)
            wanted = CALLED.get(place, place.rpartition(".")[2])
            assert str(refusal.value).partition(": is ")[0] in (wanted, wanted.rpartition(".")[2])
        assert before == {**prompt.everything(), "runstate_worker_session": []}


def test_a_key_of_metadata_may_be_empty() -> None:
    """The API says how long one may be, and not how short: it is read and written."""
    run = new_run(metadata={"": "x"})
    assert {"": "x"} == Run.from_json(run.to_json()).metadata


def test_calls_are_read_as_they_are() -> None:
    """A recorded call whose name is blank is read; only who makes one is told."""
    assert " " == ToolCall(" ", " ").name


# --- the command ------------------------------------------------------------------------------------------------------

OPTIONS = frozenset(("thread", "assistant", "model", "queue", "queues", "idempotency_key", "actor", "name", "after"))
OPTIONS |= {"before", "run_id", "run_ids", "id", "thread_id", "assistant_id"}
"""Parameters of commands that take a name, or several."""

OTHER_OPTIONS = frozenset(("handler", "url", "outputs", "file", "output", "files", "store", "path", "run", "record"))
OTHER_OPTIONS |= {"listen_url", "statuses", "reason", "instructions", "worker"}
"""Those that take an address, a file, or what is checked by itself."""

NEEDED: Mapping[str, list[str]] = {
    "runs create": ["--thread=t", "--assistant=a", "--model=m"],
    "runs submit": ["run_1", "call_1=sunny"],
    "runs cancel": ["run_1"],
    "runs repeat": ["run_1"],
    "queues pause": ["mail"],
    "queues resume": ["mail"],
    "worker": ["tests.test_names:nothing", "--until-idle"],
}
"""What a command needs. A name that stands alone comes first, an option once more."""


def commands(group: click.Group, above: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{above}{name} ")
        else:
            yield f"{above}{name}", command


def options() -> Iterator[tuple[str, click.Parameter]]:
    for name, command in commands(cli):
        for parameter in command.params:
            if parameter.type is click.STRING:
                yield name, parameter


def test_every_option_is_known() -> None:
    """Each option that takes any text takes a name, or stands among the others."""
    found = {parameter.name for _, parameter in options()}
    assert set() == found - OPTIONS - OTHER_OPTIONS
    assert {"idempotency_key", "actor", "queue", "queues", "name", "after"} <= found


def test_no_command_takes_an_empty_name(url: str) -> None:
    """What an unset variable of a shell leaves is a mistake in the asking: exit code 2, a sentence, nothing moved."""
    with Prompt(url) as prompt:
        before = prompt.everything()
        for name, parameter in options():
            if parameter.name not in OPTIONS:
                continue
            for word in EMPTY[:2]:
                needed = NEEDED.get(name, [])
                if isinstance(parameter, click.Option):
                    arguments = [*name.split(), *needed, parameter.opts[0], word]
                else:
                    arguments = [*name.split(), word, *needed[1:]]
                done = CliRunner().invoke(cli, arguments, env={"RUNSTATE_STORE": url}, catch_exceptions=False)
                assert 2 == done.exit_code, (arguments, done.output)
                assert "is empty" in done.stderr or "is blank" in done.stderr, (arguments, done.output)
        assert before == prompt.everything()


@pytest.mark.parametrize("word", ["", " "])
def test_no_command_takes_an_empty_address(word: str) -> None:
    """Neither from its option nor from the environment."""
    for arguments, env in ((["--store", word], {}), ([], {"RUNSTATE_STORE": word})):
        done = CliRunner().invoke(cli, ["runs", "list", *arguments], env={"RUNSTATE_STORE": None, **env})
        assert (2, "") == (done.exit_code, done.stdout)


@pytest.mark.parametrize("word", ["", " "])
def test_no_command_takes_an_empty_address_to_listen_at(word: str, url: str) -> None:
    """It is refused, and not taken for the store's own."""
    done = CliRunner().invoke(cli, ["runs", "watch", "--store", url, "--listen-url", word])
    assert (2, "") == (done.exit_code, done.stdout)
    assert "listen" in done.stderr or "address" in done.stderr
