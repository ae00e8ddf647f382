"""Validators of a store's arguments, which workers and the command line use too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, cast

from runstate.run import validators
from runstate.run.errors import FieldError
from runstate.run.json_values import json_path

__all__ = ["lease_seconds", "queue_names"]

lease_seconds: Final = validators.number(0.05, 86_400)
"""Validates the length of a lease, in seconds: 0.05 to a day."""


def queue_names(queues: object) -> tuple[FieldError, ...]:
    """Return the errors of a collection of queue names. A single string is an error: its letters would be the names."""
    if isinstance(queues, str) or not isinstance(queues, Iterable):
        return validators.wrong_type("queues", "names of queues", queues)
    named = tuple(cast("Iterable[object]", queues))
    return tuple(
        fault
        for place, name in enumerate(named)
        for fault in validators.indexed_identifier(json_path("queues", place), name)
    )
