"""Faults of ordering to be found: each is the library's own text with one thing left out, for as long as a block lasts.

Text is replaced where statements are generated, so both dialects have the fault. What is to be replaced must be there:
a library that has changed says so, instead of passing for one with a bug that nobody finds. Stores must be opened
inside the block.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any, Final, NamedTuple
from unittest import mock

import psycopg

from runstate.store._engine import committer, execute_settle_and_claim, executor
from runstate.store._engine.commands import Command
from runstate.store._postgres import pooler
from runstate.store._sql import leases, statements
from runstate.store._sql import steps as sql_steps
from runstate.store._sql.migrations import steps
from runstate.store._sql.triggers import conditions
from runstate.store._sqlite import connection, settle_and_claim
from runstate.worker import _batches as batches
from runstate.worker import _main_loop as main_loop
from runstate.worker import _steps as worker_steps

__all__ = ["BUGS", "Bug", "Change", "FunctionChange", "plant_functions", "planted"]


class Change(NamedTuple):
    """What is replaced in the text of a function."""

    owner: Any
    """A class, or a module."""
    name: str
    old: str
    new: str


class FunctionChange(NamedTuple):
    """What is replaced in the text of a function of a PostgreSQL database."""

    name: str
    old: str
    """A regular expression."""
    new: str


class Bug(NamedTuple):
    """What is wrong, and how it is made so."""

    sentence: str
    changes: Sequence[Change]
    functions: Sequence[FunctionChange] = ()


_SETTLING: Final = (statements.Statements, "_settling")
_COMPLETING: Final = (settle_and_claim, "_completing")
_TOKEN: Final = " AND r.worker {self.dialect.null_safe_eq} {self.param('worker')}"

_GENERATED: Final = """\
    if self.is_guards and self.component == "run":  # those of this process, and not those that were written once
        from runstate.store._sql.triggers.ddl import create_guards

        return list(create_guards(dialect))
"""

BUGS: Final[Mapping[str, Bug]] = {
    "no_fence": Bug(
        "A settle is conditional on neither the worker's token nor its lease nor the attempt.",
        (
            Change(*_SETTLING, _TOKEN, ""),
            Change(*_SETTLING, " AND {self.leased()}", ""),
            Change(*_COMPLETING, "+r.worker = :worker AND ", ""),
            Change(*_COMPLETING, " AND {_SQL.leased(':now')}", ""),
            Change(leases.Leases, "same_claim", " AND r.attempt = {attempt}", ""),
        ),
    ),
    "no_token": Bug(
        "A settle asks for a lease that holds, and not for the worker's token on the run.",
        (Change(*_SETTLING, _TOKEN, ""), Change(*_COMPLETING, "+r.worker = :worker AND ", "")),
    ),
    "no_lease": Bug(
        "A settle asks for the worker's token on the run, and not for a lease that holds.",
        (
            Change(*_SETTLING, " AND {self.leased()}", ""),
            Change(*_COMPLETING, " AND {_SQL.leased(':now')}", ""),
        ),
    ),
    "no_version": Bug(
        "A move is made from whichever version.",
        (Change(statements.Statements, "_move", "(v.version IS NULL OR r.version = v.version) AND ", ""),),
    ),
    "knows_no_deadline": Bug(
        "A run is started, and takes outputs, after its deadline; the guards do not mind.",
        (
            Change(statements.Statements, "_may", " AND {self.in_time(self.moment_of_move)}", ""),
            Change(conditions, "row_condition", "*([_IN_TIME] if event in RUN_LIFECYCLE.until_deadline else []),", ""),
            Change(steps.Migration, "statements", "    body = ", f"{_GENERATED}    body = "),
        ),
    ),
    "early_answer": Bug(
        "An answer is given before the commit.",
        (
            Change(
                executor,
                "_execute_batch",
                "        _execute(session, creates, moves, others)\n",
                "        _execute(session, creates, moves, others)\n"
                "        from torture.bugs import answer_early\n"
                "        answer_early(batch)\n",
            ),
        ),
    ),
    "no_sync": Bug(
        "A commit does not wait for the disk.",
        (
            Change(connection.SqliteDatabase, "_prepare", "synchronous = FULL", "synchronous = OFF"),
            Change(pooler, "settings_of", "{**_PLANS,", '{"synchronous_commit": "off", **_PLANS,'),
        ),
    ),
    "sweep_ignores_leases": Bug(
        "The sweep closes leases that hold, and what they hold is taken over.",
        (
            Change(leases.Leases, "close_expired_leases", "w.closed = 0 AND w.lease_until_us <= t.now", "w.closed = 0"),
            Change(
                leases.Leases,
                "close_expired_leases",
                "closed = 0 AND lease_until_us <= t.now{free}",
                "closed = 0{free}",
            ),
        ),
    ),
    "asks_all_again": Bug(
        "After a lost answer everything is asked again, also what cannot be recognised.",
        (
            Change(committer, "_is_idempotent", "return command.is_idempotent", "return True"),
            Change(committer, "_is_idempotent", "return isinstance(command, CreateRuns)", "return True"),
        ),
    ),
    "forgets_it_asked": Bug(
        "After a lost answer a turn is asked again as if it had never been.",
        (Change(committer.Committer, "_retry_unknown", "        command.is_retry = True\n", ""),),
    ),
    "tells_the_second_error": Bug(
        "Where asking again fails, the error of the second time is told, which knows nothing of the first.",
        (Change(committer.Committer, "_retry_one", "command.set_exception(unknown)", "command.set_exception(again)"),),
    ),
    "drops_outcomes": Bug(
        "A worker whose turn failed forgets the outcomes that it brought.",
        (
            Change(
                batches.Batches,
                "commit",
                "self.done = [] if self._lease.is_lost else [*batch.settles, *self.done]",
                "self.done = []",
            ),
        ),
    ),
    "begins_what_it_lost": Bug(
        "A worker opens another lease or takes runs over while a request is under way, and begins what it lost or has.",
        (Change(main_loop.MainLoop, "_run", "self._rest() if self._requests else alone()", "alone()"),),
    ),
    "begins_what_it_holds": Bug(
        "A worker that lost an answer takes the runs it works on for new ones.",
        (Change(execute_settle_and_claim, "_reconcile", ".union(turn.held or ())", ""),),
    ),
    "counts_no_attempt": Bug(
        "A run that is taken over has the attempt that it had.",
        (Change(statements.Statements, "take_over", "attempt = r.attempt + 1", "attempt = r.attempt"),),
    ),
    "stops_at_a_bad_row": Bug(
        "A claim or a sweep that meets a run which cannot be written fails, and moves no other run either.",
        (Change(executor, "_moves_many", "return len(batch) == 1 and", "return len(batch) == 0 and"),),
    ),
    "fences_by_no_attempt": Bug(
        "A worker that released a run and has it again settles it by the claim before.",
        (
            Change(leases.Leases, "same_claim", " AND r.attempt = {attempt}", ""),
            Change(execute_settle_and_claim, "_is_same_claim", " and run.attempt == settle.run.attempt", ""),
        ),
    ),
    "keeps_late_steps": Bug(
        "A step is kept also for a worker that has lost the run; the guards do not mind.",
        (
            Change(sql_steps.Steps, "_saving", " AND r.worker = {self.param('worker')}", ""),
            Change(
                sql_steps.Steps,
                "_saving",
                " AND {self.same_claim(self.param('version'), self.param('attempt'))}",
                "",
            ),
            Change(
                steps.Migration,
                "statements",
                "[2]  # without the header",
                "[2].replace('AND r.attempt = NEW.attempt', '').replace("
                "'AND NEW.version BETWEEN r.version - 1 AND r.version', '')",
            ),
        ),
        (
            FunctionChange(
                "runstate_step_kept",
                r"\s+AND r\.attempt = NEW\.attempt AND NEW\.version BETWEEN r\.version - 1 AND r\.version",
                "",
            ),
        ),
    ),
    "keeps_usage_later": Bug(
        "The result of a step is committed before the tokens that it has used.",
        (
            Change(worker_steps.HandlerSteps, "_params", "None if used == NO_USAGE else self._ctx.usage", "None"),
            Change(
                worker_steps.HandlerSteps,
                "_marked",
                "    if result is None:",
                "    self._ctx.note_usage()\n    if result is None:",
            ),
        ),
    ),
    "keeps_no_small_table": Bug(
        "A run that was idle and moves on keeps its row among the idle runs.",
        (),
        (FunctionChange("runstate_moved", r"DELETE FROM \S+runstate_idle WHERE run = after\.seq", "PERFORM 1"),),
    ),
    "releases_what_is_not_its_own": Bug(
        "A worker gives back a run that another has taken over.",
        (
            Change(statements.Statements, "release", "AND r.worker = {self.param('worker')}", "AND true"),
            Change(leases.Leases, "same_claim", " AND r.attempt = {attempt}", ""),
        ),
    ),
}


def answer_early(batch: Sequence[Command[Any]]) -> None:
    """Let all who wait for a batch have their answers; nobody is told a second time."""
    for command in batch:
        waits, command._waits = command._waits, None
        future, command.future = command.future, None
        if waits is not None:
            waits.release()
        if future is not None:
            future.get_loop().call_soon_threadsafe(committer._resolve, [_told(command, future)])


def _told(command: Command[Any], future: Any) -> Command[Any]:
    """Return a command as it stands now, for its answer may be taken back."""
    early: Command[Any] = object.__new__(type(command))
    for kind in type(command).__mro__:
        for name in getattr(kind, "__slots__", ()):
            if hasattr(command, name):
                object.__setattr__(early, name, getattr(command, name))
    early.future = future
    return early


@contextmanager
def planted(name: str) -> Generator[None, None, None]:
    """Let the library have a bug inside the block."""
    with ExitStack() as undo:
        for change in BUGS[name].changes:
            undo.enter_context(_changed(change))
        yield


def plant_functions(url: str, name: str) -> None:
    """Give a PostgreSQL database the functions of a bug. One in SQLite has none."""
    if not BUGS[name].functions or not url.startswith("postgresql:"):
        return
    with psycopg.connect(url, autocommit=True) as connection:
        for change in BUGS[name].functions:
            text = "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = %s"
            ((before,),) = connection.execute(text, [change.name]).fetchall()
            after, count = re.subn(change.old, change.new, before)
            if count != 1:
                raise LookupError(f"{change.name} has {count} times: {change.old}")
            connection.execute(after.encode())


@contextmanager
def _changed(change: Change) -> Generator[None, None, None]:
    owner, name, old, new = change
    before = vars(owner)[name]
    after = _rewritten(before, old, new)
    if isinstance(owner, type):
        if isinstance(after, cached_property):
            after.__set_name__(owner, name)
        with mock.patch.object(owner, name, after):
            yield
        return
    with ExitStack() as undo:  # a function is known by its name to whoever imported it, too
        for room in [room for path, room in sys.modules.items() if path.split(".")[0] == "runstate"]:
            if vars(room).get(name) is before:
                undo.enter_context(mock.patch.object(room, name, after))
        yield


_TEXTS: Final[dict[Any, str]] = {}
"""The texts of functions that were made here, which stand in no file."""


def _rewritten(before: Any, old: str, new: str) -> Any:
    """Return a function by its text, in which something is replaced. Raises `LookupError` if it is not there once."""
    function = before.func if isinstance(before, cached_property) else inspect.unwrap(before)
    text = _TEXTS.get(function) or textwrap.dedent(inspect.getsource(function))
    if text.count(old) != 1:
        raise LookupError(f"{function.__qualname__} has {text.count(old)} times: {old}")
    text = text.replace(old, new)
    made: dict[str, Any] = {}
    code = compile(text, f"<{function.__qualname__} with a bug>", "exec", annotations.compiler_flag)
    exec(code, function.__globals__, made)
    after = made[function.__name__]
    _TEXTS[after.func if isinstance(after, cached_property) else inspect.unwrap(after)] = text
    return after
