"""Remarks about the name of a queue, which may be misspelled: a run in a queue that no worker serves waits for ever."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from runstate.run.json_values import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runstate.store import Store

__all__ = ["empty_queues", "new_queue"]


def new_queue(store: Store, queue: str) -> str:
    """Return a remark about a queue in which no run waits, where its name is much like that of one; else nothing."""
    waiting = store.queues()
    like = [] if queue in waiting else get_close_matches(queue, waiting)
    return escape(f"no other run waits in the queue {queue}; did you mean {like[0]}?") if like else ""


def empty_queues(store: Store, queues: Sequence[str]) -> str:
    """Return a remark about queues in which no run waits, where runs wait in others; else nothing."""
    waiting = store.queues()
    if not waiting or waiting.keys() & set(queues):
        return ""
    others = ", ".join(f"{queue} ({count})" for queue, count in waiting.items())
    return escape(f"no run waits in the queue {', '.join(queues)}; runs wait in: {others}")
