"""One name, one meaning: no class or type alias has the name of another one of this library."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import runstate

ROOT = Path(runstate.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))


def defined(tree: ast.Module) -> Iterator[str]:
    """Yield the names of the classes and of the type aliases that a module defines, without leading underscores."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.name.lstrip("_")
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if ast.unparse(node.annotation).endswith("TypeAlias"):
                yield node.target.id.lstrip("_")
        elif isinstance(node, ast.Assign) and is_alias(node.value):
            names = (target.id.lstrip("_") for target in node.targets if isinstance(target, ast.Name))
            yield from (name for name in names if name[:1].isupper())


def is_alias(value: ast.expr) -> bool:
    """Tell whether a value that is assigned without an annotation is a type: `psycopg.Connection[Any]`."""
    if isinstance(value, ast.Subscript):
        value = value.value
    name = value.attr if isinstance(value, ast.Attribute) else value.id if isinstance(value, ast.Name) else ""
    return name[:1].isupper() and not name.isupper()


def test_no_name_is_defined_twice() -> None:
    """Each name of a class or a type alias is defined in one module alone, private ones too."""
    places = defaultdict[str, set[str]](set)
    for path in MODULES:
        for name in defined(ast.parse(path.read_text(encoding="utf-8"))):
            places[name].add(path.relative_to(ROOT).as_posix())
    assert {} == {name: sorted(found) for name, found in places.items() if len(found) > 1}


@pytest.mark.parametrize(
    "source",
    [
        "class Report: ...",
        "class _Report: ...",
        "def f():\n    class Report: ...",
        "Report: TypeAlias = tuple[str, str]",
        "Report: typing.TypeAlias = 'tuple[str, str]'",
        "_Report = psycopg.Report[Any]",
        "Report = Other",
    ],
)
def test_a_definition_is_found(source: str) -> None:
    """Classes at any depth are found, and aliases however they are written."""
    assert ["Report"] == list(defined(ast.parse(source)))


@pytest.mark.parametrize("source", ["report = 1", "Report: int = 1", "REPORT = (1,)", "report = Other", "x.Report = Y"])
def test_other_assignments_are_none(source: str) -> None:
    """Constants, variables and attributes are no types."""
    assert [] == list(defined(ast.parse(source)))
