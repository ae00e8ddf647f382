"""Lanes as text, compared with what an eye would draw."""

from __future__ import annotations

import re

import pytest

from runstate.diagram import RunPosition, draw
from runstate.diagram.canvas import without_color
from runstate.diagram.palette import ANSI_STYLES
from runstate.lifecycle import RUN_LIFECYCLE, Basis, Lifecycle, RunEvent, RunStatus, Transition

MIDNIGHT = 1_699_920_000  # 2023-11-14 00:00:00 UTC
NOON = MIDNIGHT + 12 * 3600
AT_WORK = RunPosition(
    RunStatus.IN_PROGRESS,
    {"created_at": NOON + 1, "started_at": NOON + 3, "expires_at": NOON + 601, "failed_at": None},
    "run_abc",
)
ENDED = RunPosition(
    RunStatus.COMPLETED,
    {"created_at": NOON + 1, "started_at": NOON + 3, "completed_at": NOON + 9, "expires_at": None},
)

WIDE = """\
                       ─ live ───────────────────────────────────────────     ─ terminal ──────────────────────────────────────────────────
                       queued    in_progress  requires_action  cancelling     completed    incomplete    failed      cancelled      expired
                     created_at  started_at                                 completed_at  completed_at  failed_at  cancelled_at  completed_at
start                     ●───────────▶              ·              ·      ┊      ·             ·           ·            ·             ·
require_action            ·           ●──────────────▶              ·      ┊      ·             ·           ·            ·             ·
submit_tool_outputs       ◀──────────────────────────●              ·      ┊      ·             ·           ·            ·             ·
request_cancel            ●───────────●──────────────●──────────────▶      ┊      ·             ·           ·            ·             ·
confirm_cancel            ·           ·              ·              ●────────────────────────────────────────────────────▶             ·
complete                  ·           ●─────────────────────────────●─────────────▶             ·           ·            ·             ·
mark_incomplete           ·           ●─────────────────────────────●───────────────────────────▶           ·            ·             ·
fail                      ●───────────●──────────────●──────────────●───────────────────────────────────────▶            ·             ·
expire                    ●───────────●──────────────●──────────────●──────────────────────────────────────────────────────────────────▶
● allowed here   ▶ leads to"""  # noqa: E501

STARRED = """\
                     ─ live ─────────────────────────────────────────     ─ terminal ──────────────────────────────────────
                     queued  in_progress  requires_action  cancelling     completed  incomplete  failed  cancelled  expired
                        *         *                                           *           *         *        *         *
start                   ●─────────▶              ·              ·      ┊      ·           ·         ·        ·         ·
require_action          ·         ●──────────────▶              ·      ┊      ·           ·         ·        ·         ·
submit_tool_outputs     ◀────────────────────────●              ·      ┊      ·           ·         ·        ·         ·
request_cancel          ●─────────●──────────────●──────────────▶      ┊      ·           ·         ·        ·         ·
confirm_cancel          ·         ·              ·              ●────────────────────────────────────────────▶         ·
complete                ·         ●─────────────────────────────●─────────────▶           ·         ·        ·         ·
mark_incomplete         ·         ●─────────────────────────────●─────────────────────────▶         ·        ·         ·
fail                    ●─────────●──────────────●──────────────●───────────────────────────────────▶        ·         ·
expire                  ●─────────●──────────────●──────────────●──────────────────────────────────────────────────────▶
● allowed here   ▶ leads to
* stamps: queued created_at, in_progress started_at, completed completed_at, incomplete completed_at, failed failed_at,
    cancelled cancelled_at, expired completed_at"""  # noqa: E501

STAIRS = """\
                     ┌ queued  created_at
                     │   ┌ in_progress  started_at
                     │   │   ┌ requires_action
                     │   │   │   ┌ cancelling
                     │   │   │   │     ┌ completed  completed_at
                     │   │   │   │     │   ┌ incomplete  completed_at
                     │   │   │   │     │   │   ┌ failed  failed_at
                     │   │   │   │     │   │   │   ┌ cancelled  cancelled_at
                     │   │   │   │     │   │   │   │   ┌ expired  completed_at
                     ─ live ──────     ─ terminal ──────
start                ●───▶   ·   ·  ┊  ·   ·   ·   ·   ·
require_action       ·   ●───▶   ·  ┊  ·   ·   ·   ·   ·
submit_tool_outputs  ◀───────●   ·  ┊  ·   ·   ·   ·   ·
request_cancel       ●───●───●───▶  ┊  ·   ·   ·   ·   ·
confirm_cancel       ·   ·   ·   ●─────────────────▶   ·
complete             ·   ●───────●─────▶   ·   ·   ·   ·
mark_incomplete      ·   ●───────●─────────▶   ·   ·   ·
fail                 ●───●───●───●─────────────▶   ·   ·
expire               ●───●───●───●─────────────────────▶
● allowed here   ▶ leads to"""

NARROW = """\
         created_at  ┌ queued
         started_at  │  ┌ in_progress
                     │  │  ┌ requires_action
                     │  │  │  ┌ cancelling
       completed_at  │  │  │  │    ┌ completed
       completed_at  │  │  │  │    │  ┌ incomplete
          failed_at  │  │  │  │    │  │  ┌ failed
       cancelled_at  │  │  │  │    │  │  │  ┌ cancelled
       completed_at  │  │  │  │    │  │  │  │  ┌ expired
                     ─ live ───    ─ terminal ──
start                ●──▶  ·  ·  ┊ ·  ·  ·  ·  ·
require_action       ·  ●──▶  ·  ┊ ·  ·  ·  ·  ·
submit_tool_outputs  ◀─────●  ·  ┊ ·  ·  ·  ·  ·
request_cancel       ●──●──●──▶  ┊ ·  ·  ·  ·  ·
confirm_cancel       ·  ·  ·  ●─────────────▶  ·
complete             ·  ●─────●────▶  ·  ·  ·  ·
mark_incomplete      ·  ●─────●───────▶  ·  ·  ·
fail                 ●──●──●──●──────────▶  ·  ·
expire               ●──●──●──●────────────────▶
● allowed here   ▶ leads to"""

LIST = """\
start: queued → in_progress (started_at)
require_action: in_progress →
    requires_action
submit_tool_outputs: requires_action →
    queued
request_cancel: queued, in_progress,
    requires_action → cancelling
confirm_cancel: cancelling → cancelled
    (cancelled_at)
complete: in_progress, cancelling →
    completed (completed_at)
mark_incomplete: in_progress, cancelling
    → incomplete (completed_at)
fail: queued, in_progress,
    requires_action, cancelling → failed
    (failed_at)
expire: queued, in_progress,
    requires_action, cancelling →
    expired (completed_at)"""

AT_WORK_STAIRS = """\
run run_abc is in_progress, expires 12:10:01 UTC
                     ┌ queued  12:00:01
                     │   ┌ in_progress  12:00:03
                     │   │   ┌ requires_action
                     │   │   │   ┌ cancelling
                     │   │   │   │     ┌ completed  completed_at
                     │   │   │   │     │   ┌ incomplete  completed_at
                     │   │   │   │     │   │   ┌ failed  failed_at
                     │   │   │   │     │   │   │   ┌ cancelled  cancelled_at
                     │   │   │   │     │   │   │   │   ┌ expired  completed_at
                     ─ live ──────     ─ terminal ──────
                         ▲
start                ○╌╌╌▷   ·   ·  ┊  ·   ·   ·   ·   ·
require_action       ·   ●───▶   ·  ┊  ·   ·   ·   ·   ·
submit_tool_outputs  ◁╌╌╌╌╌╌╌○   ·  ┊  ·   ·   ·   ·   ·
request_cancel       ●───●───●───▶  ┊  ·   ·   ·   ·   ·
confirm_cancel       ·   ·   ·   ○╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌▷   ·
complete             ·   ●───────●─────▶   ·   ·   ·   ·
mark_incomplete      ·   ●───────●─────────▶   ·   ·   ·
fail                 ●───●───●───●─────────────▶   ·   ·
expire               ●───●───●───●─────────────────────▶
● allowed here   ▶ leads to   ○╌╌╌▷ not from here"""

AT_WORK_ASCII = """\
run run_abc is in_progress, expires 12:10:01 UTC
           12:00:01  + queued
           12:00:03  |  + in_progress
                     |  |  + requires_action
                     |  |  |  + cancelling
       completed_at  |  |  |  |    + completed
       completed_at  |  |  |  |    |  + incomplete
          failed_at  |  |  |  |    |  |  + failed
       cancelled_at  |  |  |  |    |  |  |  + cancelled
       completed_at  |  |  |  |    |  |  |  |  + expired
                     - live ---    - terminal --
                        ^
start                o ->  .  .  : .  .  .  .  .
require_action       .  o-->  .  : .  .  .  .  .
submit_tool_outputs  < - - o  .  : .  .  .  .  .
request_cancel       o--o--o-->  : .  .  .  .  .
confirm_cancel       .  .  .  o - - - - - - >  .
complete             .  o-----o---->  .  .  .  .
mark_incomplete      .  o-----o------->  .  .  .
fail                 o--o--o--o---------->  .  .
expire               o--o--o--o---------------->
o allowed here   > leads to   o - > not from here"""

AT_WORK_LIST = """\
run run_abc is in_progress
^ in_progress  created_at 12:00:01,
    started_at 12:00:03
- start: queued -> in_progress
    (started_at)
o require_action: in_progress ->
    requires_action
- submit_tool_outputs: requires_action
    -> queued
o request_cancel: queued, in_progress,
    requires_action -> cancelling
- confirm_cancel: cancelling ->
    cancelled (cancelled_at)
o complete: in_progress, cancelling ->
    completed (completed_at)
o mark_incomplete: in_progress,
    cancelling -> incomplete
    (completed_at)
o fail: queued, in_progress,
    requires_action, cancelling ->
    failed (failed_at)
o expire: queued, in_progress,
    requires_action, cancelling ->
    expired (completed_at)
o allowed here   - not from here"""


@pytest.mark.parametrize(
    ("width", "expected"),
    [(None, WIDE), (200, WIDE), (125, STARRED), (80, STAIRS), (60, NARROW), (40, LIST)],
)
def test_the_law(width: int | None, expected: str) -> None:
    """The lanes of the law are these, from the widest to the narrowest."""
    assert expected == draw(RUN_LIFECYCLE, "lanes", width=width)


def test_between_two_widths() -> None:
    """The columns move apart while there is room: at 100 they stand six apart, at 88 five."""
    rulers = [draw(width=width).splitlines()[-10] for width in (100, 88)]
    assert ["start                ●─────▶     ·     ·   ┊", "start                ●────▶    ·    ·   ┊"] == [
        ruler.partition("┊")[0] + "┊" for ruler in rulers
    ]


@pytest.mark.parametrize(
    ("form", "width", "expected"),
    [("lanes", 80, AT_WORK_STAIRS), ("ascii", 60, AT_WORK_ASCII), ("ascii", 40, AT_WORK_LIST)],
)
def test_a_run_at_work(form: str, width: int, expected: str) -> None:
    """A run's place is marked, its times are told, and what cannot be asked of it is dimmed."""
    assert expected == draw(RUN_LIFECYCLE, form, AT_WORK, width)  # type: ignore[arg-type]


def test_a_time_stands_only_where_the_run_was() -> None:
    """Three ends write completed_at, but the time stands under the one that the run reached."""
    captions = draw(position=ENDED).splitlines()[3]
    assert [
        "12:00:01",
        "12:00:03",
        "12:00:09",
        "completed_at",
        "failed_at",
        "cancelled_at",
        "completed_at",
    ] == captions.split()


def test_nothing_can_be_asked_of_a_run_that_ended() -> None:
    """Every lane of a terminal run is dimmed, and the mark stands under its status."""
    text = draw(position=ENDED)
    title, _, names, _, mark, *_ = text.splitlines()
    assert "run is completed, times in UTC" == title
    assert "completed" == names[mark.index("▲") - 4 : mark.index("▲") + 5]
    assert 0 == len(re.findall("[●▶◀─]", "".join(text.splitlines()[5:-1])))


def test_a_strange_name_is_shown_as_it_is() -> None:
    """Control characters, wide characters and line ends in an id are written as escapes, and a long id is cut."""
    titles = [
        draw(position=RunPosition(RunStatus.QUEUED, run_id=name), width=60).splitlines()[0]
        for name in ("\x1b[2J\né", "x" * 99)
    ]
    assert [r"run \x1b[2J\n\xe9 is queued, times in UTC", f"run {'x' * 33}... is queued"] == [titles[0], titles[1]]


def test_loops_and_targets_in_the_middle() -> None:
    """A lane that leads back to where it is asked, or that is reached from both sides, has a sign of its own."""
    lifecycle = Lifecycle(
        (
            Transition(RunEvent.COMPLETE, RunStatus.QUEUED, RunStatus.IN_PROGRESS, None, Basis.ALLOWED),
            Transition(RunEvent.COMPLETE, RunStatus.CANCELLING, RunStatus.IN_PROGRESS, None, Basis.ALLOWED),
            Transition(RunEvent.FAIL, RunStatus.QUEUED, RunStatus.CANCELLING, None, Basis.ALLOWED),
            Transition(RunEvent.FAIL, RunStatus.CANCELLING, RunStatus.CANCELLING, None, Basis.ALLOWED),
            Transition(RunEvent.EXPIRE, RunStatus.IN_PROGRESS, RunStatus.IN_PROGRESS, None, Basis.ALLOWED),
        )
    )
    expected = """\
            ─ live ────────────────────────
            queued  in_progress  cancelling
          created_at
complete       ●─────────◆────────────●
fail           ●──────────────────────◉
expire         ·         ◉            ·
● allowed here   ▶ leads to   ◉ both: leads back
    to the same status"""
    assert expected == draw(lifecycle)


def test_a_law_without_rows() -> None:
    """A law without rows says so in words, with the run's place if there is one."""
    assert "no transitions" == draw(Lifecycle(()))
    assert "run is queued, times in UTC\n^ queued\nno transitions" == draw(
        Lifecycle(()), "ascii", RunPosition(RunStatus.QUEUED), 30
    )


@pytest.mark.parametrize("width", [None, 125, 80, 40])
@pytest.mark.parametrize("position", [None, AT_WORK, ENDED])
def test_color_changes_no_character(width: int | None, position: RunPosition | None) -> None:
    """Without its escapes a coloured picture is the plain one, and no colour runs on past its line."""
    colored = draw(RUN_LIFECYCLE, "lanes", position, width, color=True)
    assert draw(RUN_LIFECYCLE, "lanes", position, width) == without_color(colored)
    assert "\x1b[" in colored
    assert {"\x1b[0m"} == {re.findall("\x1b.*?m", line)[-1] for line in colored.splitlines() if "\x1b" in line}


def test_the_status_of_the_run_is_bold() -> None:
    """Where the run stands, the name is bold in its own colour; so are the lanes it can be asked."""
    colored = draw(RUN_LIFECYCLE, "lanes", AT_WORK, color=True)
    assert "\x1b[0;1;38;5;33min_progress" in colored
    assert "\x1b[0;1mcomplete" in colored
    assert "\x1b[0;2;38;5;244mstart" in colored


def _brightness(code: int) -> float:
    if code >= 232:
        channels = [8 + 10 * (code - 232)] * 3
    else:
        steps = (0, 95, 135, 175, 215, 255)
        channels = [steps[(code - 16) // 36], steps[(code - 16) // 6 % 6], steps[(code - 16) % 6]]
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("paint", ANSI_STYLES.values())
def test_colors_can_be_seen_on_light_and_dark(paint: str) -> None:
    """Each tone has a contrast above 3 : 1 on white and on black."""
    light = _brightness(int(paint.rpartition(";")[2]))
    assert 1.05 / (light + 0.05) > 3
    assert (light + 0.05) / 0.05 > 3
