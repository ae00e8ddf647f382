"""Workers that are killed, that stand still, or whose clocks are wrong."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random
from time import monotonic, sleep
from typing import Final

import attrs

from tests.support.judge import asking
from torture.trials.check import check_load, check_side_log, check_take_overs, histories
from torture.trials.ground import Crew, Dialect, Ground, Verdict
from torture.trials.handler import Setting, serve
from torture.trials.load import Load

WORKERS: Final = 4
_REFUSED: Final = re.compile(
    r"(?P<worker>w(?:orker)?\d+) outcome of run \S+ was rejected:"
    r" run \S+ is (?P<status>\w+)(?: \(by \w+, (?P<winner>\w+)\))?"
)


def setting_at(ground: Ground, url: str, name: str) -> Setting:
    """Return how workers of a trial work: where their store, side log and warnings are."""
    return Setting(url, ground.path(f"{name}.side"), ground.path(f"{name}.log"))


def conclude(verdict: Verdict, load: Load, url: str, side: Path) -> None:
    """Ask all witnesses."""
    verdict.judge(url)
    found = histories(url)
    check_load(verdict, load, found)
    verdict.acknowledged += check_side_log(verdict, side, found)
    check_take_overs(verdict, url, side)


def warnings(verdict: Verdict, log: Path) -> None:
    """Count the outcomes that workers were refused, by where the run stood, and note those that fell."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    refused = Counter[str]()
    for place, line in enumerate(lines):
        if "the worker fell" in line:
            verdict.wrong.append(f"a worker fell: {' / '.join(lines[place : place + 60])[-600:]}")
        if found := _REFUSED.search(line):
            refused[found["status"]] += 1
            own = found["winner"] == found["worker"]
            verdict.expect(not own, f"a worker was refused what it had done itself: {line}")
    verdict.notes["settles refused"] = refused


def sessions_at_work(url: str) -> Mapping[str, frozenset[int]]:
    """Return the sessions that hold runs, by their workers' names."""
    found: dict[str, frozenset[int]] = {}
    with asking(url) as ask:
        for name, token in ask(
            "SELECT DISTINCT w.name, w.token FROM runstate_run AS r JOIN runstate_worker AS w ON w.token = r.worker"
        ):
            found[name] = found.get(name, frozenset()) | {token}
    return found


def somebody_at_work(url: str, crew: Crew, seconds: float = 1.0) -> list[str]:
    """Wait a little until members hold runs; return their names."""
    end = monotonic() + seconds
    while not (found := sorted(sessions_at_work(url).keys() & crew.members.keys())) and monotonic() < end:
        sleep(0.01)
    return found


def kills(ground: Ground, count: int, dialect: Dialect) -> Verdict:
    """Kill workers under load, each replaced by a new one."""
    verdict = Verdict(f"kills/{dialect}", trials=count)
    chance = ground.chance(verdict.trial)
    url = ground.store(dialect)
    setting = setting_at(ground, url, "kills")
    with Crew() as crew, Load(url, chance, rate=120 if dialect == "postgres" else 100) as load:

        def hire() -> None:
            crew.start(serve, either(setting, chance))

        for _ in range(WORKERS):
            hire()
        for _ in range(count):
            sleep(chance.uniform(0.05, 0.55))
            verdict.wrong += crew.fallen()
            at_work = somebody_at_work(url, crew)
            verdict.count(killed_at_work=bool(at_work))
            crew.kill(chance.choice(at_work or [*crew.members]))
            verdict.faults["kill -9"] += 1
            hire()
        load.finish()
        verdict.wrong += crew.fallen()
    conclude(verdict, load, url, setting.side)
    warnings(verdict, setting.log)
    ground.drop(url)
    return verdict


def either(setting: Setting, chance: Random) -> Setting:
    """Return the setting for a worker of either kind of handler."""
    return attrs.evolve(setting, asynchronous=chance.random() < 0.7)
