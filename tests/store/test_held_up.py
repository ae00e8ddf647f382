"""Somebody stands still in a transaction: who asks for other runs goes on, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from threading import Event as Signal
from typing import Any, NoReturn

import psycopg
import pytest

from runstate import ManualClock, RunEvent, ToolCall, Usage
from runstate.errors import OutcomeUnknown, StoreError, StoreUnavailable
from runstate.store import Checkpoint, Claim, SettleAndClaimResult, Store, open_store
from runstate.store._engine import committer as committing
from runstate.store._engine import execute_create, execute_settle_and_claim
from runstate.store._engine.commands import InTransaction, ResumeData, SettleAndClaim
from runstate.store._engine.execute_settle_and_claim import resume_data_of
from runstate.store._engine.executor import execute_batch
from runstate.store._sql.connection import Connection
from runstate.store._sql.lookups import POSTGRES_LOOKUPS
from runstate.store._sql.rows import Row
from runstate.store._worker_types import Settle
from tests.store.conftest import make_url
from tests.store.support import Prompt, held_back, names, wait_for_a_lock
from tests.support.lifecycle import CALL, GIVEN
from tests.support.postgres import wait_until

LIMIT = 60.0
ACTION = json.dumps(GIVEN["required_action"])


def list_claims(result: SettleAndClaimResult) -> list[Claim]:
    return list(result.claims)


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty store in PostgreSQL, where others may hold single rows."""
    yield from make_url("postgres", request)


def test_a_run_that_another_transaction_holds(url: str) -> None:
    """Its own asker is told so after `wait_s`; whoever asks for something else then goes on."""
    with open_store(url, wait_s=0.2) as store, Prompt(url) as other, ThreadPoolExecutor(2) as pool:
        store.create(**names(id="run_1"))
        other.run("BEGIN")
        other.run("SELECT 1 FROM runstate_run WHERE id = 'run_1' FOR UPDATE")
        try:
            held = pool.submit(store.start, "run_1")
            time.sleep(0.05)
            assert "queued" == pool.submit(store.create, **names(id="run_2")).result(LIMIT).status
            with pytest.raises(StoreUnavailable, match="another transaction has been writing for too long"):
                held.result(LIMIT)
        finally:
            other.run("ROLLBACK")
        assert "in_progress" == store.start("run_1").status


def test_a_step_of_a_run_that_a_client_ends_at_that_moment(url: str) -> None:
    """It waits for the client's transaction. After its commit no step is kept whose tokens the run does not count."""
    with open_store(url) as store, ThreadPoolExecutor(1) as pool, psycopg.connect(url) as client, Prompt(url) as prompt:
        store.create(**names(id="run_1"))
        lease = store.open_lease("w1")
        claim = store.claim_id(lease, "run_1")
        assert claim is not None
        result, used = Checkpoint(1), Usage(3, 4)
        with store.within(client) as inside:
            assert "completed" == inside.complete("run_1").status
        saving = pool.submit(store.save_step, lease, claim.run, "s", number=1, result=result, usage=used, total=used)
        wait_for_a_lock(url)
        client.commit()
        assert not saving.result(LIMIT)
        assert ((), []) == (store.steps("run_1"), prompt.rows("runstate_checkpoint"))
        assert Usage(0, 0) == store.get("run_1").usage


def test_a_claim_holds_no_run_that_another_worker_has_claimed(url: str) -> None:
    """It began before the other's claim was committed. The other settles its run, and does not wait for it."""
    slow = POSTGRES_LOOKUPS.claimable(("seq",), "'default'", "0", "pg_sleep(0.5) IS NOT NULL", "1")
    sleeping = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    with open_store(url, wait_s=2.0) as store, ThreadPoolExecutor(1) as pool, psycopg.connect(url) as claiming:
        run = store.create(**names(id="run_1"))
        found = pool.submit(lambda: claiming.execute(slow.encode()).fetchall())
        with Prompt(url) as looking:
            wait_until(lambda: bool(looking.run(sleeping)), "the claim to have its snapshot")
        lease = store.open_lease("w1")
        (claim,) = store.claim(lease, 1)
        assert (run.id, []) == (claim.run.id, found.result(LIMIT))
        assert not store.settle(lease, [Settle.ended(claim.run, RunEvent.COMPLETE)]).refused
        claiming.rollback()
    assert claiming.closed


def test_a_request_that_waits_for_another_one_of_its_worker(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is committed after the first, not with it. If the first never ends, closing the store refuses both."""
    monkeypatch.setattr(committing, "_CLOSING_S", 0.2)
    batches: list[int] = []
    entered, gate = Signal(), Signal()

    def stand_still(session: Connection, batch: Sequence[Any]) -> None:
        batches.append(len(batch))
        entered.set()
        gate.wait(LIMIT)
        raise StoreUnavailable("it stood still")

    async def ask(store: Store) -> list[Any]:
        lease = await store.aio.open_lease("w1")
        monkeypatch.setattr(committing, "execute_batch", stand_still)
        with store._committer._writing:  # so that both wait
            both = [asyncio.ensure_future(store.aio.settle_and_claim(lease, (), 2)) for _ in range(2)]
            await asyncio.sleep(0.05)
        await asyncio.to_thread(entered.wait, LIMIT)
        await asyncio.to_thread(store.close)
        await asyncio.wait(both, timeout=LIMIT, return_when=asyncio.FIRST_COMPLETED)
        assert [False, True] == [each.done() for each in both]
        gate.set()
        return await asyncio.gather(*both, return_exceptions=True)

    errors = asyncio.run(asyncio.wait_for(ask(open_store(url, wait_s=0.05)), LIMIT))
    assert batches == [1]
    assert [True, True] == [isinstance(error, StoreError) for error in errors]


@pytest.mark.parametrize("ends", ["complete", "expire", "sweep"])
def test_a_run_ends_with_the_tokens_of_a_step_that_is_committed_meanwhile(
    url: str, clock: ManualClock, ends: str
) -> None:
    """A client that ends it waits for the step, and counts its tokens. A sweep leaves it for the next sweep."""
    with open_store(url) as store, ThreadPoolExecutor(1) as pool, psycopg.connect(url) as own:
        store.create(**names(id="run_1", expires_in_s=100))
        lease = store.open_lease("w1", lease_s=3600.0)
        claim = store.claim_id(lease, "run_1")
        assert claim is not None
        result, used = Checkpoint(1), Usage(3, 4)
        with store.within(own) as inside:
            assert inside.save_step(lease, claim.run, "s", number=1, result=result, usage=used, total=used)
        if ends == "sweep":
            clock.advance(1000)
            assert not store.sweep().expired
            own.commit()
            assert store.sweep().expired == ("run_1",)
        else:
            ending = pool.submit(getattr(store, ends), "run_1")
            wait_for_a_lock(url)
            own.commit()
            assert ending.result(LIMIT).is_terminal
        assert used == store.get("run_1").usage


def test_single_claims_of_a_worker_share_a_commit(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only whole round trips of a worker are committed one after the other."""
    batches: list[int] = []

    def counted(session: Connection, batch: Sequence[Any]) -> None:
        batches.append(len(batch))
        execute_batch(session, batch)

    async def ask(store: Store) -> list[Claim | None]:
        lease = await store.aio.open_lease("w1")
        runs = await store.aio.create_many([names() for _ in range(20)])
        monkeypatch.setattr(committing, "execute_batch", counted)
        with store._committer._writing:
            claims = [asyncio.ensure_future(store.aio.claim_id(lease, run.id)) for run in runs]
            await asyncio.sleep(0.05)
        return await asyncio.gather(*claims)

    with open_store(url) as store:
        assert all(claim is not None for claim in asyncio.run(ask(store)))
    assert batches == [20]


def leave_behind(store: Store, run_id: str, clock: ManualClock) -> None:
    """Leave a run to be taken over: its worker is gone, and its lease over."""
    store.create(**names(id=run_id))
    lease = store.open_lease("dead")
    assert store.claim_id(lease, run_id) is not None
    clock.advance(lease.lease_s)


def test_a_sweep_that_stands_still(url: str, clock: ManualClock) -> None:
    """Others sweep past it, and the server ends it: what it had begun is another's then."""
    with open_store(url) as store:
        leave_behind(store, "run_1", clock)
        frozen = store._database.open()
        assert [("3s",)] == frozen.execute("SHOW idle_in_transaction_session_timeout", {})
        frozen.execute("SET idle_in_transaction_session_timeout = 0", {})  # not before the others have swept past it
        ((backend,),) = frozen.execute("SELECT pg_backend_pid()", {})
        transaction = ExitStack()
        transaction.enter_context(frozen.transaction())
        assert 1 == len(frozen.execute(frozen.statements.close_expired_leases, {}))
        leave_behind(store, "run_2", clock)
        swept = store.sweep()
        assert (1, 1) == (swept.expired_leases, swept.orphaned)  # the second alone
        frozen.execute("SET idle_in_transaction_session_timeout = '1ms'", {})
        with Prompt(url) as other:
            alive = "SELECT 1 FROM pg_stat_activity WHERE pid = ?"
            wait_until(lambda: not other.run(alive, [backend]), "the server to end it")
        with pytest.raises(OutcomeUnknown):
            transaction.close()
        assert (1, 2) == (store.sweep().expired_leases, len(store.take_over(store.open_lease("w1"), 9)))


def test_who_may_have_been_done_is_not_told_otherwise(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer was lost, and then the database went away: nobody is told that nothing was changed."""
    with open_store(url, wait_s=0.2) as store:
        lost = OutcomeUnknown("the answer was lost")
        calls = [InTransaction[Any](lambda session: None) for _ in range(2)]
        monkeypatch.setattr(committing, "execute_batch", _raise(StoreUnavailable("away")))
        store._committer._retry_unknown(calls, lost)
        for call in calls:
            with pytest.raises(OutcomeUnknown, match="the answer was lost"):
                call.result()


def _raise(error: Exception) -> Any:
    def perform(*given: object) -> NoReturn:
        raise error

    return perform


def test_a_connection_that_breaks_while_it_is_made(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no other trouble than none at all."""
    with open_store(url) as store, Prompt(url) as other:

        def ended(connection: Any, *_: object) -> NoReturn:
            connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            raise AssertionError

        for asked, reading in (("is_pooled", True), ("are_set", False)):
            monkeypatch.setattr(f"runstate.store._postgres.connection.{asked}", ended)
            with pytest.raises(StoreUnavailable, match="cannot connect to"):
                store._database.open(reading=reading)
            monkeypatch.undo()
        store._database.open().close()
        assert [(1,)] == other.run("SELECT 1")


def test_outputs_that_are_submitted_together(url: str) -> None:
    """One waits too long, so all are asked again, one by one: nobody is refused for what was done the first time."""
    with open_store(url, wait_s=0.5) as store, open_store(url) as second, Prompt(url) as other:
        store.create_many([names(id="run_1", thread_id="a"), names(id="run_2", thread_id="b")])
        lease = store.open_lease("w1")
        waits = [Settle(claim.run, RunEvent.REQUIRE_ACTION, required_action=ACTION) for claim in store.claim(lease, 2)]
        assert {} == store.settle(lease, waits).refused
        other.run("BEGIN")
        other.run("SELECT 1 FROM runstate_run WHERE id = 'run_2' FOR UPDATE")
        let_go = held_back(store)

        async def ask_both() -> Any:
            both = [asyncio.ensure_future(store.aio.submit_tool_outputs(f"run_{n}", {"call_1": "x"})) for n in (1, 2)]
            await asyncio.sleep(0)
            let_go()
            return await asyncio.gather(*both, return_exceptions=True)

        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(asyncio.run, ask_both())
            wait_until(lambda: "queued" == second.get("run_1").status, "the first to be done")
            claim = second.claim_id(second.open_lease("w2"), "run_1")
            assert claim is not None
            second.require_action("run_1", [ToolCall("call_2", "weather", "{}")])
            first, other_one = asked.result(LIMIT)
        other.run("ROLLBACK")
        assert ("run_1", StoreUnavailable) == (first.id, type(other_one))
        assert "requires_action" == store.get("run_2").status


def test_a_claim_of_several_queues(url: str) -> None:
    """What is claimed of the first queue is not kept where the second cannot be asked: the refusal says the truth."""
    with open_store(url) as store, Prompt(url) as other:
        store.create_many([names(id="run_1", queue="a"), names(id="run_2", queue="b")])
        other.run(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'lock_not_available'; END$$"
        )
        other.run(
            "CREATE TRIGGER fail BEFORE UPDATE ON runstate_run"
            " FOR EACH ROW WHEN (OLD.queue = 'b') EXECUTE FUNCTION fail()"
        )
        lease = store.open_lease("w1")
        try:
            with pytest.raises(StoreUnavailable):
                store.claim(lease, 2, queues=["a", "b"])
        finally:
            other.run("DROP FUNCTION fail() CASCADE")
        assert {} == store.owned(lease)
        assert ["run_1"] == [claim.run.id for claim in store.claim(lease, 2, queues=["a"])]


def test_a_claim_asked_again_before_the_server_has_done_it(url: str) -> None:
    """The connection broke, but not the transaction: it ends while the same is asked again, and the claim is told."""
    with open_store(url) as store, closing(Prompt(url).connection) as own, ThreadPoolExecutor(1) as pool:
        lease = store.open_lease("w1")
        run = store.create(**names())
        own.execute("BEGIN")
        with store.within(own) as bound:
            assert bound.claim_id(lease, run.id) is not None
            turn = SettleAndClaim(lease.token, lease.actor, list_claims, limit=1, run_id=run.id, is_retry=True)
            asked = pool.submit(store._transport.execute, turn)
            wait_for_a_lock(url)
            own.execute("COMMIT")
        assert [run.id] == [claim.run.id for claim in asked.result(LIMIT)]


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_an_outcome_asked_again_after_the_lease(url: str, clock: ManualClock, end: str) -> None:
    """The lease ends while the server is still at the first request: nobody is told that its outcome was refused."""
    with open_store(url) as store, closing(Prompt(url).connection) as own:
        lease = store.open_lease("w1")
        store.create(**names())
        (claim,) = store.claim(lease)
        settles = [Settle(claim.run, RunEvent.COMPLETE)]
        own.execute("BEGIN")
        with store.within(own) as bound:
            assert {} == bound.settle(lease, settles).refused
            clock.advance(lease.lease_s)
            (refusal,) = store.settle_and_claim(lease, settles, reconcile=True).refused.values()
            own.execute(end)
        assert isinstance(refusal, OutcomeUnknown)
        assert ("completed" if end == "COMMIT" else "in_progress") == store.get(claim.run.id).status
        assert 1 == store.get(claim.run.id).attempt, "an attempt is begun once"
        again = store.settle_and_claim(lease, settles, reconcile=True).refused.values()
        assert [] == list(again) if end == "COMMIT" else [OutcomeUnknown] == list(map(type, again))


def test_a_turn_whose_reads_fail_after_it_was_committed(any_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found out what became of it, as after a lost answer: nothing is refused for having been done."""
    with open_store(any_url) as store:
        lease = store.open_lease("w1")
        done, waits = store.create(**names(id="run_1")), store.create(**names(id="run_2"))
        store.claim_id(lease, waits.id)
        store.require_action(waits.id, [CALL], actor=lease.actor)
        store.submit_tool_outputs(waits.id, {"call_1": "sunny"})  # what it goes on with is read after the claim
        claim = store.claim_id(lease, done.id)
        assert claim is not None
        failures = iter([StoreUnavailable("the server is out of memory")])

        def fail_once(session: Connection, claimed: Sequence[Row]) -> Mapping[int, ResumeData]:
            for failure in failures:
                raise failure
            return resume_data_of(session, claimed)

        monkeypatch.setattr(execute_settle_and_claim, "resume_data_of", fail_once)
        settles = [Settle(claim.run, RunEvent.COMPLETE)]
        result = store.settle_and_claim(lease, settles, 1, held=frozenset())
        assert {} == result.refused
        assert [("run_2", {"call_1": "sunny"})] == [(claim.run.id, claim.tool_outputs) for claim in result.claims]
        assert "completed" == store.get("run_1").status


def test_a_create_that_breaks_off(store: Store, prompt: Prompt, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process may end once its settings are written: none are left behind of a run that was not created."""
    store.create(**names(id="run_1", metadata={"a": "1"}, idempotency_key="key"))
    before = prompt.everything()

    def end(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(execute_create, "_by_key", end)
    with pytest.raises(KeyboardInterrupt):
        store.create(**names(id="run_2", metadata={"a": "1"}, idempotency_key="key"))
    assert before == prompt.everything()


def test_a_sweep_while_a_thread_is_taken(url: str, clock: ManualClock) -> None:
    """A run gets ready while another takes its thread, unseen: the sweep looks again, and leaves it waiting."""
    with open_store(url) as store, closing(Prompt(url).connection) as own, ThreadPoolExecutor(1) as pool:
        first = store.create(**names(id="run_1", one_live_run_per_thread="reject"))
        store.create(**names(id="run_2", one_live_run_per_thread="queue", not_before=clock.time() + 1))
        store.request_cancel(first.id)
        assert "cancelled" == store.get(first.id).status
        own.execute("BEGIN")
        with store.within(own) as bound:
            bound.create(**names(id="run_3", one_live_run_per_thread="reject"))
        clock.advance(2)
        swept = pool.submit(store.sweep)
        wait_for_a_lock(url)
        own.execute("COMMIT")
        assert () == swept.result(LIMIT).promoted
        assert not store.get("run_2").claimable


def test_a_note_of_a_run_that_another_transaction_holds(url: str) -> None:
    """It is kept at once: who reports what it does waits for nobody who has to do with its run."""
    with open_store(url) as store, Prompt(url) as other:
        lease = store.open_lease("w1")
        store.create(**names())
        (claim,) = store.claim(lease)
        other.run("BEGIN")
        other.run("SELECT 1 FROM runstate_run FOR UPDATE")
        assert store.save_checkpoint(lease, claim.run, checkpoint=Checkpoint(7), progress="half")
        other.run("ROLLBACK")


def test_a_checkpoint_under_way_while_the_lease_ends(url: str, clock: ManualClock) -> None:
    """Nobody takes the run over until it is known whether the checkpoint is kept; then it is handed on."""
    with open_store(url) as store, closing(Prompt(url).connection) as own:
        lease = store.open_lease("w1")
        store.create(**names())
        (claim,) = store.claim(lease)
        own.execute("BEGIN")
        with store.within(own) as bound:
            assert bound.save_checkpoint(lease, claim.run, checkpoint=Checkpoint(7))
        clock.advance(lease.lease_s)
        assert (0, 0) == ((swept := store.sweep()).expired_leases, swept.orphaned)
        next_lease = store.open_lease("w2")
        assert [] == store.take_over(next_lease)
        own.execute("COMMIT")
        assert (1, 1) == ((swept := store.sweep()).expired_leases, swept.orphaned)
        (taken,) = store.take_over(next_lease)
        assert (7, 2) == (taken.checkpoint, taken.run.attempt)
