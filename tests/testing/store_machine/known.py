"""What the machine knows of a run and compares: its history, and what by the law follows of it; and refusals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, get_args

import attrs

from runstate.lifecycle import INITIAL_STATUS, RUN_LIFECYCLE, RunEvent, RunStatus, Stamp, StatusField
from runstate.lifecycle.errors import RunstateError
from runstate.run.values import Usage
from runstate.store import StoredRun

__all__ = ["Known", "Line", "Refusal", "Refused", "View", "Wanted", "differences", "view_of"]

_STAMPS: Final[tuple[Stamp, ...]] = get_args(Stamp)
_HELD: Final[tuple[StatusField, ...]] = get_args(StatusField)

View: TypeAlias = Mapping[str, object]
"""A run as it is compared: every field that the account knows of."""


@attrs.frozen
class Line:
    """An entry of a history, as it must be."""

    version: int
    event: RunEvent | None
    source: RunStatus | None
    target: RunStatus
    at: int
    """Unix microseconds."""
    actor: str


@attrs.frozen
class Wanted:
    """What a run is created with."""

    id: str
    thread_id: str
    actor: str
    priority: int = 0
    exclusive: Literal["reject", "queue"] | None = None
    """As `one_live_run_per_thread`."""
    not_before: float | None = None
    """Unix seconds."""
    expires_in_s: int = 600
    key: str | None = None


@attrs.define
class Known:
    """A run as it must stand."""

    wanted: Wanted
    created_at: int
    ready: bool
    lines: list[Line]
    stamps: dict[Stamp, int] = attrs.field(factory=dict)
    worker: int | None = None
    attempt: int = 0
    lost: int = 0
    usage: Usage | None = None
    submitted: tuple[int, Mapping[str, str]] | None = None
    """The version that tool outputs were last submitted at, and the outputs."""

    @property
    def id(self) -> str:
        """Its id."""
        return self.wanted.id

    @property
    def status(self) -> RunStatus:
        """Where it stands: where its last entry led."""
        return self.lines[-1].target

    @property
    def version(self) -> int:
        """How many entries its history has."""
        return len(self.lines)

    @property
    def is_live(self) -> bool:
        """Whether something leads on from where it stands."""
        return not RUN_LIFECYCLE.is_terminal(self.status)

    @property
    def deadline(self) -> int:
        """When it expires, in Unix seconds."""
        return self.created_at + self.wanted.expires_in_s

    @property
    def holds_thread(self) -> bool:
        """Whether it is the one live run that its thread may have."""
        exclusive = self.wanted.exclusive
        return self.is_live and (exclusive == "reject" or (exclusive == "queue" and self.ready))

    @property
    def waits(self) -> bool:
        """Whether it is not to be started yet."""
        return self.status is INITIAL_STATUS and not self.ready

    def lost_by_now(self, released: int) -> int:
        """Return how many of its claims were lost, if its worker is dead and not the session of released runs."""
        return self.lost + (self.worker != released)

    def view(self) -> View:
        """Return it as `view_of` returns a run of the store's."""
        last = self.lines[-1]
        last, wanted = self.lines[-1], self.wanted
        held = {str(field): RUN_LIFECYCLE.is_present(field, self.status) for field in _HELD}
        return {
            "id": wanted.id,
            "thread_id": wanted.thread_id,
            "priority": wanted.priority,
            "status": self.status,
            "version": self.version,
            "created_at": self.created_at,
            "event": last.event,
            "source": last.source,
            "changed_at_us": last.at,
            "actor": last.actor,
            "attempt": self.attempt,
            "lost": self.lost,
            "ready": self.ready if self.status is INITIAL_STATUS else None,
            **{str(stamp): self.stamps.get(stamp) for stamp in _STAMPS},
            **held,
            "expires_at": self.deadline if held["expires_at"] else None,
            "usage": self.usage,
        }


def view_of(run: StoredRun) -> View:
    """Return a run of the store's as it is compared."""
    names = (
        "id",
        "thread_id",
        "priority",
        "status",
        "version",
        "created_at",
        "event",
        "source",
        "changed_at_us",
        "actor",
    )
    whole = {name: getattr(run, name) for name in (*names, "attempt", "lost", *_STAMPS, "expires_at", "usage")}
    held = {str(field): getattr(run, field) is not None for field in _HELD}
    return {
        **held,
        **whole,
        "ready": run.claimable if run.status is INITIAL_STATUS else None,
    }  # of others it says nothing


def differences(found: View, expected: View) -> list[str]:
    """Return each field that is not as it must be, told."""
    return [f"{name} is {found[name]}, must be {value}" for name, value in expected.items() if found[name] != value]


@attrs.frozen
class Refusal:
    """That something was refused: how, and which run it names, as it stood."""

    kind: type[RunstateError]
    run_id: str | None = None
    run: View | None = None

    @classmethod
    def of(cls, error: RunstateError) -> Refusal:
        """Return what an error of the store's says."""
        run: StoredRun | None = getattr(error, "run", None)
        return cls(type(error), getattr(error, "run_id", None), None if run is None else view_of(run))


class Refused(Exception):
    """The account's own way to say no."""

    def __init__(self, kind: type[RunstateError], run: Known | None = None, run_id: str | None = None) -> None:
        named = run_id if run is None else run.id
        self.refusal: Final = Refusal(kind, named, None if run is None else run.view())
        super().__init__(self.refusal)
