"""Detection of poolers that use another server connection for each transaction, and the settings for writing.

A setting on such a server connection would also apply to its next client. So settings are made at the start of a direct
connection, by its `options`, which a pooler refuses or drops. Through a pooler they are made for each transaction.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import psycopg

__all__ = ["are_set", "has_its_path", "is_pooled", "options_of", "set_locally", "settings_of"]

_WAYS: Final = ("seqscan", "bitmapscan", "hashjoin", "mergejoin")
# To plan a statement each time costs more than to execute a small one. Every statement finds rows by an index from a
# few values. With statistics of empty or full tables, a planner would scan whole tables instead.
_PLANS: Final = {"plan_cache_mode": "force_generic_plan", **{f"enable_{way}": "off" for way in _WAYS}, "jit": "off"}
# A process that is stopped in a transaction must not block others: the server ends its session, and with it its locks.
_LIMITS: Final = {"idle_in_transaction_session_timeout": "3000"}
_PATH: Final = re.compile(r"(?:-c\s*|--)search[-_]path=((?:\\.|[^\s\\])*)", re.IGNORECASE)
_SPARE: Final = re.compile(r'[\s"\\]')


def settings_of(wait_s: float) -> Mapping[str, str]:
    """Return the settings of a connection that writes, and waits up to `wait_s` seconds for locked rows."""
    return {**_PLANS, **_LIMITS, "lock_timeout": str(max(1, int(wait_s * 1000)))}


def options_of(settings: Mapping[str, str], others: str = "") -> str:
    """Return the `options` of a connection: those of its address, and the settings."""
    return " ".join((*filter(None, [others]), *(f"-c {name}={value}" for name, value in settings.items())))


def set_locally(settings: Mapping[str, str]) -> str:
    """Return the statement that makes settings for the current transaction."""
    return "SELECT " + ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings.items())


def is_pooled(connection: psycopg.Connection[Any]) -> bool:
    """Return whether there is a pooler: the server process that replies is not the one named at the start."""
    found = connection.execute("SELECT pg_backend_pid()").fetchone()
    return found is None or found[0] != connection.info.backend_pid


def has_its_path(connection: psycopg.Connection[Any]) -> bool:
    """Return whether a connection has the search_path in the `options` of its address, which a pooler may drop."""
    wanted = _PATH.findall(connection.info.options)
    if not wanted:
        return True
    found = connection.execute("SELECT current_setting('search_path')").fetchone()
    return found is not None and _SPARE.sub("", found[0]) == _SPARE.sub("", wanted[-1])


def are_set(connection: psycopg.Connection[Any], settings: Mapping[str, str]) -> bool:
    """Return whether a connection that was opened with settings is direct, and has them."""
    names = ", ".join(f"'{name}'" for name in settings)
    found = connection.execute(
        f"SELECT pg_backend_pid(), count(*) FROM pg_settings WHERE source = 'client' AND name IN ({names})".encode()
    ).fetchone()
    return found == (connection.info.backend_pid, len(settings))
