"""Connections that a pooler hands out anew for each transaction, and the settings of those that write.

Whatever is set on such a connection, the application meets that is handed the same one next. So settings are made when
a connection begins, by its `options`, which a pooler refuses or drops; or else for one transaction at a time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import psycopg

__all__ = ["are_set", "has_its_path", "is_pooled", "options_of", "set_locally", "settings_of"]

_WAYS: Final = ("seqscan", "bitmapscan", "hashjoin", "mergejoin")
# Planning a turn anew costs more than a small one. Every statement goes from a few values to rows by an index: what a
# planner would do instead, once it has seen the tables empty or full, is to walk all of them.
_PLANS: Final = {"plan_cache_mode": "force_generic_plan", **{f"enable_{way}": "off" for way in _WAYS}, "jit": "off"}
# A process that is stopped in a transaction must not hold others up: the server ends it, and its locks with it.
_LIMITS: Final = {"idle_in_transaction_session_timeout": "3000"}
_PATH: Final = re.compile(r"(?:-c\s*|--)search[-_]path=((?:\\.|[^\s\\])*)", re.IGNORECASE)
_SPARE: Final = re.compile(r'[\s"\\]')


def settings_of(wait_s: float) -> Mapping[str, str]:
    """Return the settings of a connection that writes, and waits so long for rows that others hold."""
    return {**_PLANS, **_LIMITS, "lock_timeout": str(max(1, int(wait_s * 1000)))}


def options_of(settings: Mapping[str, str], others: str = "") -> str:
    """Return the `options` that a connection begins with: those that its address has, and the settings."""
    return " ".join((*filter(None, [others]), *(f"-c {name}={value}" for name, value in settings.items())))


def set_locally(settings: Mapping[str, str]) -> str:
    """Return the statement that makes settings for the transaction that is under way."""
    return "SELECT " + ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings.items())


def is_pooled(connection: psycopg.Connection[Any]) -> bool:
    """Tell whether a pooler stands between: it is another process that answers than the one named at the start."""
    found = connection.execute("SELECT pg_backend_pid()").fetchone()
    return found is None or found[0] != connection.info.backend_pid


def has_its_path(connection: psycopg.Connection[Any]) -> bool:
    """Tell whether a connection looks for tables where the `options` of its address say, which a pooler may drop."""
    wanted = _PATH.findall(connection.info.options)
    if not wanted:
        return True
    found = connection.execute("SELECT current_setting('search_path')").fetchone()
    return found is not None and _SPARE.sub("", found[0]) == _SPARE.sub("", wanted[-1])


def are_set(connection: psycopg.Connection[Any], settings: Mapping[str, str]) -> bool:
    """Tell whether a connection that was begun with settings is one with the server, and has them."""
    names = ", ".join(f"'{name}'" for name in settings)
    found = connection.execute(
        f"SELECT pg_backend_pid(), count(*) FROM pg_settings WHERE source = 'client' AND name IN ({names})".encode()
    ).fetchone()
    return found == (connection.info.backend_pid, len(settings))
