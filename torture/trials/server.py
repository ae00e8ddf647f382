"""A PostgreSQL that is killed and started again, and connections that are cut."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from time import sleep, time
from typing import Final

import attrs

from tests.support.judge import asking
from tests.support.pg_proxy import Proxy
from torture.trials.ground import Crew, Ground, Verdict, wait_until
from torture.trials.handler import serve
from torture.trials.kills import WORKERS, conclude, either, setting_at, warnings
from torture.trials.load import Load

LEASE_S: Final = 2.0


def go_on(url: str, workers: Sequence[str], since: float) -> bool:
    """Tell whether each worker has begun or ended a run after a moment."""
    with asking(url) as ask:
        found = ask(f"SELECT DISTINCT actor FROM runstate_history WHERE at > {int(since * 1e6)}")
    return {actor for (actor,) in found} >= set(workers)


def restarts(ground: Ground, count: int) -> Verdict:
    """Kill every process of the server at once, and start it again on what is left, sooner or later."""
    verdict = Verdict("restarts", trials=count)
    chance = ground.chance("restarts")
    server = ground.server(fast=ground.quick)
    url = ground.store("postgres", fast=ground.quick)
    # The outages are longer and shorter than the lease, and than what a store waits for.
    setting = attrs.evolve(setting_at(ground, url, "restarts"), lease_s=LEASE_S, wait_s=1.0)
    slowest = 0.0
    with Crew() as crew, Load(url, chance, rate=120, wait_s=1.0) as load:
        workers = [crew.start(serve, either(setting, chance)) for _ in range(WORKERS)]
        wait_until(lambda: go_on(url, workers, 0.0), "all workers to work")
        for number in range(count):
            sleep(chance.uniform(0.3, 2.0))
            server.kill()
            verdict.faults["kill -9 of PostgreSQL"] += 1
            sleep((0.5, 0.0, 1.5, 4.0)[number % 4])
            server.restart()
            back, known = time(), len(load.created)
            wait_until(lambda back=back: go_on(url, workers, back), "all workers to go on")  # type: ignore[misc]
            wait_until(lambda known=known: len(load.created) > known, "creates to go on")  # type: ignore[misc]
            slowest = max(slowest, time() - back)
            verdict.wrong += crew.fallen()
        load.finish()
        verdict.wrong += crew.fallen()
    verdict.notes["longest until all had gone on, s"] = round(slowest, 1)
    conclude(verdict, load, url, setting.side)
    warnings(verdict, setting.log)
    ground.drop(url)
    return verdict


def cuts(ground: Ground, count: int) -> Verdict:
    """Cut connections, by the server and on the way to it."""
    verdict = Verdict("cuts", trials=count)
    chance = ground.chance("cuts")
    url = ground.store("postgres")
    with Proxy(url) as proxy:
        setting = attrs.evolve(setting_at(ground, proxy.url, "cuts"), lease_s=LEASE_S)
        with Crew() as crew, Load(proxy.url, chance, rate=120) as load:
            workers = [crew.start(serve, either(setting, chance)) for _ in range(WORKERS)]
            wait_until(lambda: go_on(url, workers, 0.0), "all workers to work")
            for number in range(count):
                sleep(chance.uniform(0.05, 0.4))
                if number % 2:
                    verdict.count(connections_cut=proxy.cut(chance, chance.choice((0.1, 0.5, 1.0))))
                    verdict.faults["cuts by the proxy"] += 1
                else:
                    verdict.count(connections_cut=terminate(url, chance))
                    verdict.faults["pg_terminate_backend"] += 1
                verdict.wrong += crew.fallen()
            last = time()
            wait_until(lambda: go_on(url, workers, last), "all workers to go on")
            load.finish()
            verdict.wrong += crew.fallen()
    conclude(verdict, load, url, setting.side)
    warnings(verdict, setting.log)
    ground.drop(url)
    return verdict


def terminate(url: str, chance: Random) -> int:
    """Have the server end some or all connections to the database; return how many."""
    part = chance.choice((0.1, 0.5, 1.0))
    with asking(url) as ask:
        found = ask(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
            f" AND pid <> pg_backend_pid() AND random() <= {part}"
        )
    return int(found[0][0])
