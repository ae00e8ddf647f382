"""The steps that this library knows, read from their files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

import attrs

from runstate.lifecycle.errors import DefinitionError
from runstate.store._sql.dialect import Dialect

__all__ = ["HEADER", "SEPARATOR", "STEPS", "Migration", "component_order", "step_order"]

_PACKAGE: Final = "runstate.store._sql.migrations"
SEPARATOR: Final = "\n---\n"
"""The line between two statements of a file. To SQL it is a comment."""
HEADER: Final = "-- {description}\n-- compatible_from: {compatible_from}\n"
_NAME: Final = re.compile(r"(?P<component>[a-z]+)_(?P<number>\d{4})_(?P<title>\w+)\.sql")
_HEADER: Final = re.compile(r"-- (?P<description>[^'\n]+)\n-- compatible_from: (?P<compatible_from>\d+)\n")
_FIRST: Final = "run"
"""The component that makes the tables which the others refer to."""


@attrs.frozen
class Migration:
    """One step of a component."""

    component: str
    number: int
    title: str
    description: str
    compatible_from: int
    """Processes of an older library keep working on the database if they know at least this step of the component."""

    @property
    def name(self) -> str:
        """The name of its files: `run_0001_tables`."""
        return f"{self.component}_{self.number:04}_{self.title}"

    @property
    def is_guards(self) -> bool:
        """Whether it has the triggers of its component, which replace all earlier ones."""
        return self.title == "guards"

    def text(self, dialect: Dialect) -> str:
        """Return the file of a dialect."""
        return files(_PACKAGE).joinpath(dialect.name, f"{self.name}.sql").read_text(encoding="utf-8")

    def statements(self, dialect: Dialect) -> list[str]:
        """Return its statements, without the semicolons at their ends."""
        body = self.text(dialect).split("\n", 2)[2]  # without the header
        return [statement.strip().removesuffix(";") for statement in body.split(SEPARATOR)]


def component_order(component: str) -> tuple[bool, str]:
    """Return the key by which components are sorted: the runs first."""
    return component != _FIRST, component


def step_order(step: Migration) -> tuple[bool, str, int]:
    """Return the key by which steps are taken."""
    return *component_order(step.component), step.number


def _steps() -> Iterator[Migration]:
    for file in _folder().iterdir():
        name = _NAME.fullmatch(file.name)
        header = _HEADER.match(file.read_text(encoding="utf-8"))
        if name is None or header is None:
            raise DefinitionError(f"{file.name} is no migration: its name or its first two lines are wrong")
        compatible_from = int(header["compatible_from"])
        yield Migration(name["component"], int(name["number"]), name["title"], header["description"], compatible_from)


def _folder() -> Traversable:
    return files(_PACKAGE).joinpath("sqlite")


STEPS: Final = tuple(sorted(_steps(), key=step_order))
"""All steps, in the order in which they are taken."""
