"""The SQL that stands in `docs/scale.md`, as it stands there: for the tests, and for the benchmark that measures it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import psycopg

__all__ = ["recipe", "run_recipe"]

_PAGE: Final = Path(__file__).parents[2] / "docs" / "scale.md"


def recipe(name: str, **values: int) -> str:
    """Return the block of the page that begins with `-- name:`, its `:values` put in."""
    blocks = dict(re.findall(r"^```sql\n-- (\w+):[^\n]*\n(.*?)^```", _PAGE.read_text(encoding="utf-8"), re.M | re.S))
    text: str = blocks[name]
    for value, number in values.items():
        text = text.replace(f":{value}", str(number))
    return text


def _statements(text: str) -> Iterator[str]:
    whole = ""
    for line in text.splitlines():
        whole += line + "\n"
        if line.endswith(";") and whole.count("$$") % 2 == 0:
            yield whole
            whole = ""


def run_recipe(connection: psycopg.Connection[Any], name: str, **values: int) -> None:
    """Execute a block statement by statement, as psql does; the connection is in autocommit."""
    for statement in _statements(recipe(name, **values)):
        connection.execute(statement.encode())
