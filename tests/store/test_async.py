"""The store for coroutines and for many at once: the same answers, nobody wedged, no neighbour spoilt."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from runstate import IllegalTransition, ManualClock, RunEvent, TerminalStatus, Usage
from runstate.errors import RunNotFound, RunstateError, StoreError, StoreUnavailable
from runstate.store import AsyncStore, BoundStore, Checkpoint, Lease, Store, StoredRun, open_store
from runstate.store._api.async_store import AsyncMethods
from runstate.store._notifier import Change
from runstate.store._worker_types import Settle
from tests.store.support import Prompt, ask_store, held_back, names
from tests.support.judge import judge_by_sql
from tests.support.lifecycle import CALL
from tests.support.postgres import wait_until

LIMIT = 60


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    """Run a coroutine to its end, but not for ever."""

    async def bounded() -> Any:
        return await asyncio.wait_for(work(), LIMIT)

    return asyncio.run(bounded())


def ask_later(store: Store, run_id: str, event: str, **given: Any) -> Awaitable[StoredRun]:
    """Ask the event through the twin's typed method; return what is to be awaited."""
    return cast("Awaitable[StoredRun]", ask_store(store.aio, run_id, event, **given))


PUBLIC = {
    name for name, member in inspect.getmembers(BoundStore) if not name.startswith("_") and inspect.isfunction(member)
}
"""What can be asked of a store in all its forms."""


def test_every_method_has_its_twin() -> None:
    """No method is forgotten; each twin tells the same, and its types are the method's (see test_types)."""
    assert PUBLIC == {name for name in PUBLIC if name in {**vars(AsyncMethods), **vars(AsyncStore)}}
    assert {"create", "get", "list", "claim", "settle", "sweep", "prune", "entries", "counts", "start"} < PUBLIC
    for name in PUBLIC:
        assert getattr(BoundStore, name).__doc__ == {**vars(AsyncMethods), **vars(AsyncStore)}[name].__doc__, name


def script(lease: Lease) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Return calls of every method, refusals among them, that leave the same runs behind wherever they are made."""
    call: Callable[..., tuple[str, tuple[Any, ...], dict[str, Any]]]
    call = lambda name, *arguments, **given: (name, arguments, given)  # noqa: E731
    return [
        call("create", **names(id="run_1", metadata={"a": "b"}, idempotency_key="key")),
        call("create", **names(id="run_1", metadata={"a": "b"}, idempotency_key="key")),
        call("create", **names(id="run_9", idempotency_key="key")),
        call("create", **names(model="")),
        call("create_many", [names(id=f"run_{n}") for n in (2, 3, 4)]),
        call("create_many", [names(id="run_8"), names(id="run_2", model="other")]),
        call("create", **names(id="run_5", thread_id="busy", one_live_run_per_thread="reject")),
        call("create", **names(id="run_6", thread_id="busy", one_live_run_per_thread="reject")),
        call("create", **names(id="run_7", thread_id="busy", one_live_run_per_thread="queue")),
        call("get", "run_1"),
        call("get", "nobody"),
        call("get", 5),
        call("start", "run_1", actor="a"),
        call("start", "run_1", actor="a"),
        call("require_action", "run_1", [CALL], actor="a"),
        call("submit_tool_outputs", "run_1", {}, actor="a"),
        call("submit_tool_outputs", "run_1", {"call_1": "x"}, actor="a"),
        call("request_cancel", "run_1", actor="a", expected_version=77),
        call("request_cancel", "run_1", actor="a"),
        call("request_cancel", "run_1", actor="a"),
        call("complete", "run_1"),
        call("start", "run_2"),
        call("mark_incomplete", "run_2", "max_prompt_tokens", Usage(1, 2)),
        call("start", "run_3"),
        call("request_cancel", "run_3"),
        call("confirm_cancel", "run_3"),
        call("fail", "run_4", "server_error", "x", detail={"a": 1}),
        call("expire", "run_5", expected_version=1),
        call("claim_id", lease, "run_7"),
        call("claim", lease, 5),
        call("list", order="asc"),
        call("list", limit=0),
        call("list", status="failed"),
        call("history", "run_1"),
        call("counts"),
        call("owned", lease),
        call("heartbeat", lease),
        call("is_anything_due"),
        call("overdue"),
        call("sweep"),
        call("prune", 0, dry_run=True),
        call("prune", 10_000),
        call("take_over", lease, 5),
        call("close_lease", lease),
        call("claim", lease, 5),
        call("sweep"),
    ]


def comparable(answer: Any, lease: Lease) -> Any:
    """Return an answer as a text in which the numbers that a store gives are left out."""
    told = repr(answer)
    if isinstance(answer, dict) and all(isinstance(key, int) for key in answer):
        told = repr([str(value) for value in answer.values()])
    return told.replace(str(lease.token), "token")


def asked(store: Store) -> list[str]:
    lease = store.open_lease("w1")
    found = []
    for name, arguments, given in script(lease):
        try:
            found.append(comparable(getattr(store, name)(*arguments, **given), lease))
        except (RunstateError, ValueError) as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


async def asked_later(store: Store) -> list[str]:
    lease = await store.aio.open_lease("w1")
    found = []
    for name, arguments, given in script(lease):
        try:
            found.append(comparable(await getattr(store.aio, name)(*arguments, **given), lease))
        except (RunstateError, ValueError) as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


def seqs_hidden(told: list[str]) -> list[str]:
    return [re.sub(r"cursor='[^']*'", "cursor", re.sub(r"\{\d+: ", "{seq: ", one)) for one in told]


def test_the_twin_answers_alike(any_url: str, store_at: Callable[[str], Store], clock: ManualClock) -> None:
    """The same calls get the same answers and refusals from the store, from its twin, and from one in memory."""
    memory = open_store("sqlite:///:memory:")
    with memory, store_at(any_url) as store:
        expected = seqs_hidden(asked(memory))
        assert expected == seqs_hidden(run(lambda: asked_later(store)))
    kinds = {told.split(":")[0] for told in expected if told.split(":")[0].isidentifier()}
    assert {
        "InvalidRun",
        "IdempotencyKeyReused",
        "ThreadBusy",
        "RunNotFound",
        "IllegalTransition",
        "VersionConflict",
    } < kinds


@pytest.fixture
def store_at() -> Callable[[str], Store]:
    return open_store


def test_settling_later(any_store: Store, clock: ManualClock) -> None:
    """A worker of coroutines claims, notes, settles and releases."""
    aio = any_store.aio

    async def work() -> None:
        await aio.create_many([names(id="run_1"), names(id="run_2")])
        lease = await aio.open_lease("w1")
        one, two = await aio.claim(lease, 2)
        assert await aio.save_checkpoint(lease, one.run, checkpoint=Checkpoint(1))
        turned = await aio.settle(lease, [Settle(one.run, RunEvent.COMPLETE)])
        assert {} == turned.refused
        assert await aio.release(lease, two.run)
        assert "completed" == (await aio.get("run_1")).status
        cursor = await aio.latest_cursor()
        assert () == await aio.entries(cursor)
        assert 2 == len((await aio.list()).data)

    run(work)


# --- many at once -----------------------------------------------------------------------------------------------------


def test_fifty_tasks_and_twenty_threads(store: Store, store_url: str) -> None:
    """All are answered; of each run's moves those that won are in its history, with no version left out."""
    store.create_many([names(id=f"run_{n}") for n in range(10)])
    answers: list[str] = []

    def ask(number: int) -> None:
        for turn in range(10):
            run_id = f"run_{(number + turn) % 10}"
            event = ("start", "request_cancel", "complete", "fail", "expire")[(number * 3 + turn) % 5]
            try:
                ask_store(store, run_id, event, actor=f"thread {number}")
                answers.append("won")
            except IllegalTransition:
                answers.append("refused")

    async def ask_in_turn(number: int) -> None:
        for turn in range(10):
            run_id = f"run_{(number + turn) % 10}"
            event = ("start", "require_action", "complete", "confirm_cancel", "expire")[(number + turn) % 5]
            try:
                await ask_later(store, run_id, event, actor=f"task {number}")
                answers.append("won")
            except IllegalTransition:
                answers.append("refused")
            if turn == 5:
                assert run_id == (await store.aio.get(run_id)).id

    async def tasks() -> None:
        await asyncio.gather(*(ask_in_turn(number) for number in range(50)))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    run(tasks)
    for thread in threads:
        thread.join(LIMIT)
    assert 50 * 10 + 20 * 10 == len(answers)
    for number in range(10):
        entries = store.history(f"run_{number}")
        assert [*range(1, store.get(f"run_{number}").version + 1)] == [entry.version for entry in entries]
    assert () == judge_by_sql(store_url)


def test_a_batch_with_refusals(any_store: Store, clock: ManualClock) -> None:
    """What is asked together is committed together; one that is refused spoils none of the others, whatever it is."""
    store, aio = any_store, any_store.aio
    store.create_many([names(id=f"run_{n}") for n in range(5)])
    store.create(**names(id="head", thread_id="busy", one_live_run_per_thread="reject"))
    store.create(**names(id="keyed", idempotency_key="key"))
    dead = Lease(12345, "dead", 30.0)

    async def work() -> list[Any]:
        let_go = held_back(store)
        asking = [
            aio.start("run_0"),
            aio.complete("run_1"),
            aio.start("nobody"),
            aio.start("run_1", expected_version=9),
            aio.create(**names(id="fresh", metadata={"a": "b"})),
            aio.create(**names(id="run_0", model="other")),
            aio.create(**names(thread_id="busy", one_live_run_per_thread="reject")),
            aio.create(**names(model="other", idempotency_key="key")),
            aio.create_many([names(id="many_0"), names(id="run_0", model="other")]),
            aio.create_many([names(id="many_1"), names(id="many_2")]),
            aio.request_cancel("run_2"),
            aio.claim(dead, 5),
            aio.sweep(),
            aio.start("run_2"),
            aio.start("run_3"),
            aio.request_cancel("run_3"),
            aio.complete("run_3"),
        ]
        tasks = [asyncio.ensure_future(one) for one in asking]
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in tasks)
        let_go()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = run(work)
    told = [type(one).__name__ if isinstance(one, Exception) else getattr(one, "status", None) for one in found]
    assert "in_progress" == told[0]
    assert ["IllegalTransition", "RunNotFound", "VersionConflict", "queued"] == told[1:5]
    assert ["InvalidRun", "ThreadBusy", "IdempotencyKeyReused", "InvalidRun"] == told[5:9]
    assert ["many_1", "many_2"] == [one.id for one in found[9]]
    assert "cancelled" == told[10]
    assert [] == found[11]
    assert ["TerminalStatus", "in_progress", "cancelling", "completed"] == told[13:]
    assert {"a": "b"} == store.get("fresh").metadata
    with pytest.raises(RunNotFound):
        store.get("many_0")


def test_the_same_run_many_times_in_a_batch(any_store: Store, clock: ManualClock) -> None:
    """Moves of one run that wait together are made in the order they were asked."""
    any_store.create(**names(id="run_1"))
    events = ["start", "require_action", "submit_tool_outputs"] * 5 + ["start", "complete", "fail"]

    async def work() -> list[Any]:
        let_go = held_back(any_store)
        tasks = [asyncio.ensure_future(ask_later(any_store, "run_1", event)) for event in events]
        await asyncio.sleep(0.05)
        let_go()
        return await asyncio.gather(*tasks, return_exceptions=True)

    *moved, last = run(work)
    assert [*range(2, 19)] == [one.version for one in moved]
    assert isinstance(last, TerminalStatus)
    assert [None, *events[:-1]] == [entry.event for entry in any_store.history("run_1")]


def test_who_stops_waiting(any_store: Store, clock: ManualClock) -> None:
    """A task that is cancelled while it waits wedges nobody; what it asked for is done, or not, as a whole."""
    store = any_store
    store.create_many([names(id=f"run_{n}") for n in range(20)])

    async def work() -> None:
        let_go = held_back(store)
        tasks = [asyncio.ensure_future(store.aio.start(f"run_{n}")) for n in range(20)]
        reads = [asyncio.ensure_future(store.aio.get(f"run_{n}")) for n in range(20)]
        await asyncio.sleep(0.02)
        for task in (*tasks[::2], *reads[::2]):
            task.cancel()
        await asyncio.sleep(0)
        let_go()
        found = await asyncio.gather(*tasks, *reads, return_exceptions=True)
        assert [True] * 10 == [isinstance(one, asyncio.CancelledError) for one in found[:20:2]]
        assert ["in_progress"] * 10 == [getattr(one, "status", one) for one in found[1:20:2]]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.01)
        assert "completed" == (await store.aio.complete("run_1")).status

    run(work)
    assert {"in_progress"} == {store.get(f"run_{n}").status for n in range(20) if n != 1}
    assert "failed" == store.fail("run_2", "server_error", "x").status


def test_what_is_asked_first_is_done_first(any_store: Store, clock: ManualClock) -> None:
    """An outcome that was brought before its lease was closed is taken, also where both are committed together."""
    any_store.create(**names(id="run_1"))
    lease = any_store.open_lease("w1")
    (claim,) = any_store.claim(lease)
    let_go = held_back(any_store)

    async def settle_and_leave() -> dict[int, RunstateError]:
        settled = asyncio.ensure_future(any_store.aio.settle(lease, [Settle(claim.run, RunEvent.COMPLETE)]))
        await asyncio.sleep(0)
        closed = asyncio.ensure_future(any_store.aio.close_lease(lease))
        await asyncio.sleep(0)
        let_go()
        await closed
        return dict((await settled).refused)

    assert {} == run(settle_and_leave)
    assert "completed" == any_store.get("run_1").status


def test_a_loop_that_is_gone(any_store: Store, clock: ManualClock) -> None:
    """A loop that was closed before the answer came wedges nobody; another loop is served as well."""
    any_store.create(**names(id="run_1"))
    loop = asyncio.new_event_loop()
    let_go = held_back(any_store)

    async def ask_and_leave() -> None:
        task = asyncio.ensure_future(any_store.aio.start("run_1"))
        await asyncio.sleep(0.02)
        task.cancel()

    loop.run_until_complete(ask_and_leave())
    loop.close()
    let_go()
    wait_until(lambda: any_store.get("run_1").status == "in_progress", "what was asked to be done")
    assert "completed" == run(lambda: any_store.aio.complete("run_1")).status


def test_a_watcher_whose_loop_is_gone(any_store: Store, clock: ManualClock) -> None:
    """Nobody is left to be told of what it watched; who asks is answered all the same, in time and afterwards."""
    any_store.create(**names(id="run_1"))
    loop = asyncio.new_event_loop()
    watched = any_store.aio.watch("run_1")
    assert loop.run_until_complete(anext(watched)).event is None
    loop.close()
    assert "in_progress" == any_store.start("run_1").status
    for number in (2, 3):
        assert run(lambda: any_store.aio.create(**names(id=f"run_{number}"))).id == f"run_{number}"  # noqa: B023


def test_a_listener_that_fails(any_store: Store, clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    """A fault of one who listens is told in the log; neither who asks nor who else listens has to do with it."""
    heard: list[Change] = []

    def fail(hint: Change) -> None:
        raise ValueError("not heard")

    with any_store.subscribe(fail), any_store.subscribe(heard.append):
        for number in (1, 2):
            assert run(lambda: any_store.aio.create(**names(id=f"run_{number}"))).id == f"run_{number}"  # noqa: B023
    assert heard
    assert "ValueError: not heard" in caplog.text


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait_s", [0.0, 10.0])
def test_what_was_asked_is_committed_before_it_is_closed(any_url: str, wait_s: float, clock: ManualClock) -> None:
    """However much it is, and however short one waits for a database: this one answers."""
    before = threading.active_count()
    store = open_store(any_url, wait_s=wait_s)
    store.create(**names(id="run_0"))

    async def ask_and_close() -> list[StoredRun]:
        asked = [asyncio.ensure_future(store.aio.create(**names(id=f"run_{n}"))) for n in range(1, 1001)]
        await asyncio.sleep(0)
        store.close()
        return await asyncio.gather(*asked)

    assert {f"run_{n}" for n in range(1, 1001)} == {created.id for created in run(ask_and_close)}
    wait_until(lambda: before == threading.active_count(), "the threads to end")


def test_who_asks_while_it_is_closed(any_url: str, clock: ManualClock) -> None:
    """Everybody is answered: by what was asked for, or by a sentence."""
    for _ in range(20):
        store = open_store(any_url)
        answers: list[object] = []

        def ask(store: Store = store, answers: list[object] = answers) -> None:
            try:
                while True:
                    answers.append(store.counts())
                    answers.append(run(lambda: store.aio.open_lease("w1")))
            except StoreError as error:
                answers.append(str(error))

        asking = [threading.Thread(target=ask) for _ in range(3)]
        for thread in asking:
            thread.start()
        store.close()
        for thread in asking:
            thread.join(LIMIT)
            assert not thread.is_alive()
        assert 3 == sum(str(answer).endswith("is closed") for answer in answers)


def test_a_closed_store(any_url: str, clock: ManualClock) -> None:
    """Once closed it refuses everything with a sentence."""
    store = open_store(any_url)
    created = store.create(**names())
    lease = store.open_lease("w1")
    assert created == run(lambda: store.aio.get(created.id))
    store.close()
    asking: list[tuple[str, tuple[Any, ...], Any]] = [
        ("create", (), names()),
        ("start", (created.id,), {}),
        ("get", (created.id,), {}),
        ("list", (), {}),
        ("counts", (), {}),
        ("entries", (), {}),
        ("claim", (lease,), {}),
        ("sweep", (), {}),
    ]
    for name, arguments, given in asking:
        with pytest.raises(StoreError, match=r"the store .* is closed"):
            getattr(store, name)(*arguments, **given)


def test_a_closed_store_read_later(any_url: str, clock: ManualClock) -> None:
    """Coroutines are refused with the same sentence."""
    store = open_store(any_url)
    created = store.create(**names())
    assert created == run(lambda: store.aio.get(created.id))
    store.close()
    with pytest.raises(StoreError, match=r"the store .* is closed"):
        run(lambda: store.aio.start(created.id))
    with pytest.raises(StoreError, match=r"the store .* is closed"):
        run(lambda: store.aio.get(created.id))


@pytest.mark.parametrize("used", [False, True])
def test_closing_twice(any_url: str, clock: ManualClock, used: bool) -> None:
    """Closing again is no fault."""
    with open_store(any_url) as store:
        if used:
            store.create(**names())
        store.close()


def test_closing_commits_what_was_asked(any_url: str, prompt_at: Callable[[str], Prompt], clock: ManualClock) -> None:
    """What was handed over before the close is committed and answered."""
    store = open_store(any_url)
    store.create(**names(id="run_1"))

    async def work() -> None:
        let_go = held_back(store)
        task = asyncio.ensure_future(store.aio.start("run_1"))
        await asyncio.sleep(0.02)
        closing = asyncio.get_running_loop().run_in_executor(None, store.close)
        while not store._committer._closed:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(let_go)
        await closing
        assert "in_progress" == (await task).status

    run(work)
    if ":memory:" not in any_url:
        with prompt_at(any_url) as prompt:
            assert "in_progress" == prompt.one("run_1")["status"]


@pytest.fixture
def prompt_at() -> Callable[[str], Prompt]:
    return Prompt


FORKED = """
    import os, sys, warnings
    warnings.simplefilter("ignore")
    from runstate.errors import StoreError
    from runstate.store import open_store

    store = open_store(sys.argv[1])
    run = store.create(thread_id="t", assistant_id="a", model="m")
    assert store.get(run.id) == run
    child = os.fork()
    if child == 0:
        refused = 0
        for ask in (lambda: store.start(run.id), lambda: store.get(run.id), lambda: store.list(), store.sweep):
            try:
                ask()
            except StoreError as error:
                refused += str(error) == "a store does not survive a fork: open one in each process"
        store.close()
        os._exit(0 if refused == 4 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.start(run.id).status == "in_progress"
    assert store.get(run.id).version == 2
    store.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork(any_url: str) -> None:
    """In a forked child the store refuses to write and to read, and its parent goes on as before."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FORKED), any_url],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert (0, "") == (done.returncode, done.stderr)


def test_the_clock_is_the_database_s_own(store_url: str) -> None:
    """Without a manual clock PostgreSQL's clock judges; runs are born now."""
    import time

    with open_store(store_url) as store:
        run_ = store.create(**names())
    assert abs(time.time() - run_.changed_at_us / 1e6) < 60


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_batch_in_trouble(store_url: str, clock: ManualClock, place: int) -> None:
    """What the database refuses to one of a batch undoes all of it, and the others are asked again: none is lost."""
    if store_url.startswith("sqlite:"):
        pytest.skip("its writer waits for no lock once it has begun")
    with open_store(store_url, wait_s=0.1) as store, Prompt(store_url) as other:
        other.run("BEGIN")
        other.run("SELECT pg_advisory_xact_lock(hashtextextended('runstate busy', 0))")
        kept = [names(id="run_1", metadata={"a": "b"}), names(id="run_2")]
        queued = names(id="queued", thread_id="busy", one_live_run_per_thread="queue", instructions="x")

        async def work() -> list[Any]:
            let_go = held_back(store)
            asking = [store.aio.create(**given) for given in (*kept[:place], queued, *kept[place:])]
            tasks = [asyncio.ensure_future(one) for one in asking]
            await asyncio.sleep(0.05)
            let_go()
            return await asyncio.gather(*tasks, return_exceptions=True)

        found = run(work)
        assert isinstance(found.pop(place), StoreUnavailable)
        assert [store.get("run_1"), store.get("run_2")] == found
        with pytest.raises(RunNotFound):
            store.get("queued")
        other.run("COMMIT")
        assert store.create(**queued).claimable
