"""Other people's libraries behind the adapter of a system: what each of them offers is asked, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runstate import Basis, Lifecycle, RunEvent, RunStatus, Transition

__all__ = ["law_from"]


def law_from(moves: Mapping[RunEvent, tuple[RunStatus, Sequence[RunStatus]]]) -> Lifecycle:
    """Return the law of a library: where each event leads, and from where. Their records have no stamps of ours."""
    rows = [
        Transition(event, source, target, None, Basis.ALLOWED)
        for event, (target, sources) in moves.items()
        for source in sources
    ]
    return Lifecycle(tuple(rows))
