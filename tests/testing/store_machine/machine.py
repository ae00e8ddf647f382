"""The rules by which the machine draws what is asked, and compares what is answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from copy import deepcopy
from itertools import pairwise
from typing import Any, Final

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

import tests.testing.store_machine.asks as asks
from runstate.clock import ManualClock, time_us, use_clock
from runstate.lifecycle import RUN_LIFECYCLE, RunEvent
from runstate.store import Store, StoredRun, open_store
from runstate.testing.strategies import paths
from runstate.traces import judge
from tests.testing.store_machine.asks import Actor, Ask, Wish
from tests.testing.store_machine.known import Line, Refusal, Wanted
from tests.testing.store_machine.model import Account

__all__ = ["StoreMachine"]

# Three quarters past a second, and every step of the clock is whole seconds: past a deadline the sweep leaves a worker
# half a second more, which nothing here is to hang on.
_BEGIN: Final = 1_800_000_000.75
_LEASE_S: Final = 30.0
_CLIENTS: Final = 2
_WORKERS: Final = 3
_OUTPUTS: Final = {"call_1": "sunny"}

# Nothing that is drawn depends on an answer: two threads may be answered differently when an example is repeated.
_WHO: Final = st.integers(0, _CLIENTS + _WORKERS - 1)
_WORKER: Final = st.integers(_CLIENTS, _CLIENTS + _WORKERS - 1)
_ATTEMPTS: Final = st.integers(1, 3)


def _wishes(who: st.SearchStrategy[int], *kinds: str) -> st.SearchStrategy[Wish]:
    laws, bases = st.sampled_from(["allowed", "was allowed", "any"]), st.sampled_from(["none", "copy", "look", "older"])
    return st.builds(Wish, st.sampled_from(kinds), who, st.sampled_from(asks.EVENTS), laws, bases)


_MOVES: Final = _wishes(_WHO, "move")
_WORK: Final = _wishes(_WORKER, "settle", "settle", "release", "keep")
_RACING: Final = _wishes(_WHO, "move", "move", "move", "settle", "claim", "take over", "release")
_ALSO_SWEEPS: Final = _RACING | _wishes(_WHO, "sweep")  # against no other sweep: two share what there is to do
_WANTS: Final[st.SearchStrategy[dict[str, Any]]] = st.fixed_dictionaries(
    {
        "thread_id": st.sampled_from(["thread_1", "thread_2", "thread_3"]),
        "exclusive": st.sampled_from([None, None, "reject", "queue"]),
        "priority": st.sampled_from([0, 0, 1]),
        "key": st.sampled_from([None] * 7 + ["key_1"]),
        "not_before_s": st.sampled_from([None] * 5 + [0, 10]),
        "expires_in_s": st.sampled_from([600, 600, 60, 8]),
    }
)


class StoreMachine(RuleBasedStateMachine):
    """A machine that drives a store with several actors and says when it answers what no store may answer.

    `open_store` is what to override. Use it as any machine of Hypothesis: `StoreMachine.TestCase` is a test, and
    `run_state_machine_as_test(StoreMachine, settings=...)` runs it at once. While it runs, everybody in the process
    reads its clock. Raises `AssertionError` with what was asked, foretold and told.
    """

    runs: Final[Bundle[str]] = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        with ExitStack() as opened:
            self.clock: ManualClock = opened.enter_context(use_clock(ManualClock(_BEGIN)))
            self.store: Store = opened.enter_context(closing(self.open_store()))
            self.beside: Store = self.open_beside()
            if self.beside is not self.store:
                opened.enter_context(closing(self.beside))
            self.account: Account = Account(time_us())
            self.seen: dict[str, StoredRun] = {}
            self._births: int = 0
            self._compared: bool = False
            self._actors: list[Actor] = [Actor(f"client_{n + 1}") for n in range(_CLIENTS)]
            self._actors += [Actor(f"worker_{n + 1}") for n in range(_WORKERS)]
            for worker in self._actors[_CLIENTS:]:
                self._start_session(worker)
            self._opened: ExitStack = opened.pop_all()

    def open_store(self) -> Store:
        """Return an empty store for one example, which the machine closes in the end. Override it to test your own."""
        return open_store("sqlite:///:memory:")

    def open_beside(self) -> Store:
        """Return what the second of two threads asks: the same store, unless you open its database once more."""
        return self.store

    def teardown(self) -> None:
        """Close the stores, and give the process its clock back."""
        self._opened.close()

    # --- asking -------------------------------------------------------------------------------------------------------

    def _ask(self, who: Actor, ask: Ask) -> None:
        """Ask the account and the store, and compare their answers."""
        before = self.account.versions
        _, foretold = asks.heard(ask.foretell, self.account)
        answer, told = asks.heard(ask.tell, self.store)
        note(f"{ask.said}: {asks.shown(told)}")
        if told != foretold:
            raise AssertionError(f"{ask.said}: {asks.apart(told, foretold)}")
        left = self._read()
        if isinstance(told, Refusal) and self.seen != left and before == self.account.versions:
            raise AssertionError(f"{ask.said}: it was refused, and yet something changed")
        who.learn(answer)
        self._compare(left)

    def _ask_both(self, who: Sequence[Actor], both: Sequence[Ask]) -> None:
        """Ask two things by two threads; some order of the two must explain both answers and what is left."""
        answers = asks.at_once(
            lambda: asks.heard(both[0].tell, self.store), lambda: asks.heard(both[1].tell, self.beside)
        )
        told = [answer[1] for answer in answers]
        left = self._read()
        orders: list[str] = []
        for order in ((0, 1), (1, 0)):
            account = deepcopy(self.account)
            foretold = {place: asks.heard(both[place].foretell, account)[1] for place in order}
            unlike = account.unlike(left)
            if told == [foretold[0], foretold[1]] and not unlike:
                self.account = account
                note("; ".join(f"{ask.said}: {asks.shown(one)}" for ask, one in zip(both, told, strict=True)))
                for actor, (answer, _) in zip(who, answers, strict=True):
                    actor.learn(answer)
                self._compare(left)
                return
            orders += [f"  if {both[place].said}: {foretold[place]}" for place in order] + [f"    {unlike}"]
        asked = [f"  {ask.said}: {one}" for ask, one in zip(both, told, strict=True)]
        raise AssertionError("\n".join(["no order of the two explains the answers to", *asked, *orders]))

    def _moving(self, run_id: str, wish: Wish) -> Ask:
        actor = self._actors[wish.who]
        known, copy = self.account.runs.get(run_id), actor.copies.get(run_id)
        version = None if wish.basis == "none" or copy is None else max(1, copy.version - (wish.basis == "older"))
        outputs = {"call_2": "sunny"} if wish.basis == "older" else _OUTPUTS
        return asks.moving(run_id, wish.event_for(known, copy), actor.name, version, outputs)

    def _bringing(self, worker: Actor, run: StoredRun, wish: Wish) -> Ask:
        if wish.kind == "release":
            return asks.releasing(worker.session, run)
        event = wish.event_for(self.account.runs.get(run.id), run, asks.OUTCOMES)
        return asks.settling(worker.session, run, event)

    def _start_session(self, worker: Actor) -> None:
        """Let a worker begin a session, whose runs it knows; what it had is another's by now."""
        worker.lease = self.store.open_lease(worker.name, lease_s=_LEASE_S)
        self.account.open_lease(worker.lease.token, worker.name, _LEASE_S)
        worker.held.clear()

    def _ids(self) -> Mapping[int, str]:
        return {run.seq: run.id for run in self.seen.values()}

    def _wait(self, seconds: int) -> None:
        self.clock.advance(seconds)
        self.account.now = time_us()

    # --- births -------------------------------------------------------------------------------------------------------
    # An id is asked about later also if its run was refused: what can be drawn must not depend on answers.

    def _wanted(self, who: Actor, given: Mapping[str, Any]) -> Wanted:
        given = dict(given)
        after = given.pop("not_before_s")
        self._births += 1
        not_before = None if after is None else self.clock.now + after
        return Wanted(f"run_{self._births}", actor=who.name, not_before=not_before, **given)

    def _create(self, who: int, given: Mapping[str, Any]) -> str:
        wanted = self._wanted(self._actors[who], given)
        self._ask(self._actors[who], asks.creating(wanted))
        return wanted.id

    @initialize(target=runs, given=st.lists(_WANTS, min_size=1, max_size=3))
    def begin(self, given: Sequence[Mapping[str, Any]]) -> MultipleResults[str]:
        """There are runs to begin with."""
        return multiple(*(self._create(0, one) for one in given))

    @rule(target=runs, given=_WANTS, path=paths(5), who=_WHO, wishes=st.lists(_MOVES, max_size=3))
    def live(self, given: Mapping[str, Any], path: Sequence[RunEvent], who: int, wishes: Sequence[Wish]) -> str:
        """A run is created, unless that is refused, led along a path, and asked for more; for all, if it has ended."""
        run = self._create(0, given)
        if run in self.account.runs:
            self._follow(0, run, path)
            self._move(run, wishes)
            self._follow(who, run, () if self.account.runs[run].is_live else asks.EVENTS)
        return run

    def _follow(self, who: int, run: str, events: Sequence[RunEvent]) -> None:
        for event in events:
            self._ask(self._actors[who], asks.moving(run, event, self._actors[who].name, None, _OUTPUTS))

    @rule(target=runs, who=_WHO, first=_WANTS, second=_WANTS)
    def create_both(self, who: int, first: Mapping[str, Any], second: Mapping[str, Any]) -> MultipleResults[str]:
        """Two threads create runs."""
        actor = self._actors[who]
        wanted = [self._wanted(actor, given) for given in (first, second)]
        self._ask_both((actor, actor), [asks.creating(one) for one in wanted])
        return multiple(*(one.id for one in wanted))

    # --- moves --------------------------------------------------------------------------------------------------------

    @rule(run=runs, wishes=st.lists(_MOVES, min_size=1, max_size=6))
    def ask(self, run: str, wishes: Sequence[Wish]) -> None:
        """Several ask events of a run: from any version, from one they know or one before it, or after a look."""
        self._move(run, wishes)

    def _move(self, run: str, wishes: Sequence[Wish]) -> None:
        for wish in wishes:
            if wish.basis == "look":
                self._ask(self._actors[wish.who], asks.reading(run))
            self._ask(self._actors[wish.who], self._moving(run, wish))

    @rule(target=runs, run=st.none() | runs, given=_WANTS, first=_RACING, second=_ALSO_SWEEPS)
    def race(self, run: str | None, given: Mapping[str, Any], first: Wish, second: Wish) -> str | MultipleResults[str]:
        """Two threads ask at once, of a run or of a new one."""
        run_id = self._create(0, given) if run is None else run
        both = [self._granted(run_id, wish) for wish in (first, second)]
        self._ask_both([self._actors[wish.who] for wish in (first, second)], both)
        return run_id if run is None else multiple()

    def _granted(self, run_id: str, wish: Wish) -> Ask:
        """Return what a wish comes to for a run; what only a worker can ask is a move of a client's."""
        actor = self._actors[wish.who]
        lease, copy = actor.lease, actor.copies.get(run_id, self.seen.get(run_id))
        if wish.kind == "sweep":
            return asks.sweeping(3)
        if lease is not None and wish.kind == "claim":
            return asks.claiming(lease, 2)
        if lease is not None and wish.kind == "take over":
            return asks.taking_over(lease, 3, None)
        if lease is not None and copy is not None and wish.kind in ("settle", "release"):
            return self._bringing(actor, copy, wish)
        return self._moving(run_id, wish)

    # --- work ---------------------------------------------------------------------------------------------------------

    @rule(
        target=runs, given=st.none() | _WANTS, who=_WORKER, limit=st.integers(1, 3), wishes=st.lists(_WORK, max_size=3)
    )
    def work(
        self, given: Mapping[str, Any] | None, who: int, limit: int, wishes: Sequence[Wish]
    ) -> str | MultipleResults[str]:
        """A worker claims what there is, perhaps a new run, and settles or releases some that it takes for its own."""
        worker = self._actors[who]
        created = None if given is None else self._create(0, given)
        self._ask(worker, asks.claiming(worker.session, limit))
        for wish, run in zip(wishes, list(worker.held.values()), strict=False):
            if wish.kind != "keep":
                self._ask(worker, self._bringing(worker, run, wish))
                worker.held.pop(run.id)
        return multiple() if created is None else created

    @rule(run=runs, wish=_WORK)
    def meddle(self, run: str, wish: Wish) -> None:
        """A worker settles or releases a run that may be another's."""
        if run in self.seen:
            self._ask(self._actors[wish.who], self._bringing(self._actors[wish.who], self.seen[run], wish))

    @rule(who=_WORKER, run=st.none() | runs, max_attempts=_ATTEMPTS, swept=st.booleans())
    def take_over(self, who: int, run: str | None, max_attempts: int, swept: bool) -> None:
        """A worker takes over what others left, or a certain run."""
        worker = self._actors[who]
        if swept:
            self._ask(worker, asks.sweeping(max_attempts))
        self._ask(worker, asks.taking_over(worker.session, max_attempts, run))

    @rule(who=_WORKER, what=st.sampled_from(["renews", "stops", "dies"]))
    def tend(self, who: int, what: str) -> None:
        """A worker renews its lease; or it starts again, after it closed its lease or left it to lapse."""
        worker = self._actors[who]
        lease = worker.session
        if what == "renews":
            self._ask(worker, asks.beating(lease, self._ids()))
            return
        if what == "stops":
            self.store.close_lease(lease)
            self.account.close_lease(lease.token)
        self._start_session(worker)

    @rule(target=runs, given=_WANTS, who=_WORKER, another=_WORKER, swept=st.booleans(), taken=st.booleans(), wish=_WORK)
    def come_back(self, given: Mapping[str, Any], who: int, another: int, swept: bool, taken: bool, wish: Wish) -> str:
        """A worker stands still past its lease, others go on, and it brings what it had made: all of it too late."""
        worker, other = self._actors[who], self._actors[another]
        run = self._create(0, given)
        self._ask(worker, asks.claiming(worker.session, 2))
        self._wait(int(_LEASE_S) + 1)
        if swept:
            self._ask(self._actors[0], asks.sweeping(3))
        if taken and other is not worker:
            self._start_session(other)
            self._ask(other, asks.taking_over(other.session, 3, None))
        for held in worker.held.values():
            self._ask(worker, self._bringing(worker, held, wish))
        self._ask(worker, asks.beating(worker.session, self._ids()))
        self._start_session(worker)
        return run

    # --- time ---------------------------------------------------------------------------------------------------------

    @rule(
        seconds=st.sampled_from([1, 1, 5, 5, 10, 31, 61, 601]),
        max_attempts=st.none() | _ATTEMPTS,
        pruned_s=st.sampled_from([None, None, 0, 30, 600]),
    )
    def wait(self, seconds: int, max_attempts: int | None, pruned_s: int | None) -> None:
        """The clock goes on; somebody may do what that has made due, and delete what ended long ago."""
        self._wait(seconds)
        if max_attempts is not None:
            self._ask(self._actors[0], asks.sweeping(max_attempts))
        if pruned_s is not None:
            self._ask(self._actors[0], asks.pruning(pruned_s))

    # --- what holds after every step ----------------------------------------------------------------------------------

    @invariant()
    def all_stands_as_foretold(self) -> None:
        """Runs, histories and threads are what the account says."""
        if not self._compared:  # or it was done just now
            self._compare(self._read())
        self._compared = False

    def _compare(self, found: dict[str, StoredRun]) -> None:
        unlike = self.account.unlike(found)
        if unlike:
            raise AssertionError("the store holds what it must not:\n  " + "\n  ".join(unlike))
        for run in found.values():
            if run.id not in self.seen or self.seen[run.id].version != run.version:
                self._judge(run)
        for thread_id in {run.thread_id for run in found.values()}:
            alone = [run.id for run in found.values() if run.thread_id == thread_id and self._is_alone(run)]
            if len(alone) > 1:
                raise AssertionError(f"{thread_id} has the live runs {alone}, each of which was to be the only one")
        self.seen, self._compared = found, True

    def _read(self) -> dict[str, StoredRun]:
        """Return all runs that the store has, by id."""
        page = self.store.list(limit=100, order="asc")
        found = list(page.data)
        while page.has_more:
            page = self.store.list(limit=100, order="asc", after=page.last_id)
            found += page.data
        return {run.id: run for run in found}

    def _judge(self, run: StoredRun) -> None:
        """Compare a history with the law and with the account."""
        findings = judge(run)
        entries = self.store.history(run.id)
        lines = [Line(e.version, e.event, e.source, e.target, e.at_us, e.actor or "") for e in entries]
        for before, line in pairwise(lines):
            row = None if line.event is None else RUN_LIFECYCLE.find(before.target, line.event)
            if row is None or (line.version, line.source) != (before.version + 1, row.source) or line.at < before.at:
                raise AssertionError(f"the history of {run.id} cannot be: {line} after {before}")
        if findings or lines != self.account.runs[run.id].lines:
            raise AssertionError(f"{run.id} has the history {lines}, not {self.account.runs[run.id].lines}; {findings}")

    def _is_alone(self, run: StoredRun) -> bool:
        """Tell whether a live run was to be the only one of its thread, and does not wait for another."""
        exclusive = self.account.runs[run.id].wanted.exclusive
        return not run.is_terminal and (exclusive == "reject" or (exclusive == "queue" and run.claimable))
