"""Judge a database of runs by plain SQL, without the library: whether LIFECYCLE.md allows every history in it.

The questions are put to the database as sets, so a million entries take seconds. Each names what it found wrong; a
sound database answers none of them. Tests that kill, race and tamper end with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from tests.store.support import Prompt
from tests.support import HELD_IN, LIVE, ROWS, STAMPED_BY, STAMPS

__all__ = ["Question", "judge_by_sql"]


class Question(NamedTuple):
    """What may be wrong: a sentence with places for what the query finds."""

    sentence: str
    query: str


_MOST: Final = 20  # findings a question: the first ones tell enough


def _list(words: frozenset[str] | set[str]) -> str:
    return ", ".join(f"'{word}'" for word in sorted(words))


_LAW: Final = "WITH law (event, source, target) AS (VALUES {})".format(
    ", ".join(f"('{event}', '{source}', '{target}')" for event, source, target, _ in ROWS)
)


def _questions() -> Iterator[Question]:
    """Yield all questions."""
    yield Question(
        "run number {} has {} entries, of versions {} to {}",
        "SELECT run, count(*), min(version), max(version) FROM runstate_history GROUP BY run"
        " HAVING min(version) <> 1 OR max(version) <> count(*)",
    )
    yield Question(
        "run number {} was not born queued: {} from {} to {}",
        "SELECT run, event, source, target FROM runstate_history WHERE version = 1"
        " AND NOT (event IS NULL AND source IS NULL AND target = 'queued')",
    )
    yield Question(
        "run number {}, version {}: no row of the law has {} from {} to {}",
        f"{_LAW} SELECT h.run, h.version, h.event, h.source, h.target FROM runstate_history AS h"
        " LEFT JOIN law ON law.event = h.event AND law.source = h.source AND law.target = h.target"
        " WHERE h.version > 1 AND law.event IS NULL",
    )
    yield Question(
        "run number {}, version {} leaves {}, but the entry before led to {}",
        "SELECT h.run, h.version, h.source, p.target FROM runstate_history AS h JOIN runstate_history AS p"
        " ON p.run = h.run AND p.version = h.version - 1 WHERE h.source <> p.target",
    )
    yield Question(
        "run number {}, version {} was at {}, before the entry before it, at {}",
        "SELECT h.run, h.version, h.at, p.at FROM runstate_history AS h JOIN runstate_history AS p"
        " ON p.run = h.run AND p.version = h.version - 1 WHERE h.at < p.at",
    )
    nothing = "coalesce(h.{0}, '-') <> coalesce(r.{0}, '-')"
    differs = " OR ".join(nothing.format(name) for name in ("event", "source", "actor"))
    yield Question(
        "run {} is {} at version {}, but the entry of that version says {}",
        "SELECT r.id, r.status, r.version, h.target FROM runstate_run AS r"
        " LEFT JOIN runstate_history AS h ON h.run = r.seq AND h.version = r.version"
        f" WHERE h.run IS NULL OR h.target <> r.status OR h.at <> r.at OR {differs}"
        " OR coalesce(CAST(h.detail AS TEXT), '-') <> coalesce(CAST(r.detail AS TEXT), '-')",
    )
    yield Question(
        "run {} is at version {}, but its last entry is {}",
        "SELECT r.id, r.version, max(h.version) FROM runstate_run AS r JOIN runstate_history AS h ON h.run = r.seq"
        " GROUP BY r.id, r.version HAVING max(h.version) <> r.version",
    )
    for beside, key in (("history", "run"), ("notes", "run"), ("settings", "id")):
        own = "seq" if key == "run" else "id"
        yield Question(
            f"runstate_{beside} has rows of {{}}, which is no run",
            f"SELECT DISTINCT b.{key} FROM runstate_{beside} AS b"
            f" WHERE NOT EXISTS (SELECT 1 FROM runstate_run AS r WHERE r.{own} = b.{key})",
        )
    yield from _fields()


def _fields() -> Iterator[Question]:
    yield Question(
        "run {} has created_at {}, but was born at {}",
        "SELECT r.id, r.created_at, h.at FROM runstate_run AS r JOIN runstate_history AS h ON h.run = r.seq"
        " AND h.version = 1 WHERE r.created_at <> h.at / 1000000",
    )
    for stamp in STAMPS:
        by = _list({status for status, its_own in STAMPED_BY.items() if its_own == stamp})
        last = f"(SELECT max(h.at) FROM runstate_history AS h WHERE h.run = r.seq AND h.target IN ({by}))"
        yield Question(
            f"run {{}} is {{}} and has {stamp} {{}}, but its history says {{}}",
            f"SELECT r.id, r.status, r.{stamp}, {last} FROM runstate_run AS r"
            f" WHERE coalesce(r.{stamp}, -1) <> coalesce({last} / 1000000, -1)",
        )
    for field, statuses in HELD_IN.items():
        yield Question(
            f"run {{}} is {{}}, and its {field} is {{}}",
            f"SELECT id, status, CAST({field} AS TEXT) FROM runstate_run"
            f" WHERE ({field} IS NOT NULL) <> (status IN ({_list(set(statuses))}))",
        )
    yield Question(
        "run {} has the deadline {}, not one second after its birth at {}",
        "SELECT id, expires_at, created_at FROM runstate_run WHERE expires_at <= created_at",
    )
    yield Question(
        "thread {} has {} live runs, each of which was to be the only one",
        f"SELECT thread_id, count(*) FROM runstate_run WHERE status IN ({_list(set(LIVE))})"
        " AND (exclusive = 'reject' OR (exclusive = 'queue' AND ready_at IS NOT NULL))"
        " GROUP BY thread_id HAVING count(*) > 1",
    )
    yield Question(
        "run {} is {} and belongs to a worker at attempt {}",
        "SELECT id, status, attempt FROM runstate_run"
        " WHERE worker IS NOT NULL AND status NOT IN ('in_progress', 'cancelling')",
    )
    yield Question(
        "run {} was started before it was ready",
        "SELECT id FROM runstate_run WHERE started_at IS NOT NULL AND ready_at IS NULL",
    )


_QUESTIONS: Final = tuple(_questions())


def judge_by_sql(url: str, prompt: Prompt | None = None) -> tuple[str, ...]:
    """Return what is wrong with the runs of a database, a sentence each; () if nothing is.

    It looks by a connection of its own, or through one that is given.
    """
    if prompt is None:
        with Prompt(url) as own:
            return judge_by_sql(url, own)
    return tuple(
        question.sentence.format(*row)
        for question in _QUESTIONS
        for row in prompt.run(f"SELECT * FROM ({question.query}) AS found LIMIT {_MOST}")
    )
