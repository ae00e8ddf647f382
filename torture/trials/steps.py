"""Workers that are killed in the middle of handlers with many steps."""

from __future__ import annotations

import time
from time import monotonic, sleep
from typing import Final

import attrs

from runstate.store import Store
from tests.support.judge import Ask, asking, listed
from tests.support.lifecycle import LIVE
from torture.fleet.checks import check_side_log, check_take_overs, histories
from torture.fleet.fleet import CALM_S, check_warnings, sessions_at_work, settings_at
from torture.fleet.settings import opened
from torture.fleet.step_checks import check_runs_of_steps
from torture.fleet.step_handler import CONCURRENCY, new_run_of_steps, work_in_steps
from torture.ground import Dialect, GaveUp, Ground, wait_until
from torture.processes import Processes
from torture.verdict import Verdict

WORKERS: Final = 4
LEASE_S: Final = 1.5
_BACKLOG: Final = 2 * WORKERS * CONCURRENCY
_SLOW_S: Final = 0.02
_EACH_S: Final = 5.0
"""Longer than the time between two kills on a slow machine."""


@attrs.define
class Client:
    """Creates runs, and submits the outputs of their tool calls."""

    store: Store
    ask: Ask
    made: int = 0
    submitted: int = 0

    def create(self) -> None:
        """Create runs, if the workers have few left."""
        left = self.live()
        names = range(self.made, self.made + _BACKLOG - left)
        if len(names):
            self.store.create_many([new_run_of_steps(f"run_{name}", tools=name % 3 == 0) for name in names])
            self.made += len(names)

    def submit(self) -> None:
        """Submit all tool outputs that runs wait for."""
        for (run_id,) in self.ask("SELECT id FROM runstate_run WHERE status = 'requires_action'"):
            action = self.store.get(run_id).required_action
            assert action is not None
            self.store.submit_tool_outputs(run_id, {call.id: "sunny" for call in action.tool_calls})
            self.submitted += 1

    def live(self) -> int:
        """Return how many runs have not ended."""
        return int(self.ask(f"SELECT count(*) FROM runstate_run WHERE status IN ({listed(LIVE)})")[0][0])

    def is_over(self) -> bool:
        """Submit what is missing; return whether all runs have ended."""
        self.submit()
        return self.live() == 0


def steps(ground: Ground, count: int, dialect: Dialect) -> Verdict:
    """Kill workers while their handlers execute steps, and start new ones."""
    verdict = Verdict(f"steps/{dialect}", trials=count)
    chance = ground.chance("steps")
    url = ground.store(dialect)
    settings = settings_at(ground, url, lease_s=LEASE_S, wait_s=30.0, slow_s=_SLOW_S)
    died: dict[str, float] = {}
    with Processes() as processes, opened(url, 30.0) as store, asking(url) as ask:
        client = Client(store, ask)
        workers = [processes.start(work_in_steps, settings) for _ in range(WORKERS)]
        end = monotonic() + 60 + _EACH_S * count
        while len(died) < count:
            if monotonic() > end:
                raise GaveUp(f"only {len(died)} of {count} workers were killed")
            client.create()
            client.submit()
            sleep(chance.uniform(0.1, 0.5))
            verdict.wrong += processes.fallen()
            at_work = sorted(sessions_at_work(url).keys() & set(workers))
            if at_work:
                name = chance.choice(at_work)
                processes.kill(name)
                died[name] = time.time()
                workers[workers.index(name)] = processes.start(work_in_steps, settings)
        verdict.faults["kill -9 of a worker"] = len(died)
        try:
            wait_until(client.is_over, "all runs to end", CALM_S, 0.1)
        except GaveUp as error:
            verdict.wrong.append(str(error))
        verdict.wrong += processes.fallen()
    verdict.judge(url)
    check_side_log(verdict, settings.side, histories(url))
    check_take_overs(verdict, url, settings.side, died)
    check_runs_of_steps(verdict, url, settings.side)
    check_warnings(verdict, settings.log)
    ground.drop(url)
    return verdict
