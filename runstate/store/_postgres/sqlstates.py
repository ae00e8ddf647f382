"""The meaning of PostgreSQL's error codes for a session, and for an address.

The codes decide, not the messages, because these are in the language of the server's `lc_messages`.
"""

from __future__ import annotations

import os
import re
import select
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg import pq

from runstate.clock import monotonic
from runstate.store._sql.connection import Trouble

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

__all__ = ["KEYS_OF_RUNS", "is_answer_lost", "is_passing", "is_wrong", "refusal_codes", "trouble_of"]

# Serialization failure, deadlock. Unique violation: another transaction has just committed the same. A prepared
# statement is missing, or exists already: a pooler has exchanged the connection.
_CONFLICTS: Final = frozenset({"40001", "40P01", "23505", "26000", "42P05"})
KEYS_OF_RUNS: Final = frozenset(
    {"runstate_history_pkey", "runstate_claimable_pkey", "runstate_held_pkey", "runstate_idle_pkey"}
)
"""The keys of the tables beside the runs that begin with a run. Its own row is locked, so no other transaction has just
written the same: the row is left over, or forged."""
# What was written is refused, because of its values or by a guard, and so may be one row of many.
_REFUSED_ROWS: Final = ("22", "23", "P0001")
# Errors after which the session is usable: wrong values, rows, names, permissions, limits; a lock timeout; a cancelled
# statement.
_SESSION_GOES_ON: Final = ("21", "22", "23", "2F", "40", "42", "54", "P0", "55P03", "57014")
# The connection has ended, or that of a proxy to its server: the current statement was executed, or not.
_ANSWER_LOST: Final = ("08", "57P01", "57P02", "57P05")
# Missing resources, an operator's intervention, a system error: the server is the cause, not the request.
_PASSING: Final = ("25006", "53", "57", "58")
# Connections that are refused permanently: a wrong user or password, a missing database, an unknown setting.
_WRONG: Final = ("22", "28", "3D", "42")
_MOST_TRACE: Final = 1 << 20  # bytes
_CODE: Final = re.compile(rb'ErrorResponse\t.*? C "(\w{5})"')


def trouble_of(code: str | None, constraint: str | None = None) -> Trouble | None:
    """Return what an error means for its session. A session is kept only if it is certainly usable.

    `constraint` is the name of the violated one, if the error is about one.
    """
    if code is None:
        return Trouble.SESSION_LOST
    if code in _CONFLICTS and constraint not in KEYS_OF_RUNS:
        return Trouble.CONFLICT
    if code.startswith(_REFUSED_ROWS):
        return Trouble.ROW_REFUSED
    return None if code.startswith(_SESSION_GOES_ON) else Trouble.SESSION_LOST


def is_answer_lost(code: str | None) -> bool:
    """Return whether the request may have been executed although there was an error."""
    return code is not None and code.startswith(_ANSWER_LOST)


def is_passing(code: str | None) -> bool:
    """Return whether the same request can succeed later, because the server could not execute it now."""
    return code is not None and code.startswith(_PASSING)


def is_wrong(codes: list[str]) -> bool:
    """Return whether the servers that refused a connection will refuse the next one too."""
    return bool(codes) and all(code.startswith(_WRONG) for code in codes)


def refusal_codes(conninfo: str, patience_s: float) -> list[str] | None:
    """Connect once more, and return the codes with which servers refuse the connection; None if they are unknown.

    libpq has the code of such a refusal only in its trace: libpq 18 writes it there, and psycopg can trace on Linux.
    The trace may contain a password, so it is kept in memory only.
    """
    if not hasattr(os, "memfd_create"):
        return None
    try:
        connection = pq.PGconn.connect_start(conninfo.encode())
    except psycopg.Error:
        return None
    trace = os.memfd_create("runstate-trace")
    try:
        if connection.status == pq.ConnStatus.BAD:
            return None
        connection.trace(trace)
        is_open = _finish(connection, patience_s)
        connection.untrace()
        found = [code.decode() for code in _CODE.findall(os.pread(trace, _MOST_TRACE, 0))]
    except psycopg.Error:
        return None
    finally:
        connection.finish()
        os.close(trace)
    return found if found or is_open else None


def _finish(connection: PGconn, patience_s: float) -> bool:
    """Finish connecting. Return whether the connection is open then."""
    until, ready = monotonic() + patience_s, select.poll()
    while (status := connection.connect_poll()) not in (pq.PollingStatus.OK, pq.PollingStatus.FAILED):
        left_s = until - monotonic()
        if left_s <= 0:
            return False
        socket = connection.socket  # it changes if the address has several hosts
        ready.register(socket, select.POLLIN if status == pq.PollingStatus.READING else select.POLLOUT)
        ready.poll(min(left_s, 0.5) * 1000)
        ready.unregister(socket)
    return status == pq.PollingStatus.OK
