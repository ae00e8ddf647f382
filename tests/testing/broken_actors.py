"""Desks that are broken where several actors meet (at once, by old copies, as workers), and correct ones beside."""

from __future__ import annotations

import copy
import threading

from runstate import RunEvent
from runstate.testing.conformance import EventNotOffered, ObjectAdapter
from tests.testing.broken import Desk, No, Record

# --- at once ----------------------------------------------------------------------------------------------------------


class Meeting:
    """Where two threads that race wait for each other, so that both have looked before either writes.

    Whoever comes from the conformance kit's own thread, alone, passes through.
    """

    def __init__(self) -> None:
        self._barrier = threading.Barrier(2)

    def meet(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            self._barrier.wait(30)


class LooksThenWrites(Desk):
    """Between the look and the write somebody else may write."""

    def __init__(self) -> None:
        super().__init__()
        self.meeting = Meeting()

    def send(self, run: str, event: str) -> None:
        seen = self.read(run)
        self.check(seen, event)
        self.meeting.meet()
        self.write(self.kept[run], event)


class StopsForEver(Desk):
    """Two at once wait for each other, until the test lets them go."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def send(self, run: str, event: str) -> None:
        if threading.current_thread() is not threading.main_thread():
            self.released.wait()
        super().send(run, event)


class GivesWay(Desk):
    """Where two meet, both give way."""

    def __init__(self) -> None:
        super().__init__()
        self.meeting = Meeting()

    def send(self, run: str, event: str) -> None:
        self.check(self.read(run), event)
        self.meeting.meet()
        if threading.current_thread() is not threading.main_thread():
            raise No("somebody else is at it")
        super().send(run, event)


class BreaksAtOnce(Desk):
    """Where two ask, one of them finds the database busy."""

    def __init__(self) -> None:
        super().__init__()
        self.meeting = Meeting()

    def send(self, run: str, event: str) -> None:
        self.meeting.meet()
        mine = self.turn.acquire(blocking=False)
        self.meeting.meet()
        if not mine:
            raise OSError("database is locked")
        try:
            self.move(self.kept[run], event)
        finally:
            self.turn.release()


class ForgetsToClose(Desk):
    """Two at once leave behind what cannot be read."""

    def __init__(self) -> None:
        super().__init__()
        self.torn: set[str] = set()

    def send(self, run: str, event: str) -> None:
        super().send(run, event)
        if threading.current_thread() is not threading.main_thread():
            self.torn.add(run)

    def read(self, run: str) -> Record:
        if run in self.torn:
            raise EOFError("torn page")
        return super().read(run)


# --- copies -----------------------------------------------------------------------------------------------------------


class Card:
    """A run as an ORM hands it out: a copy with methods, which is saved whole."""

    def __init__(self, desk: Cards, record: Record) -> None:
        self._desk = desk
        self.__dict__.update(record)

    def save(self, event: str) -> None:
        record = {name: value for name, value in vars(self).items() if name != "_desk"}
        self._desk.save(record, event)
        self.__dict__.update(record)

    def start(self) -> None:
        self.save("start")

    def require_action(self, calls: object) -> None:
        assert calls
        self.save("require_action")

    def submit_tool_outputs(self, outputs: object) -> None:
        assert outputs
        self.save("submit_tool_outputs")

    def cancel(self) -> None:
        self.save("request_cancel")

    def confirm_cancel(self) -> None:
        self.save("confirm_cancel")

    def complete(self) -> None:
        self.save("complete")

    def mark_incomplete(self, reason: str) -> None:
        assert reason
        self.save("mark_incomplete")

    def fail(self, code: str, message: str) -> None:
        assert code
        assert message
        self.save("fail")

    def expire(self) -> None:
        self.save("expire")


class Cards(Desk):
    """Correct: a copy that is older than what is kept is not saved."""

    def new(self) -> Card:
        run = self.create()
        self.kept[run]["version"] = 1
        return Card(self, self.read(run))

    def load(self, card: Card) -> Card:
        return Card(self, self.look(card))

    def look(self, card: Card) -> Record:
        return self.read(vars(card)["id"])

    def save(self, record: Record, event: str) -> None:
        self.move(record, event)
        with self.turn:
            self.is_newest(record)
            record["version"] += 1
            self.kept[record["id"]] = copy.deepcopy(record)

    def is_newest(self, record: Record) -> None:
        if self.kept[record["id"]]["version"] != record["version"]:
            raise No("it was changed since you read it")

    def cards(self) -> ObjectAdapter:
        return ObjectAdapter(
            self.new,
            refused=No,
            methods={"request_cancel": "cancel"},
            load=self.load,
            read=self.look,
            advance=self.advance,
            name=type(self).__name__,
        )


class LastWriteWins(Cards):
    """Whoever saves last is right."""

    def is_newest(self, record: Record) -> None:
        pass


class StumblesOverOldCopies(Cards):
    """An old copy is an accident."""

    def is_newest(self, record: Record) -> None:
        if self.kept[record["id"]]["version"] != record["version"]:
            raise RuntimeError("stale object")


class SavesAPart(Cards):
    """Of an old copy a part is saved before it is refused."""

    def is_newest(self, record: Record) -> None:
        kept = self.kept[record["id"]]
        if kept["version"] != record["version"]:
            kept["failed_at"] = self.now + 1
        super().is_newest(record)


# --- workers ----------------------------------------------------------------------------------------------------------


class Leases(Desk):
    """Correct, as a subject of its own: a run is its worker's while the lease holds."""

    refused: tuple[type[Exception], ...] = (No,)

    def __init__(self) -> None:
        super().__init__()
        self.owners: dict[str, str] = {}
        self.lapsed: set[str] = set()

    def send(self, run: str, event: RunEvent | str) -> None:
        super().send(run, event)

    def claim(self, worker: str, run: str) -> None:
        if run not in self.owners:
            self.send(run, "start")
        elif self.owners[run] not in self.lapsed:
            raise No("somebody has it")
        self.owners[run] = worker

    def lapse(self, worker: str) -> None:
        self.lapsed.add(worker)

    def settle(self, worker: str, run: str, event: str) -> None:
        self.owns(worker, run)
        self.send(run, event)

    def owns(self, worker: str, run: str) -> None:
        if self.owners[run] != worker:
            raise No("it is no longer yours")


class TrustsWorkers(Leases):
    """Whoever says it is its worker is believed."""

    def owns(self, worker: str, run: str) -> None:
        pass


class TrustsNobody(Leases):
    """Who takes over is no more believed than who stood still."""

    def owns(self, worker: str, run: str) -> None:
        raise No("it is no longer yours")


class NeverGivesUp(Leases):
    """A lapsed worker's run is not to be had."""

    def lapse(self, worker: str) -> None:
        pass


class StumblesOverWorkers(Leases):
    """A late worker is an accident."""

    def owns(self, worker: str, run: str) -> None:
        if self.owners[run] != worker:
            raise KeyError(worker)


class WritesForTheLate(Leases):
    """A late worker is refused when its outcome is written."""

    def owns(self, worker: str, run: str) -> None:
        if self.owners[run] != worker:
            self.send(run, "complete")
        super().owns(worker, run)


class TellsNobody(Leases):
    """Correct as far as it goes: workers may complete, and nothing else."""

    def settle(self, worker: str, run: str, event: str) -> None:
        if event != "complete":
            raise EventNotOffered
        super().settle(worker, run, event)
