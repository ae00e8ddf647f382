"""Hypothesis strategies: legal paths, runs that such paths leave, illegal moves, and traces of pollers.

    @given(runs(["completed", "failed"]))
    def test_my_summary(run):
        assert summary(run).ended_at == (run.completed_at or run.failed_at)

All values are built from the table of transitions, so none is filtered out. Examples shrink to few events, default
settings and equal times. Texts have only what every database stores: no NUL and no lone surrogate.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast, get_args

try:
    from hypothesis import strategies as st
except ImportError as _missing:
    raise ImportError("runstate.testing.strategies needs Hypothesis: pip install hypothesis") from _missing

from runstate.lifecycle import INITIAL_STATUS, RUN_LIFECYCLE, Lifecycle, RunEvent, RunStatus, Stamp, StatusField
from runstate.run import Run
from runstate.run.validators import MAX_METADATA_KEY, MAX_METADATA_PAIRS, MAX_METADATA_VALUE
from runstate.run.values import (
    ErrorCode,
    IncompleteDetails,
    IncompleteReason,
    LastError,
    RequiredAction,
    ToolCall,
    TruncationStrategy,
    Usage,
)
from runstate.testing._send import send_event
from runstate.testing.matrix import Cell, refusals
from runstate.traces import FieldPattern, field_patterns

__all__ = ["illegal_moves", "instances", "paths", "runs", "traces"]

Statuses: TypeAlias = RunStatus | str | Iterable[RunStatus | str]
RunDict: TypeAlias = dict[str, Any]

_CREATED_AT: Final = st.integers(
    1_750_000_000, 1_900_000_000
)  # Unix seconds, later than the old recordings that the judge excuses
_SECONDS_BETWEEN: Final = st.integers(0, 3600)
_CHARACTERS: Final = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
_TEXTS: Final = st.text(_CHARACTERS, max_size=30)
_NAMES: Final = st.text(_CHARACTERS, min_size=1, max_size=30).filter(lambda name: not name.isspace())
_LIMITS: Final = st.integers(1, 1_000_000)

# --- paths ------------------------------------------------------------------------------------------------------------


def paths(
    max_events: int = 8, ends_in: Statuses | None = None, *, lifecycle: Lifecycle = RUN_LIFECYCLE
) -> st.SearchStrategy[Path]:
    """Return a strategy for legal paths from the initial status.

    A path has at most `max_events` events and ends in one of the statuses of `ends_in`, by default in any, all equally
    likely. It shrinks to shorter paths and to the earlier statuses of `ends_in`. Raises `ValueError` for an unknown
    status and for one that no path of that length leads to.

    >>> from hypothesis import find
    >>> [str(event) for event in find(paths(ends_in="cancelled"), lambda path: "start" in path)]
    ['start', 'request_cancel', 'confirm_cancel']
    """
    return st.sampled_from(_possible_ends(max_events, ends_in, lifecycle)).flatmap(
        lambda end: _paths_to(end, max_events, lifecycle)
    )


Path: TypeAlias = tuple[RunEvent, ...]


def _possible_ends(max_events: int, ends_in: Statuses | None, lifecycle: Lifecycle) -> list[RunStatus]:
    """Return the statuses in which a path may end. Raises `ValueError` if one of `ends_in` is too far."""
    shortest = {status: lifecycle.shortest_path(INITIAL_STATUS, status) for status in RunStatus}
    near = [status for status, path in shortest.items() if path is not None and len(path) <= max_events]
    if ends_in is None:
        wanted = near
    else:
        wanted = [RunStatus(status) for status in ([ends_in] if isinstance(ends_in, str) else ends_in)]
    far = [status for status in wanted if status not in near]
    if far or not wanted:
        listed = ", ".join(far) or "no status at all"
        raise ValueError(f"no legal path of at most {max_events} events ends in {listed}")
    return wanted


@st.composite
def _paths_to(draw: st.DrawFn, end: RunStatus, max_events: int, lifecycle: Lifecycle) -> Path:
    """Draw a possible length, then a path of that length, in each status only from events that still lead to `end`."""
    within: list[frozenset[RunStatus]] = [frozenset([end])]
    for _ in range(max_events):
        within.append(frozenset(row.source for row in lifecycle.transitions if row.target in within[-1]))
    length = draw(st.sampled_from([length for length, sources in enumerate(within) if INITIAL_STATUS in sources]))
    status = INITIAL_STATUS
    path: list[RunEvent] = []
    for left in reversed(range(length)):
        onward = [event for event in lifecycle.allowed_events(status) if lifecycle.target_of(event) in within[left]]
        event = draw(st.sampled_from(onward))
        status = lifecycle.target_of(event)
        path.append(event)
    return tuple(path)


# --- runs -------------------------------------------------------------------------------------------------------------


def runs(
    statuses: Statuses | None = None, max_events: int = 8, *, lifecycle: Lifecycle = RUN_LIFECYCLE
) -> st.SearchStrategy[Run]:
    """Return a strategy for runs in one of `statuses` that a legal history has left.

    It draws the path (at most `max_events` events, as `paths` does), its times, which never go back, the arguments of
    the events (calls, outputs, reasons, errors, usage), and the settings of the run. `lifecycle` may be a part of the
    table, such as `documented()`. Raises `ValueError` as `paths` does.

    >>> from hypothesis import find
    >>> run = find(runs(), lambda run: run.failed_at is not None)
    >>> run.status, run.last_error.code, run.usage.total_tokens
    (<RunStatus.FAILED: 'failed'>, 'server_error', 0)
    """
    return _histories(paths(max_events, statuses, lifecycle=lifecycle)).map(_run_of)


def illegal_moves(max_events: int = 8) -> st.SearchStrategy[tuple[Run, RunEvent]]:
    """Return a strategy for a run and an event that is illegal in its status: the 62 refusals, equally likely.

    >>> from hypothesis import find
    >>> run, event = find(illegal_moves(), lambda move: move[0].is_terminal)
    >>> event in run.allowed_events
    False
    """

    def run_in(cell: Cell) -> st.SearchStrategy[tuple[Run, RunEvent]]:
        return st.tuples(runs(cell.status, max_events), st.just(cell.event))

    near = _possible_ends(max_events, None, RUN_LIFECYCLE)
    return st.sampled_from([cell for cell in refusals() if cell.status in near]).flatmap(run_in)


_A_TOOL: Final[st.SearchStrategy[Mapping[str, Any]]] = st.one_of(
    st.sampled_from([{"type": "code_interpreter"}, {"type": "file_search"}]),
    _NAMES.map(lambda name: {"type": "function", "function": {"name": name}}),
)
_FORMATS: Final[Sequence[Any]] = (
    "auto",
    {"type": "text"},
    {"type": "json_object"},
    {"type": "json_schema", "json_schema": {}},
)
_TRUNCATIONS: Final = st.builds(TruncationStrategy) | st.integers(1, 100).map(
    lambda messages: TruncationStrategy("last_messages", messages)
)
_SETTINGS: Final = st.fixed_dictionaries(
    cast("dict[str, st.SearchStrategy[Any]]", {}),
    optional={
        "instructions": st.none() | _TEXTS,
        "tools": st.lists(_A_TOOL, max_size=4),
        "metadata": st.dictionaries(
            st.text(_CHARACTERS, max_size=MAX_METADATA_KEY),
            st.text(_CHARACTERS, max_size=MAX_METADATA_VALUE),
            max_size=MAX_METADATA_PAIRS,
        ),
        "max_prompt_tokens": st.none() | _LIMITS,
        "max_completion_tokens": st.none() | _LIMITS,
        "truncation_strategy": _TRUNCATIONS,
        "tool_choice": st.sampled_from(["auto", "none", "required"]) | _A_TOOL,
        "parallel_tool_calls": st.booleans(),
        "response_format": st.sampled_from(_FORMATS),
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0, 1),
        "expires_in_s": st.integers(1, 86_400),
    },
)
_A_USAGE: Final = st.builds(Usage, st.integers(0, 1_000_000), st.integers(0, 1_000_000))
_USAGES: Final = st.none() | _A_USAGE
_ARGUMENTS: Final = st.dictionaries(_NAMES, _TEXTS, max_size=3).map(json.dumps)
_A_CALL_OF_A_TOOL: Final = st.builds(ToolCall, _NAMES, _NAMES, _ARGUMENTS)
_CALLS: Final = st.lists(_A_CALL_OF_A_TOOL, min_size=1, max_size=4, unique_by=lambda call: call.id)
_ARGUMENTS_OF: Final[Mapping[RunEvent, Mapping[str, st.SearchStrategy[Any]]]] = {
    RunEvent.REQUIRE_ACTION: {"calls": _CALLS},
    RunEvent.MARK_INCOMPLETE: {"reason": st.sampled_from(get_args(IncompleteReason))},
    RunEvent.FAIL: {"code": st.sampled_from(get_args(ErrorCode)), "message": _TEXTS},
}


def _arguments_of(draw: st.DrawFn, event: RunEvent, run: Run) -> dict[str, Any]:
    """Draw the arguments of an event, apart from its time."""
    if event is RunEvent.SUBMIT_TOOL_OUTPUTS and run.required_action is not None:
        return {"outputs": {call_id: draw(_TEXTS) for call_id in run.required_action.call_ids}}
    arguments = {name: draw(strategy) for name, strategy in _ARGUMENTS_OF.get(event, {}).items()}
    return (
        {**arguments, "usage": draw(_USAGES)}
        if RUN_LIFECYCLE.is_present("usage", RUN_LIFECYCLE.target_of(event))
        else arguments
    )


def instances(kind: type) -> st.SearchStrategy[Any]:
    """Return the strategy for a class: `Run`, or a value inside a run. `st.from_type` gives the same.

    >>> from hypothesis import find
    >>> find(instances(Usage), lambda usage: usage.total_tokens > 5).total_tokens
    6
    """
    return _INSTANCES[kind]()


_INSTANCES: Final[Mapping[type, Callable[[], st.SearchStrategy[Any]]]] = {
    Run: runs,
    ToolCall: lambda: _A_CALL_OF_A_TOOL,
    RequiredAction: lambda: _CALLS.map(RequiredAction),
    LastError: lambda: st.builds(LastError, st.sampled_from(get_args(ErrorCode)), _TEXTS),
    IncompleteDetails: lambda: st.sampled_from(get_args(IncompleteReason)).map(IncompleteDetails),
    TruncationStrategy: lambda: _TRUNCATIONS,
    Usage: lambda: _A_USAGE,
}

RunHistory: TypeAlias = tuple[Run, list[RunDict]]


@st.composite
def _histories(draw: st.DrawFn, path_strategy: st.SearchStrategy[Path]) -> RunHistory:
    """Draw a run with its history: the run as JSON after its creation and after each event."""
    path = draw(path_strategy)
    at = draw(_CREATED_AT)
    settings: dict[str, Any] = {name: draw(_NAMES) for name in ("id", "thread_id", "assistant_id", "model")}
    if draw(st.booleans()):  # many runs have no other settings
        settings |= draw(_SETTINGS)
    run = Run.create(**settings, at=at)
    snapshots = [run.to_dict()]
    for event in path:
        at += draw(_SECONDS_BETWEEN)
        send_event(run, event, **_arguments_of(draw, event, run), at=at)
        snapshots.append(run.to_dict())
    return run, snapshots


def _run_of(history: RunHistory) -> Run:
    return history[0]


# --- traces -----------------------------------------------------------------------------------------------------------


def traces(
    max_events: int = 8, *, polling: bool = True, broken: bool = False, lifecycle: Lifecycle = RUN_LIFECYCLE
) -> st.SearchStrategy[list[RunDict]]:
    """Return a strategy for traces: the JSON objects of one run in the order of observation, at least one.

    A poller skips some statuses and reads others twice; with `polling=False` each status is read once. `broken=True`
    gives traces that no legal history can leave, by one change: a field that depends on the status is set or null
    against every pattern of the status; a run that has ended is live again; or an id or `created_at` changes.

    >>> from hypothesis import find
    >>> [seen["status"] for seen in find(traces(), lambda trace: trace[-1]["status"] == "completed")]
    ['queued', 'in_progress', 'completed']
    """
    histories = _histories(paths(max_events, lifecycle=lifecycle))
    observed = histories.flatmap(_polled) if polling else histories.map(lambda life: life[1])
    if not broken:
        return observed
    return histories.flatmap(
        lambda life: (_polled(life) if polling else st.just(life[1])).flatmap(_breaker(life, lifecycle))
    )


@st.composite
def _polled(draw: st.DrawFn, history: RunHistory) -> list[RunDict]:
    _, snapshots = history
    times = [draw(st.sampled_from([1, 0, 2])) for _ in snapshots]
    polled = [dict(snapshot) for snapshot, times in zip(snapshots, times, strict=True) for _ in range(times)]
    return polled or [dict(snapshots[-1])]


_STAMPS: Final[tuple[Stamp, ...]] = get_args(Stamp)
_STATUS_FIELDS: Final[tuple[StatusField, ...]] = get_args(StatusField)
_A_CALL: Final = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
_VALUES: Final[Mapping[str, object]] = {
    "required_action": {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": [_A_CALL]}},
    "last_error": {"code": "server_error", "message": "it broke"},
    "incomplete_details": {"reason": "max_prompt_tokens"},
    "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
}


def _breaker(history: RunHistory, lifecycle: Lifecycle) -> Callable[[list[RunDict]], st.SearchStrategy[list[RunDict]]]:
    """Return a function that makes a trace impossible.

    Each change is certain by the table, whatever polling skipped.
    """

    def broken(trace: list[RunDict]) -> st.SearchStrategy[list[RunDict]]:
        options = [_with_impossible_pattern(trace, lifecycle)]
        if lifecycle.is_terminal(trace[-1]["status"]):  # no transition leaves it, and the initial status is live
            live = [snapshot for snapshot in history[1] if not lifecycle.is_terminal(snapshot["status"])]
            options.append(st.sampled_from(live).map(lambda snapshot: [*trace, dict(snapshot)]))
        if len(trace) > 1:
            options.append(_with_changed_constant(trace))
        return st.one_of(options)

    return broken


def _with_impossible_pattern(trace: Sequence[RunDict], lifecycle: Lifecycle) -> st.SearchStrategy[list[RunDict]]:
    """Return a strategy for the trace with one field set or null, so that a snapshot has an impossible pattern."""
    known = field_patterns(lifecycle)
    changes: list[tuple[int, str]] = [
        (index, field)
        for index, snapshot in enumerate(trace)
        for present in [frozenset(field for field in (*_STAMPS, *_STATUS_FIELDS) if snapshot[field] is not None)]
        for field in (*_STATUS_FIELDS, *_STAMPS)
        if FieldPattern(RunStatus(snapshot["status"]), present ^ {field}) not in known
    ]

    def changed(change: tuple[int, str]) -> list[RunDict]:
        index, field = change
        snapshot = trace[index]
        a_value = _VALUES[field] if field in _VALUES else snapshot["created_at"] + 1
        altered = {**snapshot, field: a_value if snapshot[field] is None else None}
        return [*trace[:index], altered, *trace[index + 1 :]]

    return st.sampled_from(changes).map(changed)


def _with_changed_constant(trace: Sequence[RunDict]) -> st.SearchStrategy[list[RunDict]]:
    """Return a strategy for the trace in which a constant field changes at some snapshot."""

    def renamed(since: int, name: str) -> list[RunDict]:
        new = trace[0][name] + (1 if name == "created_at" else "x")
        return [*trace[:since], *({**snapshot, name: new} for snapshot in trace[since:])]

    return st.builds(
        renamed, st.integers(1, len(trace) - 1), st.sampled_from(["id", "thread_id", "assistant_id", "created_at"])
    )
