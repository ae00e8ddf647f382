"""Two runs that nothing can move, because their histories are ahead of their rows. All others must go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from runstate.store import NewRun, open_store
from tests.support.judge import Ask, asking
from torture.fleet.handler import new_run
from torture.verdict import Verdict

__all__ = ["UNWRITABLE", "check_unwritable", "place_unwritable"]

FIRST: Final = "run_unwritable_first"
"""Claimed before all others, if it could be claimed."""
LATE: Final = "run_unwritable_late"
"""Expired by the first sweep, if it could be expired."""
UNWRITABLE: Final = frozenset({FIRST, LATE})
_GUARDS: Final = ("runstate_history_insert", "runstate_history_delete")
_THEM: Final = f"('{FIRST}', '{LATE}')"
_FORGE: Final = (
    "INSERT INTO runstate_history (run, version, event, source, target, at_us)"
    f" SELECT seq, 2, 'start', 'queued', 'in_progress', changed_at_us FROM runstate_run WHERE id IN {_THEM}"
)
_REPAIR: Final = (
    f"DELETE FROM runstate_history WHERE version > 1 AND run IN (SELECT seq FROM runstate_run WHERE id IN {_THEM})"
)


def place_unwritable(url: str) -> None:
    """Create the runs, and write an entry of version 2 into the history of each, past the guards."""
    first: NewRun = {**new_run(FIRST, "complete"), "priority": 100}
    late: NewRun = {**new_run(LATE, "complete"), "expires_in_s": 1, "queue": "nobody"}
    with open_store(url) as store:
        store.create_many([first, late])
    _write_past_guards(url, _FORGE)


def check_unwritable(verdict: Verdict, url: str) -> None:
    """See that the runs are as they were placed. Then repair them, and see that they can be moved again."""
    with asking(url) as ask:
        rows = ask(f"SELECT id, status, version FROM runstate_run WHERE id IN {_THEM} ORDER BY id")
    verdict.expect(
        rows == [(name, "queued", 1) for name in sorted(UNWRITABLE)], f"the runs that nothing can move are {rows}"
    )
    _write_past_guards(url, _REPAIR)
    with open_store(url) as store:
        store.request_cancel(FIRST)
        store.sweep()
        ends = [str(store.get(name).status) for name in (FIRST, LATE)]
    verdict.expect(ends == ["cancelled", "expired"], f"the repaired runs are {' and '.join(ends)}")


def _write_past_guards(url: str, statement: str) -> None:
    with asking(url) as ask, _unguarded(ask, url):
        ask(f"{statement} RETURNING run")  # for both drivers ask for rows


@contextmanager
def _unguarded(ask: Ask, url: str) -> Iterator[None]:
    if url.startswith("sqlite:"):
        kept = ask(f"SELECT name, sql FROM sqlite_master WHERE name IN {_GUARDS}")
        for name, _ in kept:
            ask(f"DROP TRIGGER {name}")
        yield
        for _, sql in kept:
            ask(sql)
        return
    ask("SELECT set_config('session_replication_role', 'replica', false)")  # of this session alone
    yield
