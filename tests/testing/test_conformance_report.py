"""How a judgement reads: in print, as Markdown, and as JSON."""

from __future__ import annotations

import json
from itertools import chain

import attrs
import pytest

from runstate.lifecycle import RunEvent, RunStatus
from runstate.testing.conformance import ConformanceReport, EventRefused, FunctionAdapter, check_conformance
from tests.support.lifecycle import EVENTS, LIVE, PAIRS, STATUSES
from tests.testing import broken, broken_actors
from tests.testing.broken import Desk, No

pytestmark = pytest.mark.slow  # a check of conformance of a whole implementation asks some thousand things

HELD = """\
Desk: 81 of 81 cells hold

                     queued  in_progress  requires_action  cancelling  completed  incomplete  failed  cancelled  expired
start                  +          +              +             +           +          +         +         +         +
require_action         +          +              +             +           +          +         +         +         +
submit_tool_outputs    +          +              +             +           +          +         +         +         +
request_cancel         +          +              +             +           +          +         +         +         +
confirm_cancel         +          +              +             +           +          +         +         +         +
complete               +          +              +             +           +          +         +         +         +
mark_incomplete        +          +              +             +           +          +         +         +         +
fail                   +          +              +             +           +          +         +         +         +
expire                 +          +              +             +           +          +         +         +         +
+ holds"""


def test_a_correct_one_is_told() -> None:
    """In print, as Markdown and as JSON: all cells hold."""
    report = check_conformance(Desk().system(), race_rounds=0)
    assert HELD == str(report)
    assert [
        f"| | {' | '.join(STATUSES)} |",
        f"|---|{'---|' * 9}",
        *(f"| {event} |{' holds |' * 9}" for event in EVENTS),
    ] == report.markdown().splitlines()
    cells = [{"status": status, "event": event, "verdict": "holds"} for status, event in PAIRS]
    checked = {"cell": 81, "walk": 49, "repeat": 19}
    assert {
        "system": "Desk",
        "conforms": True,
        "cells": cells,
        "checked": checked,
        "violations": [],
    } == report.to_dict()


def judged(kind: type[Desk]) -> ConformanceReport:
    return check_conformance(kind().system(), race_rounds=1)


WRONG = """\
ForgetsUsage: 68 of 81 cells hold, 13 are wrong; 13 violations in all

1. fail in queued
   expected  to come to failed
   found     usage is null, and in failed it has a value
     run = system.create()
     system.send(run, "fail")                    # moved to failed
     system.read(run)
   and so expire in queued, complete in in_progress, mark_incomplete in in_progress, fail in in_progress, \
expire in in_progress, fail in requires_action and 6 more

                     queued  in_progress  requires_action  cancelling  completed  incomplete  failed  cancelled  expired
start                  +          +              +             +           +          +         +         +         +
require_action         +          +              +             +           +          +         +         +         +
submit_tool_outputs    +          +              +             +           +          +         +         +         +
request_cancel         +          +              +             +           +          +         +         +         +
confirm_cancel         +          +              +             X           +          +         +         +         +
complete               +          X              +             X           +          +         +         +         +
mark_incomplete        +          X              +             X           +          +         +         +         +
fail                   X          X              X             X           +          +         +         +         +
expire                 X          X              X             X           +          +         +         +         +
+ holds   X wrong"""

LONGER = """\
StartsOnce: 81 of 81 cells hold; 1 violation in all

1. start in queued, on a longer way
   expected  to come to in_progress
   found     started_at is still 1800000300, and this move stamps it anew
     run = system.create()
     system.send(run, "start")                   # moved to in_progress
     system.send(run, "require_action")          # moved to requires_action
     system.send(run, "submit_tool_outputs")     # moved to queued
     system.advance(60)
     system.send(run, "start")                   # moved to in_progress
     system.read(run)
"""


def test_a_broken_one_is_told() -> None:
    """A judgement in print: the sum, each kind of fault with the calls that show it, and the matrix."""
    assert WRONG == str(judged(broken.ForgetsUsage))
    assert str(judged(broken.StartsOnce)).startswith(LONGER)


def test_the_worst_is_told_first() -> None:
    """What left a terminal status is told before what was refused, broke, or was stamped wrongly."""

    class Several(broken.OverwritesTheEnd, broken.CannotFailWaiting, broken.DropsAStamp):
        pass

    assert [("complete", "cancelled"), ("fail", "requires_action"), ("confirm_cancel", "cancelling")] == [
        (str(violation.event), str(violation.status)) for violation in judged(Several).violations
    ]


def test_much_is_not_told_at_length() -> None:
    """Twelve kinds of fault are told, and that there are more."""
    (violation,) = judged(broken.OverwritesTheEnd).violations
    others = tuple(attrs.evolve(violation, found=f"it broke: {'o' * number}ps") for number in range(15))
    told = str(attrs.evolve(judged(Desk), violations=(*others, violation, violation)))
    assert "\n\n12. complete in cancelled\n" in told
    assert "\n13. " not in told
    assert "\n\n... and 4 more kinds of violation in .violations\n\n  " in told


MET = """\
LastWriteWins: 81 of 81 cells hold; 37 violations in all

1. start in cancelling, by an old copy
   expected  to be refused, and nothing changed
   found     accepted: status went from cancelling to in_progress (with started_at)
     run = system.create()
     copy = system.load(run)
     system.send(system.load(run), "request_cancel")
     system.send(copy, "start")
     system.read(run)
"""


def test_old_copies_are_told() -> None:
    """What comes of old copies is told once, and not again by those who race with them."""
    told = str(check_conformance(broken_actors.LastWriteWins().cards(), race_rounds=1))
    assert told.startswith(MET)
    assert "\n2. " not in told


def test_a_broken_one_as_json() -> None:
    """The same for a machine: the verdict of each cell, what was checked, and the violations."""
    report = judged(broken.OverwritesTheEnd)
    found = report.to_dict()
    assert found == json.loads(json.dumps(found))
    assert ("OverwritesTheEnd", False) == (found["system"], found["conforms"])
    assert {"cell": 81, "walk": 49, "repeat": 19, "race": 55} == found["checked"]
    assert list(chain.from_iterable(([status] * 9) for status in STATUSES)) == [
        cell["status"] for cell in found["cells"]
    ]
    assert {"status": "cancelled", "event": "complete", "verdict": "wrong"} in found["cells"]
    assert [
        {
            "requirement": "cell",
            "status": "cancelled",
            "event": "complete",
            "other_event": None,
            "expected": "to be refused, and nothing changed",
            "found": "accepted: it is completed (with completed_at)",
            "reproduction": [
                "run = system.create()",
                'system.send(run, "start")                   # moved to in_progress',
                'system.send(run, "request_cancel")          # moved to cancelling',
                'system.send(run, "confirm_cancel")          # moved to cancelled',
                'system.send(run, "complete")                # moved to completed',
                "system.read(run)",
            ],
        }
    ] == found["violations"]
    assert (
        "complete in cancelled: expected to be refused, and nothing changed; "
        "found accepted: it is completed (with completed_at)"
    ) == str(report.violations[0])


def test_wrong_in_markdown() -> None:
    """A Markdown table tells each cell in words."""
    lines = judged(broken.OverwritesTheEnd).markdown().splitlines()
    assert f"| | {' | '.join(STATUSES)} |" == lines[0]
    assert "| complete | holds | holds | holds | holds | holds | holds | holds | wrong | holds |" in lines
    assert 11 == len(lines)


def test_statuses_are_the_laws() -> None:
    """A charge's status and event are members, for whoever filters them."""
    (violation,) = judged(broken.OverwritesTheEnd).violations
    assert isinstance(violation.status, RunStatus)
    assert isinstance(violation.event, RunEvent)
    assert violation.status not in LIVE


def test_a_name() -> None:
    """A subject is called by its name, else by its class."""

    class Nameless(broken_actors.Leases):
        pass

    assert check_conformance(Nameless(), race_rounds=0).summary.startswith("Nameless: ")
    desk = Desk()
    named = FunctionAdapter(desk.create, desk.send, desk.read, refused=(No, EventRefused), name="desk")
    assert check_conformance(named, race_rounds=0, time_step_s=0).summary.startswith("desk: ")
