"""The feed of entries: one thread of a process reads the new entries of a store, for all that watch runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, TypeAlias

from runstate.clock import monotonic
from runstate.store._api.feed import Feed, Read, Tail
from runstate.store._api.queries import entry_position, read_entries
from runstate.store._notifier import Change, LocalNotifier
from runstate.store._sql.columns import POSITION_COLUMNS
from runstate.store._sql.connection import Connection
from runstate.store._sql.rows import Row, decode_entry
from runstate.store._types import Entry
from runstate.store.errors import StoreError

__all__ = ["ALL_RUNS", "EntryFeed", "Position"]

ALL_RUNS: Final = 0
"""The key of the tail with the entries of all runs. The other keys are the numbers of runs, which begin with 1."""

Position: TypeAlias = tuple[int, ...]
"""The position of an entry among those of its run, its version; or among those of all runs, its cursor."""

_MOST_ROWS: Final = 5000  # of one read
_CHECK_S: Final = 2.0  # between two looks for runs that were pruned


class _RunTail(Tail[Position, Entry]):
    """The last entries of a run."""

    def position_of(self, item: Entry) -> Position:
        return (item.version,)


class _AllTail(Tail[Position, Entry]):
    """The last entries of all runs."""

    def __init__(self, start: Position) -> None:
        super().__init__(start)
        self.read_up_to = start
        """The position after which to read: there may be no entries for a long time, but transactions of others."""

    def position_of(self, item: Entry) -> Position:
        return entry_position(item.cursor)


class EntryFeed(Feed[Entry]):
    """Reads the new entries of the runs that are watched, and of all runs, and wakes their readers.

    One statement returns the entries of all watched runs after the versions that their readers have. The moves of a run
    are committed one after the other, so none is missed, and no transaction of other runs delays this. The entries of
    all runs are read in the order of their cursors.
    """

    thread_name: ClassVar[str] = "runstate-entry-feed"
    space_s: ClassVar[float] = 0.005

    def __init__(self, read: Read, notifier: LocalNotifier, display_url: str) -> None:
        super().__init__(read, notifier, display_url)
        self._check_at = 0.0
        """When to look for runs that were pruned, by the monotonic clock."""

    def _new_tail(self, key: int, start: Position) -> Tail[Position, Entry]:
        return _AllTail(start) if key == ALL_RUNS else _RunTail(start)

    def _on_change(self, change: Change) -> None:
        if change & ~Change.EVENT and not self._wake.is_set():
            self._wake.set()

    def _failed(self, error: StoreError) -> None:
        self._wake_readers(error=error)

    def _read_new(self) -> None:
        tails = self._live_tails()
        everything = tails.pop(ALL_RUNS, None)
        if tails:
            self._read_runs(tails)
        if isinstance(everything, _AllTail):
            self._read_all(everything)

    def _read_runs(self, tails: Mapping[int, Tail[Any, Entry]]) -> None:
        is_check = monotonic() >= self._check_at

        def look(session: Connection) -> tuple[Sequence[Row], Sequence[Row]]:
            params = session.bind_rows(POSITION_COLUMNS, [(seq, tail.last[0]) for seq, tail in tails.items()])
            rows = session.execute(session.statements.new_entries, {**params, "limit": _MOST_ROWS})
            return rows, session.execute(session.statements.missing, params) if is_check else ()

        rows, missing = self._read(look)
        if is_check:
            self._check_at = monotonic() + _CHECK_S
        if len(rows) == _MOST_ROWS:
            self._wake.set()
        entries: dict[int, list[Entry]] = {}
        for seq, *row in rows:
            entries.setdefault(seq, []).append(decode_entry(row))
        self._publish(tails, entries)
        self._wake_readers(seq for (seq,) in missing)

    def _read_all(self, everything: _AllTail) -> None:
        after = max(everything.last, everything.read_up_to)
        page, has_more, everything.read_up_to = self._read(lambda session: read_entries(session, after))
        if page:
            self._publish({ALL_RUNS: everything}, {ALL_RUNS: page})
        if has_more:
            self._wake.set()
