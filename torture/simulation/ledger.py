"""What everybody was told, noted where they heard it: acknowledged, refused, or unknown; and which handlers began."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import attrs

from runstate.errors import RunstateError
from runstate.store import SettleAndClaimResult
from runstate.store._types import StoredRun
from runstate.store._worker_types import Settle
from torture.simulation.process import told_of

__all__ = ["RETRY", "Ask", "Began", "Ledger", "Outcome", "not_done"]


@attrs.define
class Ask:
    """One thing that a client asked under an actor's name that nobody else uses."""

    method: str
    given: Mapping[str, Any]
    actor: str
    tells: list[str] = attrs.field(factory=list)
    """What it was told, each time it asked."""
    runs: Sequence[StoredRun] = ()
    error: str = ""

    @property
    def run_id(self) -> str | None:
        """The run it was about; None for a create."""
        return self.given.get("run_id")

    @property
    def told(self) -> str:
        """What it was told in the end: `nothing` if it never heard."""
        return self.tells[-1] if self.tells else "nothing"

    def acknowledge(self, answer: StoredRun | Sequence[StoredRun]) -> None:
        """Note an answer."""
        self.tells.append("acknowledged")
        self.runs = [answer] if isinstance(answer, StoredRun) else answer

    def refuse(self, error: RunstateError) -> None:
        """Note an error."""
        self.tells.append(told_of(error))
        self.error = f"{type(error).__name__}: {error}"


@attrs.frozen
class Outcome:
    """What a worker asked to settle."""

    seq: int
    token: int
    version: int
    """At which it was claimed."""
    event: str


@attrs.frozen
class Began:
    """A handler that was called."""

    seq: int
    token: int
    version: int
    attempt: int
    who: str
    at: int


Calling: TypeAlias = tuple[int, int, int, int]
"""A call of a handler: the seq of the run, its version and attempt, and the token."""


RETRY: Final = "retry of attempt "
"""What stands before an attempt for the event of an outcome that is to repeat it."""


def not_done(tells: Sequence[str]) -> bool:
    """Tell whether somebody was told for certain that what was asked was not done."""
    if not tells or "acknowledged" in tells:
        return False
    return tells[-1] == "refused" or not {"unknown", "asked", "refused"}.intersection(tells)


def _outcome(token: int, settle: Settle) -> Outcome:
    event = str(settle.event) if settle.retry is None else f"{RETRY}{settle.run.attempt}"
    return Outcome(settle.run.seq, token, settle.run.version, event)


class Ledger:
    """All that was told in a world."""

    def __init__(self) -> None:
        self.asks: Final[list[Ask]] = []
        self.outcomes: Final[dict[Outcome, list[str]]] = {}
        self.began: Final[list[Began]] = []
        self.kept: Final[dict[int, int]] = {}
        """The last checkpoint of a run, by seq, that was acknowledged."""
        self.steps: Final[dict[tuple[int, str], Sequence[int]]] = {}
        """The steps that handlers were told are kept, by the seq of the run and name; with the events before them."""
        self.called_again: Final[Counter[tuple[int, int]]] = Counter()
        """How many handlers met an outage and may be called again, by the seq of the run and the token."""
        self._emitted: Final[dict[Calling, list[int]]] = {}
        """The events that each call of a handler has emitted."""
        self._executing: Final[dict[tuple[int, str], Calling]] = {}
        """The call of a handler that has executed a step last."""
        self._executed_once: Final[set[tuple[int, str]]] = set()
        self.findings: Final[list[str]] = []
        """What was seen to be wrong at once."""

    def ask(self, method: str, given: Mapping[str, Any], actor: str) -> Ask:
        """Note that something is asked."""
        ask = Ask(method, given, actor)
        self.asks.append(ask)
        return ask

    def settling(self, token: int, settles: Iterable[Settle]) -> None:
        """Note that a worker asks: it may never hear."""
        for settle in settles:
            self.outcomes.setdefault(_outcome(token, settle), []).append("asked")

    def settled(self, token: int, settles: Iterable[Settle], came: SettleAndClaimResult | BaseException) -> None:
        """Note what a worker was told of its outcomes."""
        for settle in settles:
            if isinstance(came, BaseException):
                told = told_of(came)
            else:
                told = "refused" if settle.run.seq in came.refused else "acknowledged"
            self.outcomes[_outcome(token, settle)][-1] = told

    def begin(self, run: StoredRun, token: int, who: str, at: int, checkpoint: Any) -> None:
        """Note that a handler was called."""
        self.began.append(Began(run.seq, token, run.version, run.attempt, who, at))
        kept = self.kept.get(run.seq)
        if kept is not None and (checkpoint is None or checkpoint < kept):
            self.findings.append(
                f"losses: run {run.id}: checkpoint {kept} was acknowledged, {who} goes on with {checkpoint}"
            )

    def emit(self, run: StoredRun, token: int, value: int) -> None:
        """Note that a handler has emitted an event."""
        self._emitted.setdefault((run.seq, run.version, run.attempt, token), []).append(value)

    def execute_step(self, run: StoredRun, token: int, name: str, who: str, *, once: bool) -> None:
        """Note that the function of a step is called."""
        step = (run.seq, name)
        self._executing[step] = (run.seq, run.version, run.attempt, token)
        if step in self.steps:
            self.findings.append(f"doubles: run {run.id}: {who} executes the step {name}, which is kept")
        if once and step in self._executed_once:
            self.findings.append(f"doubles: run {run.id}: {who} executes the step {name} once more")
        if once:
            self._executed_once.add(step)

    def keep_step(self, run: StoredRun, token: int, name: str) -> None:
        """Note that a handler was told that a step is kept. What it has emitted before is kept, too."""
        calling = (run.seq, run.version, run.attempt, token)
        is_its_own = self._executing.get((run.seq, name)) == calling
        self.steps.setdefault((run.seq, name), tuple(self._emitted.get(calling, ())) if is_its_own else ())
