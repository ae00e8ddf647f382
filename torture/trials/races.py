"""Races that only one can win: a cancel against an end, from two processes at the same moment."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from threading import BrokenBarrierError
from time import perf_counter
from typing import Final, NamedTuple, Protocol

from runstate.errors import IllegalTransition, LostRace
from runstate.store import Store
from torture.fleet.checks import Entry, histories
from torture.fleet.settings import opened
from torture.ground import PATIENCE_S, Ground, wait_until
from torture.processes import Processes
from torture.verdict import Verdict

_AT_ONCE: Final = 200
_WON: Final = "won"


class Race(NamedTuple):
    """Two moves of one run, of which one can be made."""

    before: tuple[str, ...]
    """What has happened to the run."""
    sides: tuple[str, str]
    with_version: bool
    """Whether both sides decided on the version before the race."""


RACES: Final[Sequence[Race]] = (
    Race(("start", "request_cancel"), ("confirm_cancel", "complete"), with_version=False),
    Race(("start",), ("request_cancel", "complete"), with_version=True),
)

_MOVES: Final[Mapping[str, Callable[[Store, str, int | None], object]]] = {
    "start": lambda store, run_id, version: store.start(run_id, expected_version=version),
    "request_cancel": lambda store, run_id, version: store.request_cancel(run_id, expected_version=version),
    "confirm_cancel": lambda store, run_id, version: store.confirm_cancel(run_id, expected_version=version),
    "complete": lambda store, run_id, version: store.complete(run_id, expected_version=version),
}


class Meeting(Protocol):
    """Where the two sides wait for each other."""

    def wait(self, timeout: float) -> int:
        """Wait for the other side."""
        ...


def race_of(number: int) -> Race:
    """Return which race this one is."""
    return RACES[number % len(RACES)]


def run_side(name: str, url: str, side: int, count: int, meeting: Meeting, result: Path) -> None:
    """Be one side of every race; leave behind what it was told."""
    chance = Random(name)
    told: list[str] = []
    with opened(url, PATIENCE_S) as store:
        for number in range(count):
            race = race_of(number)
            version = 1 + len(race.before) if race.with_version else None
            head_start = perf_counter() + chance.random() * 0.0002
            try:
                meeting.wait(PATIENCE_S)
            except BrokenBarrierError:
                return
            while perf_counter() < head_start:
                pass
            try:
                _MOVES[race.sides[side]](store, f"run_{number}", version)
            except (IllegalTransition, LostRace) as error:
                told.append(type(error).__name__)
            else:
                told.append(_WON)
    unfinished = result.with_suffix(".new")
    unfinished.write_text(json.dumps(told), encoding="utf-8")
    unfinished.rename(result)


async def line_up(store: Store, count: int) -> None:
    """Bring as many runs to where their races begin."""
    aio = store.aio
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int) -> None:
        async with places:
            run_id = f"run_{number}"
            await aio.create(id=run_id, thread_id=run_id, assistant_id="a", model="m")
            for event in race_of(number).before:
                await getattr(aio, event)(run_id)

    await asyncio.gather(*(one(number) for number in range(count)))


def races(ground: Ground, count: int) -> Verdict:
    """Hold the races, and ask both sides and the history who has won."""
    verdict = Verdict("races", trials=count)
    url = ground.store("postgres")
    with opened(url, PATIENCE_S) as store:
        asyncio.run(line_up(store, count))
    results = [ground.path("side.json") for _ in range(2)]
    with Processes() as processes:
        meeting = processes.meeting(2)
        for side, result in enumerate(results):
            processes.start(run_side, url, side, count, meeting, result)
        limit = PATIENCE_S + count * 0.02
        wait_until(lambda: all(result.exists() for result in results) or _fell(processes), "the races to end", limit)
    told = [json.loads(result.read_text(encoding="utf-8")) if result.exists() else [] for result in results]
    verdict.expect(all(len(one) == count for one in told), "a side did not come to its end")
    winners: Counter[str] = Counter()
    losers: Counter[str] = Counter()
    found = histories(url)
    for number, (first, second) in enumerate(zip(*told, strict=False)):
        verdict.faults["races"] += 1
        _check(verdict, number, (first, second), found[f"run_{number}"], winners, losers)
    verdict.notes["won by"], verdict.notes["losers were told"] = winners, losers
    verdict.judge(url, may_live=True)
    ground.drop(url)
    return verdict


def _fell(processes: Processes) -> bool:
    return any("with 0" not in one for one in processes.fallen())


def _check(
    verdict: Verdict,
    number: int,
    told: tuple[str, str],
    entries: Sequence[Entry],
    winners: Counter[str],
    losers: Counter[str],
) -> None:
    race = race_of(number)
    made = [entry.event for entry in entries[1 + len(race.before) :]]
    won = [event for event, answer in zip(race.sides, told, strict=True) if answer == _WON]
    verdict.acknowledged += len(won)
    if len(won) > 1 or len(made) > 1:
        verdict.double(f"both have won: {won}, and the history says {made}", f"run_{number}")
    elif not won or won != made:
        verdict.lose(f"the winners are {won}, and the history says {made}", f"run_{number}")
    else:
        winners[f"{won[0]} against {race.sides[1 - race.sides.index(won[0])]}"] += 1
        losers.update(answer for answer in told if answer != _WON)
