"""Runs of plain dicts, by the copy of docs/lifecycle.md in `tests.support.lifecycle`, and with one thing done wrong.

Nothing here is derived from the library: the desk is an implementation as somebody else would write it.
"""

from __future__ import annotations

import copy
import threading
from itertools import count
from typing import Any, Final

from runstate.testing.conformance import FunctionAdapter
from tests.support.lifecycle import GIVEN, HELD_IN, NOW, ROWS, STAMPED_BY, STAMPS, TABLE

Record = dict[str, Any]
TARGETS: Final = {event: target for event, _, target, _ in ROWS}


class No(Exception):
    """What a desk says when it refuses."""


class Desk:
    """Runs in a dict, one lock around all."""

    def __init__(self) -> None:
        self.now = NOW
        self.kept: dict[str, Record] = {}
        self.numbers = count(1)
        self.turn = threading.Lock()

    def create(self) -> str:
        run_id = f"run_{next(self.numbers)}"
        born: Record = {"id": run_id, "created_at": self.now, "status": "queued", "expires_at": self.now + 600}
        self.kept[run_id] = {**born, **dict.fromkeys((*STAMPS, *HELD_IN)), **born}
        return run_id

    def send(self, run: str, event: str) -> None:
        with self.turn:
            self.move(self.kept[run], str(event))

    def read(self, run: str) -> Record:
        return copy.deepcopy(self.kept[run])

    def advance(self, seconds: int) -> None:
        self.now += seconds

    def move(self, record: Record, event: str) -> None:
        self.check(record, event)
        self.write(record, event)

    def check(self, record: Record, event: str) -> None:
        if (record["status"], event) not in TABLE:
            raise No(f"{event} in {record['status']}")

    def write(self, record: Record, event: str) -> None:
        target = TARGETS[event]
        record["status"] = target
        if target in STAMPED_BY:
            record[STAMPED_BY[target]] = self.now
        for field, statuses in HELD_IN.items():
            if target not in statuses:
                record[field] = None
            elif field in GIVEN and record[field] is None:
                record[field] = GIVEN[field]

    def system(self) -> FunctionAdapter:
        return FunctionAdapter(
            self.create, self.send, self.read, refused=No, advance=self.advance, name=type(self).__name__
        )


# --- which moves are made ---------------------------------------------------------------------------------------------


class OverwritesTheEnd(Desk):
    """A worker's outcome wins over a cancellation that is through."""

    def check(self, record: Record, event: str) -> None:
        if (record["status"], event) != ("cancelled", "complete"):
            super().check(record, event)


class SkipsTheQueue(Desk):
    """A queued run is completed without being started."""

    def check(self, record: Record, event: str) -> None:
        if (record["status"], event) != ("queued", "complete"):
            super().check(record, event)


class CannotFailWaiting(Desk):
    """A run that waits for tools cannot fail."""

    def check(self, record: Record, event: str) -> None:
        if (record["status"], event) == ("requires_action", "fail"):
            raise No("it waits for its tools")
        super().check(record, event)


class WritesBeforeItChecks(Desk):
    """The refusal comes when all is written."""

    def move(self, record: Record, event: str) -> None:
        before = dict(record)
        if (record["status"], event) == ("queued", "complete"):
            self.write(record, event)
        self.check(before, event)
        self.write(record, event)


class ForgetsToWrite(Desk):
    """A deadline that passed in the queue is acknowledged and not stored."""

    def write(self, record: Record, event: str) -> None:
        if (record["status"], event) != ("queued", "expire"):
            super().write(record, event)


class GoesOnAtOnce(Desk):
    """Outputs lead straight to in_progress."""

    def write(self, record: Record, event: str) -> None:
        super().write(record, event)
        if event == "submit_tool_outputs":
            record["status"] = "in_progress"


class RefusesAll(Desk):
    def check(self, record: Record, event: str) -> None:
        raise No("never")


class AcceptsAll(Desk):
    def check(self, record: Record, event: str) -> None:
        pass


# --- what they leave behind -------------------------------------------------------------------------------------------


class DropsAStamp(Desk):
    def write(self, record: Record, event: str) -> None:
        super().write(record, event)
        record["cancelled_at"] = None


class StampsTooSoon(Desk):
    """cancelled_at is written while the run is still cancelling."""

    def write(self, record: Record, event: str) -> None:
        super().write(record, event)
        if event == "request_cancel":
            record["cancelled_at"] = self.now


class StampsAnotherToo(Desk):
    """The end overwrites the start."""

    def write(self, record: Record, event: str) -> None:
        super().write(record, event)
        if (event, record["status"]) == ("mark_incomplete", "incomplete"):
            record["started_at"] = self.now


class StampsARefusal(Desk):
    def check(self, record: Record, event: str) -> None:
        if (record["status"], event) == ("failed", "expire"):
            record["completed_at"] = self.now
        super().check(record, event)


class StampsInThePast(Desk):
    """The end bears the time of the birth."""

    def write(self, record: Record, event: str) -> None:
        super().write(record, event)
        if event == "confirm_cancel":
            record["cancelled_at"] = record["created_at"]


class StartsOnce(Desk):
    """The second start keeps the time of the first."""

    def write(self, record: Record, event: str) -> None:
        first = record["started_at"]
        super().write(record, event)
        record["started_at"] = first or record["started_at"]


class KeepsTheDeadline(Desk):
    def write(self, record: Record, event: str) -> None:
        deadline = record["expires_at"]
        super().write(record, event)
        record["expires_at"] = deadline


class ExtendsTheDeadline(Desk):
    def write(self, record: Record, event: str) -> None:
        super().write(record, event)
        if event == "require_action":
            record["expires_at"] = self.now + 600


class ForgetsUsage(Desk):
    def write(self, record: Record, event: str) -> None:
        super().write(record, event)
        record["usage"] = None


class KeepsTheCalls(Desk):
    """The answer to submit still asks for outputs."""

    def write(self, record: Record, event: str) -> None:
        calls = record["required_action"]
        super().write(record, event)
        if event == "submit_tool_outputs":
            record["required_action"] = calls


class ForgetsWhen(Desk):
    """A move makes the run as new."""

    def write(self, record: Record, event: str) -> None:
        super().write(record, event)
        if event == "start":
            record["created_at"] = self.now


class OpenEnded(Desk):
    """No run has a deadline."""

    def create(self) -> str:
        run = super().create()
        self.kept[run]["expires_at"] = None
        return run

    def write(self, record: Record, event: str) -> None:
        super().write(record, event)
        record["expires_at"] = None


class BornAtWork(Desk):
    def create(self) -> str:
        run = super().create()
        self.kept[run].update(status="in_progress", started_at=self.now)
        return run


# --- asked again ------------------------------------------------------------------------------------------------------


class Recognises(Desk):
    """Correct: the same request again is answered alike, and nothing changes."""

    def move(self, record: Record, event: str) -> None:
        if record.get("last_event") != event or (record["status"], event) in TABLE:
            super().move(record, event)
            record["last_event"] = event


class StampsAgain(Recognises):
    """A request that is recognised stamps anew where the run was never started."""

    def move(self, record: Record, event: str) -> None:
        super().move(record, event)
        if event == "fail" and record["started_at"] is None:
            record["failed_at"] = self.now


# --- what goes to pieces ----------------------------------------------------------------------------------------------


class CannotCreate(Desk):
    def create(self) -> str:
        raise ConnectionError("no database\nanswers")


class CannotRead(Desk):
    """A cancelled run cannot be read."""

    def read(self, run: str) -> Record:
        found = super().read(run)
        if found["status"] == "cancelled":
            raise KeyError("cancelled_by")
        return found


class NeverReads(Desk):
    def read(self, run: str) -> Record:
        raise ConnectionError("no database answers")


class HasATenthStatus(Desk):
    def write(self, record: Record, event: str) -> None:
        super().write(record, event)
        if event == "expire":
            record["status"] = "timed_out"


class StumblesOverRefusals(Desk):
    """A refusal is an accident."""

    def check(self, record: Record, event: str) -> None:
        try:
            super().check(record, event)
        except No:
            raise TypeError("'NoneType' object is not callable") from None


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class HasNoWords(Desk):
    """Its errors cannot be told."""

    def check(self, record: Record, event: str) -> None:
        if event == "expire":
            raise Speechless
        super().check(record, event)
