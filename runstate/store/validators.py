"""What the arguments of a store must be, for those who take the same ones: a worker, a command line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, cast

from runstate.run import validators
from runstate.run.errors import FieldError
from runstate.run.json_values import json_path

__all__ = ["lease_seconds", "queue_names"]

lease_seconds: Final = validators.number(0.05, 86_400)
"""How long a lease may be, in seconds."""


def queue_names(queues: object) -> tuple[FieldError, ...]:
    """Return the faults of names of queues. One name by itself is none: its letters would be taken for names."""
    if isinstance(queues, str) or not isinstance(queues, Iterable):
        return validators.wrong_type("queues", "names of queues", queues)
    named = tuple(cast("Iterable[object]", queues))
    return tuple(
        fault
        for place, name in enumerate(named)
        for fault in validators.indexed_identifier(json_path("queues", place), name)
    )
