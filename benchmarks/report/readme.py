"""The measured tables of the README, between `<!-- measured:NAME -->` and `<!-- /measured:NAME -->`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from benchmarks.report.page import NAMES, Record, table

_PEERS: Final = ("automat", "transitions", "python-statemachine")
_MEMORY: Final[Mapping[str, str]] = {
    "create": "create, id given",
    "transition (all nine)": "a move, mean of all nine",
    "refusal": "a refusal, raised and caught",
    "whole run": "a whole run with a tool round",
}
_DRAINS: Final[Mapping[str, str]] = {
    "10 slots": "10 slots",
    "100 slots": "100 slots",
    "100 slots x 2": "two workers, 100 slots each",
}
_BASELINE: Final = "baseline, fused"
_TASKS: Final = "baseline, tasks"


def memory(record: Record) -> str:
    """Return the ratios of a run in memory to one written by hand."""
    result = record["result"]
    peers = [_full_name(result["bytes"], peer) for peer in _PEERS]
    heads = ["", "runstate", *(_short(peer) for peer in peers)]
    rows: list[list[object]] = [
        [label, *(f"{_ratio(result['figures'][figure][name]['ratio'])}x" for name in ("runstate", *peers))]
        for figure, label in _MEMORY.items()
    ]
    made = result["figures"]["whole run"]["runstate, id made"]["ratio"]
    rows.append(["the same, with an id made", f"{_ratio(made)}x", *([None] * len(peers))])
    sizes = [result["bytes"][name]["given"] or result["bytes"][name]["made"] for name in ("runstate", *peers)]
    rows.append(["bytes a run", *(f"{size:,.0f}" for size in sizes)])
    return table(heads, rows)


def _full_name(names: Mapping[str, object], start: str) -> str:
    return next(name for name in names if name.startswith(start))


def _short(name: str) -> str:
    """Return a name with the first two numbers of its version, without the words after it."""
    return re.sub(r"^(\S+ \d+\.\d+).*$", r"\1", name)


def _ratio(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def drain(record: Record) -> str:
    """Return the runs drained a second, of runstate, its peers and the baselines."""
    figures = [row for row in record["result"]["figures"] if row["measure"] == "drain"]
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for row in figures:
        cells.setdefault((row["dialect"], row["contestant"]), {})[row["column"]] = row["per_s"]
    shown = {who: found for who, found in cells.items() if "100 slots" in found}
    rows = [
        [_row_title(*who), *(f"{_rounded(found[column]):,}" if found.get(column) else None for column in _DRAINS)]
        for who, found in sorted(shown.items(), key=_sort_key)
    ]
    return table(["drain", *_DRAINS.values()], rows)


def _row_title(dialect: str, name: str) -> str:
    if name == _BASELINE:
        return f"a hand-written baseline on {NAMES[dialect]}"
    if name == _TASKS:
        return f"another, with a task for each run, on {NAMES[dialect]}"
    return f"{_short(name)} on {NAMES[dialect]}" + (", which keeps no history" if name.startswith("huey") else "")


def _sort_key(item: tuple[tuple[str, str], object]) -> tuple[bool, bool, bool]:
    (dialect, name), _ = item
    return dialect != "sqlite", name in (_BASELINE, _TASKS), not name.startswith("runstate")


def _rounded(value: float) -> int:
    return int(round(value, -2 if value >= 1000 else -1))


_BLOCKS: Final[Mapping[str, tuple[str, Callable[[Record], str]]]] = {
    "memory": ("memory", memory),
    "drain": ("durable", drain),
}


def refresh(text: str, records: Mapping[str, Record]) -> str:
    """Return the README with its measured tables rendered from the stored results."""
    for block, (name, render) in _BLOCKS.items():
        if name in records:
            between = re.compile(rf"(<!-- measured:{block} -->\n).*?(\n<!-- /measured:{block} -->)", re.DOTALL)
            text = between.sub(lambda found: found[1] + render(records[name]) + found[2], text)  # noqa: B023
    return text
