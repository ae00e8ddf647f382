"""What can be asked of the committer: create, move, a worker's turn, and calls of other kinds.

A command carries what it asks and, once it is committed, the answer. Raw rows are turned into runs by `finish`, which
whoever asked executes, so the committer goes on meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from threading import Lock
from typing import Any, Final, Generic, TypeVar, cast

import attrs

from runstate.lifecycle import RunEvent
from runstate.lifecycle.errors import RunstateError
from runstate.run import Run
from runstate.store._notifier import EVERYTHING, NOTHING, Hint
from runstate.store._sql.connection import Connection
from runstate.store._sql.rows import Row, decode_claimed, decode_created, decode_run
from runstate.store._types import Outcome, Settle, StoredRun

__all__ = ["Call", "Command", "Create", "Move", "Past", "Turn", "Turned", "Wanted", "by_outcome", "turned"]

T = TypeVar("T")
_PENDING: Final = object()
_A_BIRTH: Final = Hint.ENTRY | Hint.QUEUED


class Command(Generic[T]):
    """One thing asked of the committer, and its answer."""

    __slots__ = ("_error", "_raw", "_waits", "future", "hint", "unsure")

    def __init__(self, hint: Hint) -> None:
        self.hint: Hint = hint
        """What may have changed when it is committed."""
        self._raw: Any = _PENDING
        self._error: Exception | None = None
        self._waits: Lock | None = None
        self.future: asyncio.Future[Any] | None = None
        """Where an async caller waits, if one asked."""
        self.unsure: bool = False
        """Whether it was asked before and the answer was lost."""

    def answer(self, raw: Any) -> None:
        """Note the answer. Nobody hears of it before the commit."""
        self._raw, self._error = raw, None

    def refuse(self, error: Exception) -> None:
        """Note that it was refused, and why."""
        self._error = error

    def forget(self) -> None:
        """Take back an answer whose transaction was rolled back."""
        self._raw, self._error = _PENDING, None

    @property
    def refused(self) -> Sequence[RunstateError]:
        """Every refusal in its answer."""
        return (self._error,) if isinstance(self._error, RunstateError) else ()

    def expect(self) -> None:
        """Get ready to be waited for, before it is handed over."""
        self._waits = Lock()
        self._waits.acquire()

    def wake(self) -> None:
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
        return self.finish(self._raw)

    def finish(self, raw: Any) -> T:
        """Turn what the database gave back into what was asked for."""
        return cast("T", raw)


@attrs.frozen
class Wanted:
    """A run to be created: how it shall be, and what the store does with it."""

    run: Run
    row: Row
    """The values of `CREATE_COLUMNS`."""

    @property
    def exclusive(self) -> str | None:
        """What a second live run of the thread meets."""
        return cast("str | None", self.row[8])

    @property
    def key(self) -> str | None:
        """The idempotency key."""
        return cast("str | None", self.row[9])


class Create(Command[T]):
    """Create runs: one, or many that come to be together or not at all."""

    __slots__ = ("_taken", "wanted")

    def __init__(self, wanted: Sequence[Wanted], taken: Callable[[list[StoredRun]], T]) -> None:
        super().__init__(_A_BIRTH)
        self.wanted: Final = wanted
        self._taken = taken

    def finish(self, raw: Any) -> T:
        """Return the runs as they were born; as they stand where they were there already."""
        return self._taken([self._run(wanted, found) for wanted, found in zip(self.wanted, raw, strict=True)])

    @staticmethod
    def _run(wanted: Wanted, found: Any) -> StoredRun:
        if len(found) > 3:
            return decode_run(found)
        seq, at, ready = found
        row = wanted.row
        return decode_created(wanted.run, seq, at, row[11], row[5], row[6], ready)


class Move(Command[StoredRun]):
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
        super().__init__(EVERYTHING)
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
    def repeatable(self) -> bool:
        """Whether the same request made twice is recognised and answered alike."""
        return self.event in (RunEvent.REQUEST_CANCEL, RunEvent.SUBMIT_TOOL_OUTPUTS)

    def row(self, version: int | None) -> Row:
        """Return the values of `MOVE_COLUMNS`, for a run at `version` (None: whichever)."""
        params = self.payload
        return (
            *(self.run_id, version, self.actor, self.usage, self.detail),
            *(params.get("required_action"), params.get("last_error"), params.get("incomplete_details")),
        )

    def finish(self, raw: Any) -> StoredRun:
        """Return the run as it stands after the move."""
        return decode_run(raw)


def by_outcome(settles: Sequence[Settle]) -> Sequence[tuple[Outcome, Sequence[Settle]]]:
    """Return settles that one statement can commit together, the largest lot last."""
    groups: dict[Outcome, list[Settle]] = {}
    for settle in settles:
        outcome = settle.outcome
        group = groups.get(outcome)
        if group is None:
            groups[outcome] = [settle]
        else:
            group.append(settle)
    return sorted(groups.items(), key=lambda item: len(item[1]))


@attrs.frozen
class Past:
    """What a run brings along that was worked on before."""

    checkpoint: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    submitted: str | None = None
    """The detail of the entry that submitted the outputs it goes on with."""
    at: int | None = None
    """When this worker got it, if that was not when it was started."""


@attrs.frozen
class Turned:
    """What came of a worker's turn."""

    claimed: Sequence[tuple[StoredRun, Past | None]]
    refused: Mapping[int, RunstateError]
    """Why outcomes were not taken, by seq."""


_BY_SEQ: Final = itemgetter(0)
_BY_PRIORITY: Final = itemgetter(10)


def turned(raw: Any, actor: str) -> Turned:
    """Return what came of a turn, from its rows: claimed, past by seq, refused by seq. The oldest runs come first."""
    found, past, refused = raw
    found.sort(key=_BY_SEQ)
    found.sort(key=_BY_PRIORITY, reverse=True)  # equals keep their order
    if not past:
        return Turned([(decode_claimed(row), None) for row in found], refused)
    return Turned([(decode_claimed(row), past.get(row[0])) for row in found], refused)


class Turn(Command[T]):
    """What a worker asks between two rounds: commit these outcomes, and give me so many runs to go on with."""

    __slots__ = ("_taken", "actor", "groups", "held", "limit", "queues", "run_id", "settles", "worker")

    def __init__(
        self,
        worker: int,
        actor: str,
        taken: Callable[[Turned], T],
        *,
        queues: Sequence[str] = (),
        limit: int = 0,
        settles: Sequence[Settle] = (),
        held: frozenset[int] | None = None,
        run_id: str | None = None,
    ) -> None:
        super().__init__(Hint.ENTRY)
        self.worker: Final = worker
        self.actor: Final = actor
        self.queues: Final = queues
        self.limit: Final = limit
        self.settles: Final = settles
        self.groups: Final = by_outcome(settles)
        self.held: Final = held
        """The seqs it knows to be its own, apart from those it settles; None if it keeps no account of them."""
        self.run_id: Final = run_id
        """The only run it wants, if it wants a certain one."""
        self._taken = taken

    @property
    def refused(self) -> Sequence[RunstateError]:
        """Every refusal in its answer: of each outcome that was not taken."""
        return super().refused or ([*self._raw[2].values()] if self._raw is not _PENDING else ())

    @property
    def repeatable(self) -> bool:
        """Whether what it claimed can be told from what it held before, should the answer be lost."""
        return self.held is not None or self.run_id is not None or not self.limit

    def finish(self, raw: Any) -> T:
        """Return what was asked for of the claimed runs and the refused outcomes."""
        return self._taken(turned(raw, self.actor))


class Call(Command[T]):
    """Anything else that writes: it gets the session, inside a transaction."""

    __slots__ = ("_finish", "perform", "repeatable")

    def __init__(
        self,
        perform: Callable[[Connection], Any],
        finish: Callable[[Any], T] | None = None,
        hint: Hint = NOTHING,
        *,
        repeatable: bool = True,
    ) -> None:
        super().__init__(hint)
        self.repeatable: Final = repeatable
        """Whether asking again answers the same, should the answer be lost."""
        self.perform: Final = perform
        self._finish = finish

    def finish(self, raw: Any) -> T:
        """Turn what the database gave back into what was asked for."""
        return cast("T", raw) if self._finish is None else self._finish(raw)
