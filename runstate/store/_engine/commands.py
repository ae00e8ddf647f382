"""What can be asked of the committer: create, move, a worker's turn, and calls of other kinds.

A command carries what it asks and, once it is committed, the answer. Raw rows are turned into runs by `finish`, which
whoever asked executes, so the committer goes on meanwhile.
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
]

T = TypeVar("T")
_PENDING: Final = object()
_CREATED: Final = Change.ENTRY | Change.QUEUED


class Command(Generic[T]):
    """One thing asked of the committer, and its answer."""

    __slots__ = ("_error", "_raw", "_waits", "change", "future", "is_retry")

    def __init__(self, hint: Change) -> None:
        self.change: Change = hint
        """What may have changed when it is committed."""
        self._raw: Any = _PENDING
        self._error: Exception | None = None
        self._waits: Lock | None = None
        self.future: asyncio.Future[Any] | None = None
        """Where an async caller waits, if one asked."""
        self.is_retry: bool = False
        """Whether it was asked before and the answer was lost."""

    def set_result(self, raw: Any) -> None:
        """Note the answer. Nobody hears of it before the commit."""
        self._raw, self._error = raw, None

    def set_exception(self, error: Exception) -> None:
        """Note that it was refused, and why."""
        self._error = error

    def reset(self) -> None:
        """Take back an answer whose transaction was rolled back."""
        self._raw, self._error = _PENDING, None

    @property
    def refusals(self) -> Sequence[RunstateError]:
        """Every refusal in its answer."""
        return (self._error,) if isinstance(self._error, RunstateError) else ()

    def arm(self) -> None:
        """Get ready to be waited for, before it is handed over."""
        self._waits = Lock()
        self._waits.acquire()

    def notify(self) -> None:
        """Let the waiting thread go on."""
        if self._waits is not None:
            self._waits.release()

    def wait(self) -> None:
        """Wait until it is answered."""
        if self._waits is not None:
            self._waits.acquire()

    def result(self) -> T:
        """Return the answer, or raise why there is none."""
        if self._error is not None:
            raise self._error
        return self.decode(self._raw)

    def decode(self, raw: Any) -> T:
        """Turn what the database gave back into what was asked for."""
        return cast("T", raw)


@attrs.define
class NewRunRow:
    """A run to be created: how it shall be, and what the store does with it."""

    run: Run
    row: Row
    """The values of `CREATE_COLUMNS`."""

    exclusive: str | None = attrs.field(init=False)
    """What a second live run of the thread meets."""
    key: str | None = attrs.field(init=False)
    """The idempotency key."""
    settings: str | None = attrs.field(init=False)
    """What it was created with besides its names, as JSON text."""

    def __attrs_post_init__(self) -> None:
        self.exclusive, self.key, self.settings = _CREATED_WITH(self.row)


_CREATED_WITH: Final = getter(CREATE_COLUMNS, "exclusive", "idempotency_key", "settings")


class CreateRuns(Command[T]):
    """Create runs: one, or many that come to be together or not at all."""

    __slots__ = ("_convert", "rows")

    def __init__(self, wanted: Sequence[NewRunRow], convert: Callable[[list[StoredRun]], T]) -> None:
        super().__init__(_CREATED)
        self.rows: Final = wanted
        self._convert = convert

    def decode(self, raw: Any) -> T:
        """Return the runs as they were born; as they stand where they were there already."""
        return self._convert([self._run(wanted, found) for wanted, found in zip(self.rows, raw, strict=True)])

    @staticmethod
    def _run(wanted: NewRunRow, found: Any) -> StoredRun:
        if len(found) > 3:
            return decode_run(found)
        seq, at, ready = found
        return decode_created(wanted.run, wanted.row, seq, at, ready)


class TransitionRun(Command[StoredRun]):
    """Ask one event of one run, by its id."""

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
        """The answers to the calls that the run waits for, if that is what is asked."""

    @property
    def is_idempotent(self) -> bool:
        """Whether the same request made twice is recognised and answered alike."""
        return self.event in (RunEvent.REQUEST_CANCEL, RunEvent.SUBMIT_TOOL_OUTPUTS)

    def row(self, version: int | None) -> Row:
        """Return the values of `MOVE_COLUMNS`, for a run at `version` (None: whichever)."""
        params = self.payload
        return (
            *(self.run_id, version, self.actor, self.usage, self.detail),
            *(params.get("required_action"), params.get("last_error"), params.get("incomplete_details")),
        )

    def decode(self, raw: Any) -> StoredRun:
        """Return the run as it stands after the move."""
        return decode_run(raw)


def group_by_outcome(settles: Sequence[Settle]) -> Groups:
    """Return settles that one statement can commit together, the largest lot last."""
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
    """What a run brings along that was worked on before."""

    checkpoint: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    submitted: str | None = None
    """The detail of the entry that submitted the outputs it goes on with."""
    at: int | None = None
    """When this worker got it, if that was not when it was started."""


_BY_SEQ: Final = getter(CLAIMED_COLUMNS, "seq")
_BY_PRIORITY: Final = getter(CLAIMED_COLUMNS, "priority")


def decode_settle_and_claim(raw: Any) -> SettleAndClaimResult:
    """Return what was claimed and refused, from rows, resume data by seq, and refusals by seq."""
    found, resumed, refused = raw
    found.sort(key=_BY_SEQ)
    found.sort(key=_BY_PRIORITY, reverse=True)  # equals keep their order
    if not resumed:
        return SettleAndClaimResult([_fresh_claim(decode_claimed(row)) for row in found], refused)
    return SettleAndClaimResult([_claim(decode_claimed(row), resumed.get(_BY_SEQ(row))) for row in found], refused)


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
    """What a worker asks between two rounds: commit these outcomes, and give me so many runs to go on with."""

    __slots__ = ("_convert", "actor", "groups", "held", "limit", "queues", "run_id", "settles", "worker")

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
        self.held: Final = held
        """The seqs it knows to be its own, apart from those it settles; None if it keeps no account of them."""
        self.run_id: Final = run_id
        """The only run it wants, if it wants a certain one."""
        self._convert = convert

    @property
    def refusals(self) -> Sequence[RunstateError]:
        """Every refusal in its answer: of each outcome that was not taken."""
        return super().refusals or ([*self._raw[2].values()] if self._raw is not _PENDING else ())

    @property
    def is_idempotent(self) -> bool:
        """Whether what it claimed can be told from what it held before, should the answer be lost."""
        return self.held is not None or self.run_id is not None or not self.limit

    def decode(self, raw: Any) -> T:
        """Return what was asked for of the claimed runs and the refused outcomes."""
        return self._convert(decode_settle_and_claim(raw))


class InTransaction(Command[T]):
    """Anything else that writes: it gets the session, inside a transaction."""

    __slots__ = ("_finish", "callback", "is_idempotent")

    def __init__(
        self,
        callback: Callable[[Connection], Any],
        decode: Callable[[Any], T] | None = None,
        change: Change = NO_CHANGE,
        *,
        is_idempotent: bool = True,
    ) -> None:
        super().__init__(change)
        self.is_idempotent: Final = is_idempotent
        """Whether asking again answers the same, should the answer be lost."""
        self.callback: Final = callback
        self._finish = decode

    def decode(self, raw: Any) -> T:
        """Turn what the database gave back into what was asked for."""
        return cast("T", raw) if self._finish is None else self._finish(raw)
