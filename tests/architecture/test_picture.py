"""The picture of the packages and the tables of the architecture page are those of the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.architecture import picture
from tests.architecture.picture import (
    Box,
    LayoutError,
    architecture_svg,
    imports_in_store,
    imports_of_packages,
    refresh,
)

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "architecture.md").read_text(encoding="utf-8")


def test_the_drawn_file_is_current() -> None:
    """Drawing it again changes nothing: `make pictures` when this fails."""
    assert (DOCS / "architecture.svg").read_text(encoding="utf-8") == architecture_svg()


def test_the_tables_are_current() -> None:
    """The page says what each package may import: `make pictures` when this fails."""
    assert refresh(PAGE) == PAGE
    assert "| `sqlite3`" not in PAGE
    assert "**`sqlite3`**" in PAGE


def test_a_stale_table_is_noticed() -> None:
    """A row that was changed by hand would not survive."""
    assert refresh(PAGE.replace("**`sqlite3`**", "`sqlite3`")) == PAGE


def test_a_page_without_tables_is_refused() -> None:
    with pytest.raises(LayoutError, match="imports:packages"):
        refresh("# A page")


def test_every_import_is_in_the_picture() -> None:
    """The description of the picture has all imports, also those that no arrow shows."""
    (description,) = re.findall(r"<desc>(.*)</desc>", architecture_svg())
    assert "worker imports _redaction, clock, lifecycle, run, store." in description
    assert "store._engine imports _notifier, _sql, _types," in description


@pytest.mark.parametrize("graph", [imports_of_packages(), imports_in_store()], ids=["packages", "store"])
def test_arrows_lead_to_all_that_is_imported(graph: picture.Imports) -> None:
    """An arrow is an import, and every import is an arrow or follows from others."""
    arrows = list(picture._arrows(graph))
    assert all(other in graph[name] for name, other in arrows)
    reached = {name: {name} for name in graph}
    for _ in graph:
        for name, other in arrows:
            reached[name] |= reached[other]
    assert all(others <= reached[name] for name, others in graph.items())
    assert len(arrows) < sum(map(len, graph.values()))


def test_no_arrow_crosses_a_box() -> None:
    """Arrows lead downward, from one box to another, and pass by all others."""
    svg = architecture_svg()
    boxes = [
        tuple(map(float, each)) for each in re.findall(r'x="(\d+)" y="(\d+)" width="(\d+)" height="(\d+)" rx="6"', svg)
    ]
    lines = [tuple(map(float, each)) for each in re.findall(r'x1="(\d+)" y1="(\d+)" x2="(\d+)" y2="(\d+)"', svg)]
    assert len(boxes) == len(picture.PACKAGES) + len(picture.STORE)
    assert len(lines) == svg.count("<polygon") > 20
    for x, top, end, bottom in lines:
        assert x == end
        assert top < bottom
        for left, upper, width, height in boxes:
            inside = upper < top and bottom < upper + height  # the box of the store is around its parts
            assert inside or not (left <= x <= left + width and top < upper + height and upper < bottom)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"clock": None}, "boxes and packages differ: clock"),
        ({"clock": Box("amber", 250, 430, "reads the time")}, "lifecycle and clock overlap"),
        ({"clock": Box("amber", 250, 300, "reads the time")}, "the texts of clock need"),
        ({"testing": Box("grey", 720, 860, "assertions")}, "no column for an arrow from testing to worker"),
    ],
)
def test_boxes_without_room_are_refused(changed: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package needs a box, and every text and every arrow needs room."""
    boxes = {name: box for name, box in {**picture.PACKAGES, **changed}.items() if box is not None}
    monkeypatch.setattr(picture, "PACKAGES", boxes)
    with pytest.raises(LayoutError, match=message):
        architecture_svg()
