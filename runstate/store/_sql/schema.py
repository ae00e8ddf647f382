"""The tables of a store. The files in `migrations/` make them; the triggers are in `triggers/`."""

from __future__ import annotations

from typing import Final

__all__ = ["TABLES"]

TABLES: Final = (
    *("runstate_run", "runstate_history", "runstate_run_config", "runstate_checkpoint", "runstate_attempt"),
    "runstate_worker_session",
)
