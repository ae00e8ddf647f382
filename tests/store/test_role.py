"""PostgreSQL: what a role may do that has SELECT, INSERT, UPDATE and DELETE on the tables, and does not own them."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest

from runstate.lifecycle import RunEvent
from runstate.store import Settle, Store, open_store
from runstate.worker import Worker
from tests.store.conftest import make_url, opened
from tests.store.support import FIRST, LATER, Prompt, birth, bring_in_store, by_hand, insert, names, update
from tests.store.test_jumps import LEADS_TO
from tests.support.lifecycle import CALL, LIVE, STATUSES, TABLE
from tests.support.postgres import wait_until

LIMIT_S = 60.0


@pytest.fixture
def home(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty store, as the owner of the tables."""
    yield from make_url("postgres", request)


@pytest.fixture
def store(home: str) -> Iterator[Store]:
    yield from opened(home)


@pytest.fixture
def clerk_url(home: str) -> Iterator[str]:
    """The same address for a role with the least rights that a worker needs."""
    role = f"runstate_{secrets.token_hex(4)}"
    with Prompt(home) as owner:
        try:
            owner.run(f"CREATE ROLE {role} LOGIN")
        except Exception as error:
            pytest.skip(f"no right to create a role here: {error}")
        try:
            owner.run(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}")
            owner.run(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}")
            yield re.sub(r"^(\w+://)([^@/?]*@)?", rf"\g<1>{role}@", home)
        finally:
            owner.run(f"DROP OWNED BY {role}")
            owner.run(f"DROP ROLE {role}")


@pytest.fixture
def clerk(clerk_url: str) -> Iterator[Prompt]:
    with Prompt(clerk_url) as prompt:
        yield prompt


def refused(prompt: Prompt, statement: str, given: Sequence[object] = (), why: str = "runstate: ") -> None:
    before = prompt.everything()
    sentence = prompt.refusal(statement, given)
    assert sentence is not None, statement
    assert why in sentence
    assert before == prompt.everything()


def test_a_worker_needs_no_more(store: Store, clerk_url: str) -> None:
    """These rights are enough to create runs and to work on them."""
    with open_store(clerk_url) as other:
        run = other.create(**names())
        Worker(other, lambda ctx: None, lease_s=5).run(until_idle=True)
        assert "completed" == store.get(run.id).status


def drain(url: str) -> int:
    """Work until no run is left; return how many were settled."""
    with open_store(url, wait_s=LIMIT_S) as store:
        worker = Worker(store, lambda ctx: ctx.step("one", lambda: None), lease_s=5)
        worker.run(until_idle=True)
        return worker.settled


def role_of(url: str) -> str:
    return url.partition("://")[2].partition("@")[0]


def test_a_worker_needs_two_connections(store: Store, home: str, clerk_url: str) -> None:
    """It does all its work where the server grants its role no more."""
    store.create_many([names() for _ in range(20)])
    with Prompt(home) as owner:
        owner.run(f"ALTER ROLE {role_of(clerk_url)} CONNECTION LIMIT 2")
        assert 20 == drain(clerk_url)


def test_a_server_that_is_full(store: Store, home: str, clerk_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A worker waits until there is a connection for it. The log has one line about that, and one when it is over."""
    store.create_many([names() for _ in range(20)])
    with Prompt(home) as owner, ThreadPoolExecutor(1) as pool:
        owner.run(f"ALTER ROLE {role_of(clerk_url)} CONNECTION LIMIT 0")
        drained = pool.submit(drain, clerk_url)
        wait_until(lambda: bool(caplog.records), "the worker to say that it waits")
        time.sleep(1.0)  # for several tries
        owner.run(f"ALTER ROLE {role_of(clerk_url)} CONNECTION LIMIT 10")
        assert 20 == drained.result(LIMIT_S)
    told = [record.getMessage() for record in caplog.records if record.levelname != "INFO"]
    assert len(told) == 2, told
    assert told[0].startswith("cannot connect to postgresql://")
    assert "the store is back" in told[1]
    assert {"completed"} == {run.status for run in store.list(limit=100)}


def test_every_jump(store: Store, clerk: Prompt, clock: object) -> None:
    """Of 81 jumps the 19 legal ones are accepted, and the 62 others refused."""
    runs = {status: bring_in_store(store, status, id=f"run_{status}").id for status in STATUSES}
    accepted = 0
    for source, target in product(STATUSES, STATUSES):
        statement, values = update(by_hand(clerk.one(runs[source]), LEADS_TO[target], target), runs[source])
        if (source, LEADS_TO[target]) in TABLE:
            with clerk.undone():
                assert 1 == clerk.changed(statement, values)
                accepted += 1
        else:
            sentence = "runstate: illegal transition" if source in LIVE else "runstate: "
            refused(clerk, statement, values, sentence)
    assert 19 == accepted


ONES_OWN = (
    "UPDATE runstate_run SET status = 'completed'",
    "UPDATE runstate_run SET version = version + 1",
    "UPDATE runstate_run SET expires_at = expires_at + 600",
    "UPDATE runstate_run SET worker = 7, attempt = attempt + 1",
    "DELETE FROM runstate_run",
    "UPDATE runstate_history SET actor = 'somebody'",
    "DELETE FROM runstate_history",
    "UPDATE runstate_run_config SET config = '{}'",
    "DELETE FROM runstate_run_config",
    "DELETE FROM runstate_worker_session",
    "UPDATE runstate_worker_session SET closed = 0 WHERE closed = 1",
)


def test_from_a_trigger_of_ones_own(store: Store, clerk: Prompt) -> None:
    """A trigger on a temporary table is no way around the guards, nor is a temporary function."""
    bring_in_store(store, "in_progress", metadata={"a": "b"})
    bring_in_store(store, "completed", metadata={"a": "b"})
    store.create(**names(queue="mine"))
    store.claim(store.open_lease("w1"), queues=["mine"])
    for statement in ONES_OWN:
        refused(clerk, statement)
        clerk.run("CREATE TEMPORARY TABLE mine (id int)")
        body = f"BEGIN {statement}; RETURN NULL; END"
        clerk.run(f"CREATE FUNCTION pg_temp.mine() RETURNS trigger LANGUAGE plpgsql AS $${body}$$")
        clerk.run("CREATE TRIGGER mine AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION pg_temp.mine()")
        refused(clerk, "INSERT INTO mine VALUES (1)")
        clerk.run("DROP TABLE mine; DROP FUNCTION pg_temp.mine()")


def test_the_guards_stay(store: Store, clerk: Prompt) -> None:
    """The role can neither disable the guards nor add triggers or rules of its own to the tables."""
    bring_in_store(store, "completed")
    clerk.run("CREATE FUNCTION pg_temp.mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    for statement in (
        "ALTER TABLE runstate_run DISABLE TRIGGER ALL",
        "ALTER TABLE runstate_run DISABLE TRIGGER USER",
        "DROP TRIGGER runstate_moved ON runstate_run",
        "DROP FUNCTION runstate_moved() CASCADE",
        "CREATE RULE mine AS ON UPDATE TO runstate_run DO INSTEAD NOTHING",
        "ALTER TABLE runstate_worker_session DROP CONSTRAINT runstate_worker_session_check",
        "CREATE TRIGGER a BEFORE UPDATE ON runstate_run FOR EACH ROW EXECUTE FUNCTION pg_temp.mine()",
        "SET session_replication_role = replica",
        "TRUNCATE runstate_history",
    ):
        refused(clerk, statement, why="")


def test_times_tokens_and_threads(store: Store, clerk: Prompt, clock: object) -> None:
    """Nor does it write a time of the far future, a lease without end, negative tokens, or a second live run."""
    run = bring_in_store(store, "queued")
    start = by_hand(clerk.one(run.id), "start", "in_progress", 253_402_300_799_000_000)
    refused(clerk, *update(start, run.id))
    done = bring_in_store(store, "completed")
    store.open_lease("w1")
    for end in (2**63 - 1, 253_402_300_800_000_000, 0, -1):
        refused(
            clerk,
            "UPDATE runstate_worker_session SET lease_until_us = ? WHERE name = 'w1'",
            [end],
            "runstate_worker_session",
        )
    refused(
        clerk,
        "INSERT INTO runstate_worker_session VALUES (-1, 'x', 0, 9000000000000000, 0)",
        (),
        "runstate_worker_session",
    )
    checkpoint = "INSERT INTO runstate_checkpoint (run, checkpoint, prompt_tokens) VALUES (?, '{}', -5)"
    refused(clerk, checkpoint, [done.seq], "runstate_checkpoint")
    store.create(**names(thread_id="thread_9", one_live_run_per_thread="reject"))
    refused(clerk, *insert(birth("run_9", thread_id="thread_9", thread_policy="reject")), why="runstate_thread")


def test_what_a_client_can_do(store: Store, clerk: Prompt, clock: object) -> None:
    """What SECURITY.md says that the database cannot tell from a worker's own writes."""
    run = store.create(**names())
    lease, other = store.open_lease("w1"), store.open_lease("w2")
    store.claim_id(lease, run.id)
    assert {0, lease.token, other.token} == {
        token for (token,) in clerk.run("SELECT token FROM runstate_worker_session")
    }
    refused(clerk, "UPDATE runstate_run SET worker = ?, attempt = 2, lost = 1 WHERE id = ?", [other.token, run.id])
    assert 1 == clerk.changed("UPDATE runstate_run SET worker = 0 WHERE id = ?", [run.id])
    take = "UPDATE runstate_run SET worker = ?, attempt = attempt + 1 WHERE id = ?"
    assert 1 == clerk.changed(take, [other.token, run.id])
    assert 1 == clerk.changed(
        "UPDATE runstate_worker_session SET lease_until_us = lease_until_us + 3600000000 WHERE token = ?", [lease.token]
    )
    assert 1 == clerk.changed("UPDATE runstate_worker_session SET closed = 1 WHERE token = ?", [lease.token])
    assert 1 == clerk.changed(*update(by_hand(clerk.one(run.id), "complete", "completed", FIRST), run.id))
    assert 1 == clerk.changed(
        *insert(birth("run_9", changed_at_us=LATER, claimable_at_us=LATER, created_at=LATER // 10**6))
    )


FORGED = (
    # ahead of the run, of the run's own version, behind it, and of no run at all
    "VALUES ({seq}, 3, 'complete', 'in_progress', 'completed', 1, 'the auditor')",
    "VALUES ({seq}, 2, 'complete', 'in_progress', 'completed', 1, 'the auditor')",
    "VALUES ({seq}, 0, NULL, NULL, 'queued', 1, 'the auditor')",
    "VALUES (4711, 1, NULL, NULL, 'queued', 1, 'the auditor')",
    "SELECT seq, version + 1, 'complete', 'in_progress', 'completed', changed_at_us, actor FROM runstate_run",
)


@pytest.mark.parametrize("entry", FORGED)
def test_no_entry_is_forged_by_a_trigger_of_ones_own(store: Store, clerk: Prompt, entry: str) -> None:
    """An entry that does not say what its run says is refused, and the run can still be moved."""
    run = bring_in_store(store, "in_progress", id="run_1")
    forged = f"INSERT INTO runstate_history (run, version, event, source, target, at_us, actor) {entry}"
    clerk.run("CREATE TEMPORARY TABLE mine (id int)")
    body = f"BEGIN {forged.format(seq=run.seq)}; RETURN NULL; END"
    clerk.run(f"CREATE FUNCTION pg_temp.mine() RETURNS trigger LANGUAGE plpgsql AS $${body}$$")
    clerk.run("CREATE TRIGGER mine AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION pg_temp.mine()")
    refused(clerk, "INSERT INTO mine VALUES (1)", why="the history is written by the database alone")
    assert "completed" == store.complete(run.id).status


@pytest.mark.parametrize("function", ["moved", "born", "kept", "deleted"])
def test_no_table_of_ones_own_gets_a_trigger_of_the_store(store: Store, clerk: Prompt, function: str) -> None:
    """With its rows one could write entries of runs that never moved."""
    clerk.run("CREATE TEMPORARY TABLE mine (LIKE runstate_run)")
    when = "AFTER INSERT ON mine REFERENCING NEW TABLE AS born FOR EACH STATEMENT"
    sentence = clerk.refusal(f"CREATE TRIGGER mine {when} EXECUTE FUNCTION runstate_{function}()")
    assert "permission denied for function" in (sentence or "accepted")


def test_entries_of_such_a_role_are_written_as_those_of_the_owner(store: Store, clerk_url: str) -> None:
    """One at a time and many at once, with details and without."""
    with open_store(clerk_url) as other:
        runs = other.create_many([names() for _ in range(20)])
        lease = other.open_lease("w1")
        claims = other.claim(lease, 20)
        outcomes = [Settle.of(claim.run, RunEvent.COMPLETE, detail={"n": n}) for n, claim in enumerate(claims)]
        assert {} == other.settle(lease, outcomes).refused
        one = other.create(**names(metadata={"a": "b"}))
        other.start(one.id, actor="web")
        other.require_action(one.id, [CALL])
        other.submit_tool_outputs(one.id, {CALL.id: "sunny"}, actor="web")
    for run in runs:
        assert [None, "start", "complete"] == [entry.event for entry in store.history(run.id)]
    assert "submit_tool_outputs" == store.history(one.id)[-1].event
