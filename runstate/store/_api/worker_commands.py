"""The checks of what a worker gives its store, and the command that saves the data of a claimed run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import cast

from runstate.run import codec, validators
from runstate.run.errors import FieldError, InvalidRun
from runstate.run.values import Usage, raise_if_invalid
from runstate.store._engine.commands import InTransaction
from runstate.store._engine.saving import checkpoint_params
from runstate.store._types import StoredRun
from runstate.store._worker_types import Checkpoint, Lease, Settle, event_errors

__all__ = ["checked_outcomes", "save_checkpoint_command"]


def _outcome_errors(settle: Settle) -> Iterator[FieldError]:
    yield from event_errors(settle.event)
    for field in ("usage", "detail", "required_action", "last_error", "incomplete_details"):
        text: str | None = getattr(settle, field)
        if text is None:
            continue
        try:
            found = json.loads(text, parse_constant=_no_json)
            yield from validators.extra(field, found) if field == "detail" else ()
            if field != "detail":
                codec.decode_field(field, found)
        except InvalidRun as refused:
            yield from refused.errors
        except (TypeError, ValueError, RecursionError):
            yield FieldError(field, "is not JSON")


def _no_json(constant: str) -> None:
    raise ValueError(constant)


def checked_outcomes(outcomes: Iterable[Settle]) -> tuple[Settle, ...]:
    """Return outcomes as a tuple. Raises `InvalidRun` for one with a wrong event or wrong JSON."""
    settles = tuple(outcomes)
    raise_if_invalid(tuple(error for settle in settles if not settle.is_checked for error in _outcome_errors(settle)))
    return settles


def save_checkpoint_command(
    lease: Lease,
    run: StoredRun,
    checkpoint: Checkpoint | None,
    usage: Usage | None,
    progress: str | None,
    trace_context: str | None = None,
) -> InTransaction[bool]:
    """Return the command that saves the data of a claimed run. Raises `InvalidRun` for wrong values."""
    raise_if_invalid(() if progress is None else validators.plain_text("progress", progress))
    raise_if_invalid(() if trace_context is None else validators.identifier("trace_context", trace_context))
    if checkpoint is not None and not isinstance(cast("object", checkpoint), Checkpoint):
        raise_if_invalid(validators.wrong_type("checkpoint", "a Checkpoint(value)", checkpoint))
    text = None if checkpoint is None else checkpoint.text
    params = checkpoint_params(
        lease.token, run, checkpoint=text, usage=usage, progress=progress, trace_context=trace_context
    )
    return InTransaction(lambda session: bool(session.execute(session.statements.save_checkpoint, params)))
