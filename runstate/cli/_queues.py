"""Hints about a queue whose name may be misspelled: a run in a queue that no worker serves waits forever."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from runstate.run.json_values import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runstate.store import Store

__all__ = ["empty_queue_hint", "similar_queue_hint"]


def similar_queue_hint(store: Store, queue: str) -> str:
    """Return a hint if no run waits in a queue, but runs wait in one with a similar name; otherwise an empty text."""
    waiting = store.queues()
    similar = [] if queue in waiting else get_close_matches(queue, waiting)
    return escape(f"no other run waits in the queue {queue}; did you mean {similar[0]}?") if similar else ""


def empty_queue_hint(store: Store, queues: Sequence[str]) -> str:
    """Return a hint if no run waits in any of these queues, but runs wait in others; otherwise an empty text."""
    waiting = store.queues()
    if not waiting or waiting.keys() & set(queues):
        return ""
    others = ", ".join(f"{queue} ({count})" for queue, count in waiting.items())
    return escape(f"no run waits in the queue {', '.join(queues)}; runs wait in: {others}")
