"""The reproduction of a violation, executed line by line to see that it shows what the violation says."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from runstate.testing.conformance import SystemUnderTest, Violation

__all__ = ["Shown", "replay"]


class Shown(NamedTuple):
    """How a run was kept before what was asked last and after it, and what the calls raised."""

    before: dict[str, Any]
    after: dict[str, Any]
    errors: list[BaseException | None]

    @property
    def changed(self) -> set[str]:
        """The names of the fields that the last call changed."""
        return {name for name in self.after if self.after[name] != self.before.get(name)}

    @property
    def last(self) -> BaseException | None:
        """What the last call raised."""
        return self.errors[-1]


def replay(violation: Violation, system: SystemUnderTest) -> Shown:
    """Execute a reproduction line by line, a refusal or not; each must be answered as its comment says."""
    room: dict[str, Any] = {"system": system, "time": time, "ThreadPoolExecutor": ThreadPoolExecutor}
    seen: list[dict[str, Any]] = []
    errors: list[BaseException | None] = []
    for line in violation.reproduction:
        call, _, said = (part.strip() for part in line.partition("  #"))
        if "send" in call or "settle" in call:
            seen.append(look(system, room))
        try:
            exec(call, room)
            error = None
        except Exception as raised:
            error = raised
        if "read" not in call:
            errors.append(error)
        if said.startswith("moved to "):
            assert error is None
            assert said.removeprefix("moved to ") == system.read(room["run"])["status"]
        elif said:
            assert (said == "refused") is isinstance(error, system.refused)
            assert error is not None
    answers: list[Future[object]] = room.get("answers", [])
    if answers:
        errors += [answer.exception(30) for answer in answers]
        room["pool"].shutdown()
    return Shown(seen[-1] if seen else {}, look(system, room), errors)


def look(system: SystemUnderTest, room: dict[str, Any]) -> dict[str, Any]:
    try:
        return dict(system.read(room["run"]))
    except Exception:
        return {}
