"""The steps of the handler that an agent runs in, and their keys."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import sha256
from typing import Final

from runstate.run.values import NO_USAGE, Usage
from runstate.worker import Context

__all__ = ["StepScope", "current_scope", "open_scope", "use_steps"]

_MOST: Final = 400  # characters of a key: the store takes 500
_DIGITS: Final = 32  # of a digest


class StepScope:
    """Where the steps of an agent are kept: the context of the handler, and the beginning of their keys.

    The operations inside a step, such as those of an agent that a tool runs, have a scope of their own. Its keys begin
    with the key of that step, so they do not depend on the order in which parallel tools come to them.
    """

    __slots__ = ("_parent", "_prefix", "_used", "ctx", "usage")

    def __init__(self, ctx: Context, prefix: str = "", parent: StepScope | None = None) -> None:
        self.ctx: Final = ctx
        self._prefix: Final = prefix
        self._parent: Final = parent
        self._used: Final[set[tuple[str, str]]] = set() if parent is None else parent._used
        self.usage: Usage = NO_USAGE
        """The tokens that were counted in this scope and in those inside it."""

    def key(self, text: str) -> str:
        """Return a key of this scope. A digest replaces a key that is too long for the store."""
        key = self._prefix + text
        return key if len(key) <= _MOST else sha256(key.encode()).hexdigest()[:_DIGITS]

    @contextmanager
    def place(self, name: str, text: str) -> Generator[str, None, None]:
        """Yield the key of a step, with a number behind it if this call of the handler has used the key already.

        A step that raises keeps nothing. Its number is free again, so a retry gets the same key.
        """
        first = key = self.key(text)
        number = 1
        while (name, key) in self._used:
            number += 1
            key = f"{first}#{number}"
        self._used.add((name, key))
        try:
            yield key
        except BaseException:
            self._used.discard((name, key))
            raise

    @contextmanager
    def inside(self, key: str) -> Generator[StepScope, None, None]:
        """Use a scope for what a step does, while it is executed."""
        scope = StepScope(self.ctx, f"{key}/", self)
        token = _SCOPE.set(scope)
        try:
            yield scope
        finally:
            _SCOPE.reset(token)

    def add_usage(self, usage: Usage) -> None:
        """Count tokens for the run. Raises `TokenLimitReached`."""
        scope: StepScope | None = self
        while scope is not None:
            before = scope.usage
            scope.usage = Usage(
                before.prompt_tokens + usage.prompt_tokens, before.completion_tokens + usage.completion_tokens
            )
            scope = scope._parent
        self.ctx.add_usage(usage)


_SCOPE: Final[ContextVar[StepScope | None]] = ContextVar("runstate_pydantic_ai_scope", default=None)


def current_scope() -> StepScope | None:
    """Return the scope of the code that is executed now. None outside of `use_steps`."""
    return _SCOPE.get()


@contextmanager
def use_steps(ctx: Context, key: str | None = None) -> Generator[None, None, None]:
    """Make the model requests and tool calls of agents steps of a run, inside this block.

    The agents need a `RunstateDurability`. Use this to call `agent.run` or `agent.iter` yourself:

        async def answer(ctx: Context) -> None:
            with use_steps(ctx):
                result = await agent.run("What is new in Paris?")

    Several blocks in one call of a handler need different keys.
    """
    with open_scope(ctx, key):
        yield


@contextmanager
def open_scope(ctx: Context, key: str | None) -> Generator[StepScope, None, None]:
    """Use a scope of its own for the agents in a block."""
    scope = StepScope(ctx, "" if key is None else f"{key}/")
    token = _SCOPE.set(scope)
    try:
        yield scope
    finally:
        _SCOPE.reset(token)
