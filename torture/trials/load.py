"""The callers of the trials: threads that create runs, cancel some and answer tools, and note what they are told."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from random import Random
from threading import Event, Lock, Thread
from typing import Final, Self

from runstate.errors import (
    IllegalTransition,
    OutcomeUnknown,
    RunNotFound,
    RunstateError,
    StoreError,
    ToolOutputsMismatch,
)
from tests.support.judge import asking, listed
from tests.support.lifecycle import LIVE
from torture.trials.ground import GaveUp, wait_until
from torture.trials.handler import PLANS, new_run, opened

CANCELLER: Final = "canceller"
SUBMITTER: Final = "submitter"
_CANCELLED: Final = 0.08  # of all runs
_AGAIN_S: Final = 0.05  # before asking again a database that went away


class Load:
    """Callers at work, in the background of a trial."""

    def __init__(self, url: str, chance: Random, *, rate: float = 150.0, most: int = 400, wait_s: float = 10.0) -> None:
        self._url = url
        self._chance = chance
        self._rate = rate
        self._most = most
        self._store = opened(url, wait_s)
        self._to_cancel: SimpleQueue[tuple[float, str]] = SimpleQueue()
        self._over = Event()
        self._stopped = Event()
        self._changing = Lock()
        self.created: dict[str, str] = {}
        """The plans of the runs whose creation was acknowledged, by id."""
        self.cancelled: set[str] = set()
        """The runs whose cancel was granted."""
        self.submitted: set[str] = set()
        """The runs whose tool outputs were taken."""
        self.troubles: Counter[str] = Counter()
        """What the callers met, by class; each was asked again."""
        self.wrong: list[str] = []
        callers = (self._create, self._cancel, self._submit)
        self._threads = [Thread(target=self._guarded, args=(caller,)) for caller in callers]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._store.close()

    @property
    def acknowledged(self) -> int:
        """How many writes were acknowledged."""
        return len(self.created) + len(self.cancelled) + len(self.submitted)

    def finish(self, seconds: float = 120.0) -> None:
        """Create no more, and wait until all runs have ended."""
        self._stopped.set()
        self._threads[0].join()
        try:
            wait_until(lambda: not self.live(), "all runs to end", seconds, 0.1)
        except GaveUp as error:
            self.wrong.append(str(error))

    def live(self) -> int:
        """Return how many runs have not ended yet."""
        with asking(self._url) as ask:
            ((count,),) = ask(f"SELECT count(*) FROM runstate_run WHERE status IN ({listed(LIVE)})")
        return int(count)

    # --- the threads ----------------------------------------------------------------------------------------------

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # a caller that falls is a finding, and not the end of the trial
            self.wrong.append(f"a caller fell: {type(error).__name__}: {error}")

    def _create(self) -> None:
        made, look_at = 0, 0.0
        while not self._stopped.is_set():
            plan = self._chance.choices([*PLANS], [*PLANS.values()])[0]
            run_id = f"run_{made}"
            made += 1
            if not self._insist(partial(self._store.create, **new_run(run_id, plan))):
                return  # whether it is there nobody was told
            self.created[run_id] = plan
            if self._chance.random() < _CANCELLED:
                self._to_cancel.put((time.monotonic() + self._chance.random() * 0.3, run_id))
            self._stopped.wait(self._chance.expovariate(self._rate))
            if time.monotonic() > look_at:
                look_at = time.monotonic() + 0.5
                self._hold_back()

    def _hold_back(self) -> None:
        with suppress(Exception):  # it only keeps the queue short
            while self.live() > self._most and not self._stopped.wait(0.1):
                pass

    def _cancel(self) -> None:
        while not self._over.is_set():
            try:
                at, run_id = self._to_cancel.get(timeout=0.1)
            except Empty:
                continue
            self._over.wait(max(0.0, at - time.monotonic()))
            with suppress(IllegalTransition):  # it has ended
                if self._insist(partial(self._store.request_cancel, run_id, actor=CANCELLER)):
                    self.cancelled.add(run_id)

    def _submit(self) -> None:
        while not self._over.wait(0.05):
            try:
                waiting = self._store.list(status="requires_action", limit=100).data
            except StoreError as error:
                self._trouble(error)
                continue
            for run in waiting:
                outputs = {} if run.required_action is None else dict.fromkeys(run.required_action.call_ids, "sunny")
                with suppress(IllegalTransition, ToolOutputsMismatch):  # it was cancelled, or has expired
                    submit = self._store.submit_tool_outputs
                    if self._insist(partial(submit, run.id, outputs, actor=SUBMITTER)):
                        self.submitted.add(run.id)

    def _insist(self, ask: Callable[[], object]) -> bool:
        """Ask until the database answers; False if the trial ended first."""
        while not self._over.is_set():
            try:
                ask()
            except StoreError as error:
                self._trouble(error)
                self._over.wait(_AGAIN_S)
            except RunNotFound as error:
                self.wrong.append(f"an acknowledged run is not there: {error}")
                return False
            else:
                return True
        return False

    def _trouble(self, error: RunstateError) -> None:
        with self._changing:
            self.troubles[type(error).__name__] += 1
        if not error.retryable and not isinstance(error, OutcomeUnknown):
            self.wrong.append(f"a caller was told {type(error).__name__}: {error}")
