"""Write the step of changed triggers: python -m runstate.store._sql.migrations DESCRIPTION [COMPATIBLE_FROM].

The step has the triggers of both dialects, generated from the table of transitions. The command writes nothing if the
newest step has them already. If only rows were added to the table, and no status or event, an older library keeps
working on a database with this step, and the step is compatible from where the one before was. After any other change
the step is compatible from itself, unless the number of a step is given.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from runstate.lifecycle import RUN_LIFECYCLE, Transition
from runstate.store._sql.dialect import POSTGRES, SQLITE, Dialect
from runstate.store._sql.migrations.steps import HEADER, SEPARATOR, STEPS, Migration
from runstate.store._sql.triggers.ddl import create_guards

__all__ = ["generated", "main", "write"]

_FOLDER: Final = Path(__file__).parent
_COMPONENT: Final = "run"
_TRANSITION: Final = "-- transition: "


def _line(row: Transition) -> str:
    deadline = " until the deadline" if row.event in RUN_LIFECYCLE.until_deadline else ""
    return f"{row.event} {row.source} -> {row.target}{f' stamps {row.stamp}' if row.stamp else ''}{deadline}"


def _table() -> list[str]:
    return [_line(row) for row in RUN_LIFECYCLE.transitions]


def generated(dialect: Dialect) -> str:
    """Return what a step of guards has for the table of this library, without its header."""
    rows = "".join(f"{_TRANSITION}{line}\n" for line in _table())
    return rows + SEPARATOR.join(f"{statement};" for statement in create_guards(dialect)) + "\n"


def _newest() -> Migration | None:
    found = [step for step in STEPS if step.component == _COMPONENT and step.is_guards]
    return found[-1] if found else None


def _rows_of(step: Migration) -> set[str]:
    lines = step.text(SQLITE).splitlines()
    return {line.removeprefix(_TRANSITION) for line in lines if line.startswith(_TRANSITION)}


def _words(rows: set[str]) -> set[str]:
    """Return the events and statuses of the rows of a table."""
    return {word for row in rows for word in (row.split()[0], row.split()[1], row.split()[3])}


def _compatible_from(number: int) -> int:
    before = _newest()
    if before is None:
        return 1
    old, new = _rows_of(before), set(_table())
    return before.compatible_from if old < new and _words(new) <= _words(old) else number


def write(description: str, compatible_from: int | None = None) -> list[Path]:
    """Write the files of a step if the triggers have changed; return them."""
    before = _newest()
    if before is not None and all(before.text(each).endswith(generated(each)) for each in (SQLITE, POSTGRES)):
        return []
    number = max((step.number for step in STEPS if step.component == _COMPONENT), default=0) + 1
    least = _compatible_from(number) if compatible_from is None else compatible_from
    header = HEADER.format(description=description.rstrip("."), compatible_from=least)
    written: list[Path] = []
    for dialect in (SQLITE, POSTGRES):
        path = _FOLDER / dialect.name / f"{_COMPONENT}_{number:04}_guards.sql"
        path.write_text(header + generated(dialect), encoding="utf-8")
        written.append(path)
    return written


def main(arguments: Sequence[str] = tuple(sys.argv[1:])) -> int:
    """Write the step, and print its files."""
    description, *numbers = arguments or [""]
    is_wrong = not description.strip() or "'" in description or "\n" in description
    if is_wrong or len(numbers) > 1 or not all(number.isdigit() for number in numbers):
        usage = "python -m runstate.store._sql.migrations DESCRIPTION [COMPATIBLE_FROM]"
        sys.stderr.write(f"usage: {usage} (the description is one line without quotes)\n")
        return 2
    written = write(description, int(numbers[0]) if numbers else None)
    for path in written:
        sys.stdout.write(f"{path.relative_to(_FOLDER)}\n")
    if not written:
        sys.stdout.write("nothing to do: the newest step has the guards of this table\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
