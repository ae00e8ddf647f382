"""The layout of the library: what each package may import, and the imports that it has.

`test_layout.py` checks the tables, `picture.py` draws them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import runstate

ROOT = Path(runstate.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

# What each package may import of this library. The standard library (except what RESTRICTED names) and attrs are free
# for all. A module in the root is a package of its own. Imports go downward only: a table that knew its diagrams could
# not be drawn by others, and a cycle hides which side decides. Imports for types alone count like all others.
FLOOR = ("lifecycle", "clock")
MAY_IMPORT: dict[str, frozenset[str]] = {
    "_redaction": frozenset(),
    "clock": frozenset(),
    "_lazy": frozenset(),
    "errors": frozenset({"lifecycle", "run", "store"}),  # names again what each package raises; none imports it
    "lifecycle": frozenset(),
    "run": frozenset({*FLOOR}),
    "traces": frozenset({*FLOOR, "run"}),
    "store": frozenset({*FLOOR, "_lazy", "_redaction", "run", "traces"}),
    "worker": frozenset({*FLOOR, "_redaction", "run", "store"}),
    "diagram": frozenset({*FLOOR, "run"}),
    "integrations": frozenset({*FLOOR, "run", "store", "worker"}),
    "testing": frozenset({*FLOOR, "run", "traces", "store", "worker", "diagram"}),  # the crash kit calls handlers
    "demo": frozenset({*FLOOR, "run", "traces", "store", "worker"}),
    "cli": frozenset({*FLOOR, "_redaction", "run", "traces", "store", "worker", "diagram", "demo"}),
    "__main__": frozenset({"cli"}),
    # The names of the store and of the worker are loaded when they are first asked for: test_the_root_is_light.
    "__init__": frozenset({*FLOOR, "_lazy", "errors", "run", "store", "worker"}),
}
FACES = ("diagram", "integrations", "testing", "cli", "demo")

# The same inside the store. The two databases do not import each other, and the engine imports neither: what differs
# between them is behind the protocols `Database` and `Connection` of `_sql`.
BOTTOM = ("_types", "_worker_types", "validators", "errors", "_notifier", "availability", "backoff")
MAY_IMPORT_IN_STORE: dict[str, frozenset[str]] = {
    "_types": frozenset(),
    "validators": frozenset(),
    "_worker_types": frozenset({"_types", "validators"}),
    "errors": frozenset({"_types"}),
    "_notifier": frozenset(),
    "backoff": frozenset(),
    "availability": frozenset({"backoff", "errors"}),
    "_sql": frozenset(BOTTOM),
    "_sqlite": frozenset({*BOTTOM, "_sql"}),
    "_postgres": frozenset({*BOTTOM, "_sql"}),
    "_engine": frozenset({*BOTTOM, "_sql"}),
    "_api": frozenset({*BOTTOM, "_sql", "_sqlite", "_postgres", "_engine"}),
    "doctor": frozenset({*BOTTOM, "_sql", "_sqlite", "_postgres", "_engine", "_api"}),
    "__init__": frozenset({"_types", "_worker_types", "_notifier", "_api"}),
}
# Modules of other libraries and of the standard library that only some packages or modules may import. No other module
# of another library may be imported, except attrs.
RESTRICTED: dict[str, tuple[str, ...]] = {
    # drivers: each in the package of its database
    "sqlite3": ("store/_sqlite",),
    "psycopg": ("store/_postgres", "testing/fixtures"),
    # threads, event loops, processes and signals: everything else can be called from anywhere
    "asyncio": (
        *("store/_api", "store/_engine", "store/_postgres/async_caller", "store/availability", "worker", "demo"),
        *("testing/crash", "testing/handlers", "integrations/otel"),
    ),
    "concurrent": ("store/_engine",),
    "multiprocessing": (),
    "queue": ("store/_engine", "worker", "testing"),
    "signal": ("worker/_signals", "cli/commands/worker", "demo"),
    "subprocess": ("demo",),
    "threading": (
        *(
            "store/_api/event_feed",
            "store/_api/event_writer",
            "store/_api/feed",
            "store/_engine",
            "store/_notifier",
            "store/_postgres",
            "store/_sqlite",
        ),
        *("store/availability", "worker", "testing"),
    ),
    # the network
    "http": ("testing/conformance",),
    "select": ("store/_postgres",),
    "socket": ("store/_postgres", "store/_api/worker_protocol", "worker/_signals"),
    # random numbers
    "random": ("store/backoff", "worker/_retry_policy", "worker/_sweeper"),
    "secrets": ("store/_api/create", "testing/fixtures"),
    # extras, and tools of tests
    "click": ("cli", "__main__"),
    "hypothesis": ("testing",),
    "alembic": ("integrations/alembic",),
    "django": ("integrations/django",),
    "opentelemetry": ("integrations/otel",),
    "pydantic": ("integrations/pydantic_ai",),
    "pydantic_core": ("run/json_schema",),
    "pydantic_ai": ("integrations/pydantic_ai",),
    "pytest": ("testing",),
    "rich": ("cli",),
    "transitions": ("integrations/transitions",),
    "yaml": ("traces/_yaml",),
    "_runstate_hypothesis": ("__init__",),  # this library's own, and outside of it so that it loads nothing
}

# What is taken from private modules of another package, by the module that takes it. It is to become less: the command
# line needs what makes and migrates a database.
TAKEN_FROM_PRIVATE: dict[str, set[str]] = {
    "cli/_options.py": {
        "store._api.open.open_at",
        "store._api.url.database_at",
        "store._sql.connection.Database",
    },
    "cli/commands/runs_maintain.py": {
        "store._api.store.database_of",
    },
    "cli/commands/schema.py": {
        "store._api.url.database_at",
        "store._sql.connection.Database",
        "store._sql.migrations",
        "store._sql.dialect.POSTGRES",
        "store._sql.dialect.SQLITE",
    },
    "cli/commands/worker.py": {
        "worker._arguments.check_handler",
    },
    # It calls handlers as a worker does.
    "testing/handlers.py": {
        "worker._arguments.check_handler",
        "worker._arguments.is_async_function",
        "worker._arguments.outside_of_loops",
        "worker._execution.RunExecution",
        "worker._handlers.HandlerError",
        "worker._middleware.with_middleware",
    },
    # It performs the batches of every store itself, to see what they write.
    "testing/coverage/_collector.py": {
        "store._engine.commands.Command",
        "store._engine.executor.ExecutionHook",
        "store._engine.executor.execute_in_transaction",
        "store._engine.executor.set_execution_hook",
        "store._sql.connection.Connection",
    },
    "testing/fixtures.py": {
        "store._api.url.database_at",
    },
}


class Import(NamedTuple):
    """A module that a module imports, at any depth and also for types alone, and the names that it takes from it."""

    name: str
    names: tuple[str, ...]
    line: int


def package_of(path: Path) -> str:
    """Return the package right under the root, or the module of the root, that a module is in."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def module_name(path: Path) -> str:
    """Return the name by which a module is imported."""
    return ".".join(("runstate", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """Return every import of a module, those inside functions too."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[Import]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, (), node.lineno)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            assert node.module is not None
            folder = ROOT.parent / Path(*node.module.split("."))
            modules = [
                name.name
                for name in node.names
                if (folder / name.name).is_dir() or (folder / f"{name.name}.py").is_file()
            ]
            names = tuple(name.name for name in node.names if name.name not in modules)
            if names:  # of the module or package itself
                yield Import(node.module, names, node.lineno)
            for name in modules:
                yield Import(f"{node.module}.{name}", (), node.lineno)


def relative(path: Path) -> str:
    """Return the path of a module in the library: `store/_api/create.py`."""
    return path.relative_to(ROOT).as_posix()


def is_in(path: Path, place: str) -> bool:
    """Return whether a module is a place, or in it: `store/_sqlite`, `testing/fixtures`."""
    return f"{relative(path).removesuffix('.py')}/".startswith(f"{place}/")


def part_of_store(path: Path) -> str:
    """Return the package or module right under `store` that a module is in."""
    return path.relative_to(ROOT / "store").parts[0].removesuffix(".py")
