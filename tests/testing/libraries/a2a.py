"""The server side of `a2a-sdk` on system: its record keeping alone (`ToldTasks`), and all of it (`ServedTasks`).

A2A has no table of moves between live states, so only the usual way is asked there. What its documentation promises is
that an ended task stays ended, and there everything is asked. AUTH_REQUIRED and REJECTED have no counterpart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import uuid4

from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.context import ServerCallContext
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.tasks import InMemoryTaskStore, TaskManager, TaskUpdater
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    AgentSkill,
    CancelTaskRequest,
    GetTaskRequest,
    Message,
    Part,
    Role,
    SendMessageConfiguration,
    SendMessageRequest,
    SubscribeToTaskRequest,
    Task,
    TaskState,
    TaskStatus,
    TaskStatusUpdateEvent,
)
from a2a.utils.errors import InvalidAgentResponseError, TaskNotCancelableError, UnsupportedOperationError

from runstate import Lifecycle, RunEvent, RunStatus
from runstate.testing.conformance import EventNotOffered, EventRefused
from tests.testing.libraries import law_from

if TYPE_CHECKING:
    from a2a.server.events import EventQueue

__all__ = ["ServedTasks", "ToldTasks", "cancelled_as_it_ended"]

T = TypeVar("T")

STATUSES: Final[Mapping[int, RunStatus]] = {
    TaskState.TASK_STATE_SUBMITTED: RunStatus.QUEUED,
    TaskState.TASK_STATE_WORKING: RunStatus.IN_PROGRESS,
    TaskState.TASK_STATE_INPUT_REQUIRED: RunStatus.REQUIRES_ACTION,
    TaskState.TASK_STATE_COMPLETED: RunStatus.COMPLETED,
    TaskState.TASK_STATE_FAILED: RunStatus.FAILED,
    TaskState.TASK_STATE_CANCELED: RunStatus.CANCELLED,
}
WORDS: Final[Mapping[RunEvent, TaskState]] = {
    RunEvent.START: TaskState.TASK_STATE_WORKING,
    RunEvent.REQUIRE_ACTION: TaskState.TASK_STATE_INPUT_REQUIRED,
    RunEvent.COMPLETE: TaskState.TASK_STATE_COMPLETED,
    RunEvent.FAIL: TaskState.TASK_STATE_FAILED,
    RunEvent.CONFIRM_CANCEL: TaskState.TASK_STATE_CANCELED,
}
"""What an agent says; the other events are a client's."""

WORKING: Final = (RunStatus.IN_PROGRESS,)
LIVE: Final = (RunStatus.QUEUED, RunStatus.IN_PROGRESS, RunStatus.REQUIRES_ACTION)
TOLD: Final = {
    RunEvent.START: (RunStatus.IN_PROGRESS, (RunStatus.QUEUED, RunStatus.REQUIRES_ACTION)),
    RunEvent.REQUIRE_ACTION: (RunStatus.REQUIRES_ACTION, WORKING),
    RunEvent.COMPLETE: (RunStatus.COMPLETED, WORKING),
    RunEvent.FAIL: (RunStatus.FAILED, WORKING),
    RunEvent.CONFIRM_CANCEL: (RunStatus.CANCELLED, WORKING),
}
SERVED: Final = {
    **TOLD,
    RunEvent.SUBMIT_TOOL_OUTPUTS: (RunStatus.IN_PROGRESS, (RunStatus.REQUIRES_ACTION,)),
    RunEvent.REQUEST_CANCEL: (RunStatus.CANCELLED, LIVE),  # the answer is the cancelled task
}
REFUSALS: Final = (EventRefused, InvalidAgentResponseError, TaskNotCancelableError, UnsupportedOperationError)
CONTEXT: Final = ServerCallContext()


class Waiting:
    """The kit calls plain functions, and a2a is async: each request runs on a loop that stands still in between."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def wait(self, asked: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(asked)

    def close(self) -> None:
        self._runner.close()


def look_whether_asked(lifecycle: Lifecycle, status: RunStatus, event: RunEvent) -> None:
    """Raise `EventNotOffered` for what A2A leaves open: an unusual way between live states."""
    if status in LIVE and lifecycle.find(status, event) is None:
        raise EventNotOffered(f"A2A has no opinion about {event} in {status}")


class ToldTasks(Waiting):
    """Actors who each hold a `TaskManager` over one store, and tell it an agent's words."""

    refused: tuple[type[Exception], ...] = REFUSALS
    lifecycle: Lifecycle = law_from(TOLD)
    name = "a2a-sdk, TaskManager"

    def __init__(self) -> None:
        super().__init__()
        self._store = InMemoryTaskStore()

    def create(self) -> TaskManager:
        manager = self._manager(None)
        self.wait(manager.process(_new_task(str(uuid4()), str(uuid4()))))
        return manager

    def load(self, run: TaskManager) -> TaskManager:
        manager = self._manager(run.task_id)
        self._task(manager)
        return manager

    def send(self, run: TaskManager, event: RunEvent) -> None:
        stored = self._task(self._manager(run.task_id))
        look_whether_asked(self.lifecycle, STATUSES[stored.status.state], event)
        status = TaskStatus(state=WORDS[event])
        said = TaskStatusUpdateEvent(task_id=stored.id, context_id=stored.context_id, status=status)
        self.wait(run.process(said))
        if self._task(self._manager(run.task_id)) == stored:
            raise EventRefused("nothing was stored")

    def read(self, run: TaskManager) -> Mapping[str, Any]:
        return {"status": STATUSES[self._task(self._manager(run.task_id)).status.state]}

    def _manager(self, task_id: str | None) -> TaskManager:
        return TaskManager(self._store, CONTEXT, task_id, None, None)

    def _task(self, manager: TaskManager) -> Task:
        task = self.wait(manager.get_task())
        assert task is not None
        return task


class Agent(AgentExecutor):
    """An agent that says what it is told to. One that `speaks_on` does not return with its last word."""

    def __init__(self, *, speaks_on: bool) -> None:
        self._speaks_on = speaks_on
        self.at_work: dict[str, asyncio.Queue[tuple[TaskState, asyncio.Future[None]]]] = {}

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        task_id, context_id = str(context.task_id), str(context.context_id)
        if context.current_task is None:
            await event_queue.enqueue_event(_new_task(task_id, context_id))
        else:
            await TaskUpdater(event_queue, task_id, context_id).start_work()
        orders = self.at_work[task_id] = asyncio.Queue()
        try:
            state = TaskState.TASK_STATE_WORKING
            while self._speaks_on or state == TaskState.TASK_STATE_WORKING:
                state, said = await orders.get()
                # A new one each time, as code has it that reports from several places: one alone refuses by itself.
                try:
                    await TaskUpdater(event_queue, task_id, context_id).update_status(state)
                except asyncio.CancelledError:
                    said.set_exception(EventRefused("the server stopped the agent"))
                    raise
                except Exception as error:
                    said.set_exception(error)
                else:
                    said.set_result(None)
        finally:
            if self.at_work.get(task_id) is orders:
                del self.at_work[task_id]

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        await TaskUpdater(event_queue, str(context.task_id), str(context.context_id)).cancel()


class ServedTasks(Waiting):
    """A `DefaultRequestHandler`: clients send and cancel, and an agent reports by `TaskUpdater`.

    An agent that keeps its contract has returned when its task has ended, and cannot be made to say more.
    """

    refused: tuple[type[Exception], ...] = REFUSALS
    lifecycle: Lifecycle = law_from(SERVED)
    name = "a2a-sdk, DefaultRequestHandler"

    def __init__(self, *, speaks_on: bool = False) -> None:
        super().__init__()
        self._agent = Agent(speaks_on=speaks_on)
        self._handler = self.wait(served(self._agent))

    def create(self) -> str:
        return self.wait(_new(self._handler))

    def send(self, run: str, event: RunEvent) -> None:
        self.wait(self._ask(run, event))

    def read(self, run: str) -> Mapping[str, Any]:
        return {"status": STATUSES[self.wait(_task(self._handler, run)).status.state]}

    def close(self) -> None:
        self.wait(self._handler.aclose())
        super().close()

    async def _ask(self, run: str, event: RunEvent) -> None:
        task = await _task(self._handler, run)
        status = STATUSES[task.status.state]
        look_whether_asked(self.lifecycle, status, event)
        orders = self._agent.at_work.get(run)
        if event is RunEvent.REQUEST_CANCEL:
            await self._handler.on_cancel_task(CancelTaskRequest(id=run), CONTEXT)
        elif event is RunEvent.SUBMIT_TOOL_OUTPUTS and (orders is None or status not in LIVE):
            await _send(self._handler, task)
        elif event in WORDS and orders is not None:
            said: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            orders.put_nowait((WORDS[event], said))
            await said
        else:
            raise EventNotOffered("the agent has returned")
        await _settle()
        if await _task(self._handler, run) == task:
            raise EventRefused("nothing was stored")


class EndsAtCancel(Agent):
    """An agent whose work is done, by chance, just when a client cancels it."""

    def __init__(self, ticks: int) -> None:
        super().__init__(speaks_on=False)
        self._ticks = ticks
        self._done = asyncio.Event()

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        task_id, context_id = str(context.task_id), str(context.context_id)
        await event_queue.enqueue_event(_new_task(task_id, context_id))
        await self._done.wait()
        await TaskUpdater(event_queue, task_id, context_id).complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        self._done.set()
        for _ in range(self._ticks):
            await asyncio.sleep(0)
        await super().cancel(context, event_queue)


def cancelled_as_it_ended(ticks: int) -> tuple[list[RunStatus], RunStatus]:
    """Cancel a task so many ticks after its work was done; return what a subscriber saw, and what is stored."""
    waiting = Waiting()
    try:
        return waiting.wait(_cancelled_as_it_ended(ticks))
    finally:
        waiting.close()


async def _cancelled_as_it_ended(ticks: int) -> tuple[list[RunStatus], RunStatus]:
    handler = await served(EndsAtCancel(ticks))
    task_id = await _new(handler)
    seen: list[RunStatus] = []
    begun = asyncio.Event()

    async def watch() -> None:
        async for event in handler.on_subscribe_to_task(SubscribeToTaskRequest(id=task_id), CONTEXT):
            assert isinstance(event, Task | TaskStatusUpdateEvent)
            seen.append(STATUSES[event.status.state])
            begun.set()

    watching = asyncio.create_task(watch())
    await begun.wait()
    with suppress(*REFUSALS):
        await handler.on_cancel_task(CancelTaskRequest(id=task_id), CONTEXT)
    await _settle()
    watching.cancel()
    await asyncio.wait([watching])
    stored = await _task(handler, task_id)
    await handler.aclose()
    return seen, STATUSES[stored.status.state]


async def served(agent: AgentExecutor) -> DefaultRequestHandler:
    card = AgentCard(
        name="tried",
        description="tried",
        version="1",
        supported_interfaces=[AgentInterface(url="http://a/", protocol_binding="JSONRPC", protocol_version="1.0")],
        capabilities=AgentCapabilities(streaming=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[AgentSkill(id="s", name="s", description="s", tags=["s"])],
    )
    return DefaultRequestHandler(agent, InMemoryTaskStore(), card)


async def _settle() -> None:
    for _ in range(40):  # until what was said has passed the server's queues
        await asyncio.sleep(0)


async def _new(handler: DefaultRequestHandler) -> str:
    task = await _send(handler, None)
    assert isinstance(task, Task)
    await _settle()
    return task.id


async def _send(handler: DefaultRequestHandler, task: Task | None) -> Task | Message:
    message = Message(message_id=str(uuid4()), role=Role.ROLE_USER, parts=[Part(text="go")])
    if task is not None:
        message.task_id, message.context_id = task.id, task.context_id
    at_once = SendMessageConfiguration(return_immediately=True)
    answer: Task | Message = await handler.on_message_send(
        SendMessageRequest(message=message, configuration=at_once), CONTEXT
    )
    return answer


async def _task(handler: DefaultRequestHandler, task_id: str) -> Task:
    task: Task | None = await handler.on_get_task(GetTaskRequest(id=task_id), CONTEXT)
    assert task is not None
    return task


def _new_task(task_id: str, context_id: str) -> Task:
    return Task(id=task_id, context_id=context_id, status=TaskStatus(state=TaskState.TASK_STATE_SUBMITTED))
