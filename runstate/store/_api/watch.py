"""Following entries as they are committed, of one run or of all runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Final

from runstate.lifecycle import RUN_LIFECYCLE
from runstate.run import validators
from runstate.run.errors import FieldError
from runstate.run.values import raise_if_invalid
from runstate.store._api.entry_feed import ALL_RUNS, EntryFeed, Position
from runstate.store._api.feed import Read
from runstate.store._api.queries import entry_position, read_entries, row_of
from runstate.store._sql.connection import Connection
from runstate.store._sql.rows import decode_entry, decode_run
from runstate.store._types import Entry, StoredRun
from runstate.store.errors import RunNotFound

__all__ = ["Watcher", "start_watching", "watch", "watch_async"]


class Watcher(ABC):
    """The position of a reader, in the history of one run or of all runs."""

    def __init__(self, after: Position) -> None:
        self._after = after
        """The position of the last entry that was yielded, or after which the caller resumes."""
        self.start: Position = after
        """The position up to which everything was read. The caller may resume after an entry that does not exist."""
        self.key: int = ALL_RUNS
        """The key of the tail in the feed."""
        self.is_over = False
        """Whether the last entry of the run was passed."""
        self.has_more = False
        """Whether there are more entries to read at once."""

    @abstractmethod
    def read(self, session: Connection) -> Any:
        """Read the next entries. For `take`."""

    @abstractmethod
    def take(self, page: Any) -> Sequence[Entry]:
        """Record what was read. Return the entries."""

    @abstractmethod
    def position_of(self, entry: Entry) -> Position:
        """Return the position of an entry."""

    def passed(self, entry: Entry) -> bool:
        """Record an entry. Return whether it is new to the reader."""
        self.start = position = self.position_of(entry)
        is_new = position > self._after
        self._after = max(self._after, position)
        return is_new

    def skip_to(self, position: Position) -> None:
        """Record that there is nothing up to a position that was not read."""
        self.start = max(self.start, position)


class _RunWatcher(Watcher):
    """The position in the history of a run."""

    def __init__(self, run_id: str, after: int) -> None:
        super().__init__((after,))
        self._run_id = run_id

    def read(self, session: Connection) -> tuple[int, StoredRun | None, list[Entry]]:
        row = row_of(session, self._run_id)
        seq: int = row[0]
        if self.key not in (ALL_RUNS, seq):  # another run has got the id
            raise RunNotFound(self._run_id)
        found = session.execute(session.statements.history, {"run": seq, "after": self._after[0]})
        return seq, None if found else decode_run(row), [decode_entry(each) for each in found]

    def take(self, page: tuple[int, StoredRun | None, list[Entry]]) -> list[Entry]:
        self.key, run, entries = page
        if run is not None:
            self.start = min(self._after, (run.version,))
            self.is_over = run.is_terminal and run.version <= self._after[0]
        return entries

    def position_of(self, entry: Entry) -> Position:
        return (entry.version,)

    def passed(self, entry: Entry) -> bool:
        self.is_over = RUN_LIFECYCLE.is_terminal(entry.target)
        return super().passed(entry)


class _AllWatcher(Watcher):
    """The position in the entries of all runs."""

    def read(self, session: Connection) -> tuple[Position, list[Entry], bool]:
        # Before the entries: all that will be committed later have a position after this one.
        latest = entry_position(str(session.execute(session.statements.latest_cursor, {})[0][0]))
        entries, has_more, _ = read_entries(session, self._after)
        return latest, entries, has_more

    def take(self, page: tuple[Position, list[Entry], bool]) -> list[Entry]:
        latest, entries, self.has_more = page
        if not entries:
            self.start = latest
        return entries

    def position_of(self, entry: Entry) -> Position:
        return entry_position(entry.cursor)


def start_watching(run_id: str | None, after: int | str | None, latest: Callable[[], str]) -> Watcher:
    """Return the position to begin at: by default the creation of the run, or the last entry of all runs."""
    if run_id is None:
        if after is not None and not isinstance(after, str):
            raise_if_invalid([FieldError("after", f"expected the cursor of an entry, got {validators.preview(after)}")])
        return _AllWatcher(entry_position(latest() if after is None else str(after)))
    raise_if_invalid(validators.identifier("run_id", run_id))
    if after is not None and (isinstance(after, bool) or not isinstance(after, int)):
        raise_if_invalid([FieldError("after", f"expected the version of an entry, got {validators.preview(after)}")])
    raise_if_invalid(_VERSION("after", int(after or 0)))
    return _RunWatcher(run_id, int(after or 0))


_VERSION: Final = validators.integer(least=0)


def watch(feed: EntryFeed, read: Read, watcher: Watcher) -> Iterator[Entry]:
    """Yield entries after a position as they are committed; of one run until it has ended."""
    while True:
        yield from filter(watcher.passed, watcher.take(read(watcher.read)))
        if watcher.is_over:
            return
        if not watcher.has_more:
            break
    with feed.following(watcher.key, watcher.start) as tail:
        was_woken = False
        while True:
            entries, _ = feed.take(tail, watcher.start)
            if entries is None or (was_woken and not entries):  # too far behind, or the feed has found nothing
                last = tail.last
                entries = watcher.take(read(watcher.read))
                if not entries:  # the feed had read up to there before
                    watcher.skip_to(last)
            yield from filter(watcher.passed, entries)
            if watcher.is_over:
                return
            was_woken = not entries
            if not entries:
                feed.wait(tail, watcher.start)


async def watch_async(feed: EntryFeed, read: Read, watcher: Watcher) -> AsyncIterator[Entry]:
    """Yield entries like `watch`, for coroutines. `read` returns awaitables."""
    while True:
        for entry in filter(watcher.passed, watcher.take(await read(watcher.read))):
            yield entry
        if watcher.is_over:
            return
        if not watcher.has_more:
            break
    with feed.following(watcher.key, watcher.start) as tail:
        was_woken = False
        while True:
            entries, _ = feed.take(tail, watcher.start)
            if entries is None or (was_woken and not entries):
                last = tail.last
                entries = watcher.take(await read(watcher.read))
                if not entries:  # the feed had read up to there before
                    watcher.skip_to(last)
            for entry in filter(watcher.passed, entries):
                yield entry
            if watcher.is_over:
                return
            was_woken = not entries
            if not entries:
                await feed.wait_async(tail, watcher.start)
