"""The nine moves of a stored run."""

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
    """The part of a store where runs are moved.

    Every move names the run by its id, and returns it as it stands afterwards. `actor` says who asked, for the
    history; `detail` is a JSON object kept with the entry; `expected_version` is for those who decided on a snapshot.

    Raises `IllegalTransition` (`TerminalStatus`) for a move that the lifecycle does not allow, with the run and
    what moved it there; `VersionConflict` for another version; `RunNotFound`; `InvalidRun` for impossible arguments.
    After any of them nothing has changed.
    """

    def start(self, run_id: str, *, actor: str | None = None, expected_version: int | None = None) -> StoredRun:
        """Begin by hand, without a lease: in_progress. Nobody takes such a run over; its deadline ends it."""
        return self._move(run_id, RunEvent.START, actor, expected_version)

    def require_action(
        self,
        run_id: str,
        calls: Calls,
        *,
        actor: str | None = None,
        expected_version: int | None = None,
    ) -> StoredRun:
        """Wait for the outputs of `calls`: requires_action. Whoever worked on it lets it go."""
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
        """Answer all calls at once: queued again. The outputs reach the handler, and stay in the history.

        Raises `ToolOutputsMismatch` unless the ids are exactly those of the required calls. The same outputs again,
        after a lost answer, are recognised.
        """
        answers = normalize(outputs)
        detail = json.dumps({"tool_outputs": answers}, separators=(",", ":"))
        return self._move(run_id, RunEvent.SUBMIT_TOOL_OUTPUTS, actor, expected_version, detail=detail, outputs=answers)

    def request_cancel(
        self, run_id: str, *, actor: str | None = None, expected_version: int | None = None
    ) -> StoredRun:
        """Ask that the run be cancelled: cancelling; cancelled at once where nobody works on it.

        The same request of the same actor again, after a lost answer, is recognised.
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
        """Say that the work has stopped: cancelled. Without a usage, what its workers noted is kept."""
        return self._move(run_id, RunEvent.CONFIRM_CANCEL, actor, expected_version, usage)

    def complete(
        self,
        run_id: str,
        usage: GivenUsage | None = None,
        *,
        actor: str | None = None,
        expected_version: int | None = None,
    ) -> StoredRun:
        """End well: completed. Also out of cancelling, when the end wins the race."""
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
        """End at a token limit: incomplete, with its reason."""
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
        """End by an error: failed, with `last_error`. What is not for the wire, such as a traceback, is `detail`."""
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
        """End by the deadline: expired. Whether it is due is the caller's to ask; `sweep` expires what is."""
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
