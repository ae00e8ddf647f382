"""The methods of a store that move runs: one per event."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

from runstate.lifecycle import RunEvent
from runstate.run import validators
from runstate.run.arguments import Calls, GivenUsage, required_action_of, usage_of
from runstate.run.codec import json_text
from runstate.run.errors import FieldError
from runstate.run.record import JsonObject
from runstate.run.tool_outputs import normalize
from runstate.run.values import (
    ErrorCode,
    IncompleteDetails,
    IncompleteReason,
    LastError,
    RequiredAction,
    raise_if_invalid,
)
from runstate.store._engine.commands import TransitionRun
from runstate.store._engine.transport import StoreBase
from runstate.store._types import StoredRun
from runstate.store._worker_types import detail_text

__all__ = ["TransitionMixin"]

_CODES: Final = get_args(ErrorCode)
_REASONS: Final = get_args(IncompleteReason)


def _one_of(words: Sequence[str], path: str, value: object) -> None:
    if value not in words:
        raise_if_invalid(
            [FieldError(path, f"expected {' or '.join(map(repr, sorted(words)))}, got {validators.preview(value)}")]
        )


class TransitionMixin(StoreBase):
    """The methods of a store that move runs.

    Each takes the id of the run, and returns the run after the move. `actor` is the name of the client, for the
    history. With `expected_version` the move is made only if the run has this version. `usage` is the total of the used
    tokens, as a `Usage` or the API's object; without it, the usage that workers have saved is kept.

    Raises `IllegalTransition` for a move that the lifecycle does not allow, with the current run; it is a
    `TerminalStatus` if the run has ended. Raises `VersionConflict` if the run has another version, `RunNotFound` for an
    unknown id, and `InvalidRun` for wrong arguments. None of them changes anything.
    """

    def start(self, run_id: str, *, actor: str | None = None, expected_version: int | None = None) -> StoredRun:
        """Start a queued run without a lease: in_progress. No worker takes such a run over; it ends at its deadline."""
        return self._move(run_id, RunEvent.START, actor, expected_version)

    def require_action(
        self,
        run_id: str,
        calls: Calls,
        *,
        actor: str | None = None,
        expected_version: int | None = None,
    ) -> StoredRun:
        """Let the run wait for the outputs of `calls`: requires_action. If a worker had the run, it no longer has it.

        `calls` are `ToolCall` objects, the API's tool call objects, or the API's whole `required_action`.
        """
        action = calls if isinstance(calls, RequiredAction) else required_action_of(calls)
        raise_if_invalid(action.unnamed)
        required = json_text(action)
        payload = {"required_action": required}
        detail = f'{{"required_action":{required}}}'
        return self._move(run_id, RunEvent.REQUIRE_ACTION, actor, expected_version, payload=payload, detail=detail)

    def submit_tool_outputs(
        self,
        run_id: str,
        outputs: Mapping[str, str] | Sequence[Mapping[str, str]],
        *,
        actor: str | None = None,
        expected_version: int | None = None,
    ) -> StoredRun:
        """Submit the outputs of all required calls: queued again.

        `outputs` are texts by call id, or the API's list of objects. They are passed to the handler, and kept in the
        history. If the same outputs are submitted again, after a lost reply, the current run is returned. Raises
        `ToolOutputsMismatch` unless the ids are exactly those of the required calls.

            store.submit_tool_outputs(run.id, {"call_1": "18 degrees"})
        """
        answers = normalize(outputs)
        detail = json.dumps({"tool_outputs": answers}, separators=(",", ":"))
        return self._move(run_id, RunEvent.SUBMIT_TOOL_OUTPUTS, actor, expected_version, detail=detail, outputs=answers)

    def request_cancel(
        self, run_id: str, *, actor: str | None = None, expected_version: int | None = None
    ) -> StoredRun:
        """Request a cancel: cancelling, or cancelled at once if no worker has the run.

        If the same actor requests it again, after a lost reply, the current run is returned.
        """
        return self._move(run_id, RunEvent.REQUEST_CANCEL, actor, expected_version)

    def confirm_cancel(
        self,
        run_id: str,
        usage: GivenUsage | None = None,
        *,
        actor: str | None = None,
        expected_version: int | None = None,
    ) -> StoredRun:
        """Confirm that the work on a cancelling run has stopped: cancelled."""
        return self._move(run_id, RunEvent.CONFIRM_CANCEL, actor, expected_version, usage)

    def complete(
        self,
        run_id: str,
        usage: GivenUsage | None = None,
        *,
        actor: str | None = None,
        expected_version: int | None = None,
    ) -> StoredRun:
        """Complete the run: completed. Allowed also while the run is cancelling."""
        return self._move(run_id, RunEvent.COMPLETE, actor, expected_version, usage)

    def mark_incomplete(
        self,
        run_id: str,
        reason: IncompleteReason,
        usage: GivenUsage | None = None,
        *,
        actor: str | None = None,
        expected_version: int | None = None,
    ) -> StoredRun:
        """End the run at a token limit: incomplete.

        `reason` is `"max_completion_tokens"` or `"max_prompt_tokens"`.
        """
        _one_of(_REASONS, "reason", reason)
        payload = {"incomplete_details": json_text(IncompleteDetails(reason))}
        return self._move(run_id, RunEvent.MARK_INCOMPLETE, actor, expected_version, usage, payload=payload)

    def fail(
        self,
        run_id: str,
        code: ErrorCode,
        message: str,
        usage: GivenUsage | None = None,
        *,
        actor: str | None = None,
        expected_version: int | None = None,
        detail: JsonObject | None = None,
    ) -> StoredRun:
        """Fail the run: failed, with `last_error`.

        `code` is `"server_error"`, `"rate_limit_exceeded"` or `"invalid_prompt"`. `detail` is a JSON object that is
        stored in the history only, such as a traceback.
        """
        _one_of(_CODES, "code", code)
        payload = {"last_error": json_text(LastError(code, message))}
        told = detail_text(detail)
        return self._move(run_id, RunEvent.FAIL, actor, expected_version, usage, payload=payload, detail=told)

    def expire(
        self,
        run_id: str,
        usage: GivenUsage | None = None,
        *,
        actor: str | None = None,
        expected_version: int | None = None,
    ) -> StoredRun:
        """Expire the run: expired. This does not check the deadline; `sweep` expires all runs that are due."""
        return self._move(run_id, RunEvent.EXPIRE, actor, expected_version, usage)

    def _move(
        self,
        run_id: str,
        event: RunEvent,
        actor: str | None,
        version: int | None,
        usage: GivenUsage | None = None,
        **params: Any,
    ) -> StoredRun:
        faults = validators.identifier("run_id", run_id)
        if actor is not None:
            faults += validators.identifier("actor", actor)
        if version is not None and (type(version) is not int or not 0 < version <= validators.INT64_MAX):
            faults += (FieldError("expected_version", f"expected a version, got {validators.preview(version)}"),)
        raise_if_invalid(faults)
        spent = None if usage is None else json_text(usage_of(usage))
        return self._transport.execute(
            TransitionRun(run_id, event, actor=actor, version=version, usage=spent, **params)
        )
