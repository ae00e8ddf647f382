"""The phases of a worker: every event in every phase."""

from __future__ import annotations

import pytest

from runstate.store import Store
from runstate.worker import Worker
from runstate.worker import _phase as phases
from runstate.worker._phase import PhaseEvent, WorkerLife, WorkerPhase
from tests.worker.support import limited

LEADS_TO = """
          begin     stop      end
idle      working   stopped   -
working   -         draining  idle
draining  -         stopping  stopped
stopping  -         stopping  stopped
stopped   -         stopped   -
"""


def _cells() -> list[tuple[WorkerPhase, PhaseEvent, WorkerPhase | None]]:
    head, *rows = [line.split() for line in LEADS_TO.strip().splitlines()]
    return [
        (WorkerPhase[row[0].upper()], PhaseEvent[event.upper()], None if cell == "-" else WorkerPhase[cell.upper()])
        for row in rows
        for event, cell in zip(head, row[1:], strict=True)
    ]


def test_the_cells_are_all_there_are() -> None:
    """The table above has each phase and each event once."""
    assert [(phase, event) for phase in WorkerPhase for event in PhaseEvent] == [cell[:2] for cell in _cells()]


@pytest.mark.parametrize(("phase", "event", "target"), _cells())
def test_each_event_in_each_phase(phase: WorkerPhase, event: PhaseEvent, target: WorkerPhase | None) -> None:
    """An event leads where the table says; one that is not allowed changes nothing."""
    life = WorkerLife(30.0)
    life.phase = phase
    assert (target is not None) == life.move(event)
    assert life.phase is (target or phase)


def test_when_the_time_of_a_stopped_worker_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is over `drain_s` seconds after the first stop, and at once after the second."""
    now = 100.0
    monkeypatch.setattr(phases, "monotonic", lambda: now)
    life = WorkerLife(30.0)
    life.move(PhaseEvent.BEGIN)
    assert (float("inf"), False, False) == (life.time_left, life.is_time_over, life.is_stopping)
    life.stop()
    assert (30.0, False, True) == (life.time_left, life.is_time_over, life.is_stopping)
    now = 110.0
    assert 20.0 == life.time_left
    now = 130.0
    assert life.is_time_over
    now = 105.0
    life.stop()
    assert (0.0, True, WorkerPhase.STOPPING) == (life.time_left, life.is_time_over, life.phase)


@limited
async def test_a_worker_that_works_is_not_begun_again(store: Store) -> None:
    """It says so, and works on."""
    async with Worker(store, lambda ctx: None, name="w1") as worker:
        with pytest.raises(
            RuntimeError, match=r"^worker w1 is at work already: make another Worker to work beside it$"
        ):
            await worker.work()
        worker.stop()
        with pytest.raises(RuntimeError, match=r"^worker w1 is at work already"):
            await worker.work()
    with pytest.raises(RuntimeError, match=r"^worker w1 was stopped and works no more: make another Worker$"):
        await worker.work()


def test_a_worker_that_was_stopped_before_it_began(store: Store) -> None:
    """It never works."""
    worker = Worker(store, lambda ctx: None, name="w1")
    worker.stop()
    with pytest.raises(RuntimeError, match=r"^worker w1 was stopped and works no more"):
        worker.run()
