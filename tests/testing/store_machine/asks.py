"""What the machine asks, and who: each thing of a store and, alike, of the account kept beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any, Final, Literal, NamedTuple, TypeVar, cast

import attrs

from runstate.lifecycle import RUN_LIFECYCLE, RunEvent
from runstate.lifecycle.errors import RunstateError
from runstate.run import codec
from runstate.run.values import IncompleteDetails, LastError, RequiredAction, Usage
from runstate.store import Claim, Lease, NewRun, Settle, Store, StoredRun
from runstate.testing._send import CALLS
from tests.testing.store_machine.known import Known, Refusal, Refused, View, Wanted, differences, view_of
from tests.testing.store_machine.model import Account

__all__ = [
    "EVENTS",
    "OUTCOMES",
    "Actor",
    "Ask",
    "Wish",
    "apart",
    "at_once",
    "beating",
    "claiming",
    "creating",
    "heard",
    "moving",
    "pruning",
    "reading",
    "releasing",
    "settling",
    "shown",
    "sweeping",
    "taking_over",
]

T = TypeVar("T")
EVENTS: Final = tuple(RunEvent)
"""All that can be asked of a run."""

_REQUESTS: Final = (RunEvent.START, RunEvent.SUBMIT_TOOL_OUTPUTS, RunEvent.REQUEST_CANCEL)
OUTCOMES: Final = tuple(event for event in EVENTS if event not in _REQUESTS)
"""What a worker can bring."""

_MOST: Final = 100  # runs taken over at once: all there are
_USED: Final = Usage(12, 30)


@attrs.define(eq=False)
class Actor:
    """Somebody who asks, and knows what was answered; nobody tells it of later."""

    name: str
    lease: Lease | None = None
    """A worker's."""
    copies: dict[str, StoredRun] = attrs.field(factory=dict)
    """The last that it saw of each run, by id."""
    held: dict[str, StoredRun] = attrs.field(factory=dict)
    """The runs that it takes for its own, as they were claimed."""

    @property
    def session(self) -> Lease:
        """The lease of a worker, which has one always."""
        if self.lease is None:
            raise LookupError(f"{self.name} is no worker")
        return self.lease

    def learn(self, answer: object) -> None:
        """Remember what an answer, or a refusal, says of runs."""
        run = getattr(answer, "run", None) if isinstance(answer, RunstateError) else answer
        if isinstance(run, StoredRun):
            self.copies[run.id] = run
        for claim in cast("list[object]", answer) if isinstance(answer, list) else ():
            if isinstance(claim, Claim):
                self.copies[claim.run.id] = self.held[claim.run.id] = claim.run


class Wish(NamedTuple):
    """What somebody would ask of a run. What it comes to depends on where the run stands, and on what they know."""

    kind: str
    who: int
    """Which of the actors."""
    event: RunEvent
    law: Literal["allowed", "was allowed", "any"]
    """Whether it shall be an event that the law allows; as far as somebody knows, who may have an old copy."""
    basis: Literal["none", "copy", "older", "look"]
    """The version to ask from: any, that of the copy, the one before it, or that of a new copy."""

    def event_for(self, known: Known | None, copy: StoredRun | None, among: Sequence[RunEvent] = EVENTS) -> RunEvent:
        """Return the event wished for, or one in its place that is among those asked and goes by the law, if it shall.

        `known` is the run as it stands, `copy` what somebody has of it.
        """
        seen = {"any": None, "allowed": known, "was allowed": copy or known}[self.law]
        options = [
            event for event in among if seen is not None and RUN_LIFECYCLE.find(seen.status, event) is not None
        ] or among
        return self.event if self.event in options else options[EVENTS.index(self.event) % len(options)]


@attrs.frozen
class Ask:
    """One thing to ask."""

    said: str
    tell: Callable[[Store], object]
    """Asks it of a store."""
    foretell: Callable[[Account], object]
    """Asks it of the account."""


def heard(call: Callable[[T], object], of: T) -> tuple[object, object]:
    """Ask; return the answer or the error as it came, and the same as it is compared."""
    try:
        answer = call(of)
    except RunstateError as error:
        return error, Refusal.of(error)
    except Refused as error:
        return error, error.refusal
    return answer, _plain(answer)


def _plain(answer: object) -> object:
    """Return runs as they stand now, in any answer."""
    if isinstance(answer, list):
        return [_plain(one) for one in cast("list[object]", answer)]
    if isinstance(answer, Known):
        return answer.view()
    if isinstance(answer, Claim):
        return view_of(answer.run)
    return view_of(answer) if isinstance(answer, StoredRun) else answer


def shown(told: object) -> str:
    """Return an answer, as it is compared, in a few words."""
    if isinstance(told, Refusal):
        return told.kind.__name__
    if isinstance(told, Mapping):
        view = cast("View", told)
        return f"{view['status']} at version {view['version']}" if "status" in view else str(view)
    if isinstance(told, list):
        return ", ".join(map(shown, cast("list[object]", told))) or "nothing"
    return str(told)


def apart(told: object, foretold: object) -> str:
    """Return how an answer, as it is compared, differs from what it must be."""
    views = [cast("View", one) for one in (told, foretold) if isinstance(one, Mapping)]
    if len(views) > 1 and views[0].keys() == views[1].keys():
        return "; ".join(differences(*views))
    short, wanted = shown(told), shown(foretold)
    return (
        f"the answer is {short}, must be {wanted}" if short != wanted else f"the answer is {told}, must be {foretold}"
    )


def at_once(first: Callable[[], T], second: Callable[[], T]) -> tuple[T, T]:
    """Call both at the same moment, each in a thread of its own; return what they return."""
    barrier = Barrier(2)

    def begin(call: Callable[[], T]) -> T:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(2) as threads:
        one, other = threads.submit(begin, first), threads.submit(begin, second)
        return one.result(), other.result()


def _json(value: object) -> str:
    return json.dumps(codec.encode_field(value))


# What is handed in, by a move and as the text that a worker brings.
_GIVEN: Final[Mapping[RunEvent, Mapping[str, Any]]] = {
    RunEvent.REQUIRE_ACTION: {"calls": CALLS},
    RunEvent.MARK_INCOMPLETE: {"reason": "max_prompt_tokens"},
    RunEvent.FAIL: {"code": "server_error", "message": "it broke"},
}
_BROUGHT: Final[Mapping[RunEvent, Mapping[str, Any]]] = {
    RunEvent.REQUIRE_ACTION: {"required_action": _json(RequiredAction(CALLS))},
    RunEvent.MARK_INCOMPLETE: {"incomplete_details": _json(IncompleteDetails("max_prompt_tokens"))},
    RunEvent.FAIL: {"last_error": _json(LastError("server_error", "it broke"))},
}


def creating(wanted: Wanted) -> Ask:
    """Create a run."""
    names: NewRun = {"thread_id": wanted.thread_id, "assistant_id": "asst_1", "model": "gpt-4o", "id": wanted.id}
    given: NewRun = {
        **names,
        "actor": wanted.actor,
        "priority": wanted.priority,
        "one_live_run_per_thread": wanted.exclusive,
        "not_before": wanted.not_before,
        "expires_in_s": wanted.expires_in_s,
        "idempotency_key": wanted.key,
    }
    return Ask(f"create {wanted}", lambda store: store.create(**given), lambda account: account.create(wanted))


def reading(run_id: str) -> Ask:
    """Read a run."""
    return Ask(f"read {run_id}", lambda store: store.get(run_id), lambda account: account.get(run_id))


def moving(run_id: str, event: RunEvent, actor: str, version: int | None, outputs: Mapping[str, str]) -> Ask:
    """Ask an event of a run; of `outputs` only if it submits them."""
    given: dict[str, Any] = {**_GIVEN.get(event, {}), "actor": actor, "expected_version": version}
    if event is RunEvent.SUBMIT_TOOL_OUTPUTS:
        given["outputs"] = outputs
    since = "" if version is None else f" from version {version}"
    return Ask(
        f"{actor} asks {run_id} to {event}{since}",
        lambda store: getattr(store, event)(run_id, **given),
        lambda account: account.move(run_id, event, actor, version, outputs),
    )


def claiming(lease: Lease, limit: int) -> Ask:
    """Claim up to so many runs."""
    return Ask(
        f"{lease.actor} claims {limit}",
        lambda store: store.claim(lease, limit),
        lambda account: account.claim(lease.token, limit),
    )


def settling(lease: Lease, run: StoredRun, event: RunEvent) -> Ask:
    """Settle one run."""
    used = _USED if RUN_LIFECYCLE.is_present("usage", RUN_LIFECYCLE.target_of(event)) else None
    outcome = Settle(run, event, None if used is None else _json(used), **_BROUGHT.get(event, {}))

    def tell(store: Store) -> None:
        refusal = store.settle(lease, [outcome]).refused.get(run.seq)
        if refusal is not None:
            raise refusal

    return Ask(
        f"{lease.actor} settles {run.id} by {event}",
        tell,
        lambda account: account.settle(lease.token, run.id, event, _USED),
    )


def releasing(lease: Lease, run: StoredRun) -> Ask:
    """Give a run back."""
    return Ask(
        f"{lease.actor} releases {run.id}",
        lambda store: store.release(lease, run),
        lambda account: account.release(lease.token, run.id),
    )


def beating(lease: Lease, ids: Mapping[int, str]) -> Ask:
    """Renew a lease; `ids` are those of all runs, by seq."""

    def tell(store: Store) -> object:
        beat = store.heartbeat(lease)
        return beat.held, {ids[seq]: status for seq, status in beat.runs.items()}

    return Ask(f"{lease.actor} renews its lease", tell, lambda account: account.heartbeat(lease.token))


def taking_over(lease: Lease, max_attempts: int, run_id: str | None) -> Ask:
    """Take over what others left, or a certain run."""
    return Ask(
        f"{lease.actor} takes over {run_id or 'all'} begun less than {max_attempts} times",
        lambda store: store.take_over(lease, _MOST, max_attempts=max_attempts, run_id=run_id),
        lambda account: account.take_over(lease.token, max_attempts, run_id),
    )


def sweeping(max_attempts: int) -> Ask:
    """Do what time has made due."""

    def tell(store: Store) -> object:
        swept = store.sweep(max_attempts=max_attempts)
        moved = {"expired": set(swept.expired), "failed": set(swept.failed), "cancelled": set(swept.cancelled)}
        return {**moved, "lapsed": swept.expired_leases, "adrift": swept.orphaned}

    return Ask(f"sweep, of {max_attempts} attempts", tell, lambda account: account.sweep(max_attempts))


def pruning(older_than_s: int) -> Ask:
    """Delete what ended longer ago."""
    return Ask(
        f"prune what ended {older_than_s} seconds ago",
        lambda store: store.prune(older_than_s),
        lambda account: account.prune(older_than_s),
    )
