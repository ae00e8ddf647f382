"""When a handler that raised is called again: how often, after which delays, and for which exceptions."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, cast

import attrs

from runstate.run import validators
from runstate.worker._arguments import possible

__all__ = ["RetryOn", "RetryPolicy"]

RetryOn: TypeAlias = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]
"""An exception type, several of them, or a function that returns whether to retry after an exception."""

_ATTEMPTS: Final = validators.integer(least=1)
_SECONDS: Final = validators.number(0, validators.YEAR_10000)
_JITTER: Final = validators.number(0, 1)


@attrs.frozen
class RetryPolicy:
    """How a worker retries runs whose handlers raise an exception.

    `max_attempts` is how many attempts of a run may fail in all, 1 or more: 3 allows two retries. After the last one
    the run fails with its error. A tool round begins anew, with as many attempts. Claims of workers that died are
    counted apart, by the `max_attempts` of the worker.
    `backoff` are the seconds before the next attempt: a number for the first retry, which is doubled for each further
    one, the numbers themselves (the last one repeats), or a function of the count of failed attempts, 1 for the first.
    `max_backoff_s` bounds the delay, in seconds.
    `jitter` is by which part the delay may be shorter or longer, at random, 0 to 1: so runs that failed together are
    not retried together.
    `retry_on` are the exceptions after which a run is retried: a type, several types, or a function of the exception.
    `RunFailed` and a token limit always end the run. `SystemExit` and the like are not retried by default.

    A retry is no move: the run stays in progress, without a worker, and its thread is busy. If the next attempt would
    come at or after the deadline, the run fails now with the error.

        Worker(store, answer, retry=RetryPolicy(max_attempts=5, backoff=2.0, retry_on=(TimeoutError, ConnectionError)))

    Raises `TypeError` or `ValueError` for a wrong setting.
    """

    max_attempts: int = 3
    backoff: float | Sequence[float] | Callable[[int], float] = 1.0
    jitter: float = 0.2
    retry_on: RetryOn = Exception
    max_backoff_s: float = 300.0

    def __attrs_post_init__(self) -> None:
        possible(_ATTEMPTS("max_attempts", self.max_attempts))
        possible(_JITTER("jitter", self.jitter))
        possible(_SECONDS("max_backoff_s", self.max_backoff_s))
        backoff: Any = self.backoff  # what a caller has given may be anything
        is_sequence = isinstance(cast("object", backoff), Sequence)
        if isinstance(backoff, str | bytes) or (is_sequence and not backoff):
            raise ValueError(f"backoff: expected seconds, several of them, or a function, got {backoff!r}")
        for number in () if callable(backoff) else backoff if is_sequence else (backoff,):
            possible(_SECONDS("backoff", number))
        retry_on: Any = self.retry_on
        kinds: tuple[object, ...] = retry_on if isinstance(cast("object", retry_on), tuple) else (retry_on,)
        is_function = not isinstance(retry_on, tuple | type) and callable(retry_on)
        if not is_function and (not kinds or not all(_is_exception(kind) for kind in kinds)):
            raise TypeError(f"retry_on: expected exception types, or a function of an exception, got {retry_on!r}")

    def retries(self, error: BaseException, failed: int) -> bool:
        """Return whether a run is retried after an exception. `failed` attempts before this one have failed.

        A function `retry_on` that raises decides nothing: its exception is raised here.
        """
        if failed + 1 >= self.max_attempts:
            return False
        retry_on = self.retry_on
        if isinstance(retry_on, tuple | type):
            return isinstance(error, retry_on)
        return bool(retry_on(error))

    def delay_s(self, failures: int) -> float:
        """Return the seconds to wait after a number of failed attempts, 1 or more, with its jitter.

        Raises `ValueError` if a function `backoff` returns something other than seconds.
        """
        backoff = self.backoff
        if callable(backoff):
            delay = backoff(failures)
            possible(_SECONDS("backoff", delay))
        elif isinstance(backoff, Sequence):
            delay = backoff[min(failures, len(backoff)) - 1]
        else:
            delay = backoff * 2 ** min(failures - 1, _MOST_DOUBLED)
        delay = min(delay, self.max_backoff_s)
        spread: float = delay * self.jitter
        return max(0.0, delay + random.uniform(-spread, spread))  # noqa: S311


_MOST_DOUBLED: Final = 60  # times: more would overflow, and `max_backoff_s` is reached before


def _is_exception(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(cast("type[object]", kind), BaseException)
