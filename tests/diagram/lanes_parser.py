"""Reads lanes back into moves: the second opinion on the renderers.

It looks at what is on the paper, rings and arrow heads and the columns they stand in, and at nothing the renderers
might have said besides. So if a picture shows another law than the one it was drawn from, the reader finds that other
law.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Final

import attrs

from runstate.diagram.canvas import ASCII, UNICODE, without_color
from runstate.diagram.model import Move
from runstate.diagram.renderers.lanes_text import EMPTY, INDENT, TITLE
from runstate.lifecycle import RunEvent, RunStatus

__all__ = ["parse_lanes"]

_STROKES: Final = (UNICODE.solid, UNICODE.dashed, ASCII.solid, ASCII.dashed)
_LOOPS: Final = frozenset(stroke.loop for stroke in _STROKES)
_RINGS: Final = frozenset(stroke.ring for stroke in _STROKES) | _LOOPS
_HEADS: Final = frozenset(sign for s in _STROKES for sign in (s.right, s.left, s.both)) | _LOOPS
_NO_LINE: Final = frozenset({UNICODE.grid, UNICODE.divider, ASCII.grid, ASCII.divider})

_NEAR: Final = 10.0
"""How far from the middle of its column a ring or the tip of an arrow head may be, in an SVG."""
_REACH: Final = 16.0
"""How far from there a line may end: the length of an arrow head further."""

_STATUSES: Final = "|".join(RunStatus)
_EVENTS: Final = "|".join(RunEvent)
_NAMES: Final = re.compile(rf" *(?:{_STATUSES})(?: +(?:{_STATUSES}))*")
_STEP: Final = re.compile(rf"[^│┌|+]*[│┊|: ]*([┌+]) ({_STATUSES})(?:  .*)?")
_LANE: Final = re.compile(rf"({_EVENTS}) +\S.*")
_LISTED: Final = re.compile(rf"(?:[●○o-] )?({_EVENTS}): (.+) (?:→|->) ({_STATUSES})(?: \(.*\))?")


def parse_lanes(picture: str) -> frozenset[Move]:
    """Return the moves (event, source, target) that lanes show: Unicode, ASCII or SVG, any width, coloured or not.

    Raises `ValueError` when the text is no picture of lanes, or a lane in it is broken.

    >>> sorted(parse_lanes("start: queued -> in_progress"))
    [(<RunEvent.START: 'start'>, <RunStatus.QUEUED: 'queued'>, <RunStatus.IN_PROGRESS: 'in_progress'>)]
    """
    if picture.lstrip().startswith("<"):
        return _read_svg(picture)
    lines = [line for line in without_color(picture).splitlines() if not line.startswith(TITLE)]
    unfolded = "\n".join(lines).replace(f"\n{INDENT}", " ").split("\n")
    if EMPTY in unfolded:
        return frozenset()
    listed = [found for found in map(_LISTED.fullmatch, unfolded) if found]
    if listed:
        return frozenset(
            (RunEvent(event), RunStatus(source), RunStatus(target))
            for event, sources, target in (found.groups() for found in listed)
            for source in sources.split(", ")
        )
    return _read_grid(lines)


def _read_grid(lines: list[str]) -> frozenset[Move]:
    columns = _columns(lines)
    if not columns:
        raise ValueError("no names of statuses over any columns: this is no picture of lanes")
    lanes = (found for found in map(_LANE.fullmatch, lines) if found)
    return frozenset(move for found in lanes for move in _read_lane(RunEvent(found[1]), found[0], columns))


def _columns(lines: list[str]) -> dict[int, RunStatus]:
    """Return which status each column of characters belongs to, from the names side by side or on the stairs."""
    for line in lines:
        if _NAMES.fullmatch(line):
            names = re.finditer(r"\w+", line)
            return {name.start() + len(name[0]) // 2: RunStatus(name[0]) for name in names}
    steps = (found for found in map(_STEP.fullmatch, lines) if found)
    return {found.start(1): RunStatus(found[2]) for found in steps}


def _read_lane(event: RunEvent, line: str, columns: dict[int, RunStatus]) -> Iterator[Move]:
    at = {x: line[x] for x in columns if x < len(line)}
    sources = [x for x, sign in at.items() if sign in _RINGS]
    targets = [x for x, sign in at.items() if sign in _HEADS]
    if not sources or len(targets) != 1:
        raise ValueError(f"the lane of {event} has {len(sources)} rings and {len(targets)} arrow heads")
    (target,) = targets
    if _NO_LINE.intersection(line[min(*sources, target) : max(*sources, target) + 1]):
        raise ValueError(f"the lane of {event} does not join its rings with its arrow head")
    for source in sources:
        yield event, columns[source], columns[target]


@attrs.define
class _DrawnLane:
    """What stands in one row of an SVG: its label, and from left to right its rings, heads and lines."""

    event: str = ""
    rings: list[float] = attrs.field(factory=list[float])
    tips: list[float] = attrs.field(factory=list[float])
    lines: list[tuple[float, float]] = attrs.field(factory=list[tuple[float, float]])


class _SvgReader(HTMLParser):
    """Collects the boxes of the statuses and the shapes of the lanes. It knows no entities, so none can explode."""

    def __init__(self) -> None:
        super().__init__()
        self.columns: dict[str, float] = {}
        """Where the middle of each status' box is."""
        self.lanes: list[_DrawnLane] = []
        self._group = ""
        self._text = ""
        self._middle = 0.0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        kind = given.get("class", "").partition(" ")[0]
        self._text = kind if tag == "text" else ""
        if tag == "g":
            self._group = kind
            if kind == "lane":
                self.lanes.append(_DrawnLane())
        elif tag == "rect" and self._group == "status":
            self._middle = float(given["x"]) + float(given["width"]) / 2
        elif self._group == "lane":
            self._shape(tag, given)

    def _shape(self, tag: str, given: dict[str, str]) -> None:
        lane = self.lanes[-1]
        if tag == "circle":
            lane.rings.append(float(given["cx"]))
        elif tag == "polygon":  # the first corner is the tip
            lane.tips.append(float(given["points"].split(",")[0]))
        elif tag == "line":
            lane.lines.append((float(given["x1"]), float(given["x2"])))

    def handle_data(self, data: str) -> None:
        if self._text == "name" and self._group == "status":
            self.columns[data] = self._middle
        elif self._text == "name" and self._group == "lane":
            self.lanes[-1].event = data

    def handle_endtag(self, tag: str) -> None:
        self._text = ""
        if tag == "g":
            self._group = ""


def _read_svg(picture: str) -> frozenset[Move]:
    reader = _SvgReader()
    reader.feed(picture)
    reader.close()
    if not reader.columns and "<svg" not in picture:
        raise ValueError("no boxes of statuses: this is no picture of lanes")
    return frozenset(move for lane in reader.lanes for move in _read_drawn(lane, reader.columns))


def _read_drawn(lane: _DrawnLane, columns: dict[str, float]) -> Iterator[Move]:
    sources = {_column_at(x, columns) for x in lane.rings}
    targets = {_column_at(x, columns) for x in lane.tips}
    if not sources or len(targets) != 1:
        raise ValueError(f"the lane of {lane.event} has {len(sources)} rings and {len(targets)} arrow heads")
    middles = [columns[status] for status in sources | targets]
    ends = [x for line in lane.lines for x in line]
    if sources != targets and (not ends or min(ends) > min(middles) + _REACH or max(ends) < max(middles) - _REACH):
        raise ValueError(f"the lane of {lane.event} does not join its rings with its arrow head")
    (target,) = targets
    for source in sources:
        yield RunEvent(lane.event), source, target


def _column_at(x: float, columns: dict[str, float]) -> RunStatus:
    near = [name for name, middle in columns.items() if abs(middle - x) <= _NEAR]
    if len(near) != 1:
        raise ValueError(f"a shape at {x} stands under no one status")
    return RunStatus(near[0])
