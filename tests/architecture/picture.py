"""Draws the packages and their imports, and lists what each may import: `python -m tests.architecture.picture`.

The arrows are the imports that the modules have. An import is omitted if other arrows lead to the same package. Boxes
are in layers: a package is above all that it imports. Their edges are chosen here, so that every arrow is vertical.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Final, NamedTuple

import attrs

from runstate.diagram.model import ColorRole
from runstate.diagram.palette import DARK, LIGHT
from tests.architecture.layout import (
    BOTTOM,
    MAY_IMPORT,
    MAY_IMPORT_IN_STORE,
    MODULES,
    RESTRICTED,
    ROOT,
    imports,
    package_of,
    part_of_store,
)

__all__ = ["LayoutError", "architecture_svg", "imports_in_store", "imports_of_packages", "refresh"]

DOCS: Final = Path(__file__).parents[2] / "docs"


class LayoutError(ValueError):
    """The boxes leave no room for an arrow or for a text, or a package has no box."""


class Box(NamedTuple):
    """A package in the picture: its role, its left and right edge in pixels, and what it contains."""

    role: ColorRole
    left: int
    right: int
    contents: str


PACKAGES: Final[Mapping[str, Box]] = {
    "cli": Box("grey", 470, 1100, "the command line: one module for each group of commands"),
    "__init__": Box("blue", 20, 270, "the public names, loaded on first use"),
    "integrations": Box("grey", 290, 420, "for other libraries"),
    "demo": Box("grey", 440, 610, "a demonstration of workers"),
    "errors": Box("blue", 20, 160, "every error"),
    "worker": Box("orange", 180, 700, "Worker, Context, drive, Dispatcher"),
    "testing": Box("grey", 630, 860, "assertions, crash tests"),
    "store": Box("green", 20, 700, "durable runs in SQLite and PostgreSQL"),
    "traces": Box("blue", 250, 700, "recorded runs: readers and checks"),
    "diagram": Box("grey", 720, 1100, "the model, renderers"),
    "run": Box("blue", 250, 1100, "one run: values, validators, moves, JSON"),
    "lifecycle": Box("blue", 420, 1100, "the table of transitions and its look-ups"),
    "clock": Box("amber", 250, 400, "reads the time"),
    "_lazy": Box("amber", 20, 110, "lazy loading"),
    "_redaction": Box("amber", 124, 236, "hides passwords"),
}
STORE: Final[Mapping[str, Box]] = {
    "__init__": Box("green", 36, 440, "the public names: open_store, Store, AsyncStore, Settle, ..."),
    "doctor": Box("green", 460, 684, "the health check of a store"),
    "_api": Box("green", 36, 684, "the public methods: they check arguments and build commands"),
    "_sqlite": Box("green", 36, 220, "the driver sqlite3"),
    "_engine": Box("green", 240, 480, "committer, executor, transports"),
    "_postgres": Box("green", 500, 684, "the driver psycopg"),
    "_sql": Box("green", 36, 684, "tables, triggers, statements, rows: SQL text without a driver"),
    "availability": Box("green", 440, 684, "outages: when to try again"),
    "_worker_types": Box("green", 180, 420, "Lease, Claim, Settle, Checkpoint"),
    "errors": Box("green", 440, 570, "errors of a store"),
    "_notifier": Box("green", 36, 160, "notifications"),
    "validators": Box("green", 180, 284, "argument checks"),
    "_types": Box("green", 300, 520, "StoredRun, Entry"),
    "backoff": Box("green", 590, 684, "delays"),
}
FOLDED: Final = {"__main__": "cli"}
"""Modules that have no box of their own."""
SHOWN: Final = {"__init__": "runstate"}

WIDTH: Final = 1120
HEIGHT: Final = 42  # of a box
GAP: Final = 26  # between two layers
TOP: Final = 76
PAD: Final = 16
HEAD: Final = 7
NAME_CHAR: Final = 7.6
CONTENTS_CHAR: Final = 5.9
MARGIN: Final = 9  # of an arrow to the edge of a box that it passes
APART: Final = 14  # two arrows

Imports = Mapping[str, frozenset[str]]


# --- the imports ------------------------------------------------------------------------------------------------------


def imports_of_packages() -> Imports:
    """Return which packages each package of the library imports."""
    found: dict[str, set[str]] = {}
    for path in MODULES:
        package = FOLDED.get(package_of(path), package_of(path))
        others = found.setdefault(package, set())
        for each in imports(path):
            if each.name.startswith("runstate."):
                other = each.name.split(".")[1]
                if other != package:
                    others.add(other)
    return {package: frozenset(found[package]) for package in (*PACKAGES, *found) if package in found}


def imports_in_store() -> Imports:
    """Return which parts of the store each part of it imports."""
    found: dict[str, set[str]] = {}
    for path in MODULES:
        if package_of(path) == "store":
            part = part_of_store(path)
            others = found.setdefault(part, set())
            for each in imports(path):
                if f"{each.name}.".startswith("runstate.store."):
                    other = (*each.name.split("."), "__init__")[2]
                    if other != part:
                        others.add(other)
    return {part: frozenset(found[part]) for part in (*STORE, *found) if part in found}


def _all_below(graph: Imports, name: str) -> frozenset[str]:
    """Return what a package imports, by way of others too."""
    direct = graph[name]
    return direct.union(*(_all_below(graph, other) for other in direct))


def _arrows(graph: Imports) -> Iterator[tuple[str, str]]:
    """Yield the imports that do not follow from others."""
    for name, direct in graph.items():
        through_others = frozenset[str]().union(*(_all_below(graph, other) for other in direct))
        yield from ((name, other) for other in sorted(direct - through_others))


def _layer(graph: Imports, name: str) -> int:
    """Return how many packages are below a package, one under the other."""
    return max((1 + _layer(graph, other) for other in graph[name]), default=0)


# --- places -----------------------------------------------------------------------------------------------------------


@attrs.frozen
class _Placed:
    """A box with its place."""

    name: str
    box: Box
    top: float
    height: float = HEIGHT

    @property
    def bottom(self) -> float:
        return self.top + self.height


def _place(graph: Imports, boxes: Mapping[str, Box], top: float, tall: Mapping[str, float]) -> dict[str, _Placed]:
    """Return the boxes with their places: the highest layer first, those of a layer side by side."""
    if missing := graph.keys() ^ boxes.keys():
        raise LayoutError(f"boxes and packages differ: {', '.join(sorted(missing))}")
    placed: dict[str, _Placed] = {}
    layers = {name: _layer(graph, name) for name in boxes}
    for layer in sorted({*layers.values()}, reverse=True):
        row = [_Placed(name, box, top, tall.get(name, HEIGHT)) for name, box in boxes.items() if layers[name] == layer]
        placed |= {each.name: each for each in row}
        top = max(each.bottom for each in row) + GAP
    for one in placed.values():
        _require_room(one)
        for other in placed.values():
            if one is not other and _overlap(one, other):
                raise LayoutError(f"the boxes of {one.name} and {other.name} overlap")
    return placed


def _overlap(one: _Placed, other: _Placed) -> bool:
    beside = one.box.right + MARGIN <= other.box.left or other.box.right + MARGIN <= one.box.left
    return not beside and one.top < other.bottom and other.top < one.bottom


def _require_room(placed: _Placed) -> None:
    room = placed.box.right - placed.box.left - 12
    needed = max(len(_shown(placed.name)) * NAME_CHAR, len(placed.box.contents) * CONTENTS_CHAR)
    if needed > room:
        raise LayoutError(f"the texts of {placed.name} need {needed:.0f} pixels, and there are {room}")


def _columns(graph: Imports, placed: Mapping[str, _Placed]) -> Iterator[tuple[_Placed, _Placed, float]]:
    """Yield the arrows with their columns: in both boxes, through no other box, and apart from other arrows."""
    taken: list[tuple[_Placed, _Placed, float]] = []
    for name, other in _arrows(graph):
        upper, lower = placed[name], placed[other]
        first = max(upper.box.left, lower.box.left) + APART
        last = min(upper.box.right, lower.box.right) - APART
        middle = (first + last) / 2
        free = [x for x in range(first, last + 1, 2) if _is_free(x, upper, lower, placed, taken)]
        if not free:
            raise LayoutError(f"no column for an arrow from {name} to {other}")
        arrow = (upper, lower, min(free, key=lambda x: (abs(x - middle), x)))
        taken.append(arrow)
        yield arrow


def _is_free(
    x: float,
    upper: _Placed,
    lower: _Placed,
    placed: Mapping[str, _Placed],
    taken: list[tuple[_Placed, _Placed, float]],
) -> bool:
    for each in placed.values():
        between = upper.bottom < each.bottom and each.top < lower.top and each not in (upper, lower)
        if between and each.box.left - MARGIN < x < each.box.right + MARGIN:
            return False
    return not any(
        abs(x - other) < APART and start.bottom < lower.top and upper.bottom < end.top for start, end, other in taken
    )


# --- the picture ------------------------------------------------------------------------------------------------------


def architecture_svg() -> str:
    """Return the picture as one SVG element, for a light and for a dark page."""
    packages, parts = imports_of_packages(), imports_in_store()
    layers = 1 + max(_layer(parts, part) for part in parts)
    inside = layers * (HEIGHT + GAP) - GAP
    placed = _place(packages, PACKAGES, TOP, {"store": inside + HEIGHT + PAD})
    in_store = _place(parts, STORE, placed["store"].top + HEIGHT, {})
    bottom = max(each.bottom for each in placed.values()) + PAD
    size = f'width="{WIDTH}" height="{bottom:g}"'
    view = f'viewBox="0 0 {WIDTH} {bottom:g}"'
    note = "An arrow is an import. It is omitted where other arrows lead to the same package. Dashed: private."
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="layers" role="img" {size} {view}>',
            "<title>The packages of runstate</title>",
            f"<desc>{escape(_description(packages, parts))}</desc>",
            f"<style>\n{_style()}\n</style>",
            f'<rect class="paper" {size} rx="8"/>',
            f'<text class="title" x="{WIDTH / 2:g}" y="30" text-anchor="middle">The packages of runstate</text>',
            f'<text class="note" x="{WIDTH / 2:g}" y="52" text-anchor="middle">{note}</text>',
            *(_box(each, packages) for each in placed.values()),
            *(_box(each, parts, "store.") for each in in_store.values()),
            *(_arrow(*arrow) for arrow in _columns(packages, placed)),
            *(_arrow(*arrow) for arrow in _columns(parts, in_store)),
            "</svg>\n",
        )
    )


def _shown(name: str) -> str:
    return SHOWN.get(name, name)


def _imported(names: frozenset[str]) -> str:
    return f"imports {', '.join(sorted(names))}" if names else "imports none of the others"


def _description(packages: Imports, parts: Imports) -> str:
    sentences = [f"{_shown(name)} {_imported(names)}." for name, names in packages.items()]
    sentences += [f"store.{name} {_imported(names)}." for name, names in parts.items()]
    return " ".join(sentences)


def _style() -> str:
    font = 'font-family:system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif;font-size:11px'
    lines = [
        f".layers{{{font}}}",
        ".layers .title{font-size:16px;font-weight:600}",
        ".layers .name{font-size:13px;font-weight:600}",
        ".layers .private{stroke-dasharray:4 3}",
        ".layers line{stroke-width:1.6}",
        ".layers .box{stroke-width:1.4}",
        *_colors("#fff", "#202124", "#5f6368", dark=False),
        "@media (prefers-color-scheme:dark){",
        *_colors("#0d1117", "#e6e8eb", "#9aa4af", dark=True),
        "}",
    ]
    return "\n".join(lines)


def _colors(paper: str, ink: str, note: str, *, dark: bool) -> Iterator[str]:
    yield f".layers .paper{{fill:{paper}}}"
    yield f".layers text{{fill:{ink}}}"
    yield f".layers .note{{fill:{note}}}"
    yield f".layers line{{stroke:{note}}}"
    yield f".layers polygon{{fill:{note}}}"
    for role, colors in (DARK if dark else LIGHT).items():
        if role in {box.role for box in (*PACKAGES.values(), *STORE.values())}:
            yield f".layers .{role} .box{{fill:{colors.fill};stroke:{colors.outline}}}"
            yield f".layers .{role} text{{fill:{colors.text}}}"
    yield f".layers .inside .box{{fill:{paper}}}"


def _box(placed: _Placed, graph: Imports, prefix: str = "") -> str:
    box, name = placed.box, placed.name
    is_private = name.startswith("_") and not name.startswith("__")
    middle = (box.left + box.right) / 2
    shown = name if prefix else _shown(name)
    texts = [
        f'<text class="{kind}" x="{middle:g}" y="{placed.top + y}" text-anchor="middle">{escape(text)}</text>'
        for kind, text, y in (("name", shown, 18), ("contents", box.contents, 33))
    ]
    inside = " inside" if prefix else ""
    return (
        f'<g class="{box.role}{inside}"><title>{prefix}{name} {escape(_imported(graph[name]))}</title>'
        f'<rect class="box{" private" if is_private else ""}" x="{box.left}" y="{placed.top:g}"'
        f' width="{box.right - box.left}" height="{placed.height:g}" rx="6"/>{"".join(texts)}</g>'
    )


def _arrow(upper: _Placed, lower: _Placed, x: float) -> str:
    tip = lower.top - 1
    corners = f"{x:g},{tip:g} {x - HEAD / 2:g},{tip - HEAD:g} {x + HEAD / 2:g},{tip - HEAD:g}"
    return f'<line x1="{x:g}" y1="{upper.bottom:g}" x2="{x:g}" y2="{tip - HEAD:g}"/><polygon points="{corners}"/>'


# --- the page ---------------------------------------------------------------------------------------------------------


def _table(may_import: Imports, boxes: Mapping[str, Box], prefix: str) -> str:
    rows = ["| package | contents | may import | restricted modules |", "| --- | --- | --- | --- |"]
    for name, box in boxes.items():
        below = _below(may_import[name])
        path = f"{prefix}{name}"
        rows.append(f"| `{name if prefix else _shown(name)}` | {box.contents} | {below} | {_restricted(path)} |")
    return "\n".join(rows)


def _below(names: frozenset[str]) -> str:
    """Return the packages that a package may import."""
    small = frozenset(BOTTOM)
    listed = [f"`{name}`" for name in sorted(names - small if names >= small else names)]
    return ", ".join([*listed, *(["the modules below `_sql`"] if names >= small else [])])


def _restricted(package: str) -> str:
    """Return the modules that a package may import and most others may not; bold where it is the only one."""
    cells: list[str] = []
    for module, places in RESTRICTED.items():
        own = [place for place in places if f"{FOLDED.get(place, place)}/".startswith(f"{package}/")]
        if own and package == "store":
            continue  # they are in the table of its parts
        if own:
            shown = f"**`{module}`**" if len(own) == len(places) else f"`{module}`"
            inner = [f"`runstate/{place}{'/' if (ROOT / place).is_dir() else '.py'}`" for place in own]
            cells.append(shown if package in own else f"{shown} ({', '.join(inner)})")
    return ", ".join(cells)


def refresh(page: str) -> str:
    """Return the page with its tables made anew."""
    tables = {"packages": _table(MAY_IMPORT, PACKAGES, ""), "store": _table(MAY_IMPORT_IN_STORE, STORE, "store/")}
    for name, table in tables.items():
        page, found = re.subn(
            rf"(?s)(<!-- imports:{name} -->\n).*?(<!-- /imports:{name} -->)",
            lambda match, table=table: f"{match[1]}{table}\n{match[2]}",  # type: ignore[misc]
            page,
        )
        if found != 1:
            raise LayoutError(f"the page has {found} tables imports:{name}")
    return page


if __name__ == "__main__":
    (DOCS / "architecture.svg").write_text(architecture_svg(), encoding="utf-8")
    page = DOCS / "architecture.md"
    page.write_text(refresh(page.read_text(encoding="utf-8")), encoding="utf-8")
