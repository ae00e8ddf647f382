"""The names in the README and in the other pages exist: Python names, files, commands, options, make targets, anchors.

A name is what stands in a code span. Blocks of Python are executed in `test_readme.py`; of other blocks, the commands
are checked here.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import functools
import re
import shlex
import sqlite3
import time
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import click
import pytest
from hypothesis import strategies as st

import runstate
import runstate.errors
import runstate.store
import runstate.testing
import runstate.testing.conformance
import runstate.worker
from runstate.cli import cli
from runstate.store._sql.dialect import POSTGRES, SQLITE
from runstate.store._sql.migrations import ddl
from runstate.testing.conformance import ConformanceReport
from tests.support.source_names import identifiers

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
)
TEXTS: Final = {page: page.read_text(encoding="utf-8") for page in PAGES}

# What the first part of a dotted name stands for: a module, or the class of a variable that has this name in examples.
OWNERS: Final[dict[str, Any]] = {
    "runstate": runstate,
    "asyncio": asyncio,
    "functools": functools,
    "sqlite3": sqlite3,
    "time": time,
    "st": st,
    "ctx": runstate.worker.Context,
    "error": runstate.errors.StoreError,
    "probe": runstate.testing.Probe,
    "report": ConformanceReport,
    "run": runstate.Run,
    "run_clock": runstate.ManualClock,
    "store": runstate.store.Store,
    "worker": runstate.worker.Worker,
}
FOREIGN: Final = frozenset(
    {
        *("thread.run", "thread.run.completed", "thread.run.incomplete", "task.status.CopyFrom"),
        *("agent.run", "agent.iter", "agent.run_stream_events"),
    }
)
"""Dotted names of the API and of other libraries."""

FOREIGN_CLASSES: Final = frozenset(
    {
        *("AsyncConnection", "CheckViolation", "IntegrityError"),  # psycopg, sqlite3
        *("AsyncResult", "CancelledError"),  # Celery, asyncio
        *("DefaultRequestHandler", "InvalidAgentResponseError", "TaskManager", "TaskUpdater"),  # a2a-sdk
        "VersionedDatabaseTaskStore",
        *("Session", "AsyncSession"),  # SQLAlchemy
        *("CancellationToken", "DeferredToolRequests", "ModelRetry", "RunContext"),  # Pydantic AI
        "InProgress",  # a spelling of a status
    }
)
FOREIGN_OPTIONS: Final = frozenset({"--strict", "--sql"})  # pip-audit, Alembic
FILES_OF_USERS: Final = frozenset({"test_answers.py"})


def _spans(text: str) -> Iterator[str]:
    """Yield the code spans of a page, outside of its blocks, each on one line."""
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`([^`]+)`", outside):
        yield " ".join(span.split())


def _lines(text: str, *kinds: str) -> Iterator[str]:
    """Yield the command lines of the blocks of some kinds, without their prompts and comments."""
    for block in re.findall(rf"^```(?:{'|'.join(kinds)})\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            yield re.sub(r"\s+# .*$", "", line.removeprefix("$ ").removeprefix(".venv/bin/"))


def _params(found: dict[tuple[Path, str], None]) -> list[Any]:
    return [pytest.param(name, id=f"{page.name}: {name}") for page, name in found]


def _matching(pattern: str) -> list[Any]:
    """Return the spans that a pattern matches as a whole; where it has a group, only that part."""
    found: dict[tuple[Path, str], None] = {}
    for page, text in TEXTS.items():
        for span in _spans(text):
            if match := re.fullmatch(pattern, span):
                found[page, match[match.re.groups and 1]] = None
    return _params(found)


def _commands(program: str) -> list[Any]:
    """Return the commands of a program, in spans and in blocks."""
    found: dict[tuple[Path, str], None] = {}
    for page, text in TEXTS.items():
        for line in (*_spans(text), *_lines(text, "console", "sh", "text")):
            if line.startswith(f"{program} "):
                found[page, line] = None
    return _params(found)


@pytest.mark.parametrize("name", _matching(r"([A-Za-z_]\w*(?:\.\w+)+)(?:\(.*)?"))
def test_a_dotted_name_leads_to_something(name: str) -> None:
    """A module and what is in it, or what an object of the library has; other dotted names are files of the project."""
    if name in FOREIGN or name in FILES_OF_USERS:
        return
    if name.endswith((".py", ".toml", ".md")):
        assert [path for path in (ROOT / name, ROOT / "examples" / name) if path.exists()], name
        return
    first, *rest = name.split(".")
    owner = OWNERS.get(first) or getattr(runstate, first)
    for part in rest:
        owner = _attribute(owner, part)


class _Unknown:
    """The value of an attribute that only objects have, and not their class."""


def _attribute(owner: Any, name: str) -> Any:
    """Return an attribute of a module or a class. One that objects get later must at least be defined somewhere."""
    if hasattr(owner, "__path__"):
        return import_module(f"{owner.__name__}.{name}") if not hasattr(owner, name) else getattr(owner, name)
    found = getattr(owner, name, None)
    if found is None or isinstance(found, property):
        assert name in identifiers(), f"{owner!r} has no {name}"
        return _Unknown
    return found


@pytest.mark.parametrize("name", _matching(r"([A-Z]\w*[a-z]\w*)(?:\(.*)?"))
def test_a_class_exists(name: str) -> None:
    """A name in camel case is a class or an alias of the library, an exception of Python, or known to be foreign."""
    assert name in identifiers() or hasattr(builtins, name) or name in FOREIGN_CLASSES


@pytest.mark.parametrize("path", _matching(r"((?:[\w.-]+/)+[\w.-]*)"))
def test_a_path_exists(path: str) -> None:
    """A path is one of the repository."""
    assert (ROOT / path).exists()


@functools.cache
def _defined_in(path: str) -> frozenset[str]:
    """Return the names that a module defines: classes with their methods and attributes, functions, constants."""

    def names(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{prefix}{node.name}"
            if isinstance(node, ast.ClassDef):
                yield from names(node.body, f"{prefix}{node.name}.")
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            yield from (f"{prefix}{target.id}" for target in targets if isinstance(target, ast.Name))

    return frozenset(names(ast.parse((ROOT / path).read_text(encoding="utf-8")).body))


@pytest.mark.parametrize("node", _matching(r"([\w./-]+\.py::[\w.]+)"))
def test_a_name_is_defined_in_its_file(node: str) -> None:
    """`PATH::NAME` is a class, a function, a constant, or what a class has: `CLASS.METHOD`."""
    path, _, name = node.partition("::")
    assert name in _defined_in(path)


@pytest.mark.parametrize("name", _matching(r"(runstate_\w+)"))
def test_a_table_or_trigger_exists(name: str) -> None:
    """A name with the prefix is one of a table or a trigger, in one of the databases, or of the pytest plugin."""
    plugin = (ROOT / "_runstate_pytest.py").read_text(encoding="utf-8")
    assert re.search(rf"\b{name}\b", ddl(SQLITE) + ddl(POSTGRES) + plugin) is not None


@pytest.mark.parametrize("command", _commands("make"))
def test_a_make_target_exists(command: str) -> None:
    """Each word that sets no variable is a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [word for word in command.split()[1:] if "=" not in word]
    assert targets
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


@pytest.mark.parametrize("command", _commands("runstate"))
def test_a_command_exists(command: str) -> None:
    """The command is there, and takes the options that it is shown with."""
    words = shlex.split(command)[1:]
    found: click.Command = cli
    with click.Context(cli) as context:
        while isinstance(found, click.Group):
            under = found.get_command(context, words.pop(0))
            assert under is not None
            found = under
    options = {option for parameter in found.params for option in parameter.opts}
    assert [word for word in words if word.startswith("-") and word not in options] == []


@pytest.mark.parametrize("command", _commands("python"))
def test_a_program_exists(command: str) -> None:
    """`python -m MODULE` finds the module, and `python FILE` the file."""
    words = command.split()[1:]
    if words[0] == "-m":
        assert find_spec(words[1]) is not None
        words = words[2:]
    assert [word for word in words if "/" in word and not (ROOT / word).exists()] == []


@pytest.mark.parametrize("option", _matching(r"(--[\w-]+)(?:[ =].*)?"))
def test_an_option_exists(option: str) -> None:
    """An option is one of the commands, of the pytest plugin, or of the torture programs."""
    sources = (ROOT / "_runstate_pytest.py", *(ROOT / "runstate" / "cli").rglob("*.py"), *ROOT.glob("torture/**/*.py"))
    texts = [path.read_text(encoding="utf-8") for path in sources]
    assert option in FOREIGN_OPTIONS or any(f'{before}{option}"' in text for text in texts for before in '"/')


@pytest.mark.parametrize(
    ("page", "anchor"),
    [
        pytest.param((page.parent / file).resolve() if file else page, anchor, id=f"{page.name}: {file}#{anchor}")
        for page, text in TEXTS.items()
        for file, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text)
    ],
)
def test_a_link_leads_to_a_heading(page: Path, anchor: str) -> None:
    """The part of a link after `#` is a heading of the page, as GitHub spells it."""
    headings = re.findall(r"^#+ (.*)$", TEXTS[page], re.MULTILINE)
    assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
