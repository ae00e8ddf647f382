"""A run whose row cannot be written stops no other: claims, take-overs, sweeps and outcomes go on without it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runstate.clock import ManualClock, monotonic, use_clock
from runstate.lifecycle import RunEvent
from runstate.run.values import LastError
from runstate.store import Settle, Store, StoredRun, open_store
from runstate.store._sql import skipped
from runstate.store.doctor import examine
from runstate.store.errors import StoreError, StoreUnavailable
from runstate.worker import Context, Worker
from tests.store.support import Prompt, names

GUARDS = ("runstate_history_insert", "runstate_history_delete")
AHEAD = (
    "INSERT INTO runstate_history (run, version, event, source, target, at_us)"
    " SELECT seq, version + 1, 'fail', status, 'failed', changed_at_us FROM runstate_run WHERE id = ?"
)
BACK = "DELETE FROM runstate_history WHERE run = ? AND version > ?"


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let seconds pass for the store that skips runs."""
    late = [0.0]
    monkeypatch.setattr(skipped, "monotonic", lambda: monotonic() + late[0])

    def let(seconds: float) -> None:
        late[0] += seconds

    return let


@contextmanager
def unguarded(prompt: Prompt) -> Iterator[None]:
    """Write past the guards of the history, as who restores a part of a backup does."""
    if prompt.is_sqlite:
        kept = prompt.run("SELECT sql FROM sqlite_master WHERE name IN (?, ?)", GUARDS)
        for name in GUARDS:
            prompt.run(f"DROP TRIGGER {name}")
        yield
        for (sql,) in kept:
            prompt.run(sql)
    else:
        prompt.run("SET session_replication_role = replica")
        yield
        prompt.run("RESET session_replication_role")


@contextmanager
def ahead(prompt: Prompt, *runs: StoredRun) -> Iterator[None]:
    """Let the histories of runs be ahead of their rows in the block."""
    with unguarded(prompt):
        for run in runs:
            assert 1 == prompt.changed(AHEAD, [run.id])
    yield
    repair(prompt, *runs)


def repair(prompt: Prompt, *runs: StoredRun) -> None:
    with unguarded(prompt):
        for run in runs:
            ((version,),) = prompt.run("SELECT version FROM runstate_run WHERE seq = ?", [run.seq])
            prompt.run(BACK, [run.seq, version])


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if "skipping it" in one.getMessage()]


def statuses(store: Store, *runs: StoredRun) -> set[str]:
    return {str(store.get(run.id).status) for run in runs}


def test_a_worker_completes_all_others(
    store: Store, prompt: Prompt, passed: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The run is skipped for a minute, and claimed when it is repaired and the minute is over."""
    bad = store.create(**names())
    with ahead(prompt, bad):
        good = store.create_many([names()] * 100)
        worker = Worker(store, lambda ctx: None, concurrency=40)
        worker.run(until_idle=True)
        assert {"completed"} == statuses(store, *good)
        assert "queued" == store.get(bad.id).status
        (told,) = warnings(caplog)
        assert told.startswith(f"run {bad.id} cannot be claimed: ")
        assert "; skipping it for 60 s" in told
        assert logging.WARNING == next(one.levelno for one in caplog.records if one.getMessage() == told)
        assert store.display_url.rpartition("/")[2] not in told
        assert not [one for one in caplog.records if one.levelno > logging.WARNING]
        assert 1 == store.get(bad.id).version
    assert [] == store.claim(store.open_lease("w"))  # repaired, but the minute is not over
    passed(skipped.SKIP_S)
    worker.run(until_idle=True)
    assert "completed" == store.get(bad.id).status


def test_it_is_tried_again_every_minute(
    store: Store, prompt: Prompt, passed: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    bad = store.create(**names())
    lease = store.open_lease("w", lease_s=3600)
    with ahead(prompt, bad):
        for minute in (1, 2):
            for _ in range(3):
                assert [] == store.claim(lease, 5)
            assert minute == len(warnings(caplog))
            passed(skipped.SKIP_S)


def test_a_hundred_of_them_fill_no_limit(store: Store, prompt: Prompt, caplog: pytest.LogCaptureFixture) -> None:
    bad = store.create_many([names()] * 100)
    good = store.create_many([names()] * 20)
    lease = store.open_lease("w", lease_s=3600)
    with ahead(prompt, *bad):
        assert [run.seq for run in good[:10]] == [claim.run.seq for claim in store.claim(lease, 10)]
        assert [run.seq for run in good[10:]] == [claim.run.seq for claim in store.claim(lease, 10)]
        assert 20 == len(warnings(caplog))
        assert "80 more runs cannot be claimed" in caplog.text
        assert {"queued"} == statuses(store, *bad)


def test_a_dead_workers_runs_are_taken_over(store: Store, prompt: Prompt, caplog: pytest.LogCaptureFixture) -> None:
    """A take-over writes no entry; what refuses it is a trigger of somebody else's."""
    runs = store.create_many([names()] * 3)
    dead = store.open_lease("dead", lease_s=3600)
    assert 3 == len(store.claim(dead, 3))
    store.close_lease(dead)
    lease = store.open_lease("w", lease_s=3600)
    with refusing(prompt, runs[0], "UPDATE"):
        assert {runs[1].seq, runs[2].seq} == {claim.run.seq for claim in store.take_over(lease, 3)}
        assert [f"run {runs[0].id} cannot be taken over"] == [told.partition(":")[0] for told in warnings(caplog)]
        with pytest.raises(StoreError, match="no, not this one"):  # it is asked for by its id
            store.take_over(lease, run_id=runs[0].id)


@contextmanager
def refusing(prompt: Prompt, run: StoredRun, event: str) -> Iterator[None]:
    """Let a trigger of somebody else's refuse to write a run in the block."""
    if prompt.is_sqlite:
        prompt.run(
            f"CREATE TRIGGER theirs BEFORE {event} ON runstate_run WHEN OLD.seq = {run.seq}"
            " BEGIN SELECT raise(ABORT, 'no, not this one'); END"
        )
    else:
        prompt.run(
            "CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'no, not this one'; END $$"
        )
        prompt.run(
            f"CREATE TRIGGER theirs BEFORE {event} ON runstate_run FOR EACH ROW WHEN (OLD.seq = {run.seq})"
            " EXECUTE FUNCTION theirs()"
        )
    yield
    prompt.run("DROP TRIGGER theirs" if prompt.is_sqlite else "DROP FUNCTION theirs() CASCADE")


def test_a_sweep_goes_on(store: Store, prompt: Prompt, caplog: pytest.LogCaptureFixture) -> None:
    """One of each kind is refused, and counts against no limit."""
    late = store.create_many([names(expires_in_s=1)] * 3)
    spent = store.create_many([names(queue="spent")] * 3)
    cancelled = store.create_many([names(queue="cancelled")] * 3)
    with open_store(prompt.url) as other:
        dead = other.open_lease("dead", lease_s=3600)
        assert 6 == len(other.claim(dead, 6, queues=["spent", "cancelled"]))
        for run in cancelled:
            other.request_cancel(run.id)
        other.close_lease(dead)
    with ahead(prompt, late[0], spent[0], cancelled[0]), use_clock(store_clock(late[0].expires_at)):
        swept = store.sweep(max_attempts=1, limit=2)
        assert {run.id for run in late[1:]} == {*swept.expired}
        assert {run.id for run in spent[1:]} == {*swept.failed}
        assert {run.id for run in cancelled[1:]} == {*swept.cancelled}
        assert [
            f"run {late[0].id} cannot be expired",
            f"run {spent[0].id} cannot be failed",
            f"run {cancelled[0].id} cannot be cancelled",
        ] == [told.partition(":")[0] for told in warnings(caplog)]
        assert () == store.sweep(max_attempts=1).expired
        assert 3 == len(warnings(caplog))


def store_clock(expires_at: int | None) -> ManualClock:
    assert expires_at is not None
    return ManualClock(expires_at + 1.0)


def test_others_are_made_claimable(store: Store, prompt: Prompt, caplog: pytest.LogCaptureFixture) -> None:
    runs = store.create_many([names(not_before=store.create(**names(queue="x")).created_at + 100)] * 3)
    with refusing(prompt, runs[0], "UPDATE"), use_clock(store_clock(runs[0].created_at + 200)):
        assert {run.id for run in runs[1:]} == {*store.sweep(limit=2).promoted}
        assert [f"run {runs[0].id} cannot be made claimable"] == [told.partition(":")[0] for told in warnings(caplog)]


def test_others_are_pruned(store: Store, prompt: Prompt, caplog: pytest.LogCaptureFixture) -> None:
    runs = [store.request_cancel(store.create(**names()).id) for _ in range(3)]
    with refusing(prompt, runs[0], "DELETE"), use_clock(store_clock(runs[0].created_at + 200)):
        assert 2 == store.prune(60, limit=2)
        assert [f"run {runs[0].id} cannot be deleted"] == [told.partition(":")[0] for told in warnings(caplog)]


def test_other_outcomes_are_committed(store: Store, prompt: Prompt) -> None:
    """The worker hears of the outcome that cannot be written, and keeps nothing of it."""
    store.create_many([names()] * 4)
    lease = store.open_lease("w", lease_s=3600)
    bad, *good = [claim.run for claim in store.claim(lease, 3)]
    with ahead(prompt, bad):
        done, failed = RunEvent.COMPLETE, RunEvent.FAIL
        outcomes = [Settle(bad, done), Settle(good[0], done), Settle(good[1], failed, last_error=FAILED)]
        result = store.settle_and_claim(lease, outcomes, 5, held=())
        assert {bad.seq} == result.refused.keys()
        assert isinstance(result.refused[bad.seq], StoreError)
        assert 1 == len(result.claims)
        assert {"completed", "failed"} == statuses(store, *good)
        assert "in_progress" == store.get(bad.id).status


FAILED = '{"code": "server_error", "message": "no"}'


def test_what_asks_for_the_run_itself_is_refused(store: Store, prompt: Prompt) -> None:
    """At once, and for good: it is no outage, and another try helps nothing."""
    bad, good = store.create(**names()), store.create(**names())
    lease = store.open_lease("w", lease_s=3600)
    with ahead(prompt, bad):
        for ask in (lambda: store.claim_id(lease, bad.id), lambda: store.start(bad.id)):
            with pytest.raises(StoreError) as refused:
                ask()
            assert not refused.value.retryable
        assert store.claim_id(lease, good.id)


def test_within_a_callers_transaction(store: Store, prompt: Prompt, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = store.create(**names()), store.create(**names())
    lease = store.open_lease("w", lease_s=3600)
    with ahead(prompt, bad):
        prompt.run("BEGIN")
        with store.within(prompt.connection) as bound:
            assert [good.seq] == [claim.run.seq for claim in bound.claim(lease, 5)]
        prompt.run("COMMIT")
        assert "in_progress" == store.get(good.id).status
        assert [] == store.claim(lease, 5)  # it is known to the store, too
        assert 1 == len(warnings(caplog))


def test_the_doctor_names_it(store: Store, prompt: Prompt) -> None:
    bad = store.create(**names())
    with ahead(prompt, bad):
        (found,) = [one for one in examine(store).findings if "continues with version 2" in one.sentence]
        assert bad.id == found.run_id
        assert "error" == found.severity
        assert "it stays queued, because no worker can claim or settle it" in found.sentence
        assert "delete its entries after version 1" in found.remedy
    assert [] == [one for one in examine(store).findings if one.run_id == bad.id]


def test_the_skipped_runs_are_limited(passed: Callable[[float], None]) -> None:
    """Of too many the oldest are tried again sooner."""
    runs = skipped.SkippedRuns()
    for seq in range(20_005):
        runs.add(seq)
    assert (20_000, 5) == (len(runs.seqs), runs.seqs[0])
    passed(60.1)
    assert () == runs.seqs


@pytest.mark.slow
def test_more_of_them_than_one_request_tries(store: Store, prompt: Prompt, caplog: pytest.LogCaptureFixture) -> None:
    """Each request finds 500 more, and the runs behind them are reached. Few are logged, and the rest counted."""
    bad = [run for _ in range(2) for run in store.create_many([names(priority=9)] * 600)]
    good = store.create_many([names()] * 5)
    lease = store.open_lease("w1")
    with ahead(prompt, *bad):
        claimed = [claim.run.seq for _ in range(4) for claim in store.claim(lease, 10)]
        assert [run.seq for run in good] == claimed
        assert 3 * 20 == len(warnings(caplog))
        assert 2 == caplog.text.count("480 more runs cannot be claimed")


@pytest.mark.slow
def test_a_handler_is_not_called_again_for_a_run_that_cannot_be_written(store: Store, prompt: Prompt) -> None:
    """Its outcome is refused, and the worker keeps the run: what the handler did is not done once more."""
    calls: list[str] = []

    async def answer(ctx: Context) -> None:
        calls.append(ctx.run_id)
        if ctx.run_id == bad.id and len(calls) == 1:
            with unguarded(prompt):
                assert 1 == prompt.changed(AHEAD, [bad.id])
        if ctx.run_id == shaky.id and calls.count(shaky.id) < 5:
            raise StoreUnavailable("the store of the handler is away")

    async def completed(run: StoredRun) -> None:
        while "completed" != store.get(run.id).status:
            await asyncio.sleep(0.01)

    async def scene() -> None:
        async with Worker(store, answer, concurrency=2):
            await completed(shaky)
            for _ in range(20):
                await completed(store.create(**names()))

    bad = store.create(**names(priority=9))
    shaky = store.create(**names())
    asyncio.run(asyncio.wait_for(scene(), 60.0))
    assert (1, 5) == (calls.count(bad.id), calls.count(shaky.id))
    repair(prompt, bad)


def test_a_trigger_of_ones_own_forges_nothing_in_sqlite(tmp_path: Path) -> None:
    """It can write no entry but the one of the run's own version, and that one is there."""
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    with open_store(url) as store, Prompt(url) as prompt:
        run = store.create(**names())
        prompt.run("CREATE TABLE mine (version INTEGER, event TEXT, source TEXT, target TEXT)")
        prompt.run(
            "CREATE TRIGGER theirs AFTER INSERT ON mine BEGIN INSERT INTO runstate_history"
            " (run, version, event, source, target, at_us)"
            f" VALUES ({run.seq}, NEW.version, NEW.event, NEW.source, NEW.target, {run.changed_at_us}); END"
        )
        before = prompt.run("SELECT * FROM runstate_history")
        for version in (0, 1, 2):
            for verb in ("INSERT", "INSERT OR REPLACE", "INSERT OR IGNORE"):
                told = prompt.refusal(f"{verb} INTO mine VALUES ({version}, 'start', 'queued', 'in_progress')")
                assert "the history is written by the database alone" in (told or "accepted")
        assert before == prompt.run("SELECT * FROM runstate_history")
        assert "in_progress" == store.start(run.id).status


def test_a_due_retry_behind_a_queued_run_that_cannot_be_written(store: Store, prompt: Prompt) -> None:
    """The queued run comes first in the order, and is skipped: the retry is claimed by a worker with one slot."""
    bad, good = store.create(**names(priority=1)), store.create(**names())
    lease = store.open_lease("dead")
    claim = store.claim_id(lease, good.id)
    assert claim is not None
    error = LastError("server_error", "not yet")
    assert {} == store.settle(lease, [Settle.retry_later(claim.run, error, after_s=0)]).refused
    store.close_lease(lease)
    with ahead(prompt, bad):
        lease = store.open_lease()
        assert [] == store.claim(lease)  # it is skipped from now on
        assert [good.id] == [claim.run.id for claim in store.take_over(lease)]
