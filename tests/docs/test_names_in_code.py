"""The files that docstrings and comments name are files of the repository.

Pages are in `test_names_in_pages.py`.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = ("runstate", "tests", "torture", "benchmarks", "examples")
CODE: Final = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))]
FILES: Final = frozenset(
    f"/{path.relative_to(ROOT).as_posix()}"
    for path in (*ROOT.glob("*.*"), *(path for folder in (*FOLDERS, "docs") for path in (ROOT / folder).rglob("*.*")))
)
PLACEHOLDERS: Final = frozenset({"benchmarks/results/NAME.json", "module.py"})


def _texts(source: str) -> Iterator[str]:
    """Yield the comments and the docstrings of a module, those of attributes too."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_named_file_exists(path: Path) -> None:
    """A path is one from the root, or the end of one: `docs/store.md`, `_engine/executor.py`, `test_names.py`."""
    named = {
        name
        for text in _texts(path.read_text(encoding="utf-8"))
        for name in re.findall(r"[\w./-]*\w\.(?:py|md|toml|svg|json|jsonl)\b", text)
    }
    assert {name for name in named - PLACEHOLDERS if not any(file.endswith(f"/{name}") for file in FILES)} == set()
