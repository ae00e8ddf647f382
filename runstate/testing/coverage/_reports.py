"""Coverage as text for a terminal, as JSON, and as an HTML page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, Final

from runstate.diagram.model import DiagramModel, Lane
from runstate.lifecycle import RUN_LIFECYCLE, RunEvent, RunStatus
from runstate.testing.coverage._data import CoverageData
from runstate.testing.matrix import Cell, cells, moves, refusals

__all__ = ["as_html", "as_json", "as_text"]

_LABEL: Final = 11


def as_text(data: CoverageData) -> str:
    """Return the totals and the cells that are not covered."""
    lines = [
        f"{'moves':<{_LABEL}}{data.tally(moves())}",
        f"{'refusals':<{_LABEL}}{data.tally(refusals())}",
        f"{'total':<{_LABEL}}{data.tally()}",
    ]
    covered = data.covered()
    missed = [cell for cell in moves() if cell not in covered]
    if missed:
        lines += ["", "moves not asked:", *(f"  {line}" for line in _by_status(missed))]
    missed = [cell for cell in refusals() if cell not in covered]
    if missed:
        lines += ["", "refusals not asked:", *(f"  {line}" for line in _by_status(missed))]
    return "\n".join(lines)


def _by_status(found: Sequence[Cell]) -> Iterator[str]:
    width = max(map(len, RunStatus)) + 2
    for status in RunStatus:
        events = [cell.event for cell in found if cell.status is status]
        if events:
            yield f"{status:<{width}}{', '.join(events) if len(events) < len(RunEvent) else 'all nine events'}"


def as_json(data: CoverageData, remarks: Sequence[str] = ()) -> str:
    """Return totals, the count and the tests of each cell, and the cells of each test."""

    def tally(of: Sequence[Cell]) -> dict[str, Any]:
        found = data.tally(of)
        return {"covered": found.covered, "total": found.total, "percent": round(found.percent, 2)}

    report = {
        "moves": tally(moves()),
        "refusals": tally(refusals()),
        "total": tally(cells()),
        "cells": [
            {
                "status": cell.status.value,
                "event": cell.event.value,
                "target": None if cell.target is None else cell.target.value,
                "times": data.count(cell),
                "tests": list(data.tests_of(cell)),
            }
            for cell in cells()
        ],
        "tests": {
            test: {
                "moves": [cell.__name__ for cell in found if cell.target is not None],
                "refusals": [cell.__name__ for cell in found if cell.target is None],
            }
            for test, found in data.by_test().items()
        },
        "remarks": list(remarks),
    }
    return json.dumps(report, indent=2) + "\n"


_STYLE: Final = """\
:root{color-scheme:light dark;--ink:#202124;--paper:#fff;--note:#5f6368;--rule:#dadce0;--move:#188038;--no:#b80672}
@media (prefers-color-scheme:dark){:root{--ink:#e6e8eb;--paper:#0d1117;--note:#9aa4af;--rule:#30363d;--move:#4cc38a;
--no:#f778ba}}
body{font:14px system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:2rem auto;max-width:72rem;
padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}
.tallies{display:flex;gap:2rem;margin:1rem 0}.tallies b{display:block;font-size:1.6rem}
.tallies span,.note{color:var(--note)}
table{border-collapse:collapse}
.lanes{table-layout:fixed;width:100%}
.lanes th{font-weight:600;padding:.3rem;font-size:12px}.lanes tbody th{text-align:right;white-space:nowrap}
.lanes col.names{width:10.5rem}
.lanes td{text-align:center;position:relative;height:2.1rem;padding:0;border-left:1px solid var(--rule)}
.lanes td.line::before{content:"";position:absolute;left:0;right:0;top:50%;border-top:2px solid var(--note);opacity:.5}
.lanes td.from::before{left:50%}.lanes td.to::before{right:65%}
.lanes td.from.left::before{left:0;right:50%}.lanes td.to.left::before{right:0;left:65%}
.lanes tr.lit td.line::before{border-color:var(--move);opacity:1}
.lanes span{position:relative;display:inline-block;min-width:1.5rem;line-height:1.5rem;border-radius:.75rem;
font-size:12px;background:var(--paper)}
.lanes .head{position:absolute;left:20%;top:.36rem;min-width:0;background:none;color:var(--note)}
.lanes .to.left .head{left:auto;right:20%}.lanes tr.lit .head{color:var(--move)}
.move span.n{border:2px dashed var(--note)}.move.asked span.n{border:2px solid var(--move);background:var(--move);
color:var(--paper);font-weight:600}
.refusal span.n{color:var(--note);background:none}.refusal.asked span.n{border:1px solid var(--no);color:var(--no);
background:var(--paper)}
.tests td,.tests th{border-top:1px solid var(--rule);padding:.3rem .6rem;text-align:left;vertical-align:top}"""


_KEY: Final = (
    "A number is how often an event was asked in a status: filled where it moves the run, outlined where it is"
    " refused. A dashed ring or a dot was never asked."
)


def as_html(data: CoverageData, remarks: Sequence[str] = ()) -> str:
    """Return one self-contained page: the lanes with the count of each cell, then test by test."""
    tallies = (("moves", moves()), ("refusals", refusals()), ("all cells", cells()))
    boxes = "".join(
        f"<div><b>{found.covered} of {found.total}</b><span>{name}, {found.percent:.0f} %</span></div>"
        for name, found in ((name, data.tally(of)) for name, of in tallies)
    )
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Transition coverage</title>',
            f'<meta name="viewport" content="width=device-width">\n<style>\n{_STYLE}\n</style></head><body>',
            f'<h1>Transition coverage</h1>\n<div class="tallies">{boxes}</div>',
            *_lanes(data),
            f'<p class="note">{_KEY}</p>',
            *(f'<p class="note">{escape(remark)}</p>' for remark in remarks),
            *_tests(data),
            "</body></html>\n",
        )
    )


def _lanes(data: CoverageData) -> Iterator[str]:
    model = DiagramModel.of(RUN_LIFECYCLE)
    columns = [column.status for column in model.columns]
    yield '<table class="lanes"><colgroup><col class="names"></colgroup>'
    yield f"<thead><tr><th></th>{''.join(f'<th>{status}</th>' for status in columns)}</tr></thead><tbody>"
    covered = data.covered()
    by_key = {(cell.status, cell.event): cell for cell in cells()}
    for lane in model.lanes:
        row = [by_key[status, lane.event] for status in columns]
        is_bright = any(cell in covered for cell in row if cell.target is not None)
        found = "".join(_cell(cell, lane, columns, data) for cell in row)
        yield f'<tr class="{"lit" if is_bright else ""}"><th>{lane.event}</th>{found}</tr>'
    yield "</tbody></table>"


def _cell(cell: Cell, lane: Lane, columns: list[RunStatus], data: CoverageData) -> str:
    times = data.count(cell)
    classes = ["refusal" if cell.target is None else "move", *(["asked"] if times else [])]
    place, target = columns.index(cell.status), columns.index(lane.target)
    sources = [columns.index(source) for source in lane.sources]
    first, last = min(*sources, target), max(*sources, target)
    if first <= place <= last:
        back = " left" if target == first else ""
        end = f"to{back}" if place == target else f"from{back}" if place in (first, last) else ""
        classes.append(f"line {end}".strip())
    head = f'<span class="head">{"◀" if target == first else "▶"}</span>' if place == target else ""
    tests = data.tests_of(cell)
    title = escape("\n".join((str(cell), *(test or "outside of tests" for test in tests[:20]))), quote=True)
    sign = str(times) if times else "·" if cell.target is None else "&nbsp;"  # an empty ring has no height
    return f'<td class="{" ".join(classes)}" title="{title}">{head}<span class="n">{sign}</span></td>'


def _tests(data: CoverageData) -> Iterator[str]:
    yield '<h2>By test</h2>\n<table class="tests"><tr><th>test</th><th>moves</th><th>refusals</th></tr>'
    for test, found in data.by_test().items():
        asked = ", ".join(cell.__name__ for cell in found if cell.target is not None)
        refused = ", ".join(cell.__name__ for cell in found if cell.target is None)
        yield f"<tr><td>{escape(test) or 'outside of tests'}</td><td>{asked}</td><td>{refused}</td></tr>"
    yield "</table>"
