"""The methods of a store for the steps of handlers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from runstate.clock import time_us
from runstate.run import validators
from runstate.run.values import NO_USAGE, Usage, raise_if_invalid
from runstate.store._api.queries import seq_of
from runstate.store._engine.commands import InTransaction
from runstate.store._engine.saving import checkpoint_params
from runstate.store._engine.transport import StoreBase
from runstate.store._sql.connection import Connection
from runstate.store._types import StepRecord, StoredRun
from runstate.store._worker_types import Checkpoint, Lease
from runstate.store.errors import StoreError

__all__ = ["StepMixin", "save_step_command"]

_NUMBER: Final = validators.integer(least=1)
_SECONDS: Final = validators.number(0, validators.YEAR_10000)


def _place_errors(name: object, key: object) -> validators.FieldErrors:
    """Return the errors of the name and the key of a step. The key is empty if it has none."""
    return validators.indexed_identifier("name", name) + (
        () if key == "" else validators.indexed_identifier("key", key)
    )


def _decode_step(row: Any) -> StepRecord:
    name, key, number, attempt, prompt, completion, began, ended, text = row
    result = None if text is None else json.loads(text)
    return StepRecord(name, key, number, attempt, result, Usage(prompt, completion), began, ended)


def save_step_command(
    lease: Lease,
    run: StoredRun,
    name: str,
    key: str,
    *,
    number: int,
    result: Checkpoint | None,
    usage: Usage,
    total: Usage | None,
    took_s: float,
    resets_losses: bool,
) -> InTransaction[bool]:
    """Return the command that keeps a step, or the mark of one. Raises `InvalidRun` for wrong values."""
    raise_if_invalid(_place_errors(name, key) + _NUMBER("number", number) + _SECONDS("took_s", took_s))
    text = None if result is None else result.text
    resets_losses = resets_losses and run.lost > 0 and text is not None
    held = {"seq": run.seq, "version": run.version, "attempt": run.attempt, "worker": lease.token}
    step = {"name": name, "key": key, "number": number, "result": text, "took": int(took_s * 1_000_000)}
    tokens = {"prompt": usage.prompt_tokens, "completion": usage.completion_tokens}
    params = {**held, **step, **tokens}

    def perform(session: Connection) -> bool:
        speak = session.statements
        if total is None:
            saved = session.execute(speak.save_step, params)
        elif speak.save_step_with_usage is not None:
            used = {"total_prompt": total.prompt_tokens, "total_completion": total.completion_tokens}
            saved = session.execute(speak.save_step_with_usage, {**params, **used})
        else:
            at = {"now": time_us()}  # of both statements: the lease must not end between them
            saved = session.execute(speak.save_step, {**params, **at})
            if saved:
                session.execute(speak.save_checkpoint, {**checkpoint_params(lease.token, run, usage=total), **at})
        if not saved:
            return _is_kept(session, run, step)
        if resets_losses:
            session.execute(speak.reset_lost, held)
        return True

    return InTransaction(perform, one_statement=not resets_losses)


def _is_kept(session: Connection, run: StoredRun, step: Mapping[str, Any]) -> bool:
    """Return whether a first request, whose reply was lost, has kept this very step in this attempt."""
    return (run.attempt, step["result"]) == _step_row(session, run, step["name"], step["key"])


def _step_row(session: Connection, run: StoredRun, name: str, key: str) -> tuple[int, str | None]:
    """Return the attempt of a step and its result as JSON; (0, None) if there is no such step."""
    found = session.execute(session.statements.step_row, {"run": run.seq, "name": name, "key": key})
    return tuple(found[0]) if found else (0, None)


class StepMixin(StoreBase):
    """The methods of a store for steps."""

    def steps(self, run_id: str) -> tuple[StepRecord, ...]:
        """Return the steps that the handler of a run has kept by `ctx.step`, in their order. Raises `RunNotFound`."""
        raise_if_invalid(validators.identifier("run_id", run_id))

        def look(session: Connection) -> tuple[StepRecord, ...]:
            params = {"run": seq_of(session, run_id)}
            return tuple(map(_decode_step, session.execute(session.statements.steps, params)))

        return self._transport.read(look)

    def step_index(self, run: StoredRun) -> dict[tuple[str, str], bool]:
        """Return the name and key of each step of a run, and whether it has a result. A mark has none."""
        return self._transport.read_for_worker(
            lambda session: {
                (name, key): bool(ended)
                for name, key, ended in session.execute(session.statements.step_index, {"run": run.seq})
            }
        )

    def step_result(self, run: StoredRun, name: str, key: str = "") -> Any:
        """Return the result of a step. Raises `InvalidRun` for a wrong name or key, `StoreError` if it has none."""
        raise_if_invalid(_place_errors(name, key))

        def look(session: Connection) -> Any:
            _, text = _step_row(session, run, name, key)
            if text is None:
                which = f"{name!r}" + (f" with the key {key!r}" if key else "")
                raise StoreError(f"run {run.id} has no result of a step {which}")
            return json.loads(text)

        return self._transport.read_for_worker(look)

    def save_step(
        self,
        lease: Lease,
        run: StoredRun,
        name: str,
        key: str = "",
        *,
        number: int,
        result: Checkpoint | None,
        usage: Usage = NO_USAGE,
        total: Usage | None = None,
        took_s: float = 0.0,
        resets_losses: bool = True,
    ) -> bool:
        """Keep a step of a claimed run, once. Return whether it is kept.

        `number` is its place among the steps of the run. With `result=None` only a mark is kept: the step is about to
        begin, and may have happened if no result follows. `usage` are the tokens of the step, `total` those of the
        whole run so far, and `took_s` the seconds that the step took. With `resets_losses`, the workers that died of
        the run are counted anew. Return False if the lease no longer has the run, or has it by a later claim. Raises
        `InvalidRun` for wrong values.
        """
        return self._transport.execute(
            save_step_command(
                lease,
                run,
                name,
                key,
                number=number,
                result=result,
                usage=usage,
                total=total,
                took_s=took_s,
                resets_losses=resets_losses,
            )
        )
