"""Judge a database of runs by plain SQL, without the library: whether docs/lifecycle.md allows every history in it.

The questions are put to the database as sets, so a million entries take seconds. Each names what it found wrong; a
sound database answers none of them. Tests that kill, race and tamper end with it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal, NamedTuple, TypeAlias
from urllib.parse import quote, unquote

import attrs
import psycopg

from tests.support.lifecycle import HELD_IN, LIVE, ROWS, STAMPED_BY, STAMPS, TERMINAL, UNTIL_DEADLINE

__all__ = ["Ask", "Fault", "Judgement", "Question", "asking", "judge", "judge_by_sql", "judge_through", "listed"]

Ask: TypeAlias = Callable[[str], Sequence[tuple[Any, ...]]]
"""Executes a query and returns its rows."""

Fault: TypeAlias = Literal["gaps", "doubled", "illegal"]
"""Versions that are missing; ends that came twice; whatever else docs/lifecycle.md does not allow."""


class Question(NamedTuple):
    """What may be wrong: a sentence with places for what the query finds."""

    fault: Fault
    sentence: str
    query: str


_MOST: Final = 20  # findings a question: the first ones tell enough


WAIT_S: Final = 60  # for a database under load


def listed(words: Iterable[str]) -> str:
    """Return words of the law as a list of SQL literals."""
    return ", ".join(f"'{word}'" for word in sorted(words))


_LAW: Final = "WITH law (event, source, target) AS (VALUES {})".format(
    ", ".join(f"('{event}', '{source}', '{target}')" for event, source, target, _ in ROWS)
)


def _questions() -> Iterator[Question]:
    """Yield all questions."""
    yield Question(
        "gaps",
        "run number {} has {} entries, of versions {} to {}",
        "SELECT run, count(*), min(version), max(version) FROM runstate_history GROUP BY run"
        " HAVING min(version) <> 1 OR max(version) <> count(*)",
    )
    yield Question(
        "illegal",
        "run number {} was not born queued: {} from {} to {}",
        "SELECT run, event, source, target FROM runstate_history WHERE version = 1"
        " AND NOT (event IS NULL AND source IS NULL AND target = 'queued')",
    )
    yield Question(
        "illegal",
        "run number {}, version {}: no row of the law has {} from {} to {}",
        f"{_LAW} SELECT h.run, h.version, h.event, h.source, h.target FROM runstate_history AS h"
        " LEFT JOIN law ON law.event = h.event AND law.source = h.source AND law.target = h.target"
        " WHERE h.version > 1 AND law.event IS NULL",
    )
    yield Question(
        "illegal",
        "run number {}, version {} leaves {}, but the entry before led to {}",
        "SELECT h.run, h.version, h.source, p.target FROM runstate_history AS h JOIN runstate_history AS p"
        " ON p.run = h.run AND p.version = h.version - 1 WHERE h.source <> p.target",
    )
    yield Question(
        "illegal",
        "run number {}, version {} was at {}, before the entry before it, at {}",
        "SELECT h.run, h.version, h.at_us, p.at_us FROM runstate_history AS h JOIN runstate_history AS p"
        " ON p.run = h.run AND p.version = h.version - 1 WHERE h.at_us < p.at_us",
    )
    nothing = "coalesce(h.{0}, '-') <> coalesce(r.{0}, '-')"
    differs = " OR ".join(nothing.format(name) for name in ("event", "source", "actor"))
    yield Question(
        "illegal",
        "run {} is {} at version {}, but the entry of that version says {}",
        "SELECT r.id, r.status, r.version, h.target FROM runstate_run AS r"
        " LEFT JOIN runstate_history AS h ON h.run = r.seq AND h.version = r.version"
        f" WHERE h.run IS NULL OR h.target <> r.status OR h.at_us <> r.changed_at_us OR {differs}"
        " OR coalesce(CAST(h.detail AS TEXT), '-') <> coalesce(CAST(r.detail AS TEXT), '-')",
    )
    yield Question(
        "gaps",
        "run {} is at version {}, but its last entry is {}",
        "SELECT r.id, r.version, max(h.version) FROM runstate_run AS r JOIN runstate_history AS h ON h.run = r.seq"
        " GROUP BY r.id, r.version HAVING max(h.version) <> r.version",
    )
    ends = f"h.target IN ({listed(TERMINAL)})"
    yield Question(
        "doubled",
        "run number {} ended {} times",
        f"SELECT h.run, count(*) FROM runstate_history AS h WHERE {ends} GROUP BY h.run HAVING count(*) > 1",
    )
    yield Question(
        "doubled",
        "run number {} goes on after its end at version {}",
        f"SELECT h.run, h.version FROM runstate_history AS h WHERE {ends} AND EXISTS"
        " (SELECT 1 FROM runstate_history AS n WHERE n.run = h.run AND n.version > h.version)",
    )
    for beside, key in (("history", "run"), ("checkpoint", "run"), ("run_config", "id")):
        own = "seq" if key == "run" else "id"
        yield Question(
            "gaps",
            f"runstate_{beside} has rows of {{}}, which is no run",
            f"SELECT DISTINCT b.{key} FROM runstate_{beside} AS b"
            f" WHERE NOT EXISTS (SELECT 1 FROM runstate_run AS r WHERE r.{own} = b.{key})",
        )
    yield from _fields()


def _fields() -> Iterator[Question]:
    yield Question(
        "illegal",
        "run {} has created_at {}, but was born at {}",
        "SELECT r.id, r.created_at, h.at_us FROM runstate_run AS r JOIN runstate_history AS h ON h.run = r.seq"
        " AND h.version = 1 WHERE r.created_at <> h.at_us / 1000000",
    )
    for stamp in STAMPS:
        by = listed({status for status, its_own in STAMPED_BY.items() if its_own == stamp})
        last = f"(SELECT max(h.at_us) FROM runstate_history AS h WHERE h.run = r.seq AND h.target IN ({by}))"
        yield Question(
            "illegal",
            f"run {{}} is {{}} and has {stamp} {{}}, but its history says {{}}",
            f"SELECT r.id, r.status, r.{stamp}, {last} FROM runstate_run AS r"
            f" WHERE coalesce(r.{stamp}, -1) <> coalesce({last} / 1000000, -1)",
        )
    for field, statuses in HELD_IN.items():
        yield Question(
            "illegal",
            f"run {{}} is {{}}, and its {field} is {{}}",
            f"SELECT id, status, CAST({field} AS TEXT) FROM runstate_run"
            f" WHERE ({field} IS NOT NULL) <> (status IN ({listed(statuses)}))",
        )
    yield Question(
        "illegal",
        "run {} has the deadline {}, not one second after its birth at {}",
        "SELECT id, expires_at, created_at FROM runstate_run WHERE expires_at <= created_at",
    )
    yield Question(
        "illegal",
        "run {} was asked to {} at {} us, and its deadline was {} s",
        "SELECT r.id, h.event, h.at_us, r.expires_at FROM runstate_run AS r JOIN runstate_history AS h ON h.run = r.seq"
        f" WHERE h.event IN ({listed(UNTIL_DEADLINE)}) AND h.at_us >= r.expires_at * 1000000",
    )
    yield Question(
        "illegal",
        "thread {} has {} live runs, each of which was to be the only one",
        f"SELECT thread_id, count(*) FROM runstate_run WHERE status IN ({listed(LIVE)})"
        " AND (thread_policy = 'reject' OR (thread_policy = 'queue' AND claimable_at_us IS NOT NULL))"
        " GROUP BY thread_id HAVING count(*) > 1",
    )
    yield Question(
        "illegal",
        "run {} is {} and belongs to a worker at attempt {}",
        "SELECT id, status, attempt FROM runstate_run"
        " WHERE worker IS NOT NULL AND status NOT IN ('in_progress', 'cancelling')",
    )
    yield Question(
        "illegal",
        "run {} was started before it was ready",
        "SELECT id FROM runstate_run WHERE started_at IS NOT NULL AND claimable_at_us IS NULL",
    )


def _small_tables() -> Iterator[Question]:
    """Yield the questions for PostgreSQL, which finds runs by small tables."""
    claimable = "status = 'queued' AND claimable_at_us IS NOT NULL"
    held = f"worker IS NOT NULL AND status IN ({listed(LIVE)})"
    for name, columns, rows in (
        ("claimable", "seq, queue, priority, expires_at, attempt", claimable),
        ("held", "seq, worker, expires_at, attempt, status", held),
        (
            "idle",
            (
                "seq, queue, priority, status = 'queued',"
                " CASE WHEN status = 'queued' AND thread_policy = 'queue' THEN thread_id END, not_before_us,"
                " expires_at, status, attempt,"
                " CASE WHEN status = 'in_progress' AND attempt > 0 THEN claimable_at_us END"
            ),
            f"status IN ({listed(LIVE)}) AND NOT ({claimable}) AND NOT ({held})",
        ),
        (
            "thread",
            "thread_id, seq",
            (
                f"status IN ({listed(LIVE)})"
                " AND (thread_policy = 'reject' OR (thread_policy = 'queue' AND claimable_at_us IS NOT NULL))"
            ),
        ),
        (
            "problem",
            "seq, status, changed_at_us, attempt",
            f"status NOT IN ({listed(LIVE)}) AND (status <> 'completed' OR attempt > 1)",
        ),
    ):
        right, there = f"SELECT {columns} FROM runstate_run WHERE {rows}", f"TABLE runstate_{name}"
        for sentence, query in (
            (f"runstate_{name} lacks the row {{}}", f"SELECT ROW(d.*)::text FROM ({right} EXCEPT {there}) AS d"),
            (f"runstate_{name} has the row {{}}", f"SELECT ROW(d.*)::text FROM ({there} EXCEPT {right}) AS d"),
        ):
            yield Question("illegal", sentence, query)
    yield Question(
        "illegal",
        "runstate_count is wrong by {}",
        "SELECT ROW(d.*)::text FROM ("
        f"SELECT status, count(*) AS runs FROM runstate_run WHERE status NOT IN ({listed(LIVE)}) GROUP BY status"
        " EXCEPT SELECT status, sum(runs) FROM runstate_count GROUP BY status) AS d",
    )


_QUESTIONS: Final = tuple(_questions())
_OF_POSTGRES: Final = (*_QUESTIONS, *_small_tables())


@attrs.frozen
class Judgement:
    """How much there was, and what of it is wrong."""

    runs: int
    entries: int
    live: int
    gaps: int
    doubled: int
    illegal: int
    wrong: tuple[str, ...]
    """The first findings of each question, a sentence each."""


@contextmanager
def asking(url: str) -> Generator[Ask, None, None]:
    """Open a connection of its own to the database at `url`, and close it again."""
    if url.startswith("sqlite:///"):
        path = quote(unquote(url.removeprefix("sqlite:///")))
        light = sqlite3.connect(f"file:{path}?mode=rw", uri=True, isolation_level=None, timeout=WAIT_S)
        try:
            yield lambda query: light.execute(query).fetchall()
        finally:
            light.close()
        return
    limits = {"connect_timeout": WAIT_S, "options": f"-c statement_timeout={WAIT_S}s"}
    with psycopg.connect(url, autocommit=True, **limits) as heavy:  # type: ignore[arg-type]
        yield lambda query: heavy.execute(query.encode()).fetchall()


def judge_through(ask: Ask, questions: Sequence[Question] = _QUESTIONS) -> Judgement:
    """Judge all that a database holds, through a connection that is open."""
    counts: dict[Fault, int] = {"gaps": 0, "doubled": 0, "illegal": 0}
    wrong: list[str] = []
    for question in questions:
        found = ask(question.query)
        counts[question.fault] += len(found)
        wrong += [question.sentence.format(*row) for row in found[:_MOST]]
    ((runs, live),) = ask(
        f"SELECT count(*), coalesce(sum(CASE WHEN status IN ({listed(LIVE)}) THEN 1 ELSE 0 END), 0) FROM runstate_run"
    )
    ((entries,),) = ask("SELECT count(*) FROM runstate_history")
    return Judgement(runs, entries, int(live), **counts, wrong=tuple(wrong))


def judge(url: str) -> Judgement:
    """Judge all that the database at `url` holds."""
    with asking(url) as ask:
        return judge_through(ask, _QUESTIONS if url.startswith("sqlite:") else _OF_POSTGRES)


def judge_by_sql(url: str) -> tuple[str, ...]:
    """Return what is wrong with the runs of a database, a sentence each; () if nothing is."""
    return judge(url).wrong
