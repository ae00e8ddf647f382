"""The methods that all forms of a store have, and the form for a caller's own transaction."""

from __future__ import annotations

from inspect import isfunction
from typing import NoReturn

from runstate.store._api.attempts import AttemptMixin
from runstate.store._api.create import CreateMixin
from runstate.store._api.events import EventMixin
from runstate.store._api.queries import QueryMixin
from runstate.store._api.steps import StepMixin
from runstate.store._api.trace_contexts import TraceContextMixin
from runstate.store._api.transitions import TransitionMixin
from runstate.store._api.worker_protocol import WorkerProtocolMixin

__all__ = ["BoundStore", "StoreMethods"]


class StoreMethods(
    CreateMixin,
    TransitionMixin,
    QueryMixin,
    WorkerProtocolMixin,
    StepMixin,
    EventMixin,
    AttemptMixin,
    TraceContextMixin,
):
    """The methods that all forms of a store have."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a store holds connections, and can be neither copied nor pickled for another process: "
            "give that process the URL, and let it open_store(url)"
        )


for _part in StoreMethods.__bases__:
    for _name, _method in vars(_part).items():
        if isfunction(_method) and not _name.startswith("_"):
            _method.__qualname__ = f"Store.{_name}"  # the name in Python's messages about wrong arguments


class BoundStore(StoreMethods):
    """A store inside the caller's own transaction, from `Store.within`. The caller commits its changes, or not."""
