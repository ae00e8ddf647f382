"""How the outcomes of one kind are handed to their statement."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from runstate.store._sql.columns import PAYLOAD
from runstate.store._sql.connection import Connection, Params
from runstate.store._sql.rows import Row
from runstate.store._worker_types import Settle, SettleKey

__all__ = ["settle_group", "settle_params"]


def settle_group(session: Connection, owner: Params, outcome: SettleKey, group: Sequence[Settle]) -> set[int]:
    """Commit the outcomes of one kind that a worker brings; return the seqs of those that were settled."""
    params = {**owner, **settle_params(session, outcome, group)}
    return {seq for seq, _ in session.execute(session.statements.settle[outcome], params)}


def settle_params(session: Connection, outcome: SettleKey, group: Sequence[Settle]) -> Params:
    """Return the parameters that carry outcomes of one kind."""
    _, has_payload = outcome
    return session.bind_rows(session.statements.settle_columns(has_payload), _rows(group, has_payload))


def _rows(group: Sequence[Settle], has_payload: bool) -> list[Row]:
    """Return the values of `settle_columns`. Ends hold their threads, in one order for all transactions."""
    group = sorted(group, key=_BY_THREAD)
    if not has_payload:
        return [(settle.run.seq, settle.usage, settle.run.version, settle.run.attempt) for settle in group]
    return [
        (settle.run.seq, settle.usage, settle.run.version, settle.run.attempt, *_PAYLOAD_OF(settle)) for settle in group
    ]


_BY_THREAD: Final = attrgetter("run.thread_id")
_PAYLOAD_OF: Final = attrgetter(*PAYLOAD)
