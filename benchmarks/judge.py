"""What a database of runs holds, judged by plain SQL over the history.

Nothing of the store is asked: each check is a query that gives back what is wrong, and the law in it is the one that
the tests copied out of LIFECYCLE.md by hand.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote

import attrs
import psycopg

from tests.support import HELD_IN, LIVE, ROWS, STAMPED_BY, STAMPS, TERMINAL

Ask: TypeAlias = Callable[[str], Sequence[tuple[Any, ...]]]
"""Executes a query and returns its rows."""

Fault: TypeAlias = Literal["gaps", "doubled", "illegal"]

EXAMPLES: Final = 5
WAIT_S: Final = 60


@contextmanager
def asking(url: str) -> Generator[Ask, None, None]:
    """Open a connection of its own to the database at `url`, and close it again."""
    if url.startswith("sqlite:///"):
        path = quote(url.removeprefix("sqlite:///"))
        light = sqlite3.connect(f"file:{path}?mode=rw", uri=True, isolation_level=None, timeout=WAIT_S)
        try:
            yield lambda query: light.execute(query).fetchall()
        finally:
            light.close()
        return
    limits = {"connect_timeout": WAIT_S, "options": f"-c statement_timeout={WAIT_S}s"}
    with psycopg.connect(url, autocommit=True, **limits) as heavy:  # type: ignore[arg-type]
        yield lambda query: heavy.execute(query.encode()).fetchall()


def listed(words: Iterable[str]) -> str:
    """Return words of the law as a list of SQL literals."""
    return ", ".join(f"'{word}'" for word in sorted(words))


def _same(url: str) -> str:
    return "IS" if url.startswith("sqlite:") else "IS NOT DISTINCT FROM"


def _gaps() -> Mapping[str, str]:
    return {
        "a version is missing": (
            "SELECT run FROM runstate_history GROUP BY run HAVING min(version) <> 1 OR max(version) <> count(*)"
        ),
        "a run has no history": (
            "SELECT r.seq FROM runstate_run AS r"
            " WHERE NOT EXISTS (SELECT 1 FROM runstate_history AS h WHERE h.run = r.seq)"
        ),
        "a history has no run": (
            "SELECT DISTINCT h.run FROM runstate_history AS h"
            " WHERE NOT EXISTS (SELECT 1 FROM runstate_run AS r WHERE r.seq = h.run)"
        ),
    }


def _doubled() -> Mapping[str, str]:
    ends = f"h.target IN ({listed(TERMINAL)})"
    return {
        "a run ended twice": f"SELECT h.run FROM runstate_history AS h WHERE {ends} GROUP BY h.run HAVING count(*) > 1",
        "an entry follows the end": (
            f"SELECT h.run FROM runstate_history AS h WHERE {ends}"
            " AND EXISTS (SELECT 1 FROM runstate_history AS n WHERE n.run = h.run AND n.version > h.version)"
        ),
    }


def _illegal(same: str) -> Mapping[str, str]:
    law = listed(f"{event} {source} {target}" for event, source, target, _ in ROWS)
    before = "runstate_history AS h JOIN runstate_history AS p ON p.run = h.run AND p.version = h.version - 1"
    alike = " AND ".join(f"r.{name} {same} h.{name}" for name in ("version", "event", "source", "at", "actor"))
    last = (
        "runstate_run AS r JOIN runstate_history AS h ON h.run = r.seq"
        " AND h.version = (SELECT max(l.version) FROM runstate_history AS l WHERE l.run = r.seq)"
    )
    return {
        "no row of the law": (
            "SELECT h.run FROM runstate_history AS h WHERE CASE WHEN h.version = 1"
            " THEN NOT (h.event IS NULL AND h.source IS NULL AND h.target = 'queued')"
            f" ELSE coalesce(h.event || ' ' || h.source || ' ' || h.target, '') NOT IN ({law}) END"
        ),
        "the chain is broken": f"SELECT h.run FROM {before} WHERE NOT (h.source {same} p.target)",
        "the time goes back": f"SELECT h.run FROM {before} WHERE h.at < p.at",
        "the last entry is not the row": f"SELECT r.seq FROM {last} WHERE NOT ({alike} AND r.status = h.target)",
        "a thread has two live runs": (
            f"SELECT thread_id FROM runstate_run WHERE status IN ({listed(LIVE)}) AND (exclusive = 'reject'"
            " OR (exclusive = 'queue' AND ready_at IS NOT NULL)) GROUP BY thread_id HAVING count(*) > 1"
        ),
        **_stamps(same),
    }


def _stamps(same: str) -> Mapping[str, str]:
    """Return what is wrong where a stamp is not the time of the entry that writes it."""
    found = {
        "created_at is not the birth": (
            "SELECT r.seq FROM runstate_run AS r JOIN runstate_history AS h ON h.run = r.seq AND h.version = 1"
            " WHERE r.created_at <> h.at / 1000000"
        )
    }
    for stamp in STAMPS:
        written = listed(status for status, by in STAMPED_BY.items() if by == stamp)
        entry = f"SELECT max(h.at) / 1000000 FROM runstate_history AS h WHERE h.run = r.seq AND h.target IN ({written})"
        found[f"{stamp} is not its entry's"] = (
            f"SELECT r.seq FROM runstate_run AS r WHERE NOT (r.{stamp} {same} ({entry}))"
        )
    for field, statuses in HELD_IN.items():
        found[f"{field} comes or goes wrongly"] = (
            f"SELECT seq FROM runstate_run WHERE ({field} IS NOT NULL) <> (status IN ({listed(statuses)}))"
        )
    return found


@attrs.frozen
class Judgement:
    """How much there was, and what of it is wrong."""

    runs: int
    entries: int
    live: int
    gaps: int
    doubled: int
    illegal: int
    wrong: Mapping[str, Sequence[str]]
    """Some of the runs, by the check that they do not pass."""


def judge(url: str) -> Judgement:
    """Judge all that the database at `url` holds."""
    illegal = _illegal(_same(url))
    checks: Mapping[Fault, Mapping[str, str]] = {"gaps": _gaps(), "doubled": _doubled(), "illegal": illegal}
    counts: dict[Fault, int] = dict.fromkeys(checks, 0)
    wrong: dict[str, Sequence[str]] = {}
    with asking(url) as ask:
        for fault, queries in checks.items():
            for name, query in queries.items():
                found = ask(query)
                counts[fault] += len(found)
                if found:
                    wrong[name] = [str(row[0]) for row in found[:EXAMPLES]]
        ((runs, live),) = ask(
            f"SELECT count(*), coalesce(sum(CASE WHEN status IN ({listed(LIVE)}) THEN 1 ELSE 0 END), 0)"
            " FROM runstate_run"
        )
        ((entries,),) = ask("SELECT count(*) FROM runstate_history")
    return Judgement(runs, entries, int(live), counts["gaps"], counts["doubled"], counts["illegal"], wrong)
