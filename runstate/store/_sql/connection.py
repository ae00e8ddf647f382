"""What the committer and the readers need of a database, whichever it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import Any, Final, Protocol, TypeAlias

from runstate.store._notifier import LocalNotifier
from runstate.store._sql.columns import Column
from runstate.store._sql.dialect import Dialect
from runstate.store._sql.identity import StoreIdentity
from runstate.store._sql.rows import Row
from runstate.store._sql.skipped import SkippedRuns
from runstate.store._sql.statements import Statements
from runstate.store._worker_types import Settle, SettleKey
from runstate.store.availability import Availability

__all__ = ["CALLERS_DATABASE", "Connection", "Database", "Groups", "Params", "Trouble"]

CALLERS_DATABASE: Final = "the database of the connection that was given"
"""How messages call the database of a caller's own connection, which may be another than the store's."""

Params: TypeAlias = Mapping[str, Any]
"""Parameters by name."""

Groups: TypeAlias = Sequence[tuple[SettleKey, Sequence[Settle]]]
"""The outcomes of claimed runs, those together that one statement can commit."""


class Trouble(Enum):
    """What an error of a session means for what was asked, and for the session."""

    CONFLICT = "another transaction went first, and this one was undone: it can be done again at once"
    NOT_BEGUN = "the transaction could not begin: what was to happen in it need not be tried in another"
    SESSION_LOST = "the session is of no more use: another may be"
    ROW_REFUSED = "a guard or a key refused what was to be written: without that row the rest can be"


class Connection(Protocol):
    """One connection. Whatever goes wrong in the database comes out of it as an error of `runstate.errors`."""

    @property
    def statements(self) -> Statements:
        """The statements of its dialect."""
        ...

    @property
    def owned(self) -> bool:
        """Whether the connection is the store's own; else it is a caller's, and so is its transaction."""
        ...

    trouble: Trouble | None
    """What the last error means, where it means more than that what was asked is refused."""

    skipped: SkippedRuns
    """The runs that claims and sweeps leave out. All connections by which a store writes have the same."""

    row_by_row: bool
    """Whether claims and sweeps move one run at a time, after a statement failed because of a row."""

    def is_stale(self) -> bool:
        """Tell whether the session leads to another database than its address does by now."""
        ...

    def execute(self, statement: str, params: Params) -> Sequence[Row]:
        """Execute a statement; return its rows."""
        ...

    def execute_ddl(self, statement: str) -> None:
        """Execute a statement that takes no parameters, as those that make tables."""
        ...

    def bind_rows(self, columns: Sequence[Column], rows: Iterable[Row]) -> Params:
        """Return the parameters that hand `rows` to a statement over these columns."""
        ...

    def insert_runs(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Insert runs, each a row of `CREATE_COLUMNS`; return id, seq and time of those that nothing hindered."""
        ...

    def settle_and_claim(
        self, owner: Params, groups: Groups, queues: Sequence[str], limit: int, *, only: int | None = None
    ) -> tuple[set[int], list[Row]]:
        """Commit outcomes and claim up to `limit` runs, of the first queue before the next.

        Returns the seqs of the runs that were settled, and the rows of those claimed, of `CLAIMED_COLUMNS`. `owner` has
        the token of the lease and the name of the worker. With `only`, no other run than this one is claimed.
        """
        ...

    def identity(self) -> StoreIdentity:
        """Return where the connection finds the tables of a store."""
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """Commit what happens inside together, or nothing of it."""
        ...

    def atomic_if_needed(self) -> AbstractContextManager[None]:
        """The same, where it takes several statements; a dialect may leave out what one statement does by itself."""
        ...

    def savepoint(self) -> AbstractContextManager[None]:
        """Undo what happened inside if it raises, and nothing else of the transaction that is open."""
        ...

    def interrupt(self) -> None:
        """End the statement that another thread waits for; the connection may be of no use afterwards."""
        ...

    def close(self) -> None:
        """Let the connection go."""
        ...


class Database(Protocol):
    """Where the runs are: makes connections to it, to write and to read."""

    dialect: Dialect
    display_url: str
    """Its address without the password, for people."""
    private: Sequence[str]
    """The parts of its address, which stand in no run: hosts, names, paths."""
    in_memory: bool
    """Whether it lives in one connection, and as long as that."""
    embedded: bool
    """Whether it has no server: then a store is made where it is opened, and no address is listened at."""

    def open(self, *, reading: bool = False) -> Connection:
        """Return a new connection. Raises `StoreError` if there is none to be had."""
        ...

    def wrap(self, connection: object) -> Connection:
        """Work on a caller's own connection of the driver. Raises `StoreError` for one of another driver."""
        ...

    def notifier(self, external_commits: Callable[[], int | None], availability: Availability) -> LocalNotifier:
        """Return what hears of the changes that other processes make.

        `external_commits` returns a number that changes when another connection commits, where the database counts.
        """
        ...

    def close(self) -> None:
        """Let go of what is kept between connections."""
        ...
