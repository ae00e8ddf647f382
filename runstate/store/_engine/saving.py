"""The parameters of the statement that saves the data of a claimed run."""

from __future__ import annotations

from runstate.run.values import NO_USAGE, Usage
from runstate.store._sql.connection import Params
from runstate.store._types import StoredRun

__all__ = ["checkpoint_params"]


def checkpoint_params(
    worker: int,
    run: StoredRun,
    *,
    checkpoint: str | None = None,
    usage: Usage | None = None,
    progress: str | None = None,
    trace_context: str | None = None,
) -> Params:
    """Return the parameters of the statement that saves a checkpoint of a claimed run."""
    spent = usage or NO_USAGE
    held = {"seq": run.seq, "version": run.version, "attempt": run.attempt, "worker": worker}
    return {
        **held,
        "checkpoint": checkpoint,
        "progress": progress,
        "trace_context": trace_context,
        "prompt": spent.prompt_tokens,
        "completion": spent.completion_tokens,
    }
