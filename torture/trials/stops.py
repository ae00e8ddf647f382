"""Workers that stand still past their lease, or whose clocks are an hour off."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Mapping
from time import monotonic, sleep
from typing import Final

import attrs

from runstate.errors import StoreError
from runstate.lifecycle import RunEvent
from runstate.store import Lease, Store, StoredRun
from runstate.store._worker_types import Settle
from torture.fleet.checks import histories
from torture.fleet.fleet import Fleet, sessions_at_work, settings_at
from torture.fleet.handler import DEADLINE_S, new_run
from torture.fleet.handler_log import SideLog, read_side_log, skew
from torture.fleet.settings import Settings, opened
from torture.ground import Ground, wait_until
from torture.processes import Processes
from torture.verdict import Verdict

LEASE_S: Final = 1.0
FROZEN_S: Final = 4.0  # longer than the server lets a transaction stand still
HOUR_S: Final = 3600.0
_NAME: Final = "stubborn"


# --- standing still ---------------------------------------------------------------------------------------------------


def insist(name: str, settings: Settings) -> None:
    """Claim a run, stand still, and settle it although the lease is over, without asking about it: again and again."""
    logging.basicConfig(filename=settings.log, level=logging.WARNING)
    side = SideLog(settings.side, name)
    with opened(settings.url, settings.wait_s) as store:
        while True:
            lease = store.open_lease(name, lease_s=settings.lease_s)
            for claim in store.claim(lease):
                side.note("begun", claim.run.id, claim.run.version, claim.run.attempt)
                stand_still(store, lease)
                side.note(outcome_of(store, lease, claim.run), claim.run.id, claim.run.version, claim.run.attempt)
            store.close_lease(lease)
            sleep(0.05)


def stand_still(store: Store, lease: Lease) -> None:
    """Renew the lease until this process finds that it was stopped, or the lease lost, if it was stopped before."""
    looked_at = beaten_at = monotonic()
    while (now := monotonic()) - looked_at < lease.lease_s:
        looked_at = now
        if now - beaten_at > lease.lease_s / 4:
            beaten_at = now
            if not store.heartbeat(lease).held:
                return
        sleep(0.01)


def outcome_of(store: Store, lease: Lease, run: StoredRun) -> str:
    """Settle a run; return what came of it."""
    refused = store.settle(lease, [Settle(run, RunEvent.COMPLETE)]).refused
    return f"refused-{type(refused[run.seq]).__name__}" if refused else "settled"


def freeze(name: str, settings: Settings, orphans: int) -> None:
    """Leave runs behind, begin to sweep, and stand still with the transaction open."""
    with opened(settings.url, settings.wait_s) as store:
        lapsing = store.open_lease(name, lease_s=0.2)
        store.create_many([{**new_run(f"run_{name}_{number}", "complete"), "priority": 9} for number in range(orphans)])
        store.claim(lapsing, orphans)
        sleep(0.3)
        session = store._database.open()
        side = SideLog(settings.side, name)
        side.note("frozen", "nothing", 0, 0)
        told = "thawed-done"
        try:
            with session.transaction():
                session.execute(session.statements.close_expired_leases, {})
                os.kill(os.getpid(), signal.SIGSTOP)
        except StoreError as error:
            told = f"thawed-{type(error).__name__}"
        side.note(told, "nothing", 0, 0)
        signal.pause()


@attrs.define
class Stopping:
    """Stops processes while they hold runs, and lets them go on when others have these."""

    processes: Processes
    url: str
    victims: frozenset[str]
    stopped: dict[str, tuple[float, frozenset[int]]] = attrs.Factory(dict)
    """Since when a member stands still, and the sessions that it had then."""

    def look(self, most: int) -> list[str]:
        """Stop up to `most` that hold runs; return those that go on now."""
        held = sessions_at_work(self.url)
        now = monotonic()
        gone_on = []
        for name, (since, tokens) in list(self.stopped.items()):
            if now > since + LEASE_S * 1.2 and not tokens & held.get(name, frozenset()):
                del self.stopped[name]
                self.processes.signal(name, signal.SIGCONT)
                gone_on.append(name)
        for name in (self.victims & held.keys()) - self.stopped.keys() - set(gone_on):
            if len(self.stopped) < most:
                self.processes.signal(name, signal.SIGSTOP)
                self.stopped[name] = monotonic(), held[name]
        return gone_on


def stops(ground: Ground, count: int) -> Verdict:
    """Stop workers past their lease, and let them go on."""
    verdict = Verdict("stops", trials=count)
    chance = ground.chance("stops")
    url = ground.store("postgres")
    settings = settings_at(ground, url, lease_s=LEASE_S, wait_s=10.0, concurrency=6, slow_s=2.0, asynchronous=True)
    with Processes() as processes:
        fleet = Fleet(processes, settings)
        fleet.start()
        workers = [fleet.start_worker() for _ in range(6)]
        stubborn = [processes.start(insist, settings, name=_NAME) for _ in range(6)]
        frozen = processes.start(freeze, settings, 4, name="frozen")
        verdict.faults["SIGSTOP of a sweep"] += 1
        stopping = Stopping(processes, url, frozenset((*workers[2:], *stubborn)))
        end = monotonic() + 60 + 3.0 * count
        while verdict.faults.total() <= count and monotonic() < end:
            left = count + 1 - verdict.faults.total()
            for name in stopping.look(left):
                verdict.faults["SIGSTOP of " + (_NAME if name in stubborn else "a worker")] += 1
            verdict.wrong += processes.fallen()
            sleep(chance.uniform(0.02, 0.1))
        verdict.expect(verdict.faults.total() > count, "the stopped workers' runs were not taken over in time")
        wait_until(lambda: is_frozen(settings), "the frozen sweep to have stood still for long enough")
        for name in (*stopping.stopped, frozen):
            processes.signal(name, signal.SIGCONT)
        tried = verdict.faults[f"SIGSTOP of {_NAME}"]
        wait_until(lambda: sum(answers(settings).values()) > tried, "the last of them to settle")
        for name in stubborn:
            processes.kill(name)
        fleet.finish(verdict, url)
    found = answers(settings)
    verdict.notes["answers to a late settle"] = found
    verdict.doubled += found.get("settled", 0)
    verdict.expect("thawed-OutcomeUnknown" in found, "the frozen sweep was not ended by the server")
    fleet.check(verdict, url)
    ground.drop(url)
    return verdict


def is_frozen(settings: Settings) -> bool:
    """Tell whether the frozen sweep has stood still for longer than the server allows."""
    return any(line.what == "frozen" and time.time() > line.at + FROZEN_S for line in read_side_log(settings.side))


def answers(settings: Settings) -> Mapping[str, int]:
    """Return what the stubborn were told, by kind."""
    found: dict[str, int] = {}
    for line in read_side_log(settings.side):
        if line.what.startswith(("refused-", "thawed-")) or line.what == "settled":
            found[line.what] = found.get(line.what, 0) + 1
    return found


# --- wrong clocks -----------------------------------------------------------------------------------------------------


def create_skewed(name: str, settings: Settings) -> None:
    """Create runs by a clock that is off, and write down the times that they were given."""
    logging.basicConfig(filename=settings.log, level=logging.WARNING)
    skew(settings.skew_s)
    side = SideLog(settings.side, name)
    with opened(settings.url, settings.wait_s) as store:
        made = 0
        while True:
            run = store.create(**new_run(f"run_{name}_{made}", "complete"))
            side.note("created", run.id, run.created_at, (run.expires_at or 0) - run.created_at)
            made += 1
            sleep(0.02)


def clock(ground: Ground, count: int) -> Verdict:
    """Kill workers whose clocks are an hour off, beside others whose clocks are right."""
    verdict = Verdict("clock", trials=count)
    chance = ground.chance("clock")
    url = ground.store("postgres")
    right = settings_at(ground, url, lease_s=2.0, wait_s=10.0)
    skews = (0.0, HOUR_S, -HOUR_S)
    created = attrs.evolve(right, side=ground.path("created.side"))
    began = time.time()
    with Processes() as processes:
        fleet = Fleet(processes, right)
        fleet.start()
        creators = [processes.start(create_skewed, attrs.evolve(created, skew_s=off), name="c") for off in skews]
        workers = [fleet.start_worker(skew_s=off) for off in (*skews, *skews[1:])]
        for number in range(count):
            sleep(chance.uniform(0.3, 1.2))
            verdict.wrong += processes.fallen()
            place = chance.randrange(len(workers))
            fleet.kill(workers[place])
            verdict.faults["kill -9 of a worker with a clock off or right"] += 1
            off = (*skews[1:], *skews)[(number + place) % 5]
            workers[place] = fleet.start_worker(skew_s=off)
        for name in creators:
            processes.kill(name)
        fleet.finish(verdict, url)
    fleet.check(verdict, url)
    check_times(verdict, url, created, began, time.time())
    ground.drop(url)
    return verdict


def check_times(verdict: Verdict, url: str, created: Settings, began: float, ended: float) -> None:
    """See that every time in the histories and in the callers' hands is the database's."""
    found = histories(url)
    for line in read_side_log(created.side):  # with the stamp for a version, and the allotted time for an attempt
        near = abs(line.version - line.at) < 3 and line.attempt == 600
        verdict.expect(near, f"{line.worker} was given {line.run_id} created {line.version - line.at:.0f} s off")
        verdict.acknowledged += 1
        if line.run_id not in found:
            verdict.lose("a created run is not there", line.run_id)
    late = 0.0
    for run_id, entries in found.items():
        inside = all(began - 1 <= entry.at / 1e6 <= ended + 1 for entry in entries)
        verdict.expect(inside, f"{run_id} has a time outside of the trial")
        if entries[-1].event == "expire":
            after = entries[-1].at / 1e6 - (entries[0].at // 1_000_000 + DEADLINE_S)
            verdict.expect(after >= 0, f"{run_id} expired {-after:.1f} s before its deadline")
            late = max(late, after)
    verdict.notes["latest expire after its deadline, s"] = round(late, 2)
