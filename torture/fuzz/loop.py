"""Makes inputs by their numbers, has each answered, and counts what came of it."""

from __future__ import annotations

import contextlib
import random
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from runstate.run.json_values import escape
from runstate.store import open_store
from tests.store.support import bring_in_store
from tests.support.lifecycle import STATUSES
from torture.fuzz.addresses import judge_url, make_url
from torture.fuzz.lines import STORE, judge_line, make_line, stage
from torture.fuzz.recordings import judge_recording, judge_run, make_cassette, make_recording, make_run
from torture.fuzz.telling import SLOW_S, SLOW_S_PER_BYTE, Broken, Crash, Tally


class Target(NamedTuple):
    """How an input is made, and how its answer is judged: True for what was read, False for what was refused."""

    make: Callable[[random.Random], Any]
    judge: Callable[[Any], bool]


TARGETS: Final = {
    "run": Target(make_run, judge_run),
    "check": Target(make_recording, judge_recording),
    "cassette": Target(make_cassette, judge_recording),
    "url": Target(make_url, judge_url),
    "cli": Target(make_line, judge_line),
}


def size_of(given: Any) -> int:
    if isinstance(given, tuple):
        return sum(map(len, given[0])) + len(given[1])
    return len(given) if isinstance(given, str | bytes) else len(repr(given))


def one(target: str, seed: int, number: int, tally: Tally) -> Any:
    """Make one input, ask for its answer and judge it; return the input."""
    rng = random.Random(f"{target}/{seed}/{number}")
    given = TARGETS[target].make(rng)
    shown = escape(repr(given)[:2000])
    began = time.process_time()
    try:
        read = TARGETS[target].judge(given)
        took_s = time.process_time() - began
        if took_s > SLOW_S and took_s > SLOW_S + SLOW_S_PER_BYTE * size_of(given):
            raise Broken(f"took {took_s:.1f} s for {size_of(given)} bytes")
        tally.read += read
        tally.refused += not read
    except (Exception, SystemExit) as error:
        told = str(error) if isinstance(error, Broken) else "".join(traceback.format_exception(error)[-4:])
        tally.crashes.append(Crash(target, seed, number, f"{type(error).__name__}: {told}", shown))
    tally.inputs += 1
    return given


def fuzz(target: str, inputs: int, seed: int, first: int = 0, tell: Callable[[Tally], None] | None = None) -> Tally:
    """Ask for the answers to so many inputs, and return what came of them."""
    tally = Tally(target)
    began = time.monotonic()
    with stage() if target == "cli" else contextlib.nullcontext(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(first, first + inputs):
            one(target, seed, number, tally)
            if tell is not None and number % 256 == 255:
                tally.took_s = time.monotonic() - began
                tell(tally)
            if target == "cli" and number % 5000 == 4999:  # what was created there makes the listing of it slow
                _sweep_stage()
    tally.took_s = time.monotonic() - began
    return tally


def _sweep_stage() -> None:
    for path in Path().iterdir():
        if path.is_file() and path.name not in ("one.jsonl", "many.jsonl", "sse.txt", "cassette.yaml"):
            path.unlink()
    with open_store(STORE) as store:
        for status in STATUSES:
            bring_in_store(store, status, id=f"run_{status}", thread_id=status)
