"""The objects that this library's DDL creates, and their comparison with those in a database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

import attrs

from runstate.store.doctor.diagnosis import Severity, Sheet

__all__ = ["Catalog", "Made", "compare"]

_SHORT: Final = 60  # characters of a definition that is shown in a message


@attrs.frozen
class Made:
    """A table, view, column, constraint, index, guard (a trigger) or function that a DDL has created."""

    kind: str
    name: str
    table: str
    """The table of the object; empty for a function."""
    definition: str
    disabled: bool = False
    """Whether the object exists and has no effect."""

    @property
    def told(self) -> str:
        """The object in a message: `the guard runstate_moved on runstate_run`."""
        return f"the {self.kind} {self.name}" + (f" on {self.table}" if self.table not in ("", self.name) else "")

    @property
    def is_only_fast(self) -> bool:
        """Whether the store is correct without it, but slow."""
        return self.kind == "index" and not self.definition.startswith("CREATE UNIQUE")

    @property
    def is_needed(self) -> bool:
        """Whether the store is wrong without it."""
        return not self.is_only_fast and self.kind != "view"


Catalog: TypeAlias = Mapping[tuple[str, str, str], Made]
"""The objects of a schema by kind, table and name."""

_NEEDED_FOR: Final = {
    "table": "the library cannot work without it",
    "view": "clients that read it fail",
    "column": "the library cannot work without it",
    "constraint": "the database accepts rows that no run can have",
    "index": "values that it keeps unique can be duplicated",
    "guard": "the database no longer refuses the changes that it guards against",
    "function": "the guards that call it do not work",
}


def compare(live: Catalog, needed: Catalog, ddl: str, sheet: Sheet) -> None:
    """Add a finding for each object of the library that a database lacks, has in another form, or has disabled."""
    lost_tables = {made.name for made in needed.values() if made.kind == "table"}
    lost_tables -= {made.name for made in live.values() if made.kind == "table"}
    for key, made in needed.items():
        found = live.get(key)
        if found is None:
            if made.kind == "table" or made.table not in lost_tables:  # a lost table is reported without its objects
                _note(sheet, made, f"{made.told} is gone", f"make it again: its statement is in `{ddl}`")
        elif found.definition != made.definition:
            again = f"drop it and make it again: its statement is in `{ddl}`"
            _note(sheet, made, f"{made.told} is not as this library makes it{_both(found, made)}", again)
        elif found.disabled:
            on_again = f"ALTER TABLE {made.table} ENABLE TRIGGER {made.name}"
            if made.kind == "index":
                on_again = f"REINDEX INDEX {made.name}"
            _note(sheet, made, f"{made.told} is disabled", f"enable it: {on_again}")


def _both(found: Made, made: Made) -> str:
    if max(len(found.definition), len(made.definition)) > _SHORT:
        return ""
    return f" (is {found.definition or 'nothing'}, should be {made.definition or 'nothing'})"


def _note(sheet: Sheet, made: Made, sentence: str, remedy: str) -> None:
    needed_for = "what it makes fast is slow" if made.is_only_fast else _NEEDED_FOR[made.kind]
    severity: Severity = "error" if made.is_needed else "warning"
    sheet.add(severity, made.kind, f"{sentence}: {needed_for}", remedy, thing=made.name)
