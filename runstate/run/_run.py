"""The run in memory: its creation and the nine moves.

Every move reads the clock and checks its arguments, then checks the status and writes. Between that check and the last
write there is no call, so no other thread can run in between: of several threads one wins, and the others are refused
by the status that it left. (The global interpreter lock of CPython guarantees that. Without it, or with several
processes, runs belong in a store.)

Each move has its writes, one a line, because a shared helper would be such a call. A test compares them with all rows
of the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NoReturn, Self, cast, get_args

from runstate.clock import current as _clock
from runstate.lifecycle import INITIAL_STATUS, RUN_LIFECYCLE, RunEvent
from runstate.run import validators
from runstate.run.arguments import Calls, GivenUsage, required_action_of, usage_of
from runstate.run.errors import FieldError, InvalidRun, ToolOutputsMismatch
from runstate.run.ids import new_run_id
from runstate.run.record import FIELDS, JsonObject, ResponseFormat, ToolChoice
from runstate.run.settings import AUTO, DEFAULT_CHOICES, DEFAULTS, NO_PAIRS, Settings, are_valid, checked, copied
from runstate.run.snapshot import RunSnapshot
from runstate.run.tool_outputs import normalize
from runstate.run.values import (
    NO_USAGE,
    ErrorCode,
    IncompleteDetails,
    IncompleteReason,
    LastError,
    RequiredAction,
    TruncationStrategy,
    raise_if_invalid,
)

__all__ = ["DEFAULT_EXPIRES_IN_S", "Run"]

DEFAULT_EXPIRES_IN_S: Final = 600  # 725 of 725 recorded runs

# What each move needs of the table, looked up once.
_START, _REQUIRE, _SUBMIT = RunEvent.START, RunEvent.REQUIRE_ACTION, RunEvent.SUBMIT_TOOL_OUTPUTS
_REQUEST, _CONFIRM = RunEvent.REQUEST_CANCEL, RunEvent.CONFIRM_CANCEL
_COMPLETE, _MARK_INCOMPLETE, _FAIL, _EXPIRE = (
    RunEvent.COMPLETE,
    RunEvent.MARK_INCOMPLETE,
    RunEvent.FAIL,
    RunEvent.EXPIRE,
)
_MAY_START, _STARTED = RUN_LIFECYCLE.sources_of(_START), RUN_LIFECYCLE.target_of(_START)
_MAY_REQUIRE, _REQUIRED = RUN_LIFECYCLE.sources_of(_REQUIRE), RUN_LIFECYCLE.target_of(_REQUIRE)
_MAY_SUBMIT, _SUBMITTED = RUN_LIFECYCLE.sources_of(_SUBMIT), RUN_LIFECYCLE.target_of(_SUBMIT)
_MAY_REQUEST, _REQUESTED = RUN_LIFECYCLE.sources_of(_REQUEST), RUN_LIFECYCLE.target_of(_REQUEST)
_MAY_CONFIRM, _CONFIRMED = RUN_LIFECYCLE.sources_of(_CONFIRM), RUN_LIFECYCLE.target_of(_CONFIRM)
_MAY_COMPLETE, _COMPLETED = RUN_LIFECYCLE.sources_of(_COMPLETE), RUN_LIFECYCLE.target_of(_COMPLETE)
_MAY_MARK_INCOMPLETE, _INCOMPLETE = (
    RUN_LIFECYCLE.sources_of(_MARK_INCOMPLETE),
    RUN_LIFECYCLE.target_of(_MARK_INCOMPLETE),
)
_MAY_FAIL, _FAILED = RUN_LIFECYCLE.sources_of(_FAIL), RUN_LIFECYCLE.target_of(_FAIL)
_MAY_EXPIRE, _EXPIRED = RUN_LIFECYCLE.sources_of(_EXPIRE), RUN_LIFECYCLE.target_of(_EXPIRE)
_refusal = RUN_LIFECYCLE.refusal

_NOTHING: Final[JsonObject] = {}
_NAMES: Final = ("id", "thread_id", "assistant_id", "model")
_POSITIVE: Final = validators.integer(least=1)

_ERROR_CODES: Final[frozenset[str]] = frozenset(get_args(ErrorCode))
_INCOMPLETE_DETAILS: Final[Mapping[str, IncompleteDetails]] = {
    word: IncompleteDetails(word) for word in get_args(IncompleteReason)
}


def _checked_time(at: int) -> int:
    """Return a time that a caller gave, in Unix seconds. Raises `InvalidRun` if it is not one."""
    if at.__class__ is not int or not 0 <= at < validators.YEAR_10000:
        raise_if_invalid(validators.seconds("at", at))
    return at


def _unknown_word(words: Iterable[str], path: str, value: object) -> InvalidRun:
    return InvalidRun(
        [FieldError(path, f"expected {' or '.join(map(repr, sorted(words)))}, got {validators.preview(value)}")]
    )


def _deadline_errors(created_at: int, expires_in_s: int) -> tuple[FieldError, ...]:
    errors = _POSITIVE("expires_in_s", expires_in_s)
    if not errors and expires_in_s >= validators.YEAR_10000 - created_at:
        return (
            FieldError("expires_in_s", f"the deadline, {validators.preview(expires_in_s)} s on, is past the year 9999"),
        )
    return errors


def _check_names(positional: tuple[object, ...], attributes: Mapping[str, object]) -> None:
    """Raise TypeError unless these are the attributes of an existing run."""
    missing = [name for name in ("id", "created_at", "thread_id", "assistant_id", "status") if name not in attributes]
    unknown = [name for name in attributes if name not in FIELDS and name != "extra"]
    if positional or missing or unknown:
        wrong = "takes its attributes by name" if positional else f"lacks {', '.join(missing)}" if missing else ""
        wrong = wrong or f"has no attribute {', '.join(unknown)} to give"
        raise TypeError(
            f"Run(...) is a run that exists already, and {wrong}: "
            "Run.create(...) makes a new run, Run.from_dict(...) reads one from JSON"
        )


_MEANT: Final = {
    **dict.fromkeys(("cancel", "abort", "stop"), "request_cancel"),
    **dict.fromkeys(("completed", "finish", "done"), "complete"),
    "submit": "submit_tool_outputs",
    "failed": "fail",
    "incomplete": "mark_incomplete",
}
"""Moves by the names that are tried instead."""


class Run(RunSnapshot):
    """A run in memory: the `thread.run` of the Assistants API. Only the nine moves change it, in place, all or nothing.

    `Run.create` makes a new run, and `Run.from_dict` and `Run.from_json` read one. Every move takes `at`, the time in
    Unix seconds; the default is the current time of the clock. A usage is a `Usage`, or the API's object for it.

    A move raises `IllegalTransition` if the lifecycle does not allow it in the status of the run (`TerminalStatus` if
    the run has ended), and `InvalidRun` for wrong arguments. Neither changes the run. docs/lifecycle.md has the stamps
    of each move. `attrs.evolve` refuses a run, because it could set a status that no move has led to.

    >>> run = Run.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o", at=1_700_000_000)
    >>> run.start(at=1_700_000_001)
    >>> run.complete({"prompt_tokens": 12, "completion_tokens": 30}, at=1_700_000_004)
    >>> run.status, run.completed_at, run.expires_at
    (<RunStatus.COMPLETED: 'completed'>, 1700000004, None)
    """

    __slots__ = ()

    if not TYPE_CHECKING:  # a type checker knows the attributes from the base class

        def __getattr__(self, name: str) -> NoReturn:
            meant = _MEANT.get(name)
            hint = "" if meant is None else f": write run.{meant}(...)"
            raise AttributeError(f"a run has no {name!r}{hint}", name=name, obj=self)

        def __init__(self, *positional: object, **attributes: object) -> None:
            _check_names(positional, attributes)
            super().__init__(**attributes)

    @classmethod
    def create(
        cls,
        *,
        thread_id: str,
        assistant_id: str,
        model: str,
        id: str | None = None,  # noqa: A002
        instructions: str | None = None,
        tools: Sequence[JsonObject] | None = (),
        metadata: Mapping[str, str] | None = NO_PAIRS,
        max_prompt_tokens: int | None = None,
        max_completion_tokens: int | None = None,
        truncation_strategy: TruncationStrategy | JsonObject | None = AUTO,
        tool_choice: ToolChoice | None = "auto",
        parallel_tool_calls: bool | None = True,
        response_format: ResponseFormat | None = "auto",
        temperature: float | None = 1.0,
        top_p: float | None = 1.0,
        expires_in_s: int = DEFAULT_EXPIRES_IN_S,
        at: int | None = None,
    ) -> Self:
        """Return a new run: queued, with its deadline `expires_in_s` seconds after its creation.

        Without `id` it gets a new one (`new_run_id`). A setting of None means the default, as in the API. `at` is the
        time of creation, in Unix seconds. Raises `InvalidRun` with all errors of the arguments.
        """
        now = _clock.time() if at is None else _checked_time(at)
        created_at = int(now)
        given: Settings = (instructions, tools, metadata, max_prompt_tokens, max_completion_tokens)
        chosen: Settings = (truncation_strategy, tool_choice, parallel_tool_calls, response_format, temperature, top_p)
        # Names that begin with a printable character of ASCII are certainly neither empty nor blank.
        has_plain_names = (
            (thread_id.__class__ is assistant_id.__class__ is model.__class__ is str)
            and ("!" <= thread_id < "\x7f" and "!" <= assistant_id < "\x7f" and "!" <= model < "\x7f")
            and (id is None or (id.__class__ is str and "!" <= id < "\x7f"))
        )
        has_valid_deadline = expires_in_s.__class__ is int and 0 < expires_in_s < validators.YEAR_10000 - created_at
        # A run without settings is common, and the checks of settings cost more than its creation. (1 equals True and
        # 1.0, so the classes of booleans and numbers are compared.)
        has_classes = parallel_tool_calls is True and temperature.__class__ is top_p.__class__ is float
        has_default_choices = has_classes and chosen == DEFAULT_CHOICES
        settings: Settings | None = None
        if has_plain_names and has_valid_deadline and (has_default_choices or are_valid(chosen)):
            # An empty object of the caller is equal, and not the same.
            settings = DEFAULTS if given == DEFAULTS else copied(given)
        if settings is None:
            names = zip(_NAMES, ("-" if id is None else id, thread_id, assistant_id, model), strict=True)
            errors = [error for name, value in names for error in validators.non_blank_string(name, value)]
            settings, chosen = checked(given, chosen, errors)
            raise_if_invalid(errors if has_valid_deadline else [*errors, *_deadline_errors(created_at, expires_in_s)])
        elif has_default_choices:
            chosen = DEFAULT_CHOICES
        run = cls.__new__(cls)
        run._id = new_run_id(now) if id is None else id
        run._created_at = created_at
        run._expires_at = created_at + expires_in_s
        run._status = INITIAL_STATUS
        run._thread_id = thread_id
        run._assistant_id = assistant_id
        run._model = model
        run._instructions, run._tools, run._metadata, run._max_prompt_tokens, run._max_completion_tokens = settings
        (
            run._truncation_strategy,
            run._tool_choice,
            run._parallel_tool_calls,
            run._response_format,
            run._temperature,
            run._top_p,
        ) = chosen
        run._started_at = run._cancelled_at = run._failed_at = run._completed_at = None
        run._required_action = run._last_error = run._incomplete_details = run._usage = None
        run._extra = _NOTHING
        return run

    # --- the nine moves -------------------------------------------------------------------------------------------

    def start(self, *, at: int | None = None) -> None:
        """Start or resume the work: in_progress. Stamps `started_at` again each time."""
        at = int(_clock.time()) if at is None else _checked_time(at)
        if (status := self._status) not in _MAY_START:
            raise _refusal(self._id, status, _START)
        self._status = _STARTED
        self._started_at = at

    def require_action(self, calls: Calls, *, at: int | None = None) -> None:
        """Wait for the outputs of `calls` (at least one): requires_action. Stamps nothing; `at` is only checked.

        The calls are a `RequiredAction`, one `ToolCall` or several, or JSON of the API: objects like
        `{"id": ..., "type": "function", "function": {"name": ..., "arguments": ...}}`, or all of `required_action`.
        """
        if at is not None:
            _checked_time(at)
        action = calls if isinstance(calls, RequiredAction) else required_action_of(calls)
        if (status := self._status) not in _MAY_REQUIRE:
            raise _refusal(self._id, status, _REQUIRE)
        self._status = _REQUIRED
        self._required_action = action

    def submit_tool_outputs(
        self, outputs: Mapping[str, str] | Sequence[Mapping[str, str]], *, at: int | None = None
    ) -> None:
        """Submit the outputs of all calls: queued again, for the next free worker. `at` is only checked.

        The outputs are `{call id: output}`, or the list of the API: `[{"tool_call_id": ..., "output": ...}]`.

        Raises `ToolOutputsMismatch` unless the ids are exactly those of the required calls. The run does not keep the
        outputs; they belong to the thread.
        """
        if at is not None:
            _checked_time(at)
        answers = normalize(outputs)
        action = self._required_action
        fits = action is not None and answers.keys() == action.id_set
        if (status := self._status) not in _MAY_SUBMIT:
            raise _refusal(self._id, status, _SUBMIT)
        if not fits or self._required_action is not action:
            action = self._required_action
            raise ToolOutputsMismatch(self._id, () if action is None else action.call_ids, tuple(answers))
        self._status = _SUBMITTED
        self._required_action = None

    def request_cancel(self, *, at: int | None = None) -> None:
        """Request a cancel: cancelling, until the worker confirms it or ends the run. `at` is only checked."""
        if at is not None:
            _checked_time(at)
        if (status := self._status) not in _MAY_REQUEST:
            raise _refusal(self._id, status, _REQUEST)
        self._status = _REQUESTED
        self._required_action = None

    def confirm_cancel(self, usage: GivenUsage | None = None, *, at: int | None = None) -> None:
        """Confirm that the work has stopped: cancelled. Stamps `cancelled_at`."""
        at = int(_clock.time()) if at is None else _checked_time(at)
        usage = NO_USAGE if usage is None else usage_of(usage)
        if (status := self._status) not in _MAY_CONFIRM:
            raise _refusal(self._id, status, _CONFIRM)
        self._status = _CONFIRMED
        self._cancelled_at = at
        self._expires_at = None
        self._usage = usage

    def complete(self, usage: GivenUsage | None = None, *, at: int | None = None) -> None:
        """Complete the run: completed. Stamps `completed_at`. Also legal in cancelling, if the end wins the race."""
        at = int(_clock.time()) if at is None else _checked_time(at)
        usage = NO_USAGE if usage is None else usage_of(usage)
        if (status := self._status) not in _MAY_COMPLETE:
            raise _refusal(self._id, status, _COMPLETE)
        self._status = _COMPLETED
        self._completed_at = at
        self._expires_at = None
        self._usage = usage

    def mark_incomplete(
        self, reason: IncompleteReason, usage: GivenUsage | None = None, *, at: int | None = None
    ) -> None:
        """End the run at a token limit: incomplete. Stamps `completed_at`.

        `reason` is `"max_completion_tokens"` or `"max_prompt_tokens"`; see `over_budget`.
        """
        at = int(_clock.time()) if at is None else _checked_time(at)
        usage = NO_USAGE if usage is None else usage_of(usage)
        if not isinstance(cast("object", reason), str) or reason not in _INCOMPLETE_DETAILS:
            raise _unknown_word(_INCOMPLETE_DETAILS, "reason", reason)
        details = _INCOMPLETE_DETAILS[reason]
        if (status := self._status) not in _MAY_MARK_INCOMPLETE:
            raise _refusal(self._id, status, _MARK_INCOMPLETE)
        self._status = _INCOMPLETE
        self._completed_at = at
        self._expires_at = None
        self._incomplete_details = details
        self._usage = usage

    def fail(self, code: ErrorCode, message: str, usage: GivenUsage | None = None, *, at: int | None = None) -> None:
        """End the run by an error: failed, with `last_error`. Stamps `failed_at`.

        `code` is `"server_error"`, `"rate_limit_exceeded"` or `"invalid_prompt"`.
        """
        at = int(_clock.time()) if at is None else _checked_time(at)
        usage = NO_USAGE if usage is None else usage_of(usage)
        if not isinstance(cast("object", code), str) or code not in _ERROR_CODES:
            raise _unknown_word(_ERROR_CODES, "code", code)
        error = LastError(str(code), message)
        if (status := self._status) not in _MAY_FAIL:
            raise _refusal(self._id, status, _FAIL)
        self._status = _FAILED
        self._failed_at = at
        self._expires_at = None
        self._required_action = None
        self._last_error = error
        self._usage = usage

    def expire(self, usage: GivenUsage | None = None, *, at: int | None = None) -> None:
        """End the run by its deadline: expired.

        Stamps `completed_at`. The caller checks whether it is due (`is_due`).
        """
        at = int(_clock.time()) if at is None else _checked_time(at)
        usage = NO_USAGE if usage is None else usage_of(usage)
        if (status := self._status) not in _MAY_EXPIRE:
            raise _refusal(self._id, status, _EXPIRE)
        self._status = _EXPIRED
        self._completed_at = at
        self._expires_at = None
        self._required_action = None
        self._usage = usage
