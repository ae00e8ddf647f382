"""Registers strategies for runs with Hypothesis, so that `st.from_type(Run)` and `st.builds` work.

Hypothesis calls `register` when it is loaded; `runstate` calls it if Hypothesis was loaded first. This module is
outside of the package, so neither of the two loads the other.
"""

from __future__ import annotations

import sys
from typing import Any

_KINDS = ("Run", "ToolCall", "RequiredAction", "LastError", "IncompleteDetails", "TruncationStrategy", "Usage")


def register() -> None:
    """Register strategies for `Run` and the values inside it, if both libraries are loaded."""
    runstate: Any = sys.modules.get("runstate")
    if runstate is None or not sys.modules.get("hypothesis"):
        return
    from hypothesis import strategies

    for name in _KINDS:
        strategies.register_type_strategy(getattr(runstate, name), _strategy)


def _strategy(kind: type) -> Any:
    from runstate.testing.strategies import instances

    return instances(kind)
