"""The mock server of `openai-responses`, called by the real `openai` client.

It answers a client's calls, and nobody works on its runs: what a worker does is done here by the author of a test, who
puts the run into `OpenAIMock.state`, and only where the law has it. What is judged is therefore cancel and
submit_tool_outputs. The law is that of runs, but for one thing: the mock confirms a cancel at once, which is fair.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import openai
from openai.types.beta.threads.run import LastError, RequiredAction
from openai_responses import OpenAIMock

from runstate import RUN_LIFECYCLE, Lifecycle, RunEvent, RunStatus
from runstate.testing.conformance import EventNotOffered

__all__ = ["MockedRuns"]

CANCELLED_AT_ONCE: Final = Lifecycle(
    tuple(
        row._replace(target=RunStatus.CANCELLED, stamp="cancelled_at") if row.event is RunEvent.REQUEST_CANCEL else row
        for row in RUN_LIFECYCLE.transitions
        if row.source is not RunStatus.CANCELLING and row.event is not RunEvent.CONFIRM_CANCEL
    )
)
STAMPS: Final = ("started_at", "completed_at", "failed_at", "cancelled_at")  # its runs have no expires_at
CALL: Final = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
ASKS: Final = {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": [CALL]}}


class MockedRuns:
    """Runs of one mocked server, each on a thread of its own."""

    refused: tuple[type[Exception], ...] = (openai.BadRequestError,)
    lifecycle: Lifecycle = CANCELLED_AT_ONCE
    name = "openai-responses"

    def __init__(self) -> None:
        self._mock = OpenAIMock()
        self._mock.router.start()
        self._client = openai.OpenAI(api_key="sk-none", max_retries=0)
        with self._beta() as beta:
            self._assistant_id = beta.assistants.create(model="gpt-4o").id

    def create(self) -> tuple[str, str]:
        with self._beta() as beta:
            thread_id = beta.threads.create().id
            return thread_id, beta.threads.runs.create(thread_id, assistant_id=self._assistant_id).id

    def send(self, run: tuple[str, str], event: RunEvent) -> None:
        thread_id, run_id = run
        with self._beta() as beta:
            if event is RunEvent.REQUEST_CANCEL:
                beta.threads.runs.cancel(run_id, thread_id=thread_id)
            elif event is RunEvent.SUBMIT_TOOL_OUTPUTS:
                outputs = [{"tool_call_id": CALL["id"], "output": "2"}]
                beta.threads.runs.submit_tool_outputs(run_id, thread_id=thread_id, tool_outputs=outputs)
            else:
                self._put(run, event)

    def read(self, run: tuple[str, str]) -> Mapping[str, Any]:
        found = self._retrieve(run)
        return {name: getattr(found, name) for name in ("status", *STAMPS)}

    def close(self) -> None:
        self._client.close()
        self._mock.router.stop(quiet=True)

    @contextmanager
    def _beta(self) -> Iterator[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # which the client says at every call
            yield self._client.beta

    def _retrieve(self, run: tuple[str, str]) -> Any:
        with self._beta() as beta:
            return beta.threads.runs.retrieve(run[1], thread_id=run[0])

    def _put(self, run: tuple[str, str], event: RunEvent) -> None:
        """Put a run where the law has it after an event, as the author of a test does."""
        held = self._retrieve(run)
        row = self.lifecycle.find(held.status, event)
        if row is None:
            raise EventNotOffered("nobody works on a mocked run")
        held.status = row.target.value
        if row.stamp is not None:
            setattr(held, row.stamp, int(time.time()))
        waits, failed = row.target is RunStatus.REQUIRES_ACTION, row.target is RunStatus.FAILED
        held.required_action = RequiredAction.model_validate(ASKS) if waits else None
        held.last_error = LastError(code="server_error", message="it broke") if failed else None
        self._mock.state.beta.threads.runs.put(held)
