"""Steps of handlers: each function is called once in the life of a run, and its result is there afterwards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from runstate import InvalidRun, ManualClock, Usage
from runstate.clock import use_clock
from runstate.errors import LeaseLost, RunNotFound, StoreError, StoreUnavailable
from runstate.store import Checkpoint, Lease, Settle, Store
from runstate.worker import Context, Outcome, StepInterrupted
from runstate.worker._execution import RunExecution
from tests.store.support import Prompt
from tests.worker.support import KINDS, at_work, ended, error_of, finish, finished, leave, limited, new, until

RESULTS: tuple[Any, ...] = (
    {"text": "\N{SUN WITH FACE}", "found": ["a", 1.5, None, True]},
    [],
    "text",
    0,
    False,
    None,
    2**70,
    "",
)


def steps_of(store: Store, run_id: str) -> list[tuple[str, str, int, Any]]:
    return [(step.name, step.key, step.number, step.result) for step in store.steps(run_id)]


class Died(BaseException):
    """The worker dies here."""


def dies(store: Store, run_id: str, handler: Callable[[Context], Any]) -> None:
    """Claim a run, call a handler that dies, and let the lease end, as of a worker that was killed."""
    lease = store.open_lease("dies")
    claim = store.claim_id(lease, run_id) or store.take_over(lease, run_id=run_id, max_attempts=99)[0]
    ctx = Context(store, lease, claim, 0.0, asynchronous=False)
    with pytest.raises(Died):
        handler(ctx)
    store.close_lease(lease)
    store.sweep(max_attempts=99)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("result", RESULTS, ids=lambda value: json.dumps(value)[:12])
def test_a_step_is_executed_once(store: Store, kind: str, result: Any) -> None:
    """The second call of the handler, after a tool round, gets the kept result, and calls nothing."""
    calls: list[int] = []

    def work(number: int) -> Any:
        calls.append(number)
        return result

    def plain(ctx: Context) -> Outcome | None:
        found = ctx.step("work", work, 7)
        assert found == result
        assert type(found) is type(result)
        return None if ctx.tool_outputs else ctx.require_action([ctx.tool_call("weather")])

    async def later(ctx: Context) -> Outcome | None:
        found = await ctx.step("work", work, 7)
        assert found == result
        return None if ctx.tool_outputs else ctx.require_action([ctx.tool_call("weather")])

    run = finished(store, plain if kind == "plain" else later)
    assert run.required_action is not None
    store.submit_tool_outputs(run.id, dict.fromkeys(run.required_action.call_ids, "sunny"))
    finish(store, plain if kind == "plain" else later)
    assert ("completed", [7]) == (store.get(run.id).status, calls)
    (step,) = store.steps(run.id)
    assert ("work", "", 1, 1, result) == (step.name, step.key, step.number, step.attempt, step.result)
    assert step.ended_at_us is not None
    assert step.began_at_us <= step.ended_at_us
    assert step.seconds is not None


def test_a_worker_that_dies_between_steps_pays_nothing_twice(store: Store) -> None:
    """Whatever step it dies after, the steps before are not executed again, and their tokens are counted."""
    for after in range(4):
        calls: list[int] = []

        def handler(ctx: Context, *, until: int | None = None, calls: list[int] = calls) -> None:
            for number in range(4):

                def ask(number: int = number) -> str:
                    calls.append(number)
                    ctx.add_usage(prompt_tokens=10, completion_tokens=number)
                    return f"answer {number}"

                if number == until:
                    raise Died
                assert f"answer {number}" == ctx.step("ask", ask, key=str(number))

        run = store.create(**new())
        dies(store, run.id, lambda ctx, until=after: handler(ctx, until=until))  # type: ignore[misc]
        assert [*range(after)] == calls
        finish(store, handler)
        stored = store.get(run.id)
        assert ("completed", [*range(4)]) == (stored.status, calls)
        assert Usage(40, 6) == stored.usage
        assert [Usage(10, number) for number in range(4)] == [step.usage for step in store.steps(run.id)]
        assert [1, 2, 3, 4] == [step.number for step in store.steps(run.id)]
        assert [1] * after + [2] * (4 - after) == [step.attempt for step in store.steps(run.id)]


def test_an_expired_run_of_a_dead_worker_has_the_tokens_of_its_steps(store: Store) -> None:
    def handler(ctx: Context) -> None:
        ctx.step("ask", lambda: ctx.add_usage(5, 3))
        raise Died

    run = store.create(**new())
    dies(store, run.id, handler)
    assert Usage(5, 3) == store.expire(run.id).usage


@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_keeps_nothing(store: Store, kind: str) -> None:
    """It passes through, and the handler may try the step again."""
    calls: list[int] = []

    def shaky() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError("overloaded")
        return "done"

    def plain(ctx: Context) -> None:
        while True:
            try:
                assert "done" == ctx.step("shaky", shaky)
            except ConnectionError:
                assert () == store.steps(ctx.run_id)
            else:
                return

    async def later(ctx: Context) -> None:
        while True:
            try:
                assert "done" == await ctx.step("shaky", shaky)
            except ConnectionError:
                assert () == store.steps(ctx.run_id)
            else:
                return

    run = finished(store, plain if kind == "plain" else later)
    assert ("completed", 3) == (run.status, len(calls))
    assert [("shaky", "", 1, "done")] == steps_of(store, run.id)


@limited
async def test_several_at_once(store: Store) -> None:
    """Steps under gather are kept each by its own key, with its own tokens."""

    async def page(ctx: Context, number: int) -> int:
        await asyncio.sleep(0.02 * (5 - number))
        ctx.add_usage(number, 1)
        return number * number

    async def handler(ctx: Context) -> None:
        found = await asyncio.gather(*(ctx.step("page", page, ctx, n, key=f"p{n}") for n in range(5)))
        assert [0, 1, 4, 9, 16] == found

    run = store.create(**new())
    async with at_work(store, handler):
        assert "completed" == (await ended(store, run.id)).status
    kept = {step.key: (step.result, step.usage) for step in store.steps(run.id)}
    assert {f"p{n}": (n * n, Usage(n, 1)) for n in range(5)} == kept
    assert Usage(10, 5) == store.get(run.id).usage


MISTAKES: dict[str, tuple[Callable[[Context], Any], str]] = {
    "twice": (lambda ctx: [ctx.step("a", int), ctx.step("a", int)], "step 'a' is executed twice in one call"),
    "twice by key": (lambda ctx: [ctx.step("a", int, key="k") for _ in range(2)], "step 'a' with the key 'k' is"),
    "no name": (lambda ctx: ctx.step("", int), "name: is empty"),
    "no key": (lambda ctx: ctx.step("a", int, key=""), "key: is empty"),
    "a number as key": (lambda ctx: ctx.step("a", int, key=1), "key: expected a string, got an integer"),  # type: ignore[arg-type]
    "no function": (lambda ctx: ctx.step("a", 5), "function: expected a function, got an integer"),  # type: ignore[arg-type]
    "no JSON": (lambda ctx: ctx.step("a", lambda: {1, 2}), "the result of step 'a'"),
    "a coroutine": (lambda ctx: ctx.step("a", asyncio.sleep, 0), "the steps of a plain handler need plain functions"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told(store: Store, mistake: str) -> None:
    """The run fails with a sentence, and no more is kept than what was right."""
    wrong, sentence = MISTAKES[mistake]
    run = finished(store, lambda ctx: [wrong(ctx), None][1])
    assert sentence in error_of(run)["message"]
    assert (1 if mistake.startswith("twice") else 0) == len(store.steps(run.id))


def test_a_step_once_is_never_executed_again(store: Store) -> None:
    """A worker that dies in it leaves a mark, and the next attempt is told; so is the same attempt after an error."""
    calls: list[str] = []
    told: list[StepInterrupted] = []

    def pay() -> None:
        calls.append("paid")
        raise Died

    def handler(ctx: Context) -> Outcome | None:
        try:
            ctx.step("pay", pay, once=True)
        except StepInterrupted as error:
            told.append(error)
            return ctx.fail("server_error", "a person must look")
        return None

    run = store.create(**new())
    dies(store, run.id, handler)
    (mark,) = store.steps(run.id)
    assert (None, None, None) == (mark.result, mark.ended_at_us, mark.seconds)
    finish(store, handler)
    assert ("failed", ["paid"]) == (store.get(run.id).status, calls)
    (error,) = told
    assert (run.id, "pay", "") == (error.run_id, error.name, error.key)
    assert "was begun, and its result was not kept: it may have happened" in str(error)

    def raises(ctx: Context) -> None:
        with pytest.raises(ZeroDivisionError):
            ctx.step("divide", lambda: 1 // 0, once=True)
        with pytest.raises(StepInterrupted):
            ctx.step("divide", lambda: 1, once=True)
        assert 3 == ctx.step("add", lambda: 3, once=True)

    run = finished(store, raises)
    assert "completed" == run.status
    assert [("divide", "", 1, None), ("add", "", 2, 3)] == steps_of(store, run.id)


def test_a_step_that_comes_too_late_is_refused(store: Store, clock: ManualClock) -> None:
    """Another worker has the run, or the same one by a later claim: the result is not kept."""
    run = store.create(**new())
    lease = store.open_lease("w1")
    claim = store.claim_id(lease, run.id)
    assert claim is not None
    ctx = Context(store, lease, claim, 0.0, asynchronous=False)
    assert 1 == ctx.step("first", lambda: 1)
    assert store.release(lease, claim.run)
    (again,) = store.take_over(lease, run_id=run.id)
    with pytest.raises(LeaseLost):
        ctx.step("second", lambda: 2)
    assert not store.save_step(lease, claim.run, "second", number=2, result=Checkpoint(2))
    assert [("first", "", 1, 1)] == steps_of(store, run.id)
    other = Context(store, lease, again, 0.0, asynchronous=False)
    assert [1, 2] == [other.step("first", lambda: 9), other.step("second", lambda: 2)]
    clock.advance(31)
    assert not store.save_step(lease, again.run, "third", number=3, result=Checkpoint(3))


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@limited
async def test_no_function_is_called_under_a_lease_that_may_have_lapsed(kind: str, once: bool, store: Store) -> None:
    """A worker stood still between two steps. Another may execute the second one by now: the first does not call it."""
    calls: list[int] = []
    refused: list[BaseException] = []
    lapsed: list[int] = []

    def stand_still(ctx: Context) -> None:
        if not lapsed:
            lapsed.append(worker._session.lease.token)
            worker._session.worker_lease._heartbeat._held_until = 0.0

    async def later(ctx: Context) -> None:
        stand_still(ctx)
        try:
            await ctx.step("paid", calls.append, ctx.attempt, once=once)
        except (LeaseLost, asyncio.CancelledError) as error:
            refused.append(error)
            raise

    def now(ctx: Context) -> None:
        stand_still(ctx)
        try:
            ctx.step("paid", calls.append, ctx.attempt, once=once)
        except (LeaseLost, asyncio.CancelledError) as error:
            refused.append(error)
            raise

    async with at_work(store, later if kind == "async" else now) as worker:
        run = await store.aio.create(**new())
        await until(lambda: bool(refused), "the refusal")
        store.close_lease(Lease(lapsed[0], worker.name, 30.0))
        assert "completed" == (await ended(store, run.id)).status
    assert ([2], 1) == (calls, len(refused))


def test_nothing_is_kept_once_the_outcome_is_made(store: Store) -> None:
    """Its tokens would be missing in the outcome: as of a task that the handler left behind."""
    run = store.create(**new())
    lease = store.open_lease("w1")
    claim = store.claim_id(lease, run.id)
    assert claim is not None
    ctx = Context(store, lease, claim, 0.0, asynchronous=False)
    late: list[int] = []

    def spend() -> None:
        ctx.add_usage(2, 3)

    def spend_late() -> None:
        settles.append(RunExecution(ctx, 0.0, lambda *_: None).conclude(None, store.availability, None))
        spend()

    settles: list[Settle | None] = []
    ctx.step("first", spend)
    with pytest.raises(LeaseLost):
        ctx.step("second", spend_late)
    with pytest.raises(LeaseLost):
        ctx.step("third", late.append, 3)
    with pytest.raises(LeaseLost):
        ctx.checkpoint("late")
    ctx.progress("late")
    (settle,) = settles
    assert settle is not None
    assert not store.settle(lease, [settle]).refused
    assert [("first", Usage(2, 3))] == [(step.name, step.usage) for step in store.steps(run.id)]
    assert (Usage(2, 3), [], None) == (store.get(run.id).usage, late, store.progress(run.id))


@pytest.mark.parametrize("left_s", range(6))
def test_a_lease_that_ends_while_a_step_is_saved(store: Store, clock: ManualClock, left_s: int) -> None:
    """The step and its tokens are kept together, or neither, at whichever statement the lease has ended."""

    class Ticking(ManualClock):
        def time(self) -> float:
            self.now += 1.0
            return self.now

    run = store.create(**new())
    lease = store.open_lease("w1", lease_s=30.0)
    claim = store.claim_id(lease, run.id)
    assert claim is not None
    used = Usage(5, 7)
    with use_clock(Ticking(clock.now + 30 - left_s)):
        saved = store.save_step(lease, claim.run, "a", number=1, result=Checkpoint(1), usage=used, total=used)
    clock.advance(31)
    store.sweep()
    (other,) = store.take_over(store.open_lease("w2"), run_id=run.id)
    assert (used if saved else Usage(0, 0)) == other.usage
    assert ([used] if saved else []) == [step.usage for step in store.steps(run.id)]


def test_a_kept_step_is_written_once(store: Store) -> None:
    """A request that is repeated after a lost reply is recognised; another result is not taken."""
    run = store.create(**new())
    lease = store.open_lease("w1")
    claim = store.claim_id(lease, run.id)
    assert claim is not None
    for _ in range(2):
        assert store.save_step(lease, claim.run, "a", number=1, result=Checkpoint({"x": 1}))
    assert not store.save_step(lease, claim.run, "a", number=1, result=Checkpoint({"x": 2}))
    assert [("a", "", 1, {"x": 1})] == steps_of(store, run.id)


def test_a_new_step_is_progress(store: Store) -> None:
    """A worker that dies between steps is no poison: losses are counted since the last new step."""
    run = store.create(**new())
    for attempt in range(1, 6):

        def handler(ctx: Context, attempt: int = attempt) -> None:
            for number in range(attempt):
                ctx.step("work", int, key=str(number))
            raise Died

        dies(store, run.id, handler)
        assert (attempt, 0) == (store.get(run.id).attempt, store.get(run.id).lost)
    for losses in (1, 2):
        dies(store, run.id, handler)
        assert losses == store.get(run.id).lost


def test_a_setting_says_that_steps_are_no_progress(store: Store) -> None:
    """Then every worker that dies of the run counts, and the last attempt is the last."""

    def handler(ctx: Context) -> None:
        ctx.step("work", int, key=str(ctx.attempt))
        raise Died

    run = store.create(**new())
    for attempt in range(1, 4):
        lease = store.open_lease("dies")
        claim = store.claim_id(lease, run.id) or store.take_over(lease, run_id=run.id)[0]
        with pytest.raises(Died):
            handler(Context(store, lease, claim, 0.0, False, steps_reset_losses=False))
        store.close_lease(lease)
        assert (attempt, attempt - 1) == (store.get(run.id).attempt, store.get(run.id).lost)
        store.sweep()
    assert "failed" == store.get(run.id).status
    for reset, losses in ((True, 0), (False, 1)):
        run = store.create(**new())
        dies(store, run.id, lambda ctx: dies_at_once())
        finish(store, lambda ctx: [ctx.step("work", int), None][1], steps_reset_losses=reset)
        assert ("completed", losses) == (store.get(run.id).status, store.get(run.id).lost)


def dies_at_once() -> None:
    raise Died


FORGED = (
    "INSERT INTO runstate_step SELECT seq, 'x', '', 1, version, attempt, '1', 0, 0, 1, 2 FROM runstate_run",
    "UPDATE runstate_step SET result = '2'",
    "UPDATE runstate_step SET name = 'y'",
    "UPDATE runstate_step SET ended_at_us = NULL, result = NULL",
    "DELETE FROM runstate_step",
)


@pytest.mark.parametrize("status", ["completed", "requires_action", "in_progress", "released"])
def test_the_database_refuses_steps_of_others(store: Store, prompt: Prompt, status: str) -> None:
    """Of a run that has ended or waits, of one that no worker has, and whatever would change a kept step."""
    run = store.create(**new())
    lease = store.open_lease("w1")
    claim = store.claim_id(lease, run.id)
    assert claim is not None
    assert store.save_step(lease, claim.run, "kept", number=1, result=Checkpoint(1))
    leave(store, lease, claim.run, status)
    before = prompt.rows("runstate_step")
    for statement in FORGED if status != "in_progress" else FORGED[1:]:
        sentence = prompt.refusal(statement)
        assert "runstate: " in (sentence or f"accepted: {statement}")
    if prompt.is_sqlite and status == "in_progress":
        replace = (
            "INSERT OR REPLACE INTO runstate_step SELECT run, name, key, number, version, attempt, '2', 0, 0, 1, 2"
        )
        assert prompt.refusal(f"{replace} FROM runstate_step") is not None
    assert before == prompt.rows("runstate_step")


def test_steps_are_pruned_with_their_run(store: Store, prompt: Prompt, clock: ManualClock) -> None:
    run = finished(store, lambda ctx: [ctx.step("a", int), None][1])
    assert 1 == len(prompt.rows("runstate_step"))
    assert [run.id] == [row["run_id"] for row in prompt.rows("runstate_steps")]
    clock.advance(10)
    assert 1 == store.prune(1)
    assert [] == prompt.rows("runstate_step")
    with pytest.raises(RunNotFound):
        store.steps(run.id)


def test_wrong_values_are_refused(store: Store) -> None:
    run = store.create(**new())
    lease = store.open_lease("w1")
    claim = store.claim_id(lease, run.id)
    assert claim is not None
    for given in ({"name": ""}, {"number": 0}, {"took_s": -1.0}, {"took_s": float("nan")}, {"key": "x" * 5000}):
        params: dict[str, Any] = {"name": "a", "number": 1, "result": None, **given}
        with pytest.raises(InvalidRun):
            store.save_step(lease, claim.run, **params)
    assert () == store.steps(run.id)
    for name, key, told in (("a", "", "step 'a'$"), ("a", "k", "step 'a' with the key 'k'$")):
        with pytest.raises(StoreError, match=f"run {run.id} has no result of a {told}"):
            store.step_result(claim.run, name, key)
    assert store.save_step(lease, claim.run, "mark", number=1, result=None)
    with pytest.raises(StoreError, match="has no result of a step 'mark'"):
        store.step_result(claim.run, "mark")
    for name, key in (("", ""), ("a", "x" * 5000)):
        with pytest.raises(InvalidRun):
            store.step_result(claim.run, name, key)


def test_an_outage_while_a_step_is_saved(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The function is called once; its result is kept as soon as the store is back."""
    calls: list[int] = []
    save, failures = Store.save_step, [StoreUnavailable("away"), StoreUnavailable("away")]

    def shaky(self: Store, *args: Any, **given: Any) -> bool:
        if failures:
            raise failures.pop()
        return save(self, *args, **given)

    monkeypatch.setattr(Store, "save_step", shaky)
    run = finished(store, lambda ctx: [ctx.step("a", calls.append, 1), None][1])
    assert ("completed", [1], []) == (run.status, calls, failures)
    assert [("a", "", 1, None)] == steps_of(store, run.id)
