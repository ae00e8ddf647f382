"""Races: of many that ask one run the same thing at once, one wins and all others are refused."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle

import pytest

from runstate import IllegalTransition, Run, ToolOutputsMismatch
from runstate.traces import judge
from tests.support.lifecycle import EVENTS, NOW, TABLE, ask, bring, everything

RACES = 60_000
BATCH = 1_500
THREADS = 4


@pytest.fixture(autouse=True)
def _hurry() -> Iterator[None]:
    """Let the interpreter change threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(work: Sequence[Callable[[], None]]) -> None:
    """Run each in a thread of its own, all released by one barrier; raise what any of them raised."""
    raised: list[BaseException] = []
    barrier = threading.Barrier(len(work))

    def body(one: Callable[[], None]) -> None:
        barrier.wait()
        try:
            one()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=body, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


def ask_all(runs: Sequence[Run], event: str, answers: list[str]) -> None:
    """Ask every run the event, and note for each whether it was won."""
    for run in runs:
        try:
            ask(run, event, NOW + 100)
        except IllegalTransition as refused:
            answers.append(f"refused to {refused.event}")
        else:
            answers.append("won")


def test_sixty_thousand_races() -> None:
    """In 60,000 races of four threads, over all nine events, each run has one winner and three losers."""
    rows = cycle(list(TABLE))
    held = 0
    while held < RACES:
        source, event = next(rows)
        runs = [bring(source) for _ in range(BATCH)]
        answers: list[list[str]] = [[] for _ in range(THREADS)]
        at_once([partial(ask_all, runs, event, mine) for mine in answers])
        assert [[f"refused to {event}"] * 3 + ["won"]] * BATCH == [sorted(each) for each in zip(*answers, strict=True)]
        winner = bring(source)
        ask(winner, event, NOW + 100)
        assert [everything(winner)] * BATCH == [everything(run) for run in runs]
        held += BATCH


@pytest.mark.parametrize(
    ("status", "events"),
    [
        ("queued", ("start", "request_cancel", "fail", "expire")),
        ("in_progress", ("require_action", "request_cancel", "complete", "mark_incomplete", "fail", "expire")),
        ("requires_action", ("submit_tool_outputs", "request_cancel", "fail", "expire")),
        ("cancelling", ("confirm_cancel", "complete", "mark_incomplete", "fail", "expire")),
    ],
)
def test_races_of_different_events(status: str, events: tuple[str, ...]) -> None:
    """Whatever is asked at once of a run, what remains is a record that a legal history could have left."""
    runs = [bring(status) for _ in range(BATCH)]
    answers: list[list[str]] = [[] for _ in events]
    pairs = list(zip(events, answers, strict=True))
    at_once([partial(ask_all, runs, event, mine) for event, mine in pairs])
    for run, each in zip(runs, zip(*answers, strict=True), strict=True):
        assert "won" in each
        assert () == judge(run)


def test_threads_that_ask_anything() -> None:
    """Threads that ask random events of the same runs until all have ended leave only possible records."""
    runs = [bring("queued") for _ in range(BATCH)]

    def anything(seed: int) -> None:
        dice = random.Random(seed)
        for run in runs:
            for _ in range(30):  # bounded: whoever is unlucky leaves a run alive
                try:
                    ask(run, dice.choice(EVENTS), NOW + 100)
                except (IllegalTransition, ToolOutputsMismatch):
                    continue

    at_once([partial(anything, seed) for seed in range(THREADS)])
    assert [()] * BATCH == [judge(run) for run in runs]
