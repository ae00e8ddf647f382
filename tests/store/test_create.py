"""How runs come to be in a store: what they keep, what is refused, and under which key."""

from __future__ import annotations

import datetime as dt
import random
import secrets
import threading
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import psycopg
import pytest

from runstate import InvalidRun, ManualClock, Run, TruncationStrategy
from runstate.errors import IdempotencyKeyReused, RunNotFound, StoreError
from runstate.store import Store, open_store
from runstate.traces import judge
from tests.store.support import Prompt, at_once, birth, insert, names
from tests.support.lifecycle import KEYS, NOW
from tests.support.postgres import Server, wait_until

FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"a": [1, 2.5, None, True, {"b": []}]}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "é": "ü\U0001f600"}}}

SETTINGS: Mapping[str, tuple[object, ...]] = {
    "instructions": ("be brief", "", "a\nb\t'\"\\ %s ? :x $1 \U0001f600 é", "x" * 100_000),
    "tools": ([], [FUNCTION], [FUNCTION, {"type": "code_interpreter"}], ({"type": "file_search"},)),
    "metadata": ({}, {"a": "b"}, {"": ""}, {f"k{n}": "v" * 512 for n in range(16)}, {"k" * 64: "é" * 512}),
    "max_prompt_tokens": (256, 1, 2**62),
    "max_completion_tokens": (256, 16),
    "truncation_strategy": (TruncationStrategy("last_messages", 3), TruncationStrategy("auto", extra={"a": 1})),
    "tool_choice": (
        "none",
        "required",
        "auto",
        {"type": "function", "function": {"name": "f"}},
        {"type": "file_search"},
    ),
    "parallel_tool_calls": (False, True),
    "response_format": ("auto", {"type": "text"}, {"type": "json_object"}, SCHEMA),
    "temperature": (0, 0.0, 1, 1.0, 2, 0.7, 1e-9),
    "top_p": (0, 1, 1.0, 0.5),
}
EACH = [{setting: value} for setting, values in SETTINGS.items() for value in values]
TOGETHER = {setting: values[-1] for setting, values in SETTINGS.items()}


def as_kept(run: Any) -> dict[str, tuple[type, str]]:
    """Return the run's values with their types: 1 is not 1.0, nor True."""
    return {key: (type(getattr(run, key)), repr(getattr(run, key))) for key in KEYS if key != "object"}


def test_every_setting_survives(any_store: Store, clock: ManualClock) -> None:
    """What a run is created with comes back from `create`, `get`, `list` and a claim as `Run.create` has it."""
    lease = any_store.open_lease("w1")
    for number, given in enumerate([*EACH, TOGETHER, {}]):
        wanted = names(id=f"run_{number}", **given)
        twin = Run.create(**wanted)  # type: ignore[misc]
        run = any_store.create(**wanted)
        assert as_kept(twin) == as_kept(run), given
        assert twin.to_dict() == run.to_dict(), given
        assert run == any_store.get(run.id) == any_store.list().data[0]
        (claim,) = any_store.claim(lease)
        twin.start()
        assert as_kept(twin) == as_kept(claim.run), given
        assert twin.to_dict() == claim.run.to_dict() == any_store.get(run.id).to_dict(), given


def test_many_settings_at_once(any_store: Store, clock: ManualClock) -> None:
    """Runs created together keep each its own."""
    wanted = [names(id=f"run_{n}", **given) for n, given in enumerate([*EACH, TOGETHER, {}])]
    runs = any_store.create_many(wanted)
    twins = [Run.create(**given) for given in wanted]  # type: ignore[misc]
    assert [as_kept(twin) for twin in twins] == [as_kept(run) for run in runs]
    assert runs == [any_store.get(run.id) for run in runs]
    assert [run.seq for run in runs] == sorted(run.seq for run in runs)
    assert [()] * len(runs) == [judge(run) for run in runs]


def test_a_birth(store: Store, prompt: Prompt, clock: ManualClock) -> None:
    """A new run is queued at version 1, with an id and a time of its own, and its birth is its first entry."""
    run = store.create(**names(actor="web", queue="slow", priority=7, expires_in_s=30))
    assert (NOW, NOW + 30, NOW * 1_000_000) == (run.created_at, run.expires_at, run.changed_at_us)
    assert ("queued", 1, None, None, "web") == (run.status, run.version, run.event, run.source, run.actor)
    assert ("slow", 7, 0, True) == (run.queue, run.priority, run.attempt, run.claimable)
    assert run.id.startswith("run_")
    (entry,) = store.history(run.id)
    assert (run.id, 1, None, None, "queued", run.changed_at_us, "web", None) == (
        *(entry.run_id, entry.version, entry.event, entry.source),
        *(entry.target, entry.at_us, entry.actor, entry.detail),
    )
    assert 1 == len(prompt.rows("runstate_run")) == len(prompt.rows("runstate_history"))
    assert [] == prompt.rows("runstate_run_config")


# --- what no run can be -----------------------------------------------------------------------------------------------

LONE = "\ud800"
NONE_SUCH: list[tuple[dict[str, Any], str]] = [
    ({"thread_id": ""}, "thread_id: is empty"),
    ({"thread_id": 5}, "thread_id: expected a string, got an integer"),
    ({"model": None}, "model: expected a string, got null"),
    *(
        ({name: f"a{bad}b"}, f"{name}: holds {what}")
        for name in ("thread_id", "assistant_id", "model", "id", "queue", "actor", "idempotency_key")
        for bad, what in (("\0", "a NUL character"), (LONE, "half of a character"), ("\udfff", "half of a character"))
    ),
    ({"instructions": "\0"}, "instructions: holds a NUL character"),
    ({"metadata": {"a": LONE}}, "metadata.a: holds half of a character"),
    ({"metadata": {"a\0": "b"}}, r"metadata.a\x00: holds a NUL character"),
    ({"tools": [{"type": "function", "x": ["\0"]}]}, r"tools[0].x[0]: holds a NUL character"),
    *(
        ({name: "".join(map(chr, range(1000, 1501)))}, f"{name}: is too long: 501 characters, at most 500")
        for name in ("thread_id", "id", "queue", "idempotency_key")
    ),
    ({"metadata": {"a": 1}}, "metadata.a: expected a string, got an integer"),
    ({"metadata": {str(n): "" for n in range(17)}}, "metadata: too many properties"),
    ({"temperature": 3}, "temperature: expected a number from 0 to 2, got 3"),
    ({"expires_in_s": 0}, "expires_in_s: expected at least 1, got 0"),
    ({"expires_in_s": 10**12}, "is past the year 9999"),
    ({"queue": ""}, "queue: is empty"),
    ({"queue": None}, "queue: expected a string, got null"),
    ({"queue": ["a"]}, "queue: expected a string, got an array"),
    ({"priority": True}, "priority: expected an integer of 32 bits, got True"),
    ({"priority": 2**31}, "priority: expected an integer of 32 bits, got 2147483648"),
    ({"priority": "1"}, "priority: expected an integer of 32 bits, got '1'"),
    ({"not_before": "soon"}, "not_before: expected a number, got a string"),
    ({"not_before": -1}, "not_before: expected a number from 0"),
    ({"not_before": float("nan")}, "not_before: expected a number from 0"),
    ({"not_before": float("inf")}, "not_before: expected a number from 0"),
    ({"not_before": dt.datetime(2030, 1, 1)}, "not_before: is a datetime without a time zone"),  # noqa: DTZ001
    ({"one_live_run_per_thread": "always"}, "one_live_run_per_thread: expected 'reject' or 'queue', got 'always'"),
    ({"one_live_run_per_thread": ["queue"]}, "one_live_run_per_thread: expected 'reject' or 'queue', got an array"),
    ({"actor": 5}, "actor: expected a string, got an integer"),
    ({"idempotency_key": 5}, "idempotency_key: expected a string, got an integer"),
]


def test_what_no_run_can_be(store: Store, prompt: Prompt) -> None:
    """It is refused with a sentence that names it, alone and among many, and nothing is created."""
    before = prompt.everything()
    for given, sentence in NONE_SUCH:
        with pytest.raises(InvalidRun) as refused:
            store.create(**names(**given))
        assert sentence in str(refused.value), given
        with pytest.raises(InvalidRun):
            store.create_many([names(), names(**given), names()])
    assert before == prompt.everything()


ODD = [
    *("'; DROP TABLE runstate_run; --", '"', "\\", "%s", "%(now)s", "?", ":now", "$1", "{}", "NULL", "a\nb\r\n\t"),
    *(
        "\x01\x7f",
        "\u202e\u200b",
        "\U0001f600",
        "é",
        "e\u0301",
        "ꙮ" * 500,
        " x ",
        "x" * 500,
        "-- ",
        "/*",
        "E'\\0'",
        "\ufeff",
    ),
]


def test_odd_text_is_kept(any_store: Store) -> None:
    """Text is only ever data: as an id, a thread, a queue, an actor, a key, metadata, a message, an output."""
    for odd in ODD:
        given = dict.fromkeys(("id", "thread_id", "assistant_id", "model", "queue", "actor", "idempotency_key"), odd)
        run = any_store.create(**names(**given, instructions=odd, metadata={odd[:64]: odd[:512]}))
        assert run == any_store.get(odd) == any_store.create(**names(**given, instructions=odd, metadata=run.metadata))
        assert (odd, odd, odd, odd) == (run.id, run.thread_id, run.queue, run.actor)
        for page in (
            any_store.list(thread_id=odd),
            any_store.list(queue=odd),
            any_store.list(metadata={odd[:64]: odd[:512]}),
        ):
            assert (run,) == page.data
        assert () == any_store.list(after=odd, order="asc").data
        lease = any_store.open_lease(odd)
        (claim,) = any_store.claim(lease, queues=[odd])
        assert any_store.save_checkpoint(lease, claim.run, progress=odd)
        failed = any_store.fail(odd, "server_error", odd, actor=odd, detail={odd: odd})
        assert failed.last_error is not None
        assert odd == failed.last_error.message
        entry = any_store.history(odd)[-1]
        assert (odd, odd, {odd: odd}) == (entry.run_id, entry.actor, entry.detail)


def test_long_text_is_kept(any_store: Store) -> None:
    """What is looked for may have 500 characters, whatever they are; all else is as long as it is."""
    dice = random.Random(1)
    some = "".join(chr(dice.randrange(0x10000, 0x20000)) for _ in range(500))
    given = names(id=some, thread_id=some, queue=some, idempotency_key=some, actor=some * 40, instructions=some * 400)
    run = any_store.create(**given)
    assert run == any_store.get(some) == any_store.list(thread_id=some, queue=some).data[0] == any_store.create(**given)
    assert (some * 40, some * 400) == (run.actor, run.instructions)


def test_messages_and_outputs_may_hold_anything(any_store: Store) -> None:
    """What is only handed on, and never looked for, may hold even what no column of text can."""
    from runstate import ToolCall

    run = any_store.create(**names())
    any_store.start(run.id)
    call = ToolCall("call\0", "f", '{"a":"\0\ud800"}')
    waiting = any_store.require_action(run.id, [call])
    assert waiting == any_store.get(run.id)
    assert waiting.required_action is not None
    assert (call,) == waiting.required_action.tool_calls
    any_store.submit_tool_outputs(run.id, {"call\0": "\0\udc00"})
    (claim,) = any_store.claim(any_store.open_lease("w1"))
    assert {"call\0": "\0\udc00"} == claim.tool_outputs
    failed = any_store.fail(run.id, "server_error", "\0\ud800", detail={"\0": "\ud800"})
    assert failed.last_error is not None
    assert "\0\ud800" == failed.last_error.message
    assert {"\0": "\ud800"} == any_store.history(run.id)[-1].detail


def test_a_key_for_a_run_that_has_another_or_none(store: Store, prompt: Prompt, clock: ManualClock) -> None:
    """A key that could not be recorded is not accepted: under it a second run would come to be the next time."""
    store.create(**names(id="run_1", instructions="x"))
    store.create(**names(id="run_2", idempotency_key="key_2"))
    before = prompt.everything()
    for taken in (
        names(id="run_1", instructions="x", idempotency_key="key_1"),
        names(id="run_2", idempotency_key="key_1"),
    ):
        with pytest.raises(InvalidRun, match=f"id: is taken: there is a run {taken['id']} already"):
            store.create(**taken)
    with pytest.raises(IdempotencyKeyReused, match="instructions"):
        store.create(**names(id="run_1", instructions="x", idempotency_key="key_2"))
    assert before == prompt.everything()
    assert "run_2" == store.create(**names(id="run_2", idempotency_key="key_2")).id
    assert "run_2" == store.create(**names(idempotency_key="key_2")).id


# --- many at once -----------------------------------------------------------------------------------------------------


def test_many_are_all_or_none(store: Store, prompt: Prompt, clock: ManualClock) -> None:
    """One that cannot be created keeps all of its company away, whatever stands in its way."""
    store.create(**names(id="taken"))
    store.create(**names(id="head", thread_id="busy", one_live_run_per_thread="reject"))
    store.create(**names(id="kept", idempotency_key="key_1"))
    before = prompt.everything()
    for wrong, kind in (
        (names(id="taken", model="other"), "InvalidRun"),
        (names(thread_id="busy", one_live_run_per_thread="reject", instructions="x"), "ThreadBusy"),
        (names(model="other", idempotency_key="key_1", instructions="x"), "IdempotencyKeyReused"),
        (names(model=""), "InvalidRun"),
    ):
        for company in ([names(), wrong], [wrong, names(instructions="y")], [*[names()] * 50, wrong, *[names()] * 50]):
            with pytest.raises(Exception) as refused:
                store.create_many(company)
            assert kind == type(refused.value).__name__
            assert before == prompt.everything()


@pytest.mark.slow
def test_ten_thousand_at_most(any_store: Store, clock: ManualClock) -> None:
    """10,000 come to be in one commit, in order; one more is refused before anything is asked of the database."""
    assert [] == any_store.create_many([])
    with pytest.raises(InvalidRun, match="expected at most 10000 runs at once, got 10001"):
        any_store.create_many([names()] * 10_001)
    assert () == any_store.list().data
    runs = any_store.create_many([names()] * 10_000)
    assert 10_000 == len({run.id for run in runs}) == any_store.counts()[runs[0].status]
    assert {1} == {right.seq - left.seq for left, right in pairwise(runs)}


@pytest.mark.parametrize("given", ["ab", [1], [None], [["thread_id"]]])
def test_many_of_something_else(any_store: Store, given: Any) -> None:
    """What is no object is refused with its place."""
    with pytest.raises(InvalidRun, match=r"\[0\]: expected what `create` takes, as an object, got"):
        any_store.create_many(given)


def test_the_same_id_twice_in_one_call(any_store: Store) -> None:
    """Asked for twice alike it is one run; asked for differently, it is taken, and none of them is created."""
    one, two = any_store.create_many([names(id="run_1", instructions="x"), names(id="run_1", instructions="x")])
    assert one == two == any_store.get("run_1")
    for given in ({"model": "other"}, {"instructions": "y"}, {"queue": "other"}, {"priority": 1}):
        with pytest.raises(InvalidRun, match="id: is taken: there is a run run_2 already"):
            any_store.create_many(
                [names(id="run_2", instructions="x"), names(id="run_2", **{"instructions": "x", **given})]
            )
        with pytest.raises(RunNotFound):
            any_store.get("run_2")


def test_an_id_that_is_taken(store: Store, prompt: Prompt, clock: ManualClock) -> None:
    """The very request again, after a lost answer, gets the run; another request is told that the id is taken."""
    run = store.create(**names(id="run_1", metadata={"a": "b"}))
    moved = store.start(run.id)
    before = prompt.everything()
    assert moved == store.create(**names(id="run_1", metadata={"a": "b"}))
    for given in ({"metadata": {"a": "c"}}, {"model": "other"}, {}, {"metadata": {"a": "b"}, "thread_id": "other"}):
        with pytest.raises(InvalidRun, match="id: is taken: there is a run run_1 already"):
            store.create(**names(id="run_1", **given))
    assert before == prompt.everything()


# --- keys -------------------------------------------------------------------------------------------------------------


def test_under_a_key_there_is_one_run(store: Store, prompt: Prompt, clock: ManualClock) -> None:
    """Asking again under the same key returns the run as it stands, however often and wherever it has got to."""
    given = names(idempotency_key="key_1", instructions="be brief", actor="web")
    run = store.create(**given)
    before = prompt.everything()
    assert run == store.create(**given) == store.create(**names(**{**given, "actor": "again"}))
    assert [run] * 3 == store.create_many([given] * 3)
    assert before == prompt.everything()
    started = store.start(run.id)
    assert started == store.create(**given)
    failed = store.fail(run.id, "server_error", "x")
    assert failed == store.create(**given)
    assert 1 == len(store.list().data) == len(prompt.rows("runstate_run_config"))


def test_under_a_key_and_an_id(store: Store, prompt: Prompt, clock: ManualClock) -> None:
    """Who brings an id of its own, too, gets the same run again: its answer may have been lost."""
    given = names(id="run_1", idempotency_key="key_1", instructions="be brief", metadata={"a": "b"})
    run = store.create(**given)
    before = prompt.everything()
    assert run == store.create(**given)
    assert run == store.create(**names(**{**given, "id": "run_2"}))
    assert before == prompt.everything()


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"model": "other"}, "model"),
        ({"thread_id": "other"}, "thread_id"),
        ({"instructions": "x"}, "instructions"),
        ({"metadata": {"a": "c"}}, "metadata"),
        ({"temperature": 0.5}, "temperature"),
        ({"queue": "other"}, "queue"),
        ({"priority": 1}, "priority"),
    ],
)
def test_a_key_of_another_request(
    store: Store, prompt: Prompt, clock: ManualClock, given: dict[str, Any], field: str
) -> None:
    """Another request under the key is refused, and told which run it belongs to and what differs."""
    run = store.create(**names(idempotency_key="key_1", metadata={"a": "b"}))
    before = prompt.everything()
    with pytest.raises(IdempotencyKeyReused) as reused:
        store.create(**names(**{"idempotency_key": "key_1", "metadata": {"a": "b"}, **given}))
    assert ("key_1", run.id, (field,)) == (reused.value.key, reused.value.run_id, reused.value.fields)
    assert f"the idempotency key 'key_1' belongs to run {run.id}, which was created with other values ({field})" in str(
        reused.value
    )
    assert before == prompt.everything()


def test_a_key_raced_for(store: Store, store_url: str, clock: ManualClock) -> None:
    """Of twenty threads over four stores that create under one key at once, all get the same run."""
    found: list[str] = []
    at_once(store_url, lambda own: found.append(own.create(**names(idempotency_key="key_1", instructions="x")).id))
    assert (20, 1) == (len(found), len(set(found)))
    assert 1 == len(store.list().data)


def test_an_id_raced_for_by_processes(store: Store, store_url: str, prompt: Prompt) -> None:
    """Who meets another process creating the same run waits for it, and gets that run."""
    if prompt.is_sqlite:
        pytest.skip("its writers wait before they begin")
    given = names(id="run_1", instructions="x", idempotency_key="key_1")
    found: list[Any] = []
    with open_store(store_url) as other, Prompt(store_url) as watch:
        prompt.run("BEGIN")
        prompt.run("INSERT INTO runstate_run_config (id, config) VALUES ('run_1', '{\"instructions\":\"x\"}')")
        waiting = threading.Thread(target=lambda: found.append(other.create(**given)))
        waiting.start()
        blocked = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        wait_until(lambda: watch.run(blocked) != [(0,)], "the other to wait")
        prompt.run(*insert(birth("run_1", thread_id="thread_1", idempotency_key="key_1")))
        prompt.run("COMMIT")
        waiting.join(20)
    assert [store.get("run_1")] == found
    assert "x" == found[0].instructions


def test_a_name_that_is_missing(store: Store) -> None:
    """Three things are given, and they are not the three names."""
    with pytest.raises(TypeError, match="model"):
        store.create(thread_id="t", assistant_id="a", idempotency_key="k")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="assistant_id"):
        store.create(thread_id="t", model="m", queue="q")  # type: ignore[call-arg]
    assert () == tuple(store.list().data)


@pytest.mark.parametrize("asked", ["", "client_encoding=latin1"])
def test_another_encoding(asked: str, postgres_server: Server) -> None:
    """Text arrives as it was given, whatever the database and the address speak; what cannot be kept is refused."""
    name = f"latin_{secrets.token_hex(4)}"
    with psycopg.connect(postgres_server.address, autocommit=True) as connection:
        made = f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
        connection.execute(made.encode())
        try:
            url = postgres_server.url(name)
            url += f"{'&' if '?' in url else '?'}{asked}" if asked else ""
            with open_store(url, migrate=True) as store:
                run = store.create(thread_id="th\u00e9", assistant_id="a", model="m", metadata={"k": "\u00e9"})
                again = store.get(run.id)
                assert ("th\u00e9", {"k": "\u00e9"}) == (again.thread_id, again.metadata)
                with pytest.raises(StoreError) as refused:
                    store.create(thread_id="\u20ac", assistant_id="a", model="m")
                assert isinstance(refused.value.__cause__, psycopg.errors.UntranslatableCharacter)
                assert [run.id] == [kept.id for kept in store.list().data]
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
