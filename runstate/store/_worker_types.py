"""The values that workers and stores exchange: leases, claims, outcomes, checkpoints."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
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
    "RetryRequest",
    "Settle",
    "SettleAndClaimResult",
    "SettleKey",
    "SweepResult",
    "detail_text",
    "event_errors",
]

SettleKey: TypeAlias = tuple[RunEvent, bool]
"""The event of an outcome, and whether it has a payload: anything other than exactly the used tokens."""

_REQUESTS: Final = (RunEvent.START, RunEvent.SUBMIT_TOOL_OUTPUTS, RunEvent.REQUEST_CANCEL)
_FIELDS: Final[tuple[StatusField, ...]] = ("required_action", "last_error", "incomplete_details", "usage")
_FIELDS_OF: Final[Mapping[RunEvent, tuple[StatusField, ...]]] = {
    event: tuple(field for field in _FIELDS if RUN_LIFECYCLE.is_present(field, RUN_LIFECYCLE.target_of(event)))
    for event in RUN_LIFECYCLE.events
    if event not in _REQUESTS
}
"""The fields that an outcome carries, by its event."""
OUTCOMES: Final[tuple[SettleKey, ...]] = tuple(
    (event, has_payload)
    for event, fields in _FIELDS_OF.items()
    for has_payload in (True, False)
    if has_payload or fields == ("usage",)
)
_ENDS: Final = frozenset(event for event, has_payload in OUTCOMES if not has_payload)


def event_errors(event: object) -> tuple[FieldError, ...]:
    """Return the errors of an outcome's event. Events that clients request, such as `REQUEST_CANCEL`, are errors."""
    if event in _FIELDS_OF:
        return ()
    return (FieldError("event", f"expected the event of an outcome, got {validators.preview(event)}"),)


@attrs.frozen
class Lease:
    """The session of a worker. While the lease is valid, only this worker can settle the runs that it has claimed.

    `Store.open_lease` makes one, and `Store.heartbeat` renews it.
    """

    token: int = attrs.field(repr=False)
    """A random number. Every write to a claimed run is conditional on it."""
    actor: str
    """The name of the worker in histories."""
    lease_s: float
    """For how many seconds the lease is valid after a renewal."""

    def __attrs_post_init__(self) -> None:
        raise_if_invalid(validators.identifier("actor", self.actor) + lease_seconds("lease_s", self.lease_s))


@attrs.frozen
class HeartbeatResult:
    """The result of a heartbeat."""

    held: bool
    """Whether the lease is valid. If not, other workers take over its runs."""
    runs: Mapping[int, RunStatus]
    """The statuses of the runs of the lease, by seq: in_progress, or cancelling if a cancel was requested."""


_NO_OUTPUTS: Final[Mapping[str, str]] = MappingProxyType({})


@attrs.define
class Claim:
    """A claimed run, with the data to continue it. Treat it as immutable (a frozen class takes longer to make)."""

    run: StoredRun
    checkpoint: Any = None
    """The last value saved by `save_checkpoint`. None if there is none."""
    usage: Usage = NO_USAGE
    """The tokens that earlier attempts have used, as far as they were saved."""
    tool_outputs: Mapping[str, str] = _NO_OUTPUTS
    """The outputs that were submitted last, by call id. Empty before the first tool round."""
    claimed_at_us: int = 0
    """When the run was claimed, in Unix microseconds of the database's clock."""


@attrs.frozen
class SettleAndClaimResult:
    """The result of `Store.settle_and_claim` and `Store.settle`."""

    claims: Sequence[Claim]
    """The claimed runs, by priority, then oldest first."""
    refused: Mapping[int, RunstateError]
    """The errors of the refused outcomes, by the seq of the run. With `OutcomeUnknown`, it may still be committed."""
    not_retried: Collection[int] = frozenset()
    """The seqs of the runs that ended in place of a retry: a cancel was requested, or the retry came too late."""


@attrs.frozen
class SweepResult:
    """The result of `Store.sweep`: the ids of the changed runs, and two numbers."""

    expired: tuple[str, ...] = ()
    """Runs whose deadline had passed."""
    failed: tuple[str, ...] = ()
    """Runs of dead workers that had no attempt left."""
    cancelled: tuple[str, ...] = ()
    """Cancelling runs of dead workers."""
    promoted: tuple[str, ...] = ()
    """Runs that became claimable: their `not_before` has passed, or their thread has become free."""
    expired_leases: int = 0
    """How many lapsed leases were closed."""
    orphaned: int = 0
    """How many runs wait to be taken over."""
    retries: int = 0
    """How many runs wait for a retry that is due."""

    @property
    def total(self) -> int:
        """How many runs were expired, failed or cancelled."""
        return len(self.expired) + len(self.failed) + len(self.cancelled)


class Checkpoint:
    """A JSON value that is saved for the next attempt of a run. It is checked and serialised once.

    Raises `InvalidRun` for a value that is not JSON, or longer than 16 Mi characters as JSON.
    """

    __slots__ = ("text",)

    def __init__(self, value: object, name: str = "checkpoint") -> None:
        """Serialise a value. Messages call it by `name`."""
        if not is_json(value):
            raise_if_invalid(tuple(iter_json_errors(name, value)))
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
        if len(text) > _MOST_CHECKPOINT:
            raise_if_invalid([FieldError(name, f"is too large: {len(text)} characters, at most {_MOST_CHECKPOINT}")])
        self.text: Final = text
        """The value as JSON."""

    def __repr__(self) -> str:
        return f"<Checkpoint of {len(self.text)} characters>"


_MOST_CHECKPOINT: Final = 16 * 1024 * 1024
_MOST_DETAIL: Final = 1_000_000  # characters of JSON


def detail_text(detail: JsonObject | None) -> str | None:
    """Return the detail of an entry as JSON text. Raises `InvalidRun` if it is not a JSON object, or is too large."""
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


@attrs.frozen
class RetryRequest:
    """How the attempt of an outcome is repeated instead of ending the run."""

    after_us: int
    """For how many microseconds the run waits."""
    is_failure: bool
    """Whether it counts as a failed attempt, in `StoredRun.failed`."""
    error: str
    """The error of the attempt, as JSON."""


@attrs.define
class Settle:
    """The outcome of a claimed run. Treat it as immutable (a frozen class takes a microsecond longer to make).

    Make one with `Settle.ended` or `Settle.of`. An outcome that is made directly has JSON texts, which are checked when
    it is settled.
    """

    run: StoredRun
    event: RunEvent
    usage: str | None = None
    noted: Usage | None = None
    """The used tokens of a run that waits for tools."""
    detail: str | None = None
    required_action: str | None = None
    last_error: str | None = None
    incomplete_details: str | None = None
    retry: RetryRequest | None = None
    """How the attempt is repeated, if the run need not end yet."""
    is_checked: bool = attrs.field(default=False, init=False, repr=False, eq=False)
    """Whether it was made from values, so that its JSON texts are correct."""

    @property
    def outcome(self) -> SettleKey:
        """The event, and whether there is a payload: anything other than exactly the used tokens."""
        bare = self.detail is self.required_action is self.last_error is self.incomplete_details is None
        return self.event, not bare or self.usage is None or self.noted is not None

    @classmethod
    def ended(cls, run: StoredRun, event: RunEvent, prompt_tokens: int = 0, completion_tokens: int = 0) -> Self:
        """Return an outcome that carries only the used tokens, such as `COMPLETE`. This is faster than `Settle.of`.

        Raises `InvalidRun` for an event that needs other values or is not an outcome, and for impossible numbers.

            Settle.ended(claim.run, RunEvent.COMPLETE, prompt_tokens=12, completion_tokens=30)
        """
        if event not in _ENDS:
            raise_if_invalid(event_errors(event) or [FieldError("event", f"a {event} carries more: use `Settle.of`")])
        if not (type(prompt_tokens) is int is type(completion_tokens) and prompt_tokens >= 0 <= completion_tokens):
            Usage(prompt_tokens, completion_tokens)  # this raises `InvalidRun`
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
        """Return the outcome of a claimed run, made from values.

        `usage` is what the run has used in total; for a run that waits for tools it is saved for later. `detail` is
        stored in the history. Raises `InvalidRun` for an event that is not an outcome, for missing values and values
        that do not belong to the event, and for a detail that is not a JSON object.
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

    @classmethod
    def retry_later(
        cls,
        run: StoredRun,
        last_error: LastError,
        *,
        after_s: float,
        is_failure: bool = True,
        usage: Usage = NO_USAGE,
        detail: JsonObject | None = None,
    ) -> Self:
        """Return the end of an attempt that is to be repeated after `after_s` seconds, by any worker.

        The run stays in progress, without a worker, until then. If the retry would come at or after the deadline, the
        run fails with `last_error` instead; if a cancel was requested, the run is cancelled. `is_failure` is whether
        the attempt is counted in `StoredRun.failed`. `usage` is what the run has used in total, `detail` is stored with
        the attempt, or in the history if the run fails. Raises `InvalidRun` for wrong values.
        """
        raise_if_invalid(_DELAY("after_s", after_s))
        settle = cls.of(run, RunEvent.FAIL, usage=usage, last_error=last_error, detail=detail)
        told = {"code": last_error.code, "message": last_error.message, **(detail or {})}
        settle.retry = RetryRequest(int(after_s * 1_000_000), is_failure, json.dumps(told, separators=(",", ":")))
        settle.noted = None if usage == NO_USAGE else usage
        return settle


_DELAY: Final = validators.number(0, validators.YEAR_10000)
_NO_USAGE_TEXT: Final = '{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}'


def _usage_text(prompt: int, completion: int) -> str:
    if not (prompt or completion):
        return _NO_USAGE_TEXT
    return f'{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{prompt + completion}}}'
