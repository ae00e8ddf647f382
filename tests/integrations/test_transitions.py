"""The twin: another engine, asked the same questions as the law."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import pytest
from transitions import EventData, Machine, MachineError
from transitions.extensions import GraphMachine, HierarchicalMachine, LockedMachine
from transitions.extensions.asyncio import AsyncMachine
from transitions.extensions.nesting import NestedState

from runstate.clock import ManualClock, use_clock
from runstate.errors import InvalidRun
from runstate.integrations.transitions import add_run, run_machine
from runstate.lifecycle import RUN_LIFECYCLE, Lifecycle, RunEvent, RunStatus, Stamp, Transition, documented

PAIRS = [(status, event) for status in RunStatus for event in RunEvent]
NOW = 1_700_000_000


class Job:
    """A model as users write them: nothing in it knows about runs."""

    if TYPE_CHECKING:  # `transitions` adds the triggers when it binds

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: object) -> None: ...


class SlashState(NestedState):
    separator = "/"


class SlashMachine(HierarchicalMachine):
    state_cls = SlashState


def plain(model: object) -> dict[str, object]:
    """Return what a model knows about its run, without what `transitions` bound to it."""
    return {name: value for name, value in vars(model).items() if not callable(value)}


def job_in(
    status: str, lifecycle: Lifecycle = RUN_LIFECYCLE, machine_cls: type[Machine] = Machine, **options: Any
) -> Job:
    job = Job()
    with use_clock(ManualClock(NOW)):
        run_machine(job, initial=status, machine_cls=machine_cls, lifecycle=lifecycle, **options)
    return job


def move(model: object, event: str, **kwargs: object) -> bool:
    result: bool = getattr(model, event)(**kwargs)
    return result


def test_the_pairs_are_all_eighty_one() -> None:
    """Nine statuses and nine events make 81 questions, and the law says yes to nineteen."""
    assert len(PAIRS) == 81
    assert sum(RUN_LIFECYCLE.find(status, event) is not None for status, event in PAIRS) == 19


@pytest.mark.parametrize("lifecycle", [RUN_LIFECYCLE, documented()], ids=["law", "documented"])
@pytest.mark.parametrize(("status", "event"), PAIRS)
def test_the_twin_gives_the_same_second_opinion(status: RunStatus, event: RunEvent, lifecycle: Lifecycle) -> None:
    """It moves exactly where the law has a row, writes what the row says, and else changes nothing."""
    job = job_in(status, lifecycle)
    before = plain(job)
    row = lifecycle.find(status, event)
    assert (row is not None) is getattr(job, f"may_{event}")()

    if row is None:
        with pytest.raises(MachineError, match=event):
            move(job, event, at=NOW + 7)
        assert before == plain(job)
        return

    assert move(job, event, at=NOW + 7)
    expected = {**before, "status": row.target.value}
    if row.stamp is not None:
        expected[row.stamp] = NOW + 7
    if lifecycle.is_terminal(row.target):
        expected["expires_at"] = None
    assert expected == plain(job)


@pytest.mark.parametrize("row", RUN_LIFECYCLE.transitions, ids=lambda row: f"{row.event}-{row.source}")
def test_the_machine_holds_the_rows_and_no_others(row: Transition) -> None:
    """Each row stands in the machine once, and the machine has as many transitions as the law has rows."""
    machine = run_machine(Job())
    assert len(machine.get_transitions(row.event.value, row.source.value, row.target.value)) == 1
    assert len(RUN_LIFECYCLE.transitions) == len(machine.get_transitions())


@pytest.mark.parametrize("status", RunStatus)
def test_triggers_and_final_states_are_those_of_the_law(status: RunStatus) -> None:
    """`get_triggers` lists the allowed events, and a state is final where no row leaves it."""
    machine = run_machine(Job())
    assert list(RUN_LIFECYCLE.allowed_events(status)) == machine.get_triggers(status.value)
    assert RUN_LIFECYCLE.is_terminal(status) is machine.get_state(status.value).final


def test_a_model_without_a_status_is_born_queued() -> None:
    """Birth gives a deadline ten minutes off, and every stamp that no move wrote is there, as None."""
    job = job_in(RunStatus.QUEUED)
    stamps: dict[str, object] = dict.fromkeys(get_args(Stamp))
    assert {**stamps, "status": "queued", "created_at": NOW, "expires_at": NOW + 600} == plain(job)


def test_a_model_keeps_the_status_and_times_it_has() -> None:
    """A model loaded from elsewhere goes on where it stands, whether it says so by member or by string."""
    for status in (RunStatus.IN_PROGRESS, "in_progress"):
        job = Job()
        job.status, job.created_at, job.expires_at, job.started_at = status, 5, 9, 6
        run_machine(job)
        assert (str, "in_progress", 5, 9, 6) == (
            type(job.status),
            job.status,
            job.created_at,
            job.expires_at,
            job.started_at,
        )


def test_a_missing_deadline_counts_from_creation() -> None:
    """`expires_in_s` counts from `created_at`, not from when the model was bound; 0 is a time like any other."""
    job = Job()
    job.created_at = 0
    run_machine(job, expires_in_s=60)
    assert (job.created_at, job.expires_at) == (0, 60)


@pytest.mark.parametrize("status", [status for status in RunStatus if RUN_LIFECYCLE.is_terminal(status)])
def test_a_terminal_model_has_no_deadline(status: RunStatus) -> None:
    """Bound in a terminal status, a model loses the deadline that it came with."""
    job = Job()
    job.status, job.expires_at = status, 9
    run_machine(job)
    assert job.expires_at is None


def test_initial_wins_over_the_status_of_the_model() -> None:
    """Who says where to begin is obeyed."""
    job = Job()
    job.status = "queued"
    run_machine(job, initial=RunStatus.CANCELLING)
    assert job.status == RunStatus.CANCELLING


def test_an_unknown_status_is_named_and_nothing_is_bound() -> None:
    """A status that is none of the nine is an error that says so, and the model stays as it was."""
    job = Job()
    job.status = "running"
    with pytest.raises(ValueError, match="unknown status 'running'; the nine are"):
        run_machine(job)
    assert vars(job) == {"status": "running"}


def test_without_at_the_clock_is_asked() -> None:
    """The time of a move is the library's clock, in whole seconds; `started_at` is written anew at each start."""
    with use_clock(ManualClock(NOW + 0.9)) as clock:
        job = Job()
        run_machine(job)
        move(job, "start")
        assert (job.created_at, job.started_at) == (NOW, NOW)
        clock.advance(5)
        move(job, "require_action")
        move(job, "submit_tool_outputs")
        assert job.started_at == NOW
        move(job, "start")
        assert job.started_at == NOW + 5
        clock.advance(5)
        move(job, "complete")
        assert (job.started_at, job.completed_at, job.expires_at) == (NOW + 5, NOW + 10, None)


@pytest.mark.parametrize("at", ["noon", True, 1.5, -1, NOW * 1000])
def test_a_wrong_time_moves_nothing(at: object) -> None:
    """`at` must be Unix seconds, as everywhere in the library, or the move does not happen."""
    job = job_in(RunStatus.QUEUED)
    before = plain(job)
    with pytest.raises(InvalidRun, match="at: "):
        move(job, "start", at=at)
    assert before == plain(job)


def test_a_trigger_can_be_asked_by_its_name() -> None:
    """`model.trigger` takes an event of the library as it is, and `may_trigger` foretells it."""
    job = job_in(RunStatus.QUEUED)
    assert not job.may_trigger(RunEvent.COMPLETE)
    assert job.trigger(RunEvent.START)
    assert job.is_status_in_progress()


def test_there_are_no_triggers_but_the_events() -> None:
    """No `to_completed` leads round the law."""
    machine = run_machine(Job())
    assert set(RunEvent) == set(machine.events)


def test_callbacks_see_the_stamps_and_the_time() -> None:
    """A model's own callback finds the status, the stamp and the time of the move in place."""
    seen: list[object] = []

    class Listener(Job):
        def on_enter_in_progress(self, event: EventData) -> None:
            seen.append((self.status, self.started_at, event.kwargs["at"]))

    listener = Listener()
    run_machine(listener, on_final=lambda event: seen.append(event.state.name))
    move(listener, "start", at=3)
    move(listener, "fail")
    assert seen == [("in_progress", 3, 3), "failed"]


def test_a_transition_that_users_add_stamps_nothing() -> None:
    """What is not in the law is the user's: it moves, and only the terminal status takes the deadline away."""
    job = Job()
    machine = run_machine(job)
    machine.add_transition("skip", "queued", "completed")
    assert move(job, "skip")
    assert (job.status, job.completed_at, job.expires_at) == ("completed", None, None)


def test_users_can_ask_for_silence_instead_of_an_error() -> None:
    """`ignore_invalid_triggers` is theirs to set: a refused move then says False, and still moves nothing."""
    job = job_in(RunStatus.QUEUED, ignore_invalid_triggers=True)
    before = plain(job)
    assert not move(job, "complete")
    assert before == plain(job)


@pytest.mark.parametrize("option", ["states", "transitions", "auto_transitions", "model_attribute", "send_event"])
def test_what_the_law_decides_is_no_option(option: str) -> None:
    """Naming it is an error, not a second law."""
    decided: dict[str, Any] = {option: None}
    with pytest.raises(TypeError, match=option):
        run_machine(Job(), machine_cls=Machine, **decided)


def test_several_models_share_a_machine() -> None:
    """A list of models is bound at once, more come with `add_run`, and each moves alone."""
    first, second, third = Job(), Job(), Job()
    machine = run_machine([first, second])
    add_run(machine, third, initial="cancelling")
    move(first, "start", at=3)
    assert [job.status for job in (first, second, third)] == ["in_progress", "queued", "cancelling"]
    assert [job.started_at for job in (first, second, third)] == [3, None, None]
    assert machine.dispatch("expire", at=8)
    assert {("expired", 8)} == {(job.status, job.completed_at) for job in (first, second, third)}


def test_a_machine_can_begin_without_models() -> None:
    """An empty list binds nothing yet; `machine.add_model` then makes a model queued."""
    machine = run_machine([])
    assert machine.models == []
    job = Job()
    machine.add_model(job)
    assert move(job, "start", at=1)
    assert (job.status, job.started_at) == ("in_progress", 1)


def test_equal_models_are_refused_not_forgotten() -> None:
    """Two equal dataclasses would be one model to `transitions`, so the second is refused, unbound and unchanged."""

    @dataclass
    class Equal:
        status: str = "queued"
        created_at: int = NOW
        expires_at: int = NOW
        started_at: int | None = None

    first = Equal()
    machine = run_machine(first)
    second = Equal()
    before = dict(vars(second))
    with pytest.raises(ValueError, match="eq=False"):
        add_run(machine, second)
    assert before == vars(second)
    add_run(machine, first)
    assert [first] == machine.models


@pytest.mark.parametrize("machine_cls", [Machine, LockedMachine, GraphMachine])
def test_models_survive_pickle_and_copy(machine_cls: type[Machine]) -> None:
    """A copy has a machine of its own, obeys the same law, and leaves the original where it is."""
    options: dict[str, Any] = {"graph_engine": "mermaid"} if machine_cls is GraphMachine else {}
    job = job_in(RunStatus.QUEUED, RUN_LIFECYCLE, machine_cls, **options)
    for twin in (pickle.loads(pickle.dumps(job)), copy.deepcopy(job)):
        assert plain(job) == plain(twin)
        assert move(twin, "start", at=4)
        assert (job.status, twin.status, twin.started_at) == ("queued", "in_progress", 4)
        with pytest.raises(MachineError):
            move(twin, "start")


def test_what_a_model_knows_is_plain_json() -> None:
    """Status and times are strings and integers, so a model's state goes into JSON and comes back equal."""
    job = job_in(RunStatus.REQUIRES_ACTION)
    assert plain(job) == json.loads(json.dumps(plain(job)))


def test_a_machine_that_locks() -> None:
    """`LockedMachine` obeys the law from behind its lock."""
    job = job_in(RunStatus.QUEUED, machine_cls=LockedMachine)
    assert move(job, "start", at=4)
    with pytest.raises(MachineError):
        move(job, "start")
    assert (job.status, job.started_at) == ("in_progress", 4)


def test_a_machine_that_is_awaited() -> None:
    """`AsyncMachine` obeys the law too; its triggers are awaited."""
    job = job_in(RunStatus.QUEUED, machine_cls=AsyncMachine)

    async def drive() -> None:
        assert await job.start(at=4)
        with pytest.raises(MachineError):
            await job.start(at=5)

    asyncio.run(drive())
    assert (job.status, job.started_at) == ("in_progress", 4)


def test_a_machine_that_nests_needs_another_separator() -> None:
    """To a hierarchical machine `in_progress` is a state inside `in`: it is refused, unless it separates by a slash."""
    job = Job()
    with pytest.raises(TypeError, match="another separator"):
        run_machine(job, machine_cls=HierarchicalMachine)
    assert vars(job) == {}
    run_machine(job, machine_cls=SlashMachine)
    assert move(job, "start", at=4)
    assert (job.status, job.started_at) == ("in_progress", 4)


def test_the_picture_shows_every_row() -> None:
    """`GraphMachine` draws the nine statuses and nineteen arrows, and marks where the model stands."""
    job = Job()
    machine = run_machine(job, machine_cls=GraphMachine, graph_engine="mermaid", title="Run")
    move(job, "start")
    lines = [line.strip() for line in job.get_graph().draw(None).splitlines()]
    assert {f"{row.source} --> {row.target}: {row.event}" for row in RUN_LIFECYCLE.transitions} == {
        line for line in lines if ": " in line and "-->" in line
    }
    assert {f'state "{status}" as {status}' for status in RunStatus} == {
        line for line in lines if line.startswith("state ")
    }
    assert "Class in_progress s_active" in lines
    assert "[*] --> queued" in lines
    assert lines == [line.strip() for line in str(machine.get_combined_graph().draw(None)).splitlines()]


def test_a_picture_with_callbacks_stays_readable() -> None:
    """Asked to show callbacks, a picture names them in a word rather than printing the law."""
    job = Job()
    run_machine(job, machine_cls=GraphMachine, graph_engine="mermaid", show_state_attributes=True)
    assert r'state "queued\n- enter:\n  + stamps" as queued' in job.get_graph().draw(None)


@pytest.mark.parametrize("engine", ["graphviz", "pygraphviz"])
def test_the_other_pencils_draw_too(engine: str) -> None:
    """Where the engine is installed, its picture names every status and event."""
    pytest.importorskip(engine)
    job = Job()
    run_machine(job, machine_cls=GraphMachine, graph_engine=engine)
    source = str(job.get_graph())
    assert [word for word in (*RunStatus, *RunEvent) if word not in source] == []
