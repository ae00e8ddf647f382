"""The names that the library defines, for tests of what pages say about them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import runstate

__all__ = ["identifiers"]

_ROOT = Path(runstate.__file__).parent


@cache
def identifiers() -> frozenset[str]:
    """Return every name that the library defines: classes, functions, parameters, attributes and constants."""
    found = set[str]()
    for path in _ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(node.name)
            elif isinstance(node, ast.arg):
                found.add(node.arg)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
    return frozenset(found)
