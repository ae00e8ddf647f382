"""The machine finds nothing wrong with a store, and finds each fault that is put into one."""

from __future__ import annotations

import itertools
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Unpack

import attrs
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test

from runstate import RUN_LIFECYCLE, RunEvent, RunstateError, TerminalStatus
from runstate.clock import time_us
from runstate.store import (
    Claim,
    Entry,
    HeartbeatResult,
    Lease,
    NewRun,
    Settle,
    SettleAndClaimResult,
    Store,
    StoredRun,
    SweepResult,
    open_store,
)
from runstate.store._engine.commands import InTransaction, TransitionRun
from runstate.store._sql.connection import Connection
from runstate.store._sql.dialect import SQLITE
from tests.store.conftest import empty
from tests.store.support import Prompt, template
from tests.support.guards import drop_guards
from tests.support.judge import judge_by_sql, judge_through
from tests.support.lifecycle import UNTIL_DEADLINE
from tests.support.postgres import Server
from tests.testing.store_machine import StoreMachine

pytestmark = pytest.mark.slow  # long sequences of what clients and workers ask

TOLD = "must be|must not be|no order of the two|yet something changed|cannot be|has the history"
PLAIN = settings(max_examples=10, stateful_step_count=60, suppress_health_check=list(HealthCheck), deadline=None)
FINDING = settings(
    PLAIN, max_examples=20, phases=(Phase.generate,), report_multiple_bugs=False, print_blob=False, database=None
)
SEEDS = range(20)
"""Beginnings to search from: what one does not find soon, the next does."""


# --- stores as they are -----------------------------------------------------------------------------------------------


def test_in_memory() -> None:
    """A store in memory answers as foretold."""
    run_state_machine_as_test(StoreMachine, settings=PLAIN)


def test_in_a_file(tmp_path: Path) -> None:
    """A store in a file answers as foretold, also where two stores are open on it."""
    empty_file = template(tmp_path)
    numbers = itertools.count()

    class Machine(StoreMachine):
        def open_store(self) -> Store:
            self.url = f"sqlite:///{shutil.copy(empty_file, tmp_path / f'runs_{next(numbers)}.db')}"
            return open_store(self.url)

        def open_beside(self) -> Store:
            return open_store(self.url)

        def teardown(self) -> None:
            super().teardown()
            assert () == judge_by_sql(self.url)

    run_state_machine_as_test(Machine, settings=settings(PLAIN, max_examples=5))
    assert next(numbers) > 4


def test_in_postgres(postgres_server: Server) -> None:
    """A store in PostgreSQL answers as foretold, also where two stores are open on it."""
    url = postgres_server.create_database()
    open_store(url, migrate=True).close()
    with Prompt(url) as broom:

        class Machine(StoreMachine):
            def open_store(self) -> Store:
                empty(broom)
                return open_store(url)

            def open_beside(self) -> Store:
                return open_store(url)

            def teardown(self) -> None:
                super().teardown()
                assert () == judge_through(broom.run).wrong

        run_state_machine_as_test(Machine, settings=settings(PLAIN, max_examples=4))
    postgres_server.drop_database(url)


def test_the_clock_is_given_back() -> None:
    """When the machine is done, the process reads the clock it read before, and the store is closed."""
    before = time_us()
    machine = StoreMachine()
    assert 1_800_000_000_750_000 == time_us()
    machine.teardown()
    assert before <= time_us() < 1_800_000_000_000_000
    with pytest.raises(RunstateError, match="is closed"):
        machine.store.counts()


# --- stores with a fault ----------------------------------------------------------------------------------------------


def unguarded(store: Store) -> Connection:
    """Return the connection of a store in memory, whose guards are sent away."""
    session = store._database.open()
    for statement in drop_guards(SQLITE):
        if "_born" not in statement:
            session.execute_ddl(statement)
    return session


class SettlesWithoutLease(Store):
    """Whoever brings an outcome is believed."""

    def settle(self, lease: Lease, outcomes: Iterable[Settle]) -> SettleAndClaimResult:
        refused: dict[int, RunstateError] = {}
        for one in outcomes:
            payload = {name: getattr(one, name) for name in ("required_action", "last_error", "incomplete_details")}
            move = TransitionRun(
                one.run.id, one.event, actor=lease.actor, version=None, usage=one.usage, payload=payload
            )
            try:
                self._transport.execute(move)
            except RunstateError as error:
                refused[one.run.seq] = error
        return SettleAndClaimResult([], refused)


class RenewsWhatLapsed(Store):
    """A worker that stood still gets its lease back."""

    def heartbeat(self, lease: Lease) -> HeartbeatResult:
        until = time_us() + 1
        own = f"token = {lease.token} AND closed = 0"
        statement = f"UPDATE runstate_worker_session SET lease_until_us = {until} WHERE {own}"
        self._transport.execute(InTransaction(lambda session: session.execute(statement, {})))
        return super().heartbeat(lease)


class TakesFromTheLiving(Store):
    """A run is taken over whether or not its worker's lease has lapsed."""

    def take_over(self, lease: Lease, limit: int = 1, **given: Any) -> list[Claim]:
        statement = f"UPDATE runstate_worker_session SET closed = 1 WHERE token <> {lease.token}"
        self._transport.execute(InTransaction(lambda session: session.execute(statement, {})))
        return super().take_over(lease, limit, **given)


class CancelsTheCompleted(Store):
    """A cancel overwrites the end that a run has had."""

    def request_cancel(
        self, run_id: str, *, actor: str | None = None, expected_version: int | None = None
    ) -> StoredRun:
        try:
            return super().request_cancel(run_id, actor=actor, expected_version=expected_version)
        except TerminalStatus as refusal:
            run = refusal.run
            assert run is not None
            if run.status != "completed":
                raise
            sets = f"status = 'cancelled', completed_at = NULL, cancelled_at = {time_us() // 1_000_000}"
            unguarded(self).execute(f"UPDATE runstate_run SET {sets} WHERE seq = {run.seq}", {})
            return self.get(run_id)


class ExpiresEarly(Store):
    """A sweep expires what has some seconds left."""

    def sweep(self, **given: Any) -> SweepResult:
        swept = super().sweep(**given)
        late = [run.id for run in self.list(limit=100).data if (run.seconds_left() or 99) < 20]
        for run_id in late:
            self.expire(run_id, actor="sweep")
        return SweepResult(
            (*swept.expired, *late), swept.failed, swept.cancelled, swept.promoted, swept.expired_leases, swept.orphaned
        )


class IgnoresVersions(Store):
    """A decision on an old version is carried out."""

    def _move(
        self, run_id: str, event: RunEvent, actor: str | None, version: int | None, *rest: Any, **given: Any
    ) -> StoredRun:
        return super()._move(run_id, event, actor, None, *rest, **given)


class CrowdsThreads(Store):
    """A thread gets a second live run."""

    def create(self, **given: Unpack[NewRun]) -> StoredRun:
        given["one_live_run_per_thread"] = None
        return super().create(**given)


class ForgetsKeys(Store):
    """The same request makes another run."""

    def create(self, **given: Unpack[NewRun]) -> StoredRun:
        given["idempotency_key"] = None
        return super().create(**given)


class ClaimsTooMuch(Store):
    """A worker gets one run more than it asked for."""

    def claim(self, lease: Lease, limit: int = 1, *, queues: Sequence[str] = ("default",)) -> list[Claim]:
        return super().claim(lease, limit + 1, queues=queues)


class PrunesTheYoung(Store):
    """What has just ended is deleted."""

    def prune(self, older_than_s: float, *, limit: int = 1000, dry_run: bool = False) -> int:
        return super().prune(0, limit=limit, dry_run=dry_run)


class CountsReleases(Store):
    """An attempt that was given back is counted all the same."""

    def release(self, lease: Lease, run: StoredRun) -> bool:
        released = super().release(lease, run)
        if released:
            unguarded(self).execute(f"UPDATE runstate_run SET attempt = attempt + 1 WHERE seq = {run.seq}", {})
        return released


class RefusesAndWrites(Store):
    """A refusal leaves a trace in the run."""

    def _move(self, run_id: str, *rest: Any, **given: Any) -> StoredRun:
        try:
            return super()._move(run_id, *rest, **given)
        except TerminalStatus:
            unguarded(self).execute("UPDATE runstate_run SET model = 'gone' WHERE id = :id", {"id": run_id})
            raise


class LosesARace(Store):
    """An end is decided on a look, and written later over whatever came between."""

    def _move(self, run_id: str, event: RunEvent, *rest: Any, **given: Any) -> StoredRun:
        run = self.get(run_id)
        if RUN_LIFECYCLE.is_terminal(RUN_LIFECYCLE.target_of(event)) and RUN_LIFECYCLE.find(run.status, event):
            time.sleep(0.003)
            now = self.get(run_id)
            if RUN_LIFECYCLE.is_terminal(now.status) and not run.is_terminal:
                session = unguarded(self)
                again = "expires_at = created_at + 600, usage = NULL, completed_at = NULL, failed_at = NULL"
                sets = f"status = '{run.status}', version = {run.version}, {again}"
                session.execute(f"UPDATE runstate_run SET {sets} WHERE seq = {run.seq}", {})
        return super()._move(run_id, event, *rest, **given)


class SkipsAnEntry(Store):
    """A history has a gap."""

    def history(self, run_id: str, *, after_version: int = 0) -> tuple[Entry, ...]:
        entries = super().history(run_id, after_version=after_version)
        return (*entries[:1], *entries[2:])


class TellsAnother(Store):
    """A history says of somebody else what was asked."""

    def history(self, run_id: str, *, after_version: int = 0) -> tuple[Entry, ...]:
        entries = super().history(run_id, after_version=after_version)
        return tuple(attrs.evolve(entry, actor="client_1") for entry in entries)


class GrantsWhatIsLate(Store):
    """A run is started, and takes outputs, after its deadline."""

    def _move(self, run_id: str, event: RunEvent, *rest: Any, **given: Any) -> StoredRun:
        if event not in UNTIL_DEADLINE or not self.get(run_id).is_due():
            return super()._move(run_id, event, *rest, **given)
        deadline = "UPDATE runstate_run SET expires_at = expires_at + :more WHERE id = :id"
        session = unguarded(self)
        session.execute(deadline, {"id": run_id, "more": 10_000})
        try:
            super()._move(run_id, event, *rest, **given)
        finally:
            session.execute(deadline, {"id": run_id, "more": -10_000})
        return self.get(run_id)


FAULTS: Sequence[type[Store]] = (
    GrantsWhatIsLate,
    SettlesWithoutLease,
    RenewsWhatLapsed,
    TakesFromTheLiving,
    CancelsTheCompleted,
    ExpiresEarly,
    IgnoresVersions,
    CrowdsThreads,
    ForgetsKeys,
    ClaimsTooMuch,
    PrunesTheYoung,
    CountsReleases,
    RefusesAndWrites,
    LosesARace,
    SkipsAnEntry,
    TellsAnother,
)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(fault: type[Store]) -> None:
    """The machine finds a store that does what no store may do."""

    class Machine(StoreMachine):
        def open_store(self) -> Store:
            store = open_store("sqlite:///:memory:")
            store.__class__ = fault
            return store

    def search() -> None:
        for number in SEEDS:
            seed(number)(Machine)
            run_state_machine_as_test(Machine, settings=FINDING)

    with pytest.raises((AssertionError, Flaky)) as found:
        search()
    assert isinstance(found.value, Flaky) or re.search(TOLD, str(found.value))
