"""The probe: it counts the effects of a handler in the outside world."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

from runstate.run import validators
from runstate.run.values import raise_if_invalid
from runstate.testing.crash._log import HandlerCall, StepCall

__all__ = ["CURRENT_STEP", "Probe"]

CURRENT_STEP: Final[ContextVar[StepCall | None]] = ContextVar("runstate_crash_step", default=None)
"""The step that is executed in the current context."""


class Probe:
    """Counts the effects of a handler in the outside world: a payment, a mail, a request to a model.

    Call `effect` in the function that has the effect, or in the fake that a test puts in its place. `crash_test` lets
    the worker die after each effect, and compares how often each one happens. Outside of `crash_test` an effect is only
    counted.
    """

    def __init__(self) -> None:
        self._call: HandlerCall | None = None
        self._counts: dict[tuple[str, str], int] = {}

    def effect(self, name: str, key: object = "", *, repeatable: bool = False) -> None:
        """Count an effect. Two effects are the same if they have the same name and key.

        With `repeatable=True`, the effect may happen again after a death, as long as no checkpoint was saved after it:
        reading a page again, for example, does no harm. Raises `InvalidRun` for a blank name.
        """
        raise_if_invalid(validators.non_blank_string("name", name))
        place = (name, str(key))
        if self._call is not None:
            self._call.effect(*place, repeatable, CURRENT_STEP.get())
        self._counts[place] = self._counts.get(place, 0) + 1

    def count(self, name: str, key: object = "") -> int:
        """Return how often an effect happened, in all runs since this probe was made.

        Raises `InvalidRun` for a blank name.
        """
        raise_if_invalid(validators.non_blank_string("name", name))
        return self._counts.get((name, str(key)), 0)

    def follow(self, call: HandlerCall | None) -> None:
        """Report the effects to a call of a handler. For `crash_test`."""
        self._call = call
