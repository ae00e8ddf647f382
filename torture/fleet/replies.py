"""What clients were told, written down the moment they heard it, in files that outlive them.

A line is one write to a file of the client's own: only the last of one that is killed may not be whole. Each request
for a move goes under an actor of its own, so that the history can be held against every single answer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias, cast

from runstate.errors import (
    IllegalTransition,
    LostRace,
    OutcomeUnknown,
    StoreUnavailable,
    ThreadBusy,
    ToolOutputsMismatch,
)
from torture.fleet.handler_log import END

Kind: TypeAlias = Literal["create", "key", "move", "settle"]
Answer: TypeAlias = Literal["done", "refused", "away", "unknown", "wrong"]
"""`away`: the database did not take it, nothing was changed; `wrong`: what a client may never hear, such as that a run
which it was shown does not exist."""

NONE: Final = "-"
REFUSALS: Final = (IllegalTransition, LostRace, ThreadBusy, ToolOutputsMismatch)


class Reply(NamedTuple):
    """What one client was told of one thing it had asked."""

    kind: Kind
    answer: Answer
    run_id: str
    what: str
    """The event of a move or a settle; the key of a create by key; the plan of another create."""
    actor: str
    """Whom the history names, if it was done; or what a client heard that it may never hear."""
    version: int = 0
    """The version that a settled run was started at; the one that a move was asked from, 0 for any."""
    attempt: int = 0
    """In which attempt it was settled."""


class ReplyLog:
    """Writes down what a client is told."""

    def __init__(self, folder: Path, client: str) -> None:
        self._file = os.open(folder / client, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def write(self, replies: Iterable[Reply]) -> None:
        """Write down answers that came together."""
        os.write(self._file, "".join(f"{' '.join(map(str, one))} {END}\n" for one in replies).encode())


def answer_of(error: BaseException | None) -> Answer:
    """Return what an error says about what was asked."""
    if error is None:
        return "done"
    if isinstance(error, OutcomeUnknown):
        return "unknown"
    if isinstance(error, StoreUnavailable):
        return "away"
    return "refused" if isinstance(error, REFUSALS) else "wrong"


def read_replies(folder: Path) -> Iterator[Reply]:
    """Yield all that anybody was told."""
    for path in sorted(folder.iterdir()):
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                words = line.split()
                if words[-1] != END:  # the last, of one that was killed while writing it
                    continue
                kind, answer, run_id, what, actor, version, attempt, _ = words
                yield Reply(cast("Kind", kind), cast("Answer", answer), run_id, what, actor, int(version), int(attempt))
