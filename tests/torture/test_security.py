"""What SECURITY.md promises: words that mean SQL stay words, bombs are refused, nothing unpickled, no password told."""

from __future__ import annotations

import ast
import asyncio
import inspect
import io
import logging
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch
from urllib.parse import quote

import psycopg
import pytest

import runstate
from runstate import LastError, RequiredAction, Run, RunEvent, ToolCall, TruncationStrategy
from runstate.__main__ import main
from runstate.errors import InvalidRun, RunNotFound, RunstateError, StoreError
from runstate.store import Checkpoint, Lease, Store, StoredRun, open_store
from runstate.store._api.methods import StoreMethods
from runstate.store._worker_types import Settle
from runstate.worker import Context, Worker
from tests.store.support import Prompt, bring_in_store, names
from tests.support.postgres import OwnServer, Server, wait_until
from torture.fuzz.addresses import behind
from torture.fuzz.telling import SECRET

ROOT = Path(runstate.__file__).parent

# --- injection --------------------------------------------------------------------------------------------------------

WORDS = (
    *("'", "''", '"', "`", "\u2019", "\u02bc", "\uff07", "\\", "\\'", "E'\\\\'", "$$", "$1", "$tag$", "?", "?1", "%s"),
    *("%(id)s", "%", "%%", "_", ":id", "@id", "#", "--", "-- \n", "/*", "*/", ";", "'; DROP TABLE runstate_run; --"),
    *("') OR 1=1 --", "' UNION SELECT token FROM runstate_worker_session --", "1; COMMIT", "{a,b}", "{}", "{NULL}"),
    *("NULL", "x' || (SELECT token FROM runstate_worker_session) || '"),
    *('{"a":"b"}', '","b":"', "[]", '["', "$.a", "$[0]", '$."key"'),
    *("a.b[0]", "\\u0000", "\\ud800", "\nx", "x\r\n", "\tx", " x ", "\x01", "\x1b[2J", "x\u2028", "\u202e", "e\u0301"),
    *("\U0001f600", "\ufeff", "\ufffe", "x" * 60, "nobody", "runstate_run", "queued", "null", "0", "\x7f"),
)
"""What comes back exactly as it was given."""

UNKEPT = ("\0", "a\0b", "\ud800", "x\udfff", "\ud83d\ude00"[0])
"""What no database keeps in a column."""


def others(prompt: Prompt) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row there is, and the tables that hold them."""
    names = "SELECT name FROM sqlite_master" if prompt.is_sqlite else "SELECT relname FROM pg_class"
    owned = sorted(row[0] for row in prompt.run(f"{names} ORDER BY 1") if row[0].startswith("runstate"))
    return {**prompt.everything(), "tables": [(name,) for name in owned]}


def demand_unchanged(before: Mapping[str, list[tuple[Any, ...]]], after: Mapping[str, list[tuple[Any, ...]]]) -> None:
    """Demand that what was there is still there, as it was. A worker's session is one of the test's own."""
    for table, rows in before.items():
        if table != "runstate_worker_session":
            assert set(rows) <= set(after[table]), table
    assert before["tables"] == after["tables"]


def test_a_life_in_odd_words(store: Store, prompt: Prompt) -> None:
    """Every text that a run is given in its life comes back exactly, and no other run has moved."""
    bring_in_store(store, "in_progress", id="bystander", thread_id="bystander", metadata={"color": "red"})
    before = others(prompt)
    for number, word in enumerate(WORDS):
        given = names(
            id=f"{word}{number}",
            thread_id=word,
            assistant_id=word,
            model=word,
            instructions=word,
            metadata={word: word, "n": str(number)},
            tools=[{"type": word, word: [word]}],
            response_format={"type": word, word: word},
            queue=word,
            idempotency_key=word,
            actor=word,
        )
        run = store.create(**given)
        assert store.create(**given) == run
        lease = store.open_lease(word)
        assert [run.id] == [claim.run.id for claim in store.claim(lease, 5, queues=[word])]
        found = store.get(run.id)
        assert (word, word, word, word) == (found.thread_id, found.assistant_id, found.model, found.instructions)
        assert {word: word, "n": str(number)} == found.metadata
        assert ({"type": word, word: [word]},) == found.tools
        assert {"type": word, word: word} == found.response_format
        assert word == found.queue
        calls = [ToolCall(word, word, word, extra={f"_{word}": word})]
        assert store.save_checkpoint(lease, found, checkpoint=Checkpoint({"a": 1}), progress=word)
        assert word == store.progress(run.id)
        waiting = store.require_action(run.id, calls, actor=word)
        assert RequiredAction(calls) == waiting.required_action
        store.submit_tool_outputs(run.id, {word: word}, actor=word)
        ended = store.fail(run.id, "server_error", word, actor=word, detail={word: word, "in": [word]})
        assert LastError("server_error", word) == ended.last_error
        entries = store.history(run.id)
        assert [word] * 5 == [entry.actor for entry in entries]
        assert [{word: word, "in": [word]}] == [entry.detail for entry in entries][-1:]
        assert {"tool_outputs": {word: word}} == entries[3].detail
        page = store.list(thread_id=word, queue=word, metadata={word: word}, status="failed")
        assert [run.id] == [one.id for one in page.data]
        assert not store.list(metadata={"color": word}).data
        assert () == store.sweep(actor=word).expired
        assert [] == store.overdue(queue=word, after_s=0)
        store.close_lease(lease)
    demand_unchanged(before, others(prompt))


class Scene:
    """A store with a run to ask for, a lease, and a run that it holds."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.lease = store.open_lease("worker")
        self.stranger = store.open_lease("stranger")
        self.held = self._held("held")
        self.waiting = bring_in_store(store, "requires_action", id="waiting", thread_id="waiting")
        self.ended = bring_in_store(store, "completed", id="ended", thread_id="ended")

    def _held(self, name: str) -> StoredRun:
        run = self.store.create(**names(thread_id=name, queue=name))
        claim = self.store.claim_id(self.lease, run.id)
        assert claim is not None
        return claim.run

    def settle(self, **given: Any) -> object:
        outcome = {"usage": '{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}', **given}
        event = outcome.pop("event", RunEvent.COMPLETE)
        return self.store.settle(self.stranger, [Settle(self.held, event, **outcome)])

    def step(self, name: str, key: str = "") -> object:
        return self.store.save_step(self.lease, self.held, name, key, number=1, result=Checkpoint(1))


Asked = Callable[[Scene, Any], object]
ASKED: dict[str, Asked] = {
    **{
        f"create.{name}": lambda scene, word, name=name: scene.store.create(**names(**{name: word}))  # type: ignore[misc]
        for name in ("thread_id", "assistant_id", "model", "id", "queue", "idempotency_key", "actor", "instructions")
    },
    "create.metadata": lambda scene, word: scene.store.create(**names(metadata={word: "a"})),
    "create.metadata value": lambda scene, word: scene.store.create(**names(metadata={"a": word})),
    "create.tools": lambda scene, word: scene.store.create(**names(tools=[{"type": "a", word: word}])),
    "create.tool_choice": lambda scene, word: scene.store.create(**names(tool_choice=word)),
    "create.response_format": lambda scene, word: scene.store.create(**names(response_format=word)),
    "create.truncation_strategy": lambda scene, word: scene.store.create(
        **names(truncation_strategy=TruncationStrategy(word))
    ),
    "create.one_live_run_per_thread": lambda scene, word: scene.store.create(**names(one_live_run_per_thread=word)),
    "create_many.runs": lambda scene, word: scene.store.create_many([names(), names(id=word, queue=word, actor=word)]),
    "claim.queues": lambda scene, word: scene.store.claim(scene.lease, queues=[word, f"{word}2"]),
    "settle_and_claim.queues": lambda scene, word: scene.store.settle_and_claim(scene.lease, (), 1, queues=[word]),
    "claim_id.run_id": lambda scene, word: scene.store.claim_id(scene.lease, word),
    "claim.lease": lambda scene, word: scene.store.claim(Lease(scene.lease.token, word, 30.0), queues=["nothing"]),
    "take_over.queues": lambda scene, word: scene.store.take_over(scene.lease, queues=[word]),
    "take_over.run_id": lambda scene, word: scene.store.take_over(scene.lease, run_id=word),
    "open_lease.actor": lambda scene, word: scene.store.open_lease(word),
    "save_checkpoint.progress": lambda scene, word: scene.store.save_checkpoint(scene.lease, scene.held, progress=word),
    "steps.run_id": lambda scene, word: scene.store.steps(word),
    "save_step.name": lambda scene, word: scene.step(word),
    "save_step.key": lambda scene, word: scene.step("a", word),
    "step_result.name": lambda scene, word: [scene.step(word), scene.store.step_result(scene.held, word)],
    "step_result.key": lambda scene, word: [scene.step("a", word), scene.store.step_result(scene.held, "a", word)],
    "events_page.run_id": lambda scene, word: scene.store.events_page(word),
    "attempts.run_id": lambda scene, word: scene.store.attempts(word),
    "matching_ids.prefix": lambda scene, word: scene.store.matching_ids(word),
    "save_trace_context.trace_context": lambda scene, word: scene.store.save_trace_context(
        scene.lease, scene.held, word
    ),
    "pause.queue": lambda scene, word: scene.store.pause(word),
    "pause.reason": lambda scene, word: scene.store.pause("paused", reason=word),
    "pause.actor": lambda scene, word: scene.store.pause("paused", actor=word),
    "resume.queue": lambda scene, word: scene.store.resume(word),
    "resume.actor": lambda scene, word: scene.store.resume("paused", actor=word),
    "repeat.run_id": lambda scene, word: scene.store.repeat(word),
    **{
        f"repeat.{name}": lambda scene, word, name=name: scene.store.repeat("ended", **{name: word})  # type: ignore[misc]
        for name in ("queue", "id", "idempotency_key", "actor", "trace_context")
    },
    "overdue.queue": lambda scene, word: scene.store.overdue(word),
    "sweep.actor": lambda scene, word: scene.store.sweep(actor=word),
    "entries.after": lambda scene, word: scene.store.entries(word),
    **{
        f"list.{name}": lambda scene, word, name=name: scene.store.list(**{name: word})  # type: ignore[misc]
        for name in ("thread_id", "queue", "status", "after", "before", "order")
    },
    "list.status of many": lambda scene, word: scene.store.list(status=["queued", word]),
    "list.metadata": lambda scene, word: scene.store.list(metadata={word: "a"}),
    "list.metadata value": lambda scene, word: scene.store.list(metadata={"a": word}),
    **{
        f"{name}.run_id": lambda scene, word, name=name: getattr(scene.store, name)(word)  # type: ignore[misc]
        for name in ("get", "history", "progress")
    },
    **{
        f"{name}.{what}": lambda scene, word, name=name, what=what, more=more: getattr(scene.store, name)(  # type: ignore[misc]
            word if what == "run_id" else "nobody's", *more, **({"actor": word} if what == "actor" else {})
        )
        for name, more in {
            "start": (),
            "require_action": ([ToolCall("c", "n")],),
            "submit_tool_outputs": ({"c": "o"},),
            "request_cancel": (),
            "confirm_cancel": (),
            "complete": (),
            "mark_incomplete": ("max_prompt_tokens",),
            "fail": ("server_error", "m"),
            "expire": (),
        }.items()
        for what in ("run_id", "actor")
    },
    "fail.code": lambda scene, word: scene.store.fail(scene.held.id, word, "m"),
    "mark_incomplete.reason": lambda scene, word: scene.store.mark_incomplete(scene.held.id, word),
    "submit_tool_outputs.outputs": lambda scene, word: scene.store.submit_tool_outputs("waiting", {word: word}),
    "submit_tool_outputs.outputs in a list": lambda scene, word: scene.store.submit_tool_outputs(
        "waiting", [{"tool_call_id": word, "output": word}]
    ),
    **{
        f"settle.{name}": lambda scene, word, name=name: scene.settle(**{name: word})  # type: ignore[misc]
        for name in ("event", "usage", "detail", "required_action", "last_error", "incomplete_details")
    },
}
"""Every text of every public method, each by itself. Of what the runs there hold, none is any of the words."""

BROUGHT_BACK = ("fail.message", "fail.detail", "require_action.calls", "settle.outcomes")
"""Texts that a run is given in `test_a_life_in_odd_words`, and what has none of its own."""


def test_no_text_is_forgotten() -> None:
    """Each parameter of each public method that takes text is asked with every word here."""
    texts = ("str", "JsonObject", "NewRun", "ErrorCode", "IncompleteReason", "Order", "Calls", "ToolCall")
    asked = {name.partition(" ")[0] for name in ASKED} | set(BROUGHT_BACK)
    for name, method in inspect.getmembers(StoreMethods, inspect.isfunction):
        if name.startswith("_"):
            continue
        for parameter in inspect.signature(method).parameters.values():
            told = str(parameter.annotation)
            if any(text in told for text in texts) and name != "create":
                assert f"{name}.{parameter.name}" in asked


def refusal(asked: str, scene: Scene, word: str) -> str | None:
    """Return the sentence if a word is refused: by the library, before the database is asked."""
    refused: Exception
    try:
        ASKED[asked](scene, word)
    except RunstateError as error:
        refused = error
    except ValueError as error:
        refused = error
        assert asked.startswith("list.status"), f"{asked} {word!r}: {error!r}"  # noqa: PT017
    else:
        return None
    assert not isinstance(refused, StoreError), f"{asked} {word!r}: the database was asked: {refused}"
    return str(refused)


def test_every_text_by_itself(store: Store, prompt: Prompt) -> None:
    """It is taken as text, or refused by the library in a sentence; no row that was there has changed."""
    scene = Scene(store)
    bring_in_store(store, "queued", id="bystander", thread_id="bystander", metadata={"color": "red"})
    before = others(prompt)
    for asked in ASKED:
        refused = {word for word in (*WORDS[::2], *UNKEPT, "", "z" * 5000) if refusal(asked, scene, word) is not None}
        demand_unchanged(before, others(prompt))
        assert scene.held == store.get(scene.held.id)
        assert set(UNKEPT) <= refused, asked


def test_a_checkpoint_of_any_text_comes_back(store: Store) -> None:
    """A checkpoint is kept as JSON, in which even what no column can hold is spelled out."""
    scene = Scene(store)
    for word in (*WORDS, *UNKEPT, ""):
        assert store.save_checkpoint(scene.lease, scene.held, checkpoint=Checkpoint({"a": word, word: [word]}))
        assert store.release(scene.lease, scene.held)
        (claim,) = store.take_over(scene.lease, run_id=scene.held.id, queues=["held"], max_attempts=1000)
        assert {"a": word, word: [word]} == claim.checkpoint
        scene.held = claim.run


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("usage", "{}"),
        ("usage", '{"prompt_tokens":"1","completion_tokens":1,"total_tokens":2}'),
        ("last_error", "{}"),
        ("last_error", '{"code":"server_error"}'),
        ("incomplete_details", '{"reason":""}'),
        ("required_action", '{"type":"submit_tool_outputs","submit_tool_outputs":{"tool_calls":[]}}'),
        ("detail", "[]"),
        ("detail", "NaN"),
    ],
)
def test_an_outcome_that_could_not_be_read_again(store: Store, field: str, text: str) -> None:
    """It is refused, and the run stays its worker's: the guards know an object from none, but not a usage."""
    scene = Scene(store)
    given: dict[str, Any] = {"last_error": '{"code":"server_error","message":"m"}', field: text}
    with pytest.raises(InvalidRun, match=field):
        store.settle(scene.lease, [Settle(scene.held, RunEvent.FAIL, **given)])
    assert scene.held == store.get(scene.held.id)


@pytest.mark.parametrize("event", [RunEvent.START, RunEvent.REQUEST_CANCEL, "complete; --", None])
def test_an_event_that_is_no_outcome(store: Store, event: Any) -> None:
    """It is refused in a sentence."""
    scene = Scene(store)
    with pytest.raises(InvalidRun, match="expected the event of an outcome"):
        store.settle(scene.lease, [Settle(scene.held, event)])


# --- bombs ------------------------------------------------------------------------------------------------------------


class Untouched(dict[str, str]):
    """A large object that must be refused before anybody goes through it."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("it is gone through")

    def items(self) -> Any:
        raise AssertionError("it is gone through")


def deep(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = {"a": value}
    return value


def cyclic() -> Any:
    value: dict[str, Any] = {"type": "function"}
    value["self"] = [value]
    return value


BOMBS: dict[str, Callable[[], Any]] = {
    "deep": lambda: deep(100_000),
    "cyclic": cyclic,
    "wide": lambda: {str(number): "x" for number in range(200_000)},
    "huge": lambda: {"a": "x" * 20_000_000},
    "a huge key": lambda: {"x" * 20_000_000: "a"},
    "untouched": lambda: Untouched({str(number): "x" for number in range(17)}),
    "a huge number": lambda: {"a": 10**100_000},
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_metadata_as_a_bomb(store: Store, prompt: Prompt, bomb: str) -> None:
    """It is refused before it is gone through, by every door that takes metadata, in a short sentence."""
    before = prompt.everything()
    made = BOMBS[bomb]()
    record = {**Run.create(thread_id="t", assistant_id="a", model="m").to_dict(), "metadata": made}
    doors: tuple[Callable[[], object], ...] = (
        lambda: store.create(**names(metadata=made)),
        lambda: store.create_many([names(), names(metadata=made)]),
        lambda: store.list(metadata=made),
        lambda: Run.create(thread_id="t", assistant_id="a", model="m", metadata=made),
        lambda: Run.from_dict(record),
    )
    for door in doors:
        with pytest.raises(InvalidRun) as refused:
            door()
        assert 1000 > len(str(refused.value))
    assert before == prompt.everything()


@pytest.mark.parametrize("bomb", ["deep", "cyclic", "a huge number"])
def test_other_bombs(store: Store, prompt: Prompt, bomb: str) -> None:
    """What is deeper than 64 levels, or no JSON, is refused wherever JSON is taken."""
    run = bring_in_store(store, "in_progress")
    before = prompt.everything()
    made = BOMBS[bomb]()
    doors: tuple[Callable[[], object], ...] = (
        lambda: store.create(**names(tools=[{"type": "function", "x": made}])),
        lambda: store.create(**names(response_format={"type": "json_schema", "x": made})),
        lambda: store.fail(run.id, "server_error", "m", detail={"x": made}),
        lambda: store.require_action(run.id, [ToolCall("c", "n", extra={"x": made})]),
        lambda: Run.from_dict({**run.to_dict(), "x": made}),
    )
    for door in doors:
        with pytest.raises(InvalidRun) as refused:
            door()
        assert 3000 > len(str(refused.value))
    assert before == prompt.everything()


def test_a_large_detail_is_refused(store: Store) -> None:
    """An entry's detail has at most a million characters of JSON."""
    run = bring_in_store(store, "in_progress")
    with pytest.raises(InvalidRun, match="is too large: 1000012 characters of JSON, at most 1000000"):
        store.fail(run.id, "server_error", "m", detail={"a": "x" * 1_000_004})


# --- nothing is unpickled, nothing is executed ------------------------------------------------------------------------

BANNED_MODULES = frozenset({"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle"})
BANNED_CALLS = frozenset({"eval", "exec", "compile", "__import__"})
BANNED_ATTRIBUTES = frozenset(
    {
        *(("os", "system"), ("os", "popen"), ("subprocess", "getoutput"), ("subprocess", "getstatusoutput")),
        *(("yaml", "load"), ("yaml", "load_all"), ("yaml", "unsafe_load"), ("yaml", "full_load"), ("yaml", "Loader")),
        *(("tempfile", "mktemp"), ("importlib", "reload")),
    }
)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled_or_executed(path: Path) -> None:
    """No module imports what unpickles, or calls what executes text; no shell is asked."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        imported: list[str] = []
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported = [node.module or ""]
        assert not BANNED_MODULES & {name.partition(".")[0] for name in imported}, node
        if isinstance(node, ast.Call):
            assert not (isinstance(node.func, ast.Name) and node.func.id in BANNED_CALLS), node.lineno
            for keyword in node.keywords:
                is_off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                assert keyword.arg != "shell" or is_off, node.lineno
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in BANNED_ATTRIBUTES, node.lineno


# --- passwords --------------------------------------------------------------------------------------------------------

BAD_URLS = (
    "postgresql://me:hunter2@no.such.host.invalid/db",
    "postgresql://me:hunter2@127.0.0.1:PORT/db",
    "postgresql://me:hunter2@127.0.0.1:PORT,127.0.0.1:PORT/db",
    "postgresql://me:hunter2@127.0.0.1:99999999/db",
    "postgresql://me:x@127.0.0.1:hunter2/db",
    "postgresql://me:hunter2/db",
    "postgresql://me:hunter2@/db?host=/no/such/folder",
    "postgresql://me@127.0.0.1:PORT/db?password=hunter2",
    "postgresql://me@127.0.0.1:PORT/db?password=p%40hunter2",
    "postgresql://me@127.0.0.1:PORT/db?password=hunter2%zz",
    "postgresql://me:hunter2%zz@127.0.0.1:PORT/db",
    "postgresql://me:%68unter2@127.0.0.1:PORT/db",
    "postgresql://me:hun@hunter2@127.0.0.1:PORT/db",
    "postgresql://me@127.0.0.1:PORT/db?sslpassword=hunter2&sslmode=prefer",
    "postgresql://me:hunter2@127.0.0.1:PORT/db?sslmode=nonsense",
    "postgresql://me:hunter2@127.0.0.1:PORT/db?nonsense=1",
    "postgresql://me:hunter2@127.0.0.1:PORT/db?options=-c%20nonsense",
    "postgresql://me:hunter2@[::1/db",
    "postgresql://me:hunter2@[::1]x/db",
    "postgresql:///db?service=runstate",
    "postgresql:///db?service=broken",
    "postgresql:///db?service=missing",
    "host=127.0.0.1 password=hunter2",
    "mysql://me:hunter2@host/db",
    "sqlite://me:hunter2@host/runs.db",
)


@pytest.fixture
def closed_port() -> Iterator[str]:
    """A port where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield str(free.getsockname()[1])


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_port: str) -> None:
    """A file of services, one of them whole, and one that cannot be read."""
    path = tmp_path / "services.conf"
    path.write_text(f"[runstate]\nhost=127.0.0.1\nport={closed_port}\npassword=hunter2\n[broken]\npassword hunter2\n")
    monkeypatch.setenv("PGSERVICEFILE", str(path))


def told_by(error: BaseException) -> str:
    """Return all that an error tells: itself, what is behind it, and its traceback."""
    chain = [f"{one}{one!r}{one.args!r}{getattr(one, '__notes__', '')}" for one in behind(error)]
    return "".join([*chain, *traceback.format_exception(error)])


def shown_in_locals(error: BaseException) -> set[tuple[str, str]]:
    """Return the local variables of the library's frames whose repr holds the password, with their functions."""
    found: set[tuple[str, str]] = set()
    for one in behind(error):
        for frame in traceback.TracebackException.from_exception(one, capture_locals=True).stack:
            if Path(frame.filename).is_relative_to(ROOT):
                found |= {(frame.name, name) for name, held in (frame.locals or {}).items() if SECRET in held}
    return found


@pytest.mark.parametrize("form", BAD_URLS)
def test_no_password_in_an_error(
    form: str, closed_port: str, services: None, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither sentence, arguments, causes, traceback nor log hold it; of local variables only the address itself."""
    caplog.set_level(logging.DEBUG)
    url = form.replace("PORT", closed_port)
    with pytest.raises(StoreError) as refused:
        open_store(url, wait_s=0)
    error = refused.value
    error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next  # not this test's own line
    assert SECRET not in told_by(error)
    assert SECRET not in caplog.text
    assert ("", "") == capfd.readouterr()
    # Who asks for a traceback with local variables sees what was handed to `open_store`: SECURITY.md says so.
    readers = set() if "cannot connect" in str(error) else {"database_at", "_told", "_sqlite", "_postgres", "__init__"}
    shown = shown_in_locals(error)
    assert {function for function, _ in shown} <= {"open_store", *readers}
    assert {name for function, name in shown if function == "open_store"} <= {"url"}


COMMANDS = (
    ["runs", "list"],
    ["runs", "show", "run_1"],
    ["runs", "cancel", "run_1"],
    ["doctor"],
    ["migrate"],
)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_password_on_the_screen(words: list[str], closed_port: str, services: None) -> None:
    """No command tells the password of a store that it cannot open, given as an option or by the variable."""
    for form in BAD_URLS:
        if "no.such.host" in form and words[0] != "doctor":
            continue  # asking for a name takes its time
        out = io.StringIO()
        argv = ["runstate", *words, "--store", form.replace("PORT", closed_port)]
        with patch.multiple(sys, argv=argv, stdout=out, stderr=out), pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (2, 3)
        assert SECRET not in out.getvalue()
        assert "Traceback" not in out.getvalue()


def test_no_password_on_the_screen_of_a_worker_that_waits(closed_port: str) -> None:
    """A worker whose store is away says so, and asks again until it is stopped."""
    url = f"postgresql://me:{SECRET}@127.0.0.1:{closed_port}/db"
    command = [sys.executable, "-m", "runstate", "worker", "json:loads", "-v", "--store", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        assert running.stdout is not None
        said = running.stdout.readline()
        running.terminate()
        said += running.stdout.read()
    assert 0 == running.returncode, said
    assert "cannot connect" in said
    assert SECRET not in said
    assert "Traceback" not in said


@pytest.fixture
def guarded_url(postgres_server: Server) -> Iterator[str]:
    """The URL of a store for somebody whose password the server wants to know."""
    if not isinstance(postgres_server, OwnServer):
        pytest.skip("needs a server of the tests' own")
    url = postgres_server.create_database()
    open_store(url, migrate=True).close()
    rules = postgres_server.home / "data" / "pg_hba.conf"
    as_it_was = rules.read_text(encoding="utf-8")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE runstate_guarded LOGIN SUPERUSER PASSWORD 'hunter2'")
        rules.write_text(f"local all runstate_guarded scram-sha-256\n{as_it_was}", encoding="utf-8")
        connection.execute("SELECT pg_reload_conf()")
    yield url.replace("postgres@", "runstate_guarded:hunter2@")
    rules.write_text(as_it_was, encoding="utf-8")
    postgres_server.drop_database(url)
    with psycopg.connect(postgres_server.address, autocommit=True) as connection:
        connection.execute("SELECT pg_reload_conf()")
        connection.execute("DROP ROLE runstate_guarded")


def test_a_password_at_a_real_server(
    guarded_url: str, postgres_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong one is refused untold; a right one is in no repr, and not in what is said when the server goes away."""
    caplog.set_level(logging.DEBUG)
    found: list[StoreError] = []

    def is_refused() -> bool:
        try:
            open_store(guarded_url.replace(SECRET, f"{SECRET}-wrong"), wait_s=2).close()
        except StoreError as error:
            found.append(error)
        return bool(found)

    wait_until(is_refused, "the server to read its rules")
    (refused,) = found
    assert str(refused).startswith("cannot connect to postgresql://")
    assert not refused.retryable
    assert SECRET not in told_by(refused)
    with open_store(guarded_url, wait_s=1) as store:
        run = store.create(**names())
        assert SECRET not in f"{store!r}{store._database!r}{store.display_url}{store.aio!r}{store._notifier!r}{run!r}"
        asyncio.run(work_until_away(store, guarded_url, caplog))
        for ask in (lambda: store.create(**names()), lambda: store.get(run.id), store.counts, store.sweep):
            with pytest.raises(StoreError) as away:
                cast("Callable[[], object]", ask)()
            assert SECRET not in told_by(away.value)
            assert set() == shown_in_locals(away.value)
    assert SECRET not in caplog.text


async def work_until_away(store: Store, url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Let a worker work, take its database away, and wait until it has said so."""

    async def answer(ctx: Context) -> None:
        await asyncio.sleep(0)

    with suppress(StoreError):
        async with Worker(store, answer, drain_s=0.0):
            while not store.list(status="completed").data:
                await asyncio.sleep(0.01)
            name = url.partition("?")[0].rpartition("/")[2]
            with psycopg.connect(url.replace(f"/{name}", "/postgres"), autocommit=True) as connection:
                connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
                everybody = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
                connection.execute(everybody, [name])
            async with asyncio.timeout(60):
                while not [record for record in caplog.records if record.name.startswith("runstate")]:
                    await asyncio.sleep(0.01)


def test_a_token_is_not_shown(store: Store) -> None:
    """The lease's token, which is all that a worker's writes are judged by, is in no repr and in no error."""
    lease = store.open_lease("worker")
    assert str(lease.token) not in repr(lease)
    run = store.create(**names())
    claim = store.claim_id(lease, run.id)
    assert claim is not None
    assert str(lease.token) not in f"{claim!r}{claim.run!r}{store.get(run.id)!r}{store.history(run.id)!r}"
    store.close_lease(lease)
    with pytest.raises(RunNotFound):
        store.claim_id(lease, "nobody's") or store.get("nobody's")


def test_a_password_is_in_no_file_name(tmp_path: Path) -> None:
    """SQLite's addresses have no password, and one that is put there is not made a file of."""
    with pytest.raises(StoreError):
        open_store(f"sqlite://me:{quote('hunter2')}@/{tmp_path}/runs.db")
    assert [] == list(tmp_path.iterdir())
