"""The names of the lifecycle as SQL literals, which statements and triggers are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from runstate.lifecycle import RUN_LIFECYCLE, RunStatus

__all__ = ["ENDED", "LIVE", "sql_list"]


def sql_list(words: Sequence[str]) -> str:
    """Return names of the lifecycle as a list of SQL literals. They are identifiers, so nothing has to be escaped."""
    if not all(word.replace("_", "").replace(" ", "").isalpha() for word in words):
        raise ValueError(f"not names of the lifecycle: {words}")
    return ", ".join(f"'{word}'" for word in words)


LIVE: Final = sql_list([status for status in RunStatus if not RUN_LIFECYCLE.is_terminal(status)])
"""The statuses that a transition leaves."""

ENDED: Final = sql_list([status for status in RunStatus if RUN_LIFECYCLE.is_terminal(status)])
"""The terminal statuses."""
