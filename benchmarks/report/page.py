"""BENCHMARKS.md: one table for each measurement, from its stored result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from benchmarks.report.chart import Bar, Kind, Panel, chart

Record: TypeAlias = Mapping[str, Any]
"""The stored record of a measurement: its command, day, machine and result."""

NAMES: Final = {"sqlite": "SQLite", "postgres": "PostgreSQL", "redis": "Redis"}
ABOUT: Final = (
    "Written by `python -m benchmarks.report`, which runs every command below; with names it runs some, with"
    " `--render` none. No figure decides a test. How the store grows is in [docs/scale.md](docs/scale.md)."
)
STEPS: Final = (
    "One run, in one worker process, keeps its steps one after the other: 200 steps with results of 20 kB, and 300 with"
    " results of 100 bytes, of random text. Steps a second are timed inside the handler, from the first step to the"
    " last. The WAL is what the server wrote for the whole run, by `pg_current_wal_insert_lsn()`. Medians over the"
    " rounds, and the median of the ratios to runstate with a plain handler in the same database and round. Each"
    " library is used as its documentation describes steps: runstate, absurd, pgtask and DBOS on PostgreSQL, and"
    " runstate alone on SQLite."
)
FAULTS: Final = ("lost", "doubled", "illegal", "gaps")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; None is an empty cell."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join('' if cell is None else str(cell) for cell in line)} |" for line in lines)


def _provenance(record: Record) -> str:
    about = {**record["machine"], **(record["result"].get("about", {}) if isinstance(record["result"], dict) else {})}
    facts = "; ".join(f"{name} {value}" for name, value in about.items())
    return f"`{record['command']}`, {record['taken']}, {record['seconds']:,} s. {facts}."


# --- speed ------------------------------------------------------------------------------------------------------------


def memory(record: Record) -> Iterator[str]:
    """Yield the costs of a run in memory."""
    result = record["result"]
    names = list(result["bytes"])
    yield "CPU time of one, medians over the rounds, and the ratio to a class written by hand in the same round."
    heads = [""] + [name.replace("transition ", "move ") for name in result["figures"]] + ["bytes a run"]
    rows: list[list[object]] = []
    for name in names:
        cells = [
            f"{summary[name]['ns']:,.0f} ns, {summary[name]['ratio']:.2f}x" if name in summary else None
            for summary in result["figures"].values()
        ]
        rows.append([name, *cells, f"{result['bytes'][name]['given'] or result['bytes'][name]['made']:,.0f}"])
    yield table(heads, rows)


def durable(record: Record) -> Iterator[str]:
    """Yield creates, drains and starts on each database."""
    result = record["result"]
    yield (
        "Runs a second, medians over the rounds, and the median of the ratios to the fused baseline of the same "
        "database in the same round. Create is acknowledged and durable; drain is claim, handler that does nothing, "
        "complete; `x 2` is two worker processes. Start is the wait from `create` in one process to the handler in "
        "another, idle one."
    )
    yield from (f"- {name}: {about}" for name, about in result["contestants"].items())
    for measure in ("create", "drain", "start"):
        found = [row for row in result["figures"] if row["measure"] == measure]
        if found:
            yield f"### {measure.capitalize()}"
            yield _start_table(found) if measure == "start" else _rate_table(found)


def _rate_table(found: Sequence[Mapping[str, Any]]) -> str:
    labels = list(dict.fromkeys(row["column"] for row in found))
    cells = {(row["dialect"], row["contestant"], row["column"]): row for row in found}
    contestants = dict.fromkeys(
        (row["dialect"], row["contestant"]) for row in sorted(found, key=lambda row: int(row["place"]))
    )
    rows = [
        [f"{name}, {NAMES[dialect]}", *(_rate(cells.get((dialect, name, label))) for label in labels)]
        for dialect, name in contestants
    ]
    return table(["", *labels], rows)


def _rate(row: Mapping[str, Any] | None) -> str | None:
    if row is None:
        return None
    if row["per_s"] is None:
        return "failed"
    return f"{row['per_s']:,.0f}" + (f", {row['ratio']:.2f}x" if row["ratio"] is not None else "")


def _start_table(found: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [f"{row['contestant']}, {NAMES[row['dialect']]}", f"{row['p50_ms']:.1f} ms", f"{row['p99_ms']:.1f} ms"]
        for row in found
        if row["p50_ms"] is not None
    ]
    return table(["", "median", "99 %"], rows)


def steps(record: Record) -> Iterator[str]:
    """Yield the steps a second, and the WAL of a run of steps."""
    result = record["result"]
    yield STEPS
    yield from (f"- {name}: {about}" for name, about in result["contestants"].items())
    rows = {(row["dialect"], row["contestant"], row["case"]): row for row in result["figures"]}
    cases = list(dict.fromkeys(case for _, _, case in rows))
    heads = [head for case in cases for head in (f"{case}, a second", "WAL, MB")]
    lines = [
        [f"{name}, {NAMES[dialect]}", *(cell for case in cases for cell in _step_cells(rows[dialect, name, case]))]
        for dialect, name in dict.fromkeys((dialect, name) for dialect, name, _ in rows)
    ]
    yield table(["", *heads], lines)


def _step_cells(row: Mapping[str, Any]) -> tuple[str | None, str | None]:
    wal = None if row["wal_bytes"] is None else f"{row['wal_bytes'] / 1e6:.2f}, {row['wal_ratio']:.2f}x"
    return _rate(row), wal


def python_cost(record: Record) -> Iterator[str]:
    """Yield what a drained run costs in Python."""
    yield (
        "CPU time of a drained run, medians over the rounds; beside Python's the least and the most of them. `store` is"
        " claim and outcome alone, without a worker; `async` and `plain` are a worker with a handler that does nothing,"
        " of either kind. The driver is the C code of sqlite3 or libpq."
    )
    rows = [
        [
            f"{row['how']}, {row['slots']} slot{'s' * (row['slots'] > 1)}, {NAMES[row['dialect']]}",
            *(f"{row[f'{part}_us']:.1f} us" for part in ("total", "driver", "python")),
            f"{row['least_us']:.1f} to {row['most_us']:.1f}",
        ]
        for row in record["result"]["figures"]
    ]
    yield table(["", "in all", "driver", "Python", ""], rows)


def latency(record: Record) -> Iterator[str]:
    """Yield latencies: claims as tables grow, idle workers, cancels, deadlines."""
    rows = []
    for name, found in record["result"].items():
        if name != "about":
            dialect, what = name.split(" ", 1)
            rows.append([f"{what}, {NAMES[dialect]}", _format(found)])
    yield table(["", ""], rows)


def _format(value: object) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {_format(inner)}" for name, inner in value.items())
    if isinstance(value, bool):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}" if isinstance(value, float) else str(value)


# --- torture ----------------------------------------------------------------------------------------------------------


def trials(record: Record) -> Iterator[str]:
    """Yield what a torture program did, and what it found."""
    result = record["result"]
    found = result if isinstance(result, list) else [result]
    rows = [
        [
            one["trial"],
            f"{one['trials']:,}",
            ", ".join(f"{count:,} {kind}" for kind, count in one["faults"].items()),
            f"{one['acknowledged']:,}",
            *(f"{one[fault]:,}" for fault in FAULTS),
            f"{one['seconds']:,.0f} s",
        ]
        for one in found
    ]
    yield table(["", "trials", "faults", "acknowledged", *FAULTS, "in"], rows)
    for one in found:
        if one["notes"]:
            yield f"{one['trial']}:"
        yield from (f"- {name}: {_format(value)}" for name, value in one["notes"].items())
        yield from (f"- wrong: {sentence}" for sentence in one["wrong"])


def storm(record: Record) -> Iterator[str]:
    """Yield the faults of a storm, and its findings."""
    yield from trials(record)
    yield (
        "A take-over after the lease is counted from the lease's end, the server's outages included, and is never "
        "early. After the death it is counted from the kill, without the time in which no process could write; for 99 "
        "of 100 it is at most the lease of 1.5 s and 5 s more."
    )


def simulation(record: Record) -> Iterator[str]:
    """Yield what was simulated, and the findings."""
    counts = {name: count for name, count in record["result"].items() if isinstance(count, int)}
    found = ("losses", "doubles", "illegal", "gaps", "leases", "deadlines", "attempts", "stuck", "faults")
    pace = counts["steps"] / record["result"]["seconds"]
    yield (
        f"{counts['worlds']:,} worlds, {counts['steps']:,} steps ({pace:,.0f} a second), {counts['acknowledged']:,} "
        "acknowledged. A step is a transaction, a read, or a connection that is opened."
    )
    yield table(found, [[f"{counts[name]:,}" for name in found]])
    others = {name: count for name, count in counts.items() if name not in (*found, "worlds", "steps", "acknowledged")}
    yield "; ".join(f"{name}: {count:,}" for name, count in others.items()) + "."
    yield from (f"- wrong: seed {one['seed']}: {'; '.join(one['found'])}" for one in record["result"]["wrong"])


def bugs(record: Record) -> Iterator[str]:
    """Yield how soon each seeded bug was found."""
    descriptions = record["result"]["bugs"]
    rows = [
        [
            descriptions[one["bug"]],
            one["harness"],
            f"{one['seconds']:.1f} s" if one["found"] else "not found",
            one["first"],
        ]
        for one in record["result"]["hunts"]
    ]
    yield table(["put into the engine", "found by", "after", "first finding"], rows)


SECTIONS: Final[Mapping[str, tuple[str, Callable[[Record], Iterator[str]]]]] = {
    "memory": ("A run in memory", memory),
    "durable": ("A durable run", durable),
    "steps": ("Durable steps", steps),
    "latency": ("Growth, idling, cancels, deadlines", latency),
    "python_cost": ("What of it is Python", python_cost),
    "storm_postgres": ("Storm on PostgreSQL", storm),
    "storm_sqlite": ("Storm on SQLite", storm),
    "simulation": ("Simulation", simulation),
    "power_cuts": ("Power cuts", trials),
    "trials": ("Trials of one fault each", trials),
    "bugs": ("Bugs put into the engine", bugs),
}

ANNOUNCED: Final = {"steps": ("python -m benchmarks.durable.steps --json", STEPS)}
"""What the page describes before there is a result: the command, and what it measures."""


def page(records: Mapping[str, Record]) -> str:
    """Return BENCHMARKS.md."""
    parts = [
        "# Benchmarks and torture",
        ABOUT,
    ]
    if "durable" in records:
        parts.append("![Drained runs a second, by contestant](docs/benchmarks.svg)")
    for name, (title, render) in SECTIONS.items():
        if name in records:
            parts += [f"## {title}", _provenance(records[name]), *_blocks(render(records[name]))]
        elif name in ANNOUNCED:
            command, about = ANNOUNCED[name]
            parts += [f"## {title}", f"`{command}`, not measured yet.", about]
    return "\n\n".join(parts) + "\n"


def _blocks(lines: Iterator[str]) -> list[str]:
    """Return paragraphs: the items of a list stay together."""
    blocks: list[str] = []
    for line in lines:
        if line.startswith("- ") and blocks and blocks[-1].startswith("- "):
            blocks[-1] += f"\n{line}"
        else:
            blocks.append(line)
    return blocks


def chart_of(record: Record) -> str:
    """Return the chart of the README: drained runs a second at 100 slots, on each database."""
    panels: list[Panel] = []
    for dialect in ("sqlite", "postgres"):
        rows = [
            row
            for row in record["result"]["figures"]
            if row["dialect"] == dialect and row["measure"] == "drain" and row["column"] == "100 slots" and row["per_s"]
        ]
        bars = [Bar(row["contestant"], row["per_s"], _kind(row["contestant"])) for row in rows]
        if bars:
            panels.append(Panel(NAMES[dialect], sorted(bars, key=lambda bar: -bar.value)))
    about = record["machine"]
    note = f"one worker, 100 slots, every commit synced; {about['cores']} cores, {about['python']}, {record['taken']}"
    return chart("Runs drained a second: claim, handler that does nothing, complete", note, panels)


def _kind(name: str) -> Kind:
    return "runstate" if name.startswith("runstate") else "baseline" if name.startswith("baseline") else "peer"
