"""The picture is the rules: what is drawn from a random law is read back as that law."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runstate.diagram import Format, RunPosition, draw
from runstate.diagram.model import Move
from runstate.lifecycle import RUN_LIFECYCLE, Basis, Lifecycle, RunEvent, RunStatus, Stamp, Transition, documented
from tests.diagram.lanes_parser import parse_lanes

STATUSES = st.sampled_from(RunStatus)
WIDTHS = st.none() | st.integers(1, 160)
LANES: tuple[Format, ...] = ("lanes", "ascii", "svg")


@st.composite
def lifecycles(draw_: st.DrawFn) -> Lifecycle:
    """Any table the law's own checks let pass: also self-loops, targets between sources, no rows at all."""
    rows: list[Transition] = []
    for event in draw_(st.sets(st.sampled_from(RunEvent))):
        target = draw_(STATUSES)
        for source in draw_(st.sets(STATUSES, min_size=1)):
            stamp: Stamp | None = draw_(st.sampled_from((None, *get_args(Stamp))))
            rows.append(Transition(event, source, target, stamp, draw_(st.sampled_from(Basis))))
    return Lifecycle(tuple(rows))


@st.composite
def positions(draw_: st.DrawFn) -> RunPosition:
    """A run anywhere, whose id a stranger chose."""
    names: st.SearchStrategy[str] = st.sampled_from(("created_at", "expires_at", *get_args(Stamp)))
    stamps = draw_(st.dictionaries(names, st.none() | st.integers()))
    return RunPosition(draw_(STATUSES), stamps, draw_(st.none() | st.text()))


def moves(lifecycle: Lifecycle) -> frozenset[Move]:
    return frozenset((row.event, row.source, row.target) for row in lifecycle.transitions)


@pytest.mark.slow
@pytest.mark.parametrize("form", LANES)
@settings(max_examples=120, deadline=None)
@given(lifecycle=lifecycles(), position=st.none() | positions(), width=WIDTHS, color=st.booleans())
@example(lifecycle=RUN_LIFECYCLE, position=None, width=None, color=False)
@example(lifecycle=Lifecycle(()), position=None, width=None, color=False)
@example(lifecycle=Lifecycle(()), position=RunPosition(RunStatus.QUEUED), width=None, color=True)
@example(
    lifecycle=RUN_LIFECYCLE,
    position=RunPosition(RunStatus.FAILED, run_id="x\nfail      ●──▶\nqueued failed"),
    width=30,
    color=True,
)
def test_every_picture_is_its_law(
    form: Format, lifecycle: Lifecycle, position: RunPosition | None, width: int | None, color: bool
) -> None:
    """Lanes, at any width, coloured or not, with a run or without, hold the moves of their law and no others."""
    assert moves(lifecycle) == parse_lanes(draw(lifecycle, form, position, width, color))


@pytest.mark.parametrize("form", LANES)
def test_nineteen_and_eleven(form: Format) -> None:
    """The pictures of the whole law and of its documented part differ by the eight allowed moves."""
    whole, part = parse_lanes(draw(RUN_LIFECYCLE, form)), parse_lanes(draw(documented(), form))
    assert (19, 11, True) == (len(whole), len(part), part < whole)


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(
    lifecycle=lifecycles(),
    position=st.none() | positions(),
    width=st.integers(25, 160),
    form=st.sampled_from(LANES[:2]),
)
def test_no_line_is_wider_than_asked(
    lifecycle: Lifecycle, position: RunPosition | None, width: int, form: Format
) -> None:
    """A line is wider than asked only if one word and its indent are."""
    text = draw(lifecycle, form, position, width)
    assert [] == [line for line in text.splitlines() if len(line) > width]


@settings(max_examples=60, deadline=None)
@given(lifecycle=lifecycles(), position=positions(), width=WIDTHS)
def test_ascii_is_ascii(lifecycle: Lifecycle, position: RunPosition, width: int | None) -> None:
    """The plain form holds no other characters, whatever the run is called."""
    assert draw(lifecycle, "ascii", position, width).isascii()


@pytest.mark.parametrize("text", ["", "hello", "fail: nobody -> knows", "<html></html>", "<p>queued</p>"])
def test_what_is_no_picture_is_refused(text: str) -> None:
    """Text without columns is no picture of lanes."""
    with pytest.raises(ValueError, match="this is no picture of lanes"):
        parse_lanes(text)


@pytest.mark.parametrize(
    ("drawn", "broken", "complaint"),
    [
        ("complete                  ·          ", "complete                  ·  ", "rings|columns"),
        ("●──────────────▶", "·──────────────▶", "0 rings and 1 arrow heads"),
        ("●───────────▶", "●────·──────▶", "does not join"),
        ("●──────────────▶      ┊", "●──────────────●      ┊", "4 rings and 0 arrow heads"),
    ],
)
def test_a_broken_lane_is_refused(drawn: str, broken: str, complaint: str) -> None:
    """A lane without ring, arrow head or line is told apart from a rule."""
    text = draw()
    assert drawn in text
    with pytest.raises(ValueError, match=complaint):
        parse_lanes(text.replace(drawn, broken))


def _svg_of_one() -> str:
    return draw(
        Lifecycle((Transition(RunEvent.START, RunStatus.QUEUED, RunStatus.FAILED, None, Basis.DOCUMENTED),)), "svg"
    )


@pytest.mark.parametrize(
    ("drawn", "complaint"),
    [
        ("<circle", "0 rings and 1 arrow heads"),
        ("<polygon", "1 rings and 0 arrow heads"),
        ("<line x1", "does not join"),
    ],
)
def test_a_broken_svg_is_refused(drawn: str, complaint: str) -> None:
    """A lane of an SVG that lost a shape is told apart from a rule."""
    head, lane, tail = _svg_of_one().partition('<g class="lane')
    with pytest.raises(ValueError, match=complaint):
        parse_lanes(head + lane + tail.replace(drawn, "<g"[:1] + "ellipse", 1))


def test_a_shape_between_columns_is_refused() -> None:
    """A ring that stands under no status belongs to no move."""
    head, lane, tail = _svg_of_one().partition('<g class="lane')
    with pytest.raises(ValueError, match="stands under no one status"):
        parse_lanes(head + lane + tail.replace('cx="', 'cx="9', 1))


def test_a_moved_arrow_is_another_rule() -> None:
    """The reader believes the shapes, not what the renderer says besides."""
    text = draw()
    line = next(line for line in text.splitlines() if line.startswith("confirm_cancel"))
    moved = line.replace("─▶             ·", "───────────────▶"[:2] + "─" * 12 + "─▶")
    assert (RunEvent.CONFIRM_CANCEL, RunStatus.CANCELLING, RunStatus.EXPIRED) in parse_lanes(text.replace(line, moved))
