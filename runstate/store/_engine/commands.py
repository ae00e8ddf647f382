"""The commands that the committer executes: create, transition, settle and claim, and all other requests.

A command has the arguments of a request and, after the commit, its result. `decode` makes runs of the raw rows. The
caller executes it, so that the committer can continue meanwhile.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any, Final, Generic, TypeVar, cast

import attrs

from runstate.lifecycle import RunEvent
from runstate.lifecycle.errors import RunstateError
from runstate.run import Run
from runstate.run.values import Usage
from runstate.store._notifier import ALL_CHANGES, NO_CHANGE, Change
from runstate.store._sql.columns import CLAIMED_COLUMNS, CREATE_COLUMNS, getter
from runstate.store._sql.connection import Connection, Groups
from runstate.store._sql.rows import Row, decode_claimed, decode_created, decode_run
from runstate.store._types import StoredRun
from runstate.store._worker_types import Claim, Settle, SettleAndClaimResult, SettleKey
from runstate.store.errors import OutcomeUnknown, StoreError, StoreUnavailable

__all__ = [
    "Command",
    "CreateRuns",
    "InTransaction",
    "NewRunRow",
    "ResumeData",
    "SettleAndClaim",
    "TransitionRun",
    "decode_settle_and_claim",
    "group_by_outcome",
    "read_error",
]

T = TypeVar("T")
_PENDING: Final = object()
_CREATED: Final = Change.ENTRY | Change.QUEUED
_FAILED: Final = (RunEvent.FAIL, True)
"""The group that has the outcomes with a retry."""


class Command(Generic[T]):
    """One request to the committer, and its result."""

    __slots__ = ("_error", "_raw", "_waits", "change", "future", "is_retry")

    def __init__(self, hint: Change) -> None:
        self.change: Change = hint
        """The changes that listeners are notified of after the commit."""
        self._raw: Any = _PENDING
        self._error: Exception | None = None
        self._waits: Lock | None = None
        self.future: asyncio.Future[Any] | None = None
        """The future of an async caller; None for other callers."""
        self.is_retry: bool = False
        """Whether the request was made before, and the reply was lost."""

    def set_result(self, raw: Any) -> None:
        """Set the raw result. The caller gets it only after the commit."""
        self._raw, self._error = raw, None

    def set_exception(self, error: Exception) -> None:
        """Set the error by which the request failed or was refused."""
        self._error = error

    def reset(self) -> None:
        """Remove a result whose transaction was rolled back."""
        self._raw, self._error = _PENDING, None

    @property
    def refusals(self) -> Sequence[RunstateError]:
        """All refusals in the result."""
        return (self._error,) if isinstance(self._error, RunstateError) else ()

    def arm(self) -> None:
        """Prepare for `wait`. Called before the command is passed to the committer."""
        self._waits = Lock()
        self._waits.acquire()

    def notify(self) -> None:
        """Wake the waiting thread."""
        if self._waits is not None:
            self._waits.release()

    def wait(self) -> None:
        """Wait until the result is set."""
        if self._waits is not None:
            self._waits.acquire()

    def result(self) -> T:
        """Return the result, or raise the error."""
        if self._error is not None:
            raise self._error
        return self.decode(self._raw)

    def decode(self, raw: Any) -> T:
        """Return the result, made of the raw rows of the database."""
        return cast("T", raw)


@attrs.define
class NewRunRow:
    """A new run, and its row in the store."""

    run: Run
    row: Row
    """The values of `CREATE_COLUMNS`."""

    thread_policy: str | None = attrs.field(init=False)
    """The value of `one_live_run_per_thread`."""
    key: str | None = attrs.field(init=False)
    """The idempotency key."""
    config: str | None = attrs.field(init=False)
    """The configuration of the run, without its names, as JSON text."""

    def __attrs_post_init__(self) -> None:
        self.thread_policy, self.key, self.config = _CREATED_WITH(self.row)


_CREATED_WITH: Final = getter(CREATE_COLUMNS, "thread_policy", "idempotency_key", "config")


class CreateRuns(Command[T]):
    """Create one run, or many runs, all or none."""

    __slots__ = ("_convert", "rows")

    def __init__(self, wanted: Sequence[NewRunRow], convert: Callable[[list[StoredRun]], T]) -> None:
        super().__init__(_CREATED)
        self.rows: Final = wanted
        self._convert = convert

    def decode(self, raw: Any) -> T:
        """Return the new runs, and the current runs in place of those that existed already."""
        return self._convert([self._run(wanted, found) for wanted, found in zip(self.rows, raw, strict=True)])

    @staticmethod
    def _run(wanted: NewRunRow, found: Any) -> StoredRun:
        if len(found) > 3:
            return decode_run(found)
        seq, at, ready = found
        return decode_created(wanted.run, wanted.row, seq, at, ready)


class TransitionRun(Command[StoredRun]):
    """Apply one event to one run."""

    __slots__ = ("actor", "detail", "event", "outputs", "payload", "run_id", "usage", "version")

    def __init__(
        self,
        run_id: str,
        event: RunEvent,
        *,
        actor: str | None,
        version: int | None,
        usage: str | None = None,
        detail: str | None = None,
        payload: Mapping[str, str | None] | None = None,
        outputs: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(ALL_CHANGES)
        self.run_id: Final = run_id
        self.event: Final = event
        self.actor: Final = actor
        self.version: Final = version
        self.usage: Final = usage
        self.detail: Final = detail
        self.payload: Final = payload or {}
        self.outputs: Final = outputs
        """The tool outputs, by call id, if the event submits them."""

    @property
    def is_idempotent(self) -> bool:
        """Whether a repetition of the same request is recognised, and has the same result."""
        return self.event in (RunEvent.REQUEST_CANCEL, RunEvent.SUBMIT_TOOL_OUTPUTS)

    def row(self, version: int | None) -> Row:
        """Return the values of `MOVE_COLUMNS`, for a run at `version` (None: any version)."""
        params = self.payload
        return (
            *(self.run_id, version, self.actor, self.usage, self.detail),
            *(params.get("required_action"), params.get("last_error"), params.get("incomplete_details")),
        )

    def decode(self, raw: Any) -> StoredRun:
        """Return the run after the move."""
        return decode_run(raw)


def group_by_outcome(settles: Sequence[Settle]) -> Groups:
    """Return the outcomes grouped by what one statement can commit, the largest group last."""
    groups: dict[SettleKey, list[Settle]] = {}
    for settle in settles:
        outcome = settle.outcome
        group = groups.get(outcome)
        if group is None:
            groups[outcome] = [settle]
        else:
            group.append(settle)
    return sorted(groups.items(), key=lambda item: len(item[1]))


@attrs.frozen
class ResumeData:
    """The saved data with which an earlier attempt is continued."""

    checkpoint: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    submitted: str | None = None
    """The detail of the entry with the submitted outputs."""
    at: int | None = None
    """When this worker got the run, if that was not when it was started; in Unix microseconds."""


_BY_SEQ: Final = getter(CLAIMED_COLUMNS, "seq")
_BY_PRIORITY: Final = getter(CLAIMED_COLUMNS, "priority")


def decode_settle_and_claim(raw: Any) -> SettleAndClaimResult:
    """Return the result, from rows, resume data by seq, refusals by seq, and the seqs of runs that are not retried."""
    found, resumed, refused, not_retried = raw
    found.sort(key=_BY_SEQ)
    found.sort(key=_BY_PRIORITY, reverse=True)  # the sort is stable
    if not resumed:
        claims = [_fresh_claim(decode_claimed(row)) for row in found]
    else:
        claims = [_claim(decode_claimed(row), resumed.get(_BY_SEQ(row))) for row in found]
    return SettleAndClaimResult(claims, refused, not_retried)


def _fresh_claim(run: StoredRun) -> Claim:
    return Claim(run, claimed_at_us=run.changed_at_us)


def _claim(run: StoredRun, resumed: ResumeData | None) -> Claim:
    if resumed is None:
        return _fresh_claim(run)
    outputs: Mapping[str, str] = json.loads(resumed.submitted)["tool_outputs"] if resumed.submitted else {}
    checkpoint = None if resumed.checkpoint is None else json.loads(resumed.checkpoint)
    usage = Usage(resumed.prompt_tokens, resumed.completion_tokens)
    return Claim(run, checkpoint, usage, outputs, run.changed_at_us if resumed.at is None else resumed.at)


class SettleAndClaim(Command[T]):
    """One round trip of a worker: commit outcomes, and claim new runs."""

    __slots__ = ("_convert", "actor", "groups", "has_retries", "held", "limit", "queues", "run_id", "settles", "worker")

    def __init__(
        self,
        worker: int,
        actor: str,
        convert: Callable[[SettleAndClaimResult], T],
        *,
        queues: Sequence[str] = (),
        limit: int = 0,
        settles: Sequence[Settle] = (),
        held: frozenset[int] | None = None,
        run_id: str | None = None,
        is_retry: bool = False,
    ) -> None:
        super().__init__(Change.ENTRY)
        self.is_retry = is_retry
        self.worker: Final = worker
        self.actor: Final = actor
        self.queues: Final = queues
        self.limit: Final = limit
        self.settles: Final = settles
        self.groups: Final = group_by_outcome(settles)
        self.has_retries: Final = any(
            settle.retry is not None for key, group in self.groups if key == _FAILED for settle in group
        )
        """Whether some of the runs are to wait for a retry."""
        self.held: Final = held
        """The seqs of the runs that the worker executes, except those in `settles`. None if it does not track them."""
        self.run_id: Final = run_id
        """The only run to claim; None to claim any."""
        self._convert = convert

    @property
    def is_round_trip(self) -> bool:
        """Whether it claims runs for free slots of a worker. Settles, and the claim of one run by its id, do not."""
        return self.limit > 0 and self.run_id is None

    @property
    def refusals(self) -> Sequence[RunstateError]:
        """All refusals in the result, including those of single outcomes."""
        return super().refusals or ([*self._raw[2].values()] if self._raw is not _PENDING else ())

    @property
    def is_idempotent(self) -> bool:
        """Whether, after a lost reply, new claims can be distinguished from runs that the worker had before."""
        return self.held is not None or self.run_id is not None or not self.limit

    def decode(self, raw: Any) -> T:
        """Return the converted result: claims and refused outcomes."""
        return self._convert(decode_settle_and_claim(raw))


def read_error(error: StoreError) -> StoreError:
    """Return the error of a read. After a lost reply it is `StoreUnavailable`, because a read changes nothing."""
    return StoreUnavailable(str(error)) if isinstance(error, OutcomeUnknown) else error


class InTransaction(Command[T]):
    """Any other request that writes: a function that is called with the connection, inside a transaction."""

    __slots__ = ("_finish", "callback", "is_idempotent", "one_statement", "only_reads")

    def __init__(
        self,
        callback: Callable[[Connection], Any],
        decode: Callable[[Any], T] | None = None,
        change: Change = NO_CHANGE,
        *,
        is_idempotent: bool = True,
        one_statement: bool = False,
        only_reads: bool = False,
    ) -> None:
        super().__init__(change)
        self.only_reads: Final = only_reads
        """Whether the function changes nothing."""
        self.one_statement: Final = one_statement
        """Whether the function writes by one statement on PostgreSQL, where that needs no transaction around it."""
        self.is_idempotent: Final = is_idempotent
        """Whether the request can be repeated after a lost reply, with the same result."""
        self.callback: Final = callback
        self._finish = decode

    def set_exception(self, error: Exception) -> None:
        """Set the error of the request. A read whose reply was lost has changed nothing: it is `StoreUnavailable`."""
        super().set_exception(read_error(error) if self.only_reads and isinstance(error, StoreError) else error)

    def decode(self, raw: Any) -> T:
        """Return the result, made of what the function returned."""
        return cast("T", raw) if self._finish is None else self._finish(raw)
