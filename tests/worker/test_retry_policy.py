"""A handler that raises is called again, as a policy says; a handler may say so itself."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest

from runstate.errors import InvalidRun, LeaseLost
from runstate.lifecycle import RunEvent, RunStatus
from runstate.run.values import LastError, RequiredAction, ToolCall, Usage
from runstate.store import Attempt, Settle, Store, StoredRun
from runstate.store._engine import execute_retries
from runstate.worker import Context, Outcome, RetryLater, RetryPolicy, RunFailed, Worker, drive
from runstate.worker._retry_timer import RetryTimer
from tests.worker.support import KINDS, at_work, ended, error_of, events, finish, limited, new, of_kind, until

AT_ONCE = RetryPolicy(backoff=0.0)
LATER = RetryPolicy(backoff=200.0, jitter=0.0)


def work(store: Store, handler: Any, run: StoredRun, **given: Any) -> StoredRun:
    """Work until a run has ended; return it."""

    async def until_the_end() -> StoredRun:
        async with at_work(store, handler, **given):
            return await ended(store, run.id)

    return asyncio.run(asyncio.wait_for(until_the_end(), 30))


def results(store: Store, run_id: str) -> list[tuple[int, str]]:
    """Return the attempts of a run that ended without an outcome, and how."""
    return [(each.attempt, each.result) for each in store.attempts(run_id)]


def raising(times: int, seen: list[tuple[int, int]]) -> Callable[[Context], None]:
    """Return a handler that raises so many times, and records its attempt and the failures before it."""

    def answer(ctx: Context) -> None:
        seen.append((ctx.attempt, ctx.run.failed))
        if len(seen) <= times:
            raise ValueError(f"no. {len(seen)}")

    return answer


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_whose_handler_raised_is_retried_and_completes(kind: str, store: Store) -> None:
    """No entry tells of it: the run stays in progress, started once. The attempts tell."""
    seen: list[tuple[int, int]] = []
    run = store.create(**new())
    done = work(store, of_kind(kind, raising(2, seen)), run, retry=AT_ONCE)
    assert "completed" == done.status
    assert [(1, 0), (2, 1), (3, 2)] == seen
    assert [None, "start", "complete"] == events(store, run.id)
    assert [(1, "retry"), (2, "retry")] == results(store, run.id)
    first, second = store.attempts(run.id)
    assert ("w1", "ValueError: no. 1") == (first.actor, (first.error or {})["message"])
    assert "raise ValueError" in (second.error or {})["traceback"]
    assert first.next_at_us is not None
    assert first.ended_at_us <= first.next_at_us


def test_a_run_fails_with_its_last_error_when_its_attempts_are_spent(store: Store) -> None:
    seen: list[tuple[int, int]] = []
    run = store.create(**new())
    done = work(store, raising(9, seen), run, retry=RetryPolicy(max_attempts=2, backoff=0.0))
    assert "ValueError: no. 2" == error_of(done)["message"]
    assert [(1, 0), (2, 1)] == seen
    assert [(1, "retry")] == results(store, run.id)


@pytest.mark.parametrize(
    "policy",
    [None, RetryPolicy(max_attempts=1), RetryPolicy(retry_on=KeyError), RetryPolicy(retry_on=lambda error: False)],
    ids=["no policy", "one attempt", "another exception", "a function that says no"],
)
def test_what_a_policy_does_not_retry_fails_at_once(policy: RetryPolicy | None, store: Store) -> None:
    seen: list[tuple[int, int]] = []
    run = store.create(**new())
    finish(store, raising(9, seen), retry=policy)
    assert "ValueError: no. 1" == error_of(store.get(run.id))["message"]
    assert () == store.attempts(run.id)


def test_an_intended_failure_is_never_retried(store: Store) -> None:
    run = store.create(**new())

    def answer(ctx: Context) -> None:
        raise RunFailed("invalid_prompt", "no")

    finish(store, answer, retry=AT_ONCE)
    assert {"code": "invalid_prompt", "message": "no"} == error_of(store.get(run.id))


def test_a_policy_whose_function_raises_lets_the_run_fail_with_its_own_error(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    run = store.create(**new())

    def wrong(error: BaseException) -> bool:
        raise TypeError("in the policy")

    finish(store, raising(9, []), retry=RetryPolicy(retry_on=wrong))
    assert "ValueError: no. 1" == error_of(store.get(run.id))["message"]
    assert "its retry policy raised" in caplog.text


def not_yet(how: str, ctx: Context) -> Outcome:
    if how == "raised":
        raise RetryLater(0.0, "not yet", code="rate_limit_exceeded")
    return ctx.retry(after_s=0.0, reason="not yet", code="rate_limit_exceeded")


@pytest.mark.parametrize("how", ["returned", "raised"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_that_says_not_yet_is_called_again_and_nothing_has_failed(kind: str, how: str, store: Store) -> None:
    """It needs no policy, and is not counted: a rate limit is no failure."""
    seen: list[int] = []
    run = store.create(**new())

    def answer(ctx: Context) -> Outcome | None:
        seen.append(ctx.run.failed)
        return not_yet(how, ctx) if len(seen) < 5 else None

    done = work(store, of_kind(kind, answer), run)
    assert ("completed", [0] * 5) == (done.status, seen)
    assert [(n, "retry") for n in range(1, 5)] == results(store, run.id)


@pytest.mark.parametrize("how", ["returned", "raised", "policy"])
def test_a_retry_after_the_deadline_fails_now(how: str, store: Store) -> None:
    """The run would expire while it waits; its error says more."""
    run = store.create(**new(expires_in_s=60))

    def answer(ctx: Context) -> Outcome:
        if how == "returned":
            return ctx.retry(after_s=61, reason="busy", code="rate_limit_exceeded")
        raise RetryLater(61, "busy", "rate_limit_exceeded") if how == "raised" else ValueError("busy")

    finish(store, answer, retry=LATER)
    error = error_of(store.get(run.id))
    assert ("server_error" if how == "policy" else "rate_limit_exceeded") == error["code"]
    assert error["message"].endswith("busy")
    assert () == store.attempts(run.id)


def test_a_run_that_waits_occupies_its_thread_and_no_slot(store: Store) -> None:
    waiting = store.create(**new(thread_id="t1", one_live_run_per_thread="reject"))
    others = [store.create(**new()) for _ in range(3)]

    def answer(ctx: Context) -> None:
        if ctx.run_id == waiting.id:
            raise ValueError

    finish(store, answer, retry=LATER, concurrency=1)
    assert ["completed"] * 3 == [store.get(run.id).status for run in others]
    run = store.get(waiting.id)
    assert ("in_progress", 1, 1, 0) == (run.status, run.attempt, run.failed, run.lost)
    with pytest.raises(Exception, match="already has an active run"):
        store.create(**new(thread_id="t1", one_live_run_per_thread="reject"))
    assert 1 == store.counts()[RunStatus.IN_PROGRESS]
    assert [run.id] == [found.id for found in store.list(status="in_progress").data]


def test_a_cancel_of_a_run_that_waits_is_confirmed_at_once(store: Store) -> None:
    run = store.create(**new())
    finish(store, raising(9, []), retry=LATER)
    assert "cancelled" == store.request_cancel(run.id, actor="web").status
    assert [None, "start", "request_cancel", "confirm_cancel"] == events(store, run.id)


def test_a_cancel_before_the_handler_raised_counts_more_than_a_retry(store: Store) -> None:
    """The worker may not have heard of it: the database decides."""
    run = store.create(**new())

    def answer(ctx: Context) -> Outcome:
        store.request_cancel(run.id)
        return ctx.retry(after_s=0.0, reason="not yet")

    finish(store, answer)
    assert "cancelled" == store.get(run.id).status
    assert () == store.attempts(run.id)


@pytest.mark.parametrize("policy", [RetryPolicy(backoff=0.0), RetryPolicy(max_attempts=1), None])
def test_a_run_to_be_cancelled_is_not_retried_and_not_failed_in_place_of_it(
    policy: RetryPolicy | None, store: Store
) -> None:
    """Whether the worker has heard of the cancel or not. Without a retry the exception counts, as for any run."""
    for is_known in (True, False):
        run = store.create(**new())

        def answer(ctx: Context, run: StoredRun = run, is_known: bool = is_known) -> None:
            store.request_cancel(run.id)
            while is_known and not ctx.cancelling:
                time.sleep(0.01)
            raise ValueError("broke")

        Worker(store, answer, retry=policy).run(until_idle=True)
        is_retried = policy is not None and policy.max_attempts > 1
        assert ("cancelled" if is_retried else "failed") == store.get(run.id).status
        assert () == store.attempts(run.id)


def test_a_lease_that_had_ended_for_a_moment_fails_no_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat under way may renew a lease between two statements. What ends a run is its deadline alone."""
    run = store.create(**new())
    lease = store.open_lease()
    (claim,) = store.claim(lease)
    monkeypatch.setattr(execute_retries, "_wait", lambda *_: False)  # as the statement, with an ended lease
    later = Settle.retry_later(claim.run, LastError("server_error", "not yet"), after_s=0.5)
    refused = store.settle(lease, [later]).refused
    assert isinstance(refused[run.seq], LeaseLost)
    assert (claim.run.status, claim.run.attempt) == (store.get(run.id).status, store.get(run.id).attempt)
    assert [None, "start"] == events(store, run.id)
    assert () == store.attempts(run.id)


def test_a_retry_of_an_earlier_leg_is_not_taken_for_a_lost_one(store: Store) -> None:
    """Attempts are counted anew after a tool round: the number of the attempt alone tells nothing."""
    run = store.create(**new())
    lost, lease = store.open_lease("lost"), store.open_lease("other")
    error = LastError("server_error", "not yet")
    (claim,) = store.claim(lost)
    assert {} == store.settle(lost, [Settle.retry_later(claim.run, error, after_s=0)]).refused
    (claim,) = store.take_over(lost)
    calls = RequiredAction([ToolCall("call_1", "weather", "{}")])
    assert {} == store.settle(lost, [Settle.of(claim.run, RunEvent.REQUIRE_ACTION, required_action=calls)]).refused
    store.submit_tool_outputs(run.id, {"call_1": "sunny"})
    (claim,) = store.claim(lost)
    assert 1 == claim.run.attempt
    store.close_lease(lost)
    assert [run.id] == [taken.run.id for taken in store.take_over(lease)]
    later = Settle.retry_later(claim.run, error, after_s=0)
    refused = store.settle_and_claim(lost, [later], held=(), reconcile=True).refused
    assert isinstance(refused[run.seq], LeaseLost)


@pytest.mark.parametrize("why", ["cancel", "deadline"])
def test_a_run_that_ends_in_place_of_a_retry_counts_as_settled(
    why: str, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """And the log says that it is not retried."""
    run = store.create(**new(expires_in_s=30))

    async def answer(ctx: Context) -> Outcome:
        if why == "cancel":  # while the event loop stands still, so that the worker hears of it too late
            cancelling = Thread(target=store.request_cancel, args=(run.id,))
            cancelling.start()
            cancelling.join()
        return ctx.retry(after_s=40.0 if why == "deadline" else 0.0, reason="not yet")

    worker = Worker(store, answer)
    worker.run(until_idle=True)
    assert {"cancel": "cancelled", "deadline": "failed"}[why] == store.get(run.id).status
    assert 1 == worker.settled
    told = {"cancel": "its cancel was requested", "deadline": "its deadline is too near"}[why]
    assert f"run {run.id} is not retried: {told}" in caplog.text


@limited
async def test_many_runs_that_wait_have_one_timer() -> None:
    """Each is looked for when it is due. After `clear` nothing is left in the event loop."""
    due: list[float] = []
    loop = asyncio.get_running_loop()
    timer = RetryTimer(lambda: due.append(loop.time()))
    began = loop.time()
    for after_s in (0.3, 0.1, 0.2, 60.0, 0.1):
        timer.add(after_s)
    await asyncio.sleep(0.5)
    assert 1 <= len(due) <= 4, "those that are due at one time are one"
    assert all(at >= began + 0.1 for at in due)
    timer.clear()
    handles = [handle for handle in loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
    assert not [handle for handle in handles if "RetryTimer" in repr(handle)]


@limited
async def test_a_deadline_ends_a_run_that_waits(store: Store) -> None:
    """A retry that is due before the deadline may still find no worker with a free slot."""
    run = store.create(**new(expires_in_s=2))
    lease = store.open_lease()
    (claim,) = store.claim(lease)
    error = LastError("server_error", "not yet")
    assert {} == store.settle(lease, [Settle.retry_later(claim.run, error, after_s=0.5)]).refused
    async with at_work(store, lambda ctx: None, queues=["another"]):
        done = await ended(store, run.id)
    assert ("expired", 1) == (done.status, done.attempt)


def test_a_retry_is_neither_early_nor_a_second_late(store: Store) -> None:
    """The worker that has let the run wait is woken when it is due."""
    calls: list[float] = []
    run = store.create(**new())

    def answer(ctx: Context) -> Outcome | None:
        calls.append(time.time())
        return ctx.retry(after_s=0.4, reason="not yet") if len(calls) < 2 else None

    work(store, answer, run)
    (attempt,) = store.attempts(run.id)
    assert attempt.next_at_us is not None
    assert 0.0 <= calls[1] - attempt.next_at_us / 1e6


@limited
async def test_another_worker_takes_a_retry_that_is_due(store: Store) -> None:
    """The first one has ended, or has no free slot."""
    run = store.create(**new())
    calls: list[str] = []

    def raising_once(ctx: Context) -> None:
        calls.append("first")
        raise ValueError

    async with at_work(store, raising_once, retry=RetryPolicy(backoff=0.2, jitter=0.0)):
        await until(lambda: bool(store.attempts(run.id)), "the retry")
    async with at_work(store, lambda ctx: calls.append("second"), name="w2"):
        done = await ended(store, run.id)
    assert ("completed", 2, ["first", "second"]) == (done.status, done.attempt, calls)


def test_tokens_steps_and_checkpoint_are_there_in_the_next_attempt(store: Store) -> None:
    paid: list[str] = []
    seen: list[tuple[Any, Usage]] = []
    run = store.create(**new())

    def answer(ctx: Context) -> None:
        seen.append((ctx.checkpoint_value, ctx.usage))
        ctx.step("model", lambda: paid.append("call"))
        ctx.checkpoint(f"after {len(seen)}")
        ctx.add_usage(10, 5)
        if len(seen) < 3:
            raise ValueError

    done = work(store, answer, run, retry=AT_ONCE)
    assert [(None, Usage(0, 0)), ("after 1", Usage(10, 5)), ("after 2", Usage(20, 10))] == seen
    assert ["call"] == paid
    assert Usage(30, 15) == done.usage


def test_a_tool_round_begins_with_all_attempts(store: Store) -> None:
    """`failed` counts since the last start, as `attempt` does."""
    seen: list[tuple[bool, int]] = []
    run = store.create(**new())

    def answer(ctx: Context) -> Outcome | None:
        seen.append((bool(ctx.tool_outputs), ctx.run.failed))
        if seen.count(seen[-1]) == 1 and ctx.run.failed == 0:
            raise ValueError
        return None if ctx.tool_outputs else ctx.require_action([ctx.tool_call("weather")])

    async def scene() -> StoredRun:
        async with at_work(store, answer, retry=RetryPolicy(max_attempts=2, backoff=0.0)):
            await until(lambda: store.get(run.id).status == "requires_action", "the calls")
            action = store.get(run.id).required_action
            assert action is not None
            store.submit_tool_outputs(run.id, {action.call_ids[0]: "sunny"})
            return await ended(store, run.id)

    assert "completed" == asyncio.run(asyncio.wait_for(scene(), 30)).status
    assert [(False, 0), (False, 1), (True, 0), (True, 1)] == seen


def test_drive_returns_a_run_that_waits_and_drives_it_when_it_is_due(store: Store) -> None:
    seen: list[tuple[int, int]] = []
    run = store.create(**new())
    policy = RetryPolicy(backoff=0.3, jitter=0.0)
    waiting = drive(store, run.id, raising(1, seen), retry=policy)
    assert waiting is not None
    assert ("in_progress", 1) == (waiting.status, waiting.failed)
    assert drive(store, run.id, raising(1, seen), retry=policy) is None  # not due yet
    assert [] == store.overdue(after_s=0)
    time.sleep(0.35)
    assert [run.id] == store.overdue(after_s=0)
    done = drive(store, run.id, raising(1, seen), retry=policy)
    assert done is not None
    assert "completed" == done.status
    assert [(1, 0), (2, 1)] == seen


def test_retries_and_queued_runs_are_claimed_by_priority_then_oldest_first(store: Store) -> None:
    lease = store.open_lease()
    retried = store.create(**new(priority=1))
    (claim,) = store.claim(lease)
    error = LastError("server_error", "not yet")
    assert {} == store.settle(lease, [Settle.retry_later(claim.run, error, after_s=0)]).refused
    low, high = store.create(**new(priority=0)), store.create(**new(priority=2))
    assert [] == store.take_over(lease, 1)  # the run with the higher priority comes first
    assert [high.id] == [claim.run.id for claim in store.claim(lease)]
    assert [retried.id] == [claim.run.id for claim in store.take_over(lease, 1)]
    assert [low.id] == [claim.run.id for claim in store.claim(lease)]


def test_released_and_lost_attempts_are_recorded_too(store: Store) -> None:
    run = store.create(**new())
    first, second = store.open_lease("w1"), store.open_lease("w2")
    (claim,) = store.claim(first)
    assert store.release(first, claim.run)
    (claim,) = store.take_over(second)
    store.close_lease(second)
    (claim,) = store.take_over(first)
    assert (3, 1, 0) == (claim.run.attempt, claim.run.lost, claim.run.failed)
    found: list[tuple[int, int, str, str | None]] = [
        (each.number, each.attempt, each.result, each.actor) for each in store.attempts(run.id)
    ]
    assert [(1, 1, "released", "w1"), (2, 2, "lost", "w2")] == found


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"max_attempts": 0}, "max_attempts: expected"),
        ({"backoff": -1.0}, "backoff: expected"),
        ({"backoff": []}, "backoff: expected seconds, several of them, or a function"),
        ({"backoff": "2s"}, "backoff: expected seconds, several of them, or a function"),
        ({"jitter": 1.5}, "jitter: expected"),
        ({"max_backoff_s": float("nan")}, "max_backoff_s: expected"),
        ({"retry_on": "ValueError"}, "retry_on: expected exception types"),
        ({"retry_on": (ValueError, "KeyError")}, "retry_on: expected exception types"),
        ({"retry_on": int}, "retry_on: expected exception types"),
    ],
    ids=lambda given: str(sorted(given)) if isinstance(given, dict) else "",
)
def test_a_wrong_policy_is_told_when_it_is_made(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises((TypeError, ValueError), match=sentence):
        RetryPolicy(**given)


def test_a_worker_tells_of_a_wrong_policy_at_once(store: Store) -> None:
    with pytest.raises(TypeError, match=r"retry: expected a RetryPolicy\(\.\.\.\), got 3"):
        Worker(store, lambda ctx: None, retry=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(("after_s", "reason"), [(-1, "x"), ("soon", "x"), (1, 3)], ids=str)
def test_a_wrong_retry_is_told_where_it_is_made(after_s: Any, reason: Any) -> None:
    with pytest.raises(InvalidRun, match=r"after_s|reason"):
        RetryLater(after_s, reason)


def test_delays_double_up_to_the_most_and_spread_by_the_jitter() -> None:
    exact = RetryPolicy(backoff=1.5, jitter=0.0, max_backoff_s=10.0)
    assert [1.5, 3.0, 6.0, 10.0, 10.0] == [exact.delay_s(failed) for failed in range(1, 6)]
    listed = RetryPolicy(backoff=[1, 5, 30], jitter=0.0)
    assert [1, 5, 30, 30] == [listed.delay_s(failed) for failed in range(1, 5)]
    assert 7.0 == RetryPolicy(backoff=lambda failed: 7.0 * failed, jitter=0.0).delay_s(1)
    spread = [RetryPolicy(backoff=10.0, jitter=0.5).delay_s(1) for _ in range(200)]
    assert 5.0 <= min(spread) < 7.0
    assert 13.0 < max(spread) <= 15.0
    assert RetryPolicy(backoff=1e9).delay_s(10_000) <= 300.0 * 1.2


def test_a_retry_is_logged_with_its_delay(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    run = store.create(**new())
    with caplog.at_level(logging.INFO, "runstate.worker"):
        work(store, raising(1, []), run, retry=AT_ONCE)
    assert f"run {run.id}: attempt 1 raised a ValueError; retry in 0 s" in caplog.text


def test_attempts_of_an_unknown_run_and_of_one_without_any(store: Store) -> None:
    run = store.create(**new())
    assert () == store.attempts(run.id)
    with pytest.raises(LookupError):
        store.attempts("run_unknown")


def test_an_attempt_is_a_value() -> None:
    one = Attempt(1, 1, 0, "lost", "w1", None, None)
    assert one == Attempt(1, 1, 0, "lost", "w1", None, None)
