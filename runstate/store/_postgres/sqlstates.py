"""What PostgreSQL's error codes mean: for the session they came over, and for an address that was to be connected to.

The codes decide, and not the messages, which are in the language of the server's `lc_messages`.
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

__all__ = ["is_answer_lost", "is_passing", "is_wrong", "refusal_codes", "trouble_of"]

# A unique violation: another has just committed the same. A prepared statement that is not there, or is already: a
# pooler exchanged the connection.
_CONFLICTS: Final = frozenset({"40001", "40P01", "23505", "26000", "42P05"})
# What a session says that goes on: about values, rows, names, rights and limits; a lock that was waited for; a
# statement that was cancelled.
_SESSION_GOES_ON: Final = ("21", "22", "23", "2F", "40", "42", "54", "P0", "55P03", "57014")
# The connection is over, or that of a proxy behind it: what was under way is done, or not.
_ANSWER_LOST: Final = ("08", "57P01", "57P02", "57P05")
# No resources, an operator's doing, the system's: the server, and not the request, was at fault.
_PASSING: Final = ("25006", "53", "57", "58")
# Refused at the door for good: who asks, a database that is not there, a setting that there is not.
_WRONG: Final = ("22", "28", "3D", "42")
_MOST_TRACE: Final = 1 << 20  # bytes
_CODE: Final = re.compile(rb'ErrorResponse\t.*? C "(\w{5})"')


def trouble_of(code: str | None) -> Trouble | None:
    """Return what an error means for the session that it came over. A session is kept only where that is certain."""
    if code is None:
        return Trouble.SESSION_LOST
    if code in _CONFLICTS:
        return Trouble.CONFLICT
    return None if code.startswith(_SESSION_GOES_ON) else Trouble.SESSION_LOST


def is_answer_lost(code: str | None) -> bool:
    """Tell whether what was asked may have been done although an error came."""
    return code is not None and code.startswith(_ANSWER_LOST)


def is_passing(code: str | None) -> bool:
    """Tell whether the same request can go well later, because the server was not able to take it now."""
    return code is not None and code.startswith(_PASSING)


def is_wrong(codes: list[str]) -> bool:
    """Tell whether servers that refused a connection will refuse it the next time too."""
    return bool(codes) and all(code.startswith(_WRONG) for code in codes)


def refusal_codes(conninfo: str, patience_s: float) -> list[str] | None:
    """Return the codes with which servers refuse a connection, by trying once more; None if that cannot be found out.

    libpq keeps the code of such a refusal to itself, but for its trace: libpq 18 writes it there, and psycopg can trace
    on Linux. The trace may hold a password, so it never leaves memory.
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
    """Connect to the end, whatever that is; tell whether the connection is open then."""
    until, ready = monotonic() + patience_s, select.poll()
    while (status := connection.connect_poll()) not in (pq.PollingStatus.OK, pq.PollingStatus.FAILED):
        left_s = until - monotonic()
        if left_s <= 0:
            return False
        socket = connection.socket  # another one, where the address names several hosts
        ready.register(socket, select.POLLIN if status == pq.PollingStatus.READING else select.POLLOUT)
        ready.poll(min(left_s, 0.5) * 1000)
        ready.unregister(socket)
    return status == pq.PollingStatus.OK
