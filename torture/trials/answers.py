"""Writes that are done, and whose answers are lost on the way.

Each exercise asks the store for one thing while the proxy loses the answer. What the caller was told is then compared
with what plain SQL finds: done, and done once; or, where the caller was told that nobody knows, one of the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from random import Random
from threading import Thread
from time import sleep
from typing import Any, Final, TypeAlias

import attrs

from runstate import ToolCall, Usage
from runstate.errors import OutcomeUnknown, StoreUnavailable
from runstate.lifecycle import RunEvent
from runstate.run.codec import json_text
from runstate.run.values import RequiredAction
from runstate.store import Checkpoint, Lease, NewRun, Store
from runstate.store._worker_types import Settle
from tests.support.judge import Ask, asking
from tests.support.pg_proxy import Loss, Proxy
from torture.fleet.fleet import Fleet, settings_at
from torture.fleet.settings import opened
from torture.ground import Ground, wait_until
from torture.processes import Processes
from torture.verdict import Verdict

WORKERS: Final = 4
LEASE_S: Final = 2.0
DONE: Final = "done"
_CALL: Final = ToolCall("call_1", "weather", "{}")
_OUTPUTS: Final = {"call_1": "sunny"}

# --- what is exercised ------------------------------------------------------------------------------------------------


@attrs.define
class Bench:
    """Two stores on one database: one whose answers are lost, and one that makes ready without losses."""

    proxy: Proxy
    shaky: Store
    firm: Store
    ask: Ask
    chance: Random
    verdict: Verdict
    made: int = 0
    told: Counter[str] = attrs.Factory(Counter)
    """What came of the exercises, by what the caller was told and what was true."""

    def name(self) -> str:
        """Return a name that no run, thread or key had before."""
        self.made += 1
        return f"n{self.made}"

    def wanted(self, **given: Any) -> NewRun:
        """Return what a new run is created with, in a queue that no other exercise claims from."""
        name = self.name()
        return {"id": f"run_{name}", "thread_id": f"thread_{name}", "assistant_id": "a", "model": "m", **given}  # type: ignore[typeddict-item]

    def bring(self, *events: str, **given: Any) -> str:
        """Return the id of a new run that these events have moved."""
        run_id = self.firm.create(**self.wanted(**given)).id
        for event in events:
            _MOVES[event](self.firm, run_id)
        return run_id

    def asked(self, exercise: str, what: Callable[[], object], *, keep: bool = False) -> str:
        """Ask with losses; return what the caller was told: that it is `DONE`, or the class of an error.

        Then nothing is to be lost any more, unless others are still asking.
        """
        before = len(self.proxy.lost)
        try:
            what()
        except (OutcomeUnknown, StoreUnavailable) as error:
            told = type(error).__name__
        except Exception as error:
            told = type(error).__name__
            self.verdict.wrong.append(f"{exercise}: {told}: {error}")
        else:
            told = DONE
            self.verdict.acknowledged += 1
        self.told[told if len(self.proxy.lost) > before else "no loss"] += 1
        if not keep:
            self.proxy.lose_in_order()
        return told

    def count(self, query: str) -> int:
        """Return the number that a query finds."""
        return int(self.ask(query)[0][0])

    def events(self, run_id: str) -> Counter[str]:
        """Return how often each event stands in the history of a run."""
        found = self.ask(
            "SELECT h.event FROM runstate_history AS h JOIN runstate_run AS r ON r.seq = h.run"
            f" WHERE r.id = '{run_id}' AND h.event IS NOT NULL"
        )
        return Counter(event for (event,) in found)

    def expect_once(self, exercise: str, count: int, told: str) -> None:
        """See that a thing was done once if the caller was told so, and else once or not at all."""
        if count > 1:
            self.verdict.double(f"{exercise} was done {count} times", self.made)
        if told == DONE and count < 1:
            self.verdict.lose(f"{exercise} was acknowledged, and is not there", self.made)
        unchanged = told in (DONE, OutcomeUnknown.__name__) or count == 0
        self.verdict.expect(unchanged, f"{exercise} was done, and its caller was told {told}: nothing was changed")


_MOVES: Final[Mapping[str, Callable[[Store, str], object]]] = {
    "start": lambda store, run_id: store.start(run_id, actor="me"),
    "require_action": lambda store, run_id: store.require_action(run_id, [_CALL], actor="me"),
    "submit_tool_outputs": lambda store, run_id: store.submit_tool_outputs(run_id, _OUTPUTS, actor="me"),
    "request_cancel": lambda store, run_id: store.request_cancel(run_id, actor="me"),
    "confirm_cancel": lambda store, run_id: store.confirm_cancel(run_id, Usage(1, 2), actor="me"),
    "complete": lambda store, run_id: store.complete(run_id, Usage(1, 2), actor="me"),
    "mark_incomplete": lambda store, run_id: store.mark_incomplete(run_id, "max_prompt_tokens", actor="me"),
    "fail": lambda store, run_id: store.fail(run_id, "server_error", "broke", actor="me"),
    "expire": lambda store, run_id: store.expire(run_id, actor="me"),
}
_FROM: Final[Sequence[tuple[str, ...]]] = (
    ("request_cancel",),
    ("start", "request_cancel"),
    ("start", "require_action", "request_cancel"),
    ("start", "require_action", "submit_tool_outputs"),
    ("start",),
    ("start", "require_action"),
    ("start", "complete"),
    ("start", "mark_incomplete"),
    ("start", "fail"),
    ("expire",),
    ("start", "request_cancel", "confirm_cancel"),
    ("start", "request_cancel", "complete"),
)
"""The moves that are asked, each with what comes before it."""

Exercise: TypeAlias = Callable[[Bench], None]


def create(bench: Bench) -> None:
    """One run, of every kind that there is: it exists once."""
    kinds: Sequence[dict[str, Any]] = (
        {},
        {"metadata": {"a": "b"}},
        {"one_live_run_per_thread": "reject"},
        {"one_live_run_per_thread": "queue"},
    )
    wanted = bench.wanted(queue="created", **bench.chance.choice(kinds))
    told = bench.asked("create", lambda: bench.shaky.create(**wanted))
    bench.expect_once("create", bench.count(f"SELECT count(*) FROM runstate_run WHERE id = '{wanted['id']}'"), told)


def create_together(bench: Bench) -> None:
    """Six runs, created by as many threads at once, so that some are committed together: each exists once."""
    wanted = [bench.wanted(queue="created") for _ in range(6)]
    told = ["" for _ in wanted]

    def ask(place: int) -> None:
        told[place] = bench.asked("create", lambda: bench.shaky.create(**wanted[place]), keep=True)

    threads = [Thread(target=ask, args=(place,)) for place in range(len(wanted))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bench.proxy.lose_in_order()
    for one, answer in zip(wanted, told, strict=True):
        there = bench.count(f"SELECT count(*) FROM runstate_run WHERE id = '{one['id']}'")
        bench.expect_once("create together", there, answer)


def create_by_key(bench: Bench) -> None:
    """One run under an idempotency key, asked for with no id of its own, and once more if nobody knows."""
    key = bench.name()
    wanted: NewRun = {"thread_id": "t", "assistant_id": "a", "model": "m", "idempotency_key": key, "queue": "created"}
    told = bench.asked("create", lambda: bench.shaky.create(**wanted))
    if told != DONE:
        bench.shaky.create(**wanted)
    there = bench.count(f"SELECT count(*) FROM runstate_run WHERE idempotency_key = '{key}'")
    bench.expect_once("create by key", there, DONE)


def create_many(bench: Bench) -> None:
    """Five runs: all or none."""
    wanted = [bench.wanted(queue="created") for _ in range(5)]
    told = bench.asked("create_many", lambda: bench.shaky.create_many(wanted))
    ids = ", ".join(f"'{one['id']}'" for one in wanted)
    there = bench.count(f"SELECT count(*) FROM runstate_run WHERE id IN ({ids})")
    bench.verdict.expect(there in (0, 5), f"create_many made {there} of 5")
    bench.expect_once("create_many", there // 5, told)


def move(bench: Bench) -> None:
    """One move: done once, or nobody knows; and nobody is refused for what was done."""
    *before, event = bench.chance.choice(_FROM)
    run_id = bench.bring(*before, queue="moved")
    was = bench.events(run_id)[event]
    told = bench.asked(event, lambda: _MOVES[event](bench.shaky, run_id))
    bench.expect_once(event, bench.events(run_id)[event] - was, told)
    if event in ("request_cancel", "submit_tool_outputs") and told != DONE:
        _MOVES[event](bench.shaky, run_id)  # the same request again is recognised
        bench.expect_once(f"{event} again", bench.events(run_id)[event] - was, DONE)


def claim(bench: Bench) -> None:
    """Two runs are claimed, one of them is held already: each is somebody's, and was given once."""
    queue = bench.name()
    for _ in range(3):
        bench.bring(queue=queue)
    lease = bench.firm.open_lease(queue)
    given = [one.run.id for one in bench.firm.claim(lease, queues=[queue])]

    def ask() -> None:
        given.extend(one.run.id for one in bench.shaky.claim(lease, 2, queues=[queue]))

    told = bench.asked("claim", ask)
    held = {run_id for (run_id,) in bench.ask(f"SELECT id FROM runstate_run WHERE worker = {lease.token}")}
    if len(given) != len(set(given)):
        bench.verdict.double("a run was given twice by claims", queue)
    if told == DONE and held != set(given):
        bench.verdict.lose("a claimed run is nobody's", held - set(given))
    bench.firm.close_lease(lease)


def claim_id(bench: Bench) -> None:
    """A certain run is claimed: it is ours when we are told so."""
    run_id = bench.bring(queue="certain")
    lease = bench.firm.open_lease("certain")
    given: list[object] = []
    told = bench.asked("claim_id", lambda: given.append(bench.shaky.claim_id(lease, run_id)))
    held = bench.count(f"SELECT count(*) FROM runstate_run WHERE worker = {lease.token}")
    bench.verdict.expect(told != DONE or (given[0] is not None) == bool(held), "claim_id did not say what it had done")
    bench.firm.close_lease(lease)


def settle(bench: Bench) -> None:
    """Three runs are settled, in three ways: once each, and nobody is told that his own outcome was refused."""
    queue = bench.name()
    lease = bench.firm.open_lease(queue)
    for _ in range(3):
        bench.bring(queue=queue)
    runs = [one.run for one in bench.firm.claim(lease, 3, queues=[queue])]
    required = json_text(RequiredAction([_CALL]))
    outcomes = [
        Settle(runs[0], RunEvent.COMPLETE),
        Settle(runs[1], RunEvent.FAIL, last_error='{"code":"server_error","message":"broke"}'),
        Settle(runs[2], RunEvent.REQUIRE_ACTION, noted=Usage(1, 2), required_action=required),
    ]
    given: list[Any] = []
    told = bench.asked("settle", lambda: given.append(bench.shaky.settle(lease, outcomes)))
    for outcome in outcomes:
        bench.expect_once("settle", bench.events(outcome.run.id)[str(outcome.event)], told)
    bench.verdict.expect(told != DONE or not given[0].refused, f"a settle was refused for having been done: {given}")
    bench.firm.close_lease(lease)


def lapsed(bench: Bench, queue: str) -> Lease:
    """Return a new lease, and leave two runs of a queue to be taken over."""
    dead = bench.firm.open_lease("dead")
    for _ in range(2):
        bench.bring(queue=queue)
    bench.firm.claim(dead, 2, queues=[queue])
    bench.firm.close_lease(dead)
    return bench.firm.open_lease(queue)


def take_over(bench: Bench) -> None:
    """Two runs of a dead worker are taken over: none is held by a worker that was not told of it."""
    queue = bench.name()
    lease = lapsed(bench, queue)
    given: list[str] = []
    told = bench.asked(
        "take_over", lambda: given.extend(one.run.id for one in bench.shaky.take_over(lease, 2, queues=[queue]))
    )
    held = {run_id for (run_id,) in bench.ask(f"SELECT id FROM runstate_run WHERE worker = {lease.token}")}
    if told == DONE and held != set(given):
        bench.verdict.lose("a run taken over is nobody's", held - set(given))
    bench.firm.close_lease(lease)


def leases(bench: Bench) -> None:
    """A lease is opened, renewed, and closed; a note is kept; a run is released."""
    lease = bench.firm.open_lease("notes")
    run_id = bench.bring(queue="notes")
    claimed = bench.firm.claim_id(lease, run_id)
    assert claimed is not None
    asked: Mapping[str, Callable[[], object]] = {
        "open_lease": lambda: bench.shaky.open_lease("notes"),
        "heartbeat": lambda: bench.verdict.expect(bench.shaky.heartbeat(lease).held, "a heartbeat was not taken"),
        "note": lambda: bench.shaky.save_checkpoint(
            lease, claimed.run, checkpoint=Checkpoint({"kept": True}), usage=Usage(1, 1)
        ),
        "release": lambda: bench.shaky.release(lease, claimed.run),
    }
    exercise = bench.chance.choice([*asked])
    told = bench.asked(exercise, asked[exercise])
    if exercise == "note" and told == DONE:
        kept = bench.count(
            "SELECT count(*) FROM runstate_checkpoint AS n JOIN runstate_run AS r ON r.seq = n.run"
            f" WHERE r.id = '{run_id}' AND checkpoint IS NOT NULL"
        )
        bench.expect_once("note", kept, told)
    bench.firm.close_lease(lease)


EXERCISES: Final[Sequence[tuple[Exercise, int]]] = (
    (create, 15),
    (create_together, 10),
    (create_by_key, 5),
    (create_many, 5),
    (move, 30),
    (claim, 10),
    (claim_id, 5),
    (settle, 10),
    (take_over, 5),
    (leases, 5),
)
"""What is asked, and how often of a hundred times."""

LOSSES: Final[Sequence[tuple[tuple[Loss, ...], int]]] = (
    (("answer",), 60),
    (("answer", "answer"), 10),
    (("answer", "answer", "connection"), 5),
    (("answer", "answer", "answer", "answer", "connection"), 5),
    (("any answer", "connection"), 5),
    (("answer", "any answer"), 5),
    (("any request",), 5),
    (("any answer", "any request"), 5),
)
"""What is lost, and how often of a hundred times: a second loss meets the store while it asks again."""

LOSSES_AT_WORK: Final[Sequence[tuple[Loss, ...]]] = (
    ("answer",),
    ("answer", "answer"),
    ("any answer",),
    ("answer", "any answer"),
)
"""What is lost while workers and callers are at work."""


def answers(ground: Ground, count: int) -> Verdict:
    """Lose the answers to single requests; then to those of workers at work."""
    verdict = Verdict("answers", trials=count)
    chance = ground.chance("answers")
    url = ground.store("postgres")
    with (
        Proxy(url) as proxy,
        opened(proxy.url, 0.3) as shaky,
        opened(url, 10.0) as firm,
        asking(url) as ask,
    ):
        bench = Bench(proxy, shaky, firm, ask, chance, verdict)
        choices, weights = zip(*EXERCISES, strict=True)
        losses, often = zip(*LOSSES, strict=True)
        tried = 0
        while len(proxy.lost) < count and tried < 3 * count + 20:
            tried += 1
            lost: tuple[Loss, ...] = chance.choices(losses, often)[0]
            exercise: Exercise = chance.choices(choices, weights)[0]
            bench.proxy.lose_in_order(*lost)
            exercise(bench)
        verdict.expect(len(proxy.lost) >= count, f"only {len(proxy.lost)} answers were lost")
        verdict.faults["answers lost to callers"] += len(proxy.lost)
        verdict.notes["callers were told"] = bench.told
    verdict.judge(url, may_live=True)
    ground.drop(url)
    _lose_to_workers(ground, count, verdict)
    return verdict


def _lose_to_workers(ground: Ground, count: int, verdict: Verdict) -> None:
    chance = ground.chance("answers to workers")
    url = ground.store("postgres")
    with Proxy(url) as proxy, Processes() as processes:
        fleet = Fleet(processes, settings_at(ground, proxy.url, lease_s=LEASE_S))
        fleet.start(workers=WORKERS)
        fleet.wait_until_all_work(url)
        while len(proxy.lost) < count:
            proxy.lose_in_order(*chance.choice(LOSSES_AT_WORK))
            wait_until(lambda: proxy.has_lost_all, "an answer to lose")
            sleep(chance.uniform(0.0, 0.1))
            verdict.wrong += processes.fallen()
        proxy.lose_in_order()
        fleet.finish(verdict, url)
        verdict.faults["answers lost to workers and callers at work"] += len(proxy.lost)
    fleet.check(verdict, url)
    ground.drop(url)
