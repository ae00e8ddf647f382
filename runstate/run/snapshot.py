"""A run without moves: its queries, and its JSON.

`Run` adds the moves. `StoredRun` adds the fields of the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

from runstate.clock import current as _clock
from runstate.lifecycle import RUN_LIFECYCLE, RunEvent
from runstate.run.arguments import GivenUsage, usage_of
from runstate.run.record import RunRecord
from runstate.run.values import IncompleteReason

if TYPE_CHECKING:
    from runstate.run.codec import Spelling

__all__ = ["RunSnapshot"]


class _Hidden:
    """Hides an attribute of the base class."""

    def __get__(self, run: object, owner: type) -> NoReturn:
        raise AttributeError(f"{owner.__name__} is changed by its moves alone: attrs.evolve would forge its status")


class RunSnapshot(RunRecord):
    """A run as it was read at one time. It has queries and JSON, but no moves."""

    __slots__ = ()

    __attrs_attrs__: ClassVar[Any] = _Hidden()  # so that `attrs.evolve` refuses a run

    @property
    def is_terminal(self) -> bool:
        """Whether the run has ended."""
        return RUN_LIFECYCLE.is_terminal(self._status)

    @property
    def allowed_events(self) -> tuple[RunEvent, ...]:
        """The events that are allowed in its status; none if it has ended."""
        return RUN_LIFECYCLE.allowed_events(self._status)

    def is_due(self, now: float | None = None) -> bool:
        """Return whether the deadline has passed at `now` (Unix seconds; by default the time of the clock).

        Return False for a run that has ended.
        """
        left = self.seconds_left(now)
        return left is not None and left <= 0

    def seconds_left(self, now: float | None = None) -> float | None:
        """Return the seconds until the deadline, negative past it; None for a run that has ended."""
        deadline = self._expires_at
        if deadline is None:
            return None
        return deadline - (_clock.time() if now is None else now)

    def over_budget(self, usage: GivenUsage | None = None) -> IncompleteReason | None:
        """Return the limit that `usage` (by default that of the run) exceeds, for `mark_incomplete`; None within both.

        A run may use its limit to the last token. The limit on prompt tokens is checked first.
        """
        spent = self._usage if usage is None else usage_of(usage)
        if spent is None:
            return None
        if self._max_prompt_tokens is not None and spent.prompt_tokens > self._max_prompt_tokens:
            return "max_prompt_tokens"
        if self._max_completion_tokens is not None and spent.completion_tokens > self._max_completion_tokens:
            return "max_completion_tokens"
        return None

    if not TYPE_CHECKING:  # a type checker says so by itself

        def __getitem__(self, key: object) -> NoReturn:
            name = key if isinstance(key, str) and key.isidentifier() else "status"
            raise TypeError(f"a run is no mapping: write run.{name}, or run.to_dict()[{name!r}]")

    # --- JSON -----------------------------------------------------------------------------------------------------
    # The codec is loaded when first needed: it takes a tenth of the import time of this library.

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """Read a run from a JSON object, in snake_case or camelCase. Raises `RunDecodeError` with all errors."""
        from runstate.run import codec

        return cls.from_validated(codec.decode(data))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a run from JSON text (UTF-8, at most 16 MiB). Raises `RunDecodeError` with all errors."""
        from runstate.run import codec

        return cls.from_validated(codec.decode(codec.parse(text)))

    def to_dict(self, spelling: Spelling = "snake") -> dict[str, Any]:
        """Return the JSON object, every key present, spelled `snake` (`started_at`) or `camel` (`startedAt`)."""
        from runstate.run import codec

        return codec.encode(self, spelling)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from runstate.run.json_schema import pydantic_schema

        return pydantic_schema(cls)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        from runstate.run.json_schema import run_json_schema

        return run_json_schema()

    def to_json(self, spelling: Spelling = "snake") -> str:
        """Return the JSON text of `to_dict`, in one line of ASCII."""
        from runstate.run import codec

        return codec.to_json(self, spelling)
