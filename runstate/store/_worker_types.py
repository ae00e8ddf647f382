"""What a worker and a store exchange: leases, claims, outcomes, checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Self, TypeAlias, cast

import attrs

from runstate.lifecycle import RUN_LIFECYCLE, RunEvent, RunStatus, StatusField
from runstate.lifecycle.errors import RunstateError
from runstate.run import validators
from runstate.run.codec import json_text
from runstate.run.errors import FieldError
from runstate.run.json_values import is_json, iter_json_errors
from runstate.run.record import JsonObject
from runstate.run.values import NO_USAGE, IncompleteDetails, LastError, RequiredAction, Usage, raise_if_invalid
from runstate.store._types import StoredRun
from runstate.store.validators import lease_seconds

__all__ = [
    "OUTCOMES",
    "Checkpoint",
    "Claim",
    "HeartbeatResult",
    "Lease",
    "Settle",
    "SettleAndClaimResult",
    "SettleKey",
    "SweepResult",
    "detail_text",
    "event_errors",
]

SettleKey: TypeAlias = tuple[RunEvent, bool]
"""The event of an outcome, and whether it has a payload: more than the tokens used, or not even these."""

_REQUESTS: Final = (RunEvent.START, RunEvent.SUBMIT_TOOL_OUTPUTS, RunEvent.REQUEST_CANCEL)
_FIELDS: Final[tuple[StatusField, ...]] = ("required_action", "last_error", "incomplete_details", "usage")
_FIELDS_OF: Final[Mapping[RunEvent, tuple[StatusField, ...]]] = {
    event: tuple(field for field in _FIELDS if RUN_LIFECYCLE.is_present(field, RUN_LIFECYCLE.target_of(event)))
    for event in RUN_LIFECYCLE.events
    if event not in _REQUESTS
}
"""What a run has after the event of an outcome, of the fields that an outcome carries."""
OUTCOMES: Final[tuple[SettleKey, ...]] = tuple(
    (event, has_payload)
    for event, fields in _FIELDS_OF.items()
    for has_payload in (True, False)
    if has_payload or fields == ("usage",)
)
_ENDS: Final = frozenset(event for event, has_payload in OUTCOMES if not has_payload)


def event_errors(event: object) -> tuple[FieldError, ...]:
    """Return what is wrong with the event of an outcome: a request to a run is none."""
    if event in _FIELDS_OF:
        return ()
    return (FieldError("event", f"expected the event of an outcome, got {validators.preview(event)}"),)


@attrs.frozen
class Lease:
    """A worker's session: while it is renewed, the runs that carry its token are this worker's."""

    token: int = attrs.field(repr=False)
    """Unguessable; every write to a claimed run is conditional on it."""
    actor: str
    """The worker's name, for histories."""
    lease_s: float

    def __attrs_post_init__(self) -> None:
        raise_if_invalid(validators.identifier("actor", self.actor) + lease_seconds("lease_s", self.lease_s))


@attrs.frozen
class HeartbeatResult:
    """The answer to a heartbeat."""

    held: bool
    """Whether the lease still holds. If not, its runs are another worker's, or will be."""
    runs: Mapping[int, RunStatus]
    """Where its runs stand, by seq: in_progress, or cancelling because a cancel was requested."""


_NO_OUTPUTS: Final[Mapping[str, str]] = MappingProxyType({})


@attrs.define
class Claim:
    """A claimed run, and what its handler goes on with. It is never changed (a frozen class takes longer to make)."""

    run: StoredRun
    checkpoint: Any = None
    """What was kept by `save_checkpoint` last; None if nothing was."""
    usage: Usage = NO_USAGE
    """The tokens that earlier attempts are known to have used."""
    tool_outputs: Mapping[str, str] = _NO_OUTPUTS
    """The outputs that were submitted last, by call id; empty before any tool round."""
    claimed_at_us: int = 0
    """When this worker got it, in Unix microseconds by the database's clock."""


@attrs.frozen
class SettleAndClaimResult:
    """The answer to a settle and claim."""

    claims: Sequence[Claim]
    """The runs that were claimed, by priority, then oldest first."""
    refused: Mapping[int, RunstateError]
    """Why outcomes were refused, by the seq of their run. `OutcomeUnknown`: it may still be committed."""


@attrs.frozen
class SweepResult:
    """What a sweep did: the ids of the runs it moved, by what became of them."""

    expired: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    cancelled: tuple[str, ...] = ()
    promoted: tuple[str, ...] = ()
    """Runs that may be claimed now: their time has come, or their thread is free."""
    expired_leases: int = 0
    """How many leases had lapsed, and were closed."""
    orphaned: int = 0
    """How many runs wait to be taken over."""

    @property
    def total(self) -> int:
        """How many runs were moved."""
        return len(self.expired) + len(self.failed) + len(self.cancelled)


class Checkpoint:
    """A JSON value to be kept for the next attempt of a run, checked and serialised once.

    Raises `InvalidRun` for a value that is not JSON, or longer than 16 Mi characters as JSON.
    """

    __slots__ = ("text",)

    def __init__(self, value: object) -> None:
        if not is_json(value):
            raise_if_invalid(tuple(iter_json_errors("checkpoint", value)))
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
        if len(text) > _MOST_CHECKPOINT:
            raise_if_invalid(
                [FieldError("checkpoint", f"is too large: {len(text)} characters, at most {_MOST_CHECKPOINT}")]
            )
        self.text: Final = text
        """The value as JSON."""

    def __repr__(self) -> str:
        return f"<Checkpoint of {len(self.text)} characters>"


_MOST_CHECKPOINT: Final = 16 * 1024 * 1024
_MOST_DETAIL: Final = 1_000_000  # characters of JSON


def detail_text(detail: JsonObject | None) -> str | None:
    """Return the detail of an entry as JSON text. Raises `InvalidRun` if it is no JSON object, or too large."""
    if detail is None:
        return None
    if not isinstance(cast("object", detail), Mapping) or not is_json(detail):
        raise_if_invalid(validators.extra("detail", detail) or [FieldError("detail", "expected a JSON object")])
    text = json.dumps(detail, separators=(",", ":"), allow_nan=False)
    if len(text) > _MOST_DETAIL:
        raise_if_invalid(
            [FieldError("detail", f"is too large: {len(text)} characters of JSON, at most {_MOST_DETAIL}")]
        )
    return text


@attrs.define
class Settle:
    """The outcome of a claimed run. It is never changed (a frozen class takes a microsecond longer to make).

    `Settle.of` makes one of values. An outcome of JSON texts is checked when it is settled.
    """

    run: StoredRun
    event: RunEvent
    usage: str | None = None
    noted: Usage | None = None
    """What it has used, to be remembered while it waits for its tools."""
    detail: str | None = None
    required_action: str | None = None
    last_error: str | None = None
    incomplete_details: str | None = None
    is_checked: bool = attrs.field(default=False, init=False, repr=False, eq=False)
    """Whether it was made of values, and not of JSON texts that may be wrong."""

    @property
    def outcome(self) -> SettleKey:
        """Its event, and whether it has a payload: more than the tokens it used, or not even these."""
        bare = self.detail is self.required_action is self.last_error is self.incomplete_details is None
        return self.event, not bare or self.usage is None or self.noted is not None

    @classmethod
    def ended(cls, run: StoredRun, event: RunEvent, prompt_tokens: int = 0, completion_tokens: int = 0) -> Self:
        """Return an end that carries the tokens used, and no more.

        Raises `InvalidRun` for an event that carries more, or ends no attempt, and for impossible numbers.
        """
        if event not in _ENDS:
            raise_if_invalid(event_errors(event) or [FieldError("event", f"a {event} carries more: use `Settle.of`")])
        if not (type(prompt_tokens) is int is type(completion_tokens) and prompt_tokens >= 0 <= completion_tokens):
            Usage(prompt_tokens, completion_tokens)  # which says what is wrong
        settle = cls(run, event, _usage_text(prompt_tokens, completion_tokens))
        settle.is_checked = True
        return settle

    @classmethod
    def of(
        cls,
        run: StoredRun,
        event: RunEvent,
        *,
        usage: Usage = NO_USAGE,
        required_action: RequiredAction | None = None,
        last_error: LastError | None = None,
        incomplete_details: IncompleteDetails | None = None,
        detail: JsonObject | None = None,
    ) -> Self:
        """Return the outcome of a claimed run, from values.

        `usage` is what the run has used in all; of one that waits for its tools it is remembered. `detail` goes into
        the history. Raises `InvalidRun` for an event that ends no attempt, for values that do not belong to it, and
        for a detail that is no JSON object.
        """
        raise_if_invalid(event_errors(event))
        carried = {
            "required_action": required_action,
            "last_error": last_error,
            "incomplete_details": incomplete_details,
        }
        needed = _FIELDS_OF[event]
        raise_if_invalid(
            [
                FieldError(name, f"expected one with {event}" if value is None else f"is not carried by {event}")
                for name, value in carried.items()
                if (value is not None) != (name in needed)
            ]
        )
        if event is RunEvent.REQUIRE_ACTION:
            required = json_text(required_action)
            told = f'{{"required_action":{required}}}'
            settle = cls(run, event, noted=None if usage == NO_USAGE else usage, required_action=required, detail=told)
        else:
            settle = cls(
                run,
                event,
                _usage_text(usage.prompt_tokens, usage.completion_tokens),
                last_error=json_text(last_error),
                incomplete_details=json_text(incomplete_details),
                detail=detail_text(detail),
            )
        settle.is_checked = True
        return settle


_NO_USAGE_TEXT: Final = '{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}'


def _usage_text(prompt: int, completion: int) -> str:
    if not (prompt or completion):
        return _NO_USAGE_TEXT
    return f'{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{prompt + completion}}}'
