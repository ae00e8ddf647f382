"""The layout: imports stay within the tables of `layout.py`, modules are small, and names use the settled terms."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import runstate
import runstate.errors
import runstate.store
import runstate.worker
from tests.architecture.layout import (
    FACES,
    MAY_IMPORT,
    MAY_IMPORT_IN_STORE,
    MODULES,
    RESTRICTED,
    ROOT,
    TAKEN_FROM_PRIVATE,
    imports,
    is_in,
    module_name,
    package_of,
    part_of_store,
    relative,
)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def is_private(name: str, importer: Path) -> bool:
    """Tell whether a module of this library is private to a directory that the importer is not in."""
    parts = name.split(".")
    holders = [
        ROOT.parent.joinpath(*parts[:depth])
        for depth, part in enumerate(parts)
        if parts[0] == "runstate" and part.startswith("_") and not part.startswith("__")
    ]
    return not all(importer.is_relative_to(holder) for holder in holders)


IN_STORE = [path for path in MODULES if package_of(path) == "store"]


# --- imports ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_go_downward(path: Path) -> None:
    """A package imports only packages below its own, also inside its functions and for types alone."""
    assert package_of(path) in MAY_IMPORT, "a package that is not in the table"
    for found in imports(path):
        if not found.name.startswith("runstate."):
            continue
        other = found.name.split(".")[1]
        if other != package_of(path):
            assert other in MAY_IMPORT[package_of(path)], f"{relative(path)}:{found.line} imports {found.name}"


@pytest.mark.parametrize("path", IN_STORE, ids=relative)
def test_imports_inside_the_store_go_downward(path: Path) -> None:
    """A package inside the store imports only those below its own, and none imports the store's public names."""
    part = part_of_store(path)
    assert part in MAY_IMPORT_IN_STORE, "a package that is not in the table"
    below = MAY_IMPORT_IN_STORE[part]
    for found in imports(path):
        if found.name == "runstate.store" or found.name.startswith("runstate.store."):
            other = (*found.name.split("."), "__init__")[2]
            assert other in {part, *below}, f"{relative(path)}:{found.line} imports {found.name}"


@pytest.mark.parametrize("table", [MAY_IMPORT, MAY_IMPORT_IN_STORE], ids=["packages", "in_store"])
def test_a_table_of_imports_has_no_cycle(table: dict[str, frozenset[str]]) -> None:
    """What a table allows leads downward to the end: no package is below itself by way of others."""
    order = list(TopologicalSorter(table).static_order())
    assert set(table) == set(order)


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent != ROOT], ids=relative)
def test_a_package_has_no_cycle(path: Path) -> None:
    """Inside a package of several modules no module imports itself by way of others."""
    by_name = {module_name(module): module for module in MODULES}
    waiting, seen = [path], set()
    while waiting:
        for found in imports(waiting.pop()):
            other = by_name.get(found.name)
            if other is not None and other not in seen and package_of(other) == package_of(path):
                assert other != path, f"{relative(path)} imports itself"
                seen.add(other)
                waiting.append(other)


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_only_some_import_a_driver_or_a_thread(path: Path) -> None:
    """Drivers, threads, the network and extras are imported where the table says, and other libraries nowhere."""
    for found in imports(path):
        top = found.name.split(".")[0]
        if top in RESTRICTED:
            assert any(is_in(path, place) for place in RESTRICTED[top]), (
                f"{relative(path)}:{found.line} imports {found.name}"
            )
        elif top not in ("runstate", "attrs"):
            assert top in sys.stdlib_module_names, f"{relative(path)}:{found.line} imports {found.name}"


@pytest.mark.parametrize(
    ("module", "place"), [(module, place) for module in RESTRICTED for place in RESTRICTED[module]]
)
def test_a_place_is_needed(module: str, place: str) -> None:
    """A place that no longer imports what the table lets it import is taken off the table."""
    inside = [path for path in MODULES if is_in(path, place)]
    assert any(found.name.split(".")[0] == module for path in inside for found in imports(path))


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_private_module_is_imported_in_its_own_package(path: Path) -> None:
    """A module whose name begins with an underscore is imported only under the directory that holds it."""
    taken = set[str]()
    for found in imports(path):
        if is_private(found.name, path):
            module = found.name.removeprefix("runstate.")
            taken.update([f"{module}.{name}" for name in found.names] or [module])
    assert TAKEN_FROM_PRIVATE.get(relative(path), set()) == taken


@pytest.mark.parametrize("importer", TAKEN_FROM_PRIVATE)
def test_an_exception_is_of_a_module_that_is_there(importer: str) -> None:
    """The table of what is taken from private modules names modules of this library alone."""
    assert ROOT / importer in MODULES


@pytest.mark.parametrize("path", [path for path in MODULES if package_of(path) != "clock"], ids=relative)
def test_only_the_clock_reads_the_time(path: Path) -> None:
    """No other module asks the machine for the time, or a test could not move it; a face may sleep."""
    allowed = {"sleep"} if package_of(path) in FACES else set()
    banned = {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time"}
    banned |= {"localtime", "gmtime", "ctime", "sleep"}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            asked = (node.value.id, node.attr)
            assert not (asked[0] == "time" and asked[1] in banned - allowed), f"{relative(path)}:{node.lineno}"
            assert asked[1] not in ("utcnow", "today"), f"{relative(path)}:{node.lineno}"
            assert asked not in (("datetime", "now"), ("dt", "now")), f"{relative(path)}:{node.lineno}"
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            assert {alias.name for alias in node.names} <= allowed, f"{relative(path)}:{node.lineno}"


def test_the_root_is_light() -> None:
    """`import runstate` loads no face, no driver and no test tool."""
    heavy = ["transitions", "click", "rich", "pytest", "hypothesis", "sqlite3", "asyncio", "psycopg", "graphviz"]
    heavy += [
        "pydantic_ai",
        "runstate.diagram",
        "runstate.integrations.pydantic_ai",
        "runstate.integrations.transitions",
        "runstate.cli",
        "runstate.traces",
        "runstate.traces",
        "runstate.run.codec",
        "runstate.store._api",
        "runstate.store._engine",
        "runstate.worker",
        "json",
    ]
    # What was there before is not the library's doing: a coverage tool looks in first.
    loaded = "before = set(sys.modules); import runstate; loaded = set(sys.modules) - before"
    code = f"import sys; {loaded}; print([name for name in {heavy!r} if name in loaded])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent, timeout=60
    )
    assert "[]" == done.stdout.strip()


# --- ceilings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_small_rooms(path: Path) -> None:
    """A module has at most 400 lines."""
    assert 400 >= len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_small_functions(path: Path) -> None:
    """A function has at most 50 lines, its signature and docstring aside."""
    for function in functions(path):
        body = function.body[1:] if ast.get_docstring(function) else function.body
        lines = function.end_lineno - body[0].lineno + 1 if body and function.end_lineno else 0
        assert 50 >= lines, f"{relative(path)}:{function.lineno} {function.name}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_room_says_what_it_is(path: Path) -> None:
    """Each module begins with what it is for, and has no "and" in its name."""
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert "and" not in path.stem.removesuffix("settle_and_claim").split("_")  # one command, which does both


# --- words ------------------------------------------------------------------------------------------------------------

# Synonyms of the words that the domain has settled on: job (run), state (status), trigger (event), edge (transition),
# audit (history), revision and etag (version), fetch (claim), reap and rescue (sweep), requeue (release), ttl
# (deadline), final (terminal), active (live). The words of engineering, lock, retry and timeout among them, are free.
STRUCK = {
    *("job", "state", "states", "trigger", "edge", "audit", "revision", "etag", "fetch", "reap", "rescue", "requeue"),
    *("ttl", "final", "active"),
}
# Terms of the field, of the wire, or of a library that one room speaks to.
EXCUSED = {
    "diagram": {"edge"},  # of a box: its outline
    "integrations": {"state", "states", "trigger"},  # what `transitions` calls them
}


def words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_struck_words(path: Path) -> None:
    """One word a thing: no name defined here uses a synonym of a word that the domain has settled on."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names |= {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    names -= {"__setstate__", "__getstate__"}
    struck = STRUCK - EXCUSED.get(package_of(path), set())
    assert set() == {name for name in names if words(name) & struck}


# --- the public face --------------------------------------------------------------------------------------------------


def test_the_root_lists_what_it_has() -> None:
    """The package root has every name in its `__all__`, sorted by kind, and no other public name but its modules."""
    for name in runstate.__all__:
        getattr(runstate, name)  # some are there when they are asked for
    public = {
        name for name, value in vars(runstate).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert set(runstate.__all__) == public
    assert len(runstate.__all__) == len(set(runstate.__all__))


PLACES = {"store": runstate.store, "worker": runstate.worker, "errors": runstate.errors}


@pytest.mark.parametrize("name", runstate.__all__)
def test_a_name_of_the_root_is_the_one_of_its_module(name: str) -> None:
    """Whoever imports `Worker` from the root has the class of `runstate.worker`; each name is in `dir`, too."""
    assert name in dir(runstate)
    for module in PLACES.values():
        if name in module.__all__:
            assert getattr(module, name) is getattr(runstate, name)


@pytest.mark.parametrize("place", PLACES)
def test_what_people_import_is_at_the_root(place: str) -> None:
    """Every error, and all of the store and the worker but what a loop of one's own needs."""
    for_loops_of_ones_own = {"HeartbeatResult", "BoundStore", "Claim", "Lease", "Settle", "SweepResult"}
    for_loops_of_ones_own |= {
        "Change",
        "Checkpoint",
        "Emitter",
        "SettleAndClaimResult",
        "TraceContexts",
        "worker_name",
        "migrate_within",
    }
    for_loops_of_ones_own |= {"DEFAULT_MAX_ATTEMPTS", "DEFAULT_QUEUE", "migrate_within"}
    assert set(PLACES[place].__all__) - for_loops_of_ones_own <= set(runstate.__all__)


@pytest.mark.parametrize(
    ("statement", "loaded"),
    [
        ("runstate.Worker", {"runstate.store._api", "runstate.worker"}),
        ("from runstate import open_store", {"runstate.store._api"}),
        ("from runstate import ThreadBusy, RunNotFound", set()),
        ("dir(runstate)", set()),
        ("hasattr(runstate, 'Wroker')", set()),
    ],
)
def test_the_root_loads_what_is_asked_for(statement: str, loaded: set[str]) -> None:
    """Nothing before it is asked for, and no more then."""
    found = "[name for name in ('runstate.store._api', 'runstate.worker') if name in sys.modules]"
    code = f"import sys, runstate; {statement}; print({found})"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert told.stdout.strip() == str(sorted(loaded))


def test_a_name_that_the_root_lacks() -> None:
    """It is an AttributeError that names the module, as of any module."""
    with pytest.raises(AttributeError, match="module 'runstate' has no attribute 'Wroker'"):
        runstate.Wroker  # type: ignore[attr-defined]  # noqa: B018


def test_help_tells_the_truth() -> None:
    """What `help(runstate)` begins with names every package that people import, and each is there."""
    told = inspect.getdoc(runstate) or ""
    named = re.findall(r"^ {4}(runstate[\w.]+) ", told, re.MULTILINE)
    for module in named:
        assert importlib.import_module(module).__doc__
    public = {"lifecycle", "run", "traces", "store", "worker", "testing", "diagram"}
    public |= {f"integrations.{name}" for name in ("alembic", "django", "otel", "pydantic_ai", "transitions")}
    assert {f"runstate.{name}" for name in public} == set(named)
    for name in ("Run", "RUN_LIFECYCLE", "open_store", "Worker", "drive"):
        assert f"`{name}`" in told
        assert hasattr(runstate, name)


# Django's models can be imported only in a project of Django; tests/integrations/test_django.py does it.
IMPORTABLE = [path for path in MODULES if path.stem != "__main__" and not is_in(path, "integrations/django")]


@pytest.mark.parametrize("path", IMPORTABLE, ids=relative)
def test_every_public_name_is_explained(path: Path) -> None:
    """Each name in a module's `__all__` is there; a class or function has a docstring, its public methods too."""
    module = importlib.import_module(module_name(path))
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        if inspect.isclass(value) or (inspect.isfunction(value) and value.__name__ == name):
            assert value.__doc__, f"{module.__name__}.{name}"
        if inspect.isclass(value) and value.__module__ == module.__name__:
            for attribute, member in vars(value).items():
                if not attribute.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                    assert member.__doc__, f"{module.__name__}.{name}.{attribute}"


def _keywords(function: Callable[..., object]) -> tuple[str, ...]:
    """Return the names of the keywords that a function takes as a TypedDict."""
    for annotation in function.__annotations__.values():
        if keywords := re.fullmatch(r"Unpack\[(\w+)\]", str(annotation)):
            return tuple(inspect.unwrap(function).__globals__[keywords[1]].__annotations__)
    return ()


def _functions_of_keywords() -> Iterator[tuple[str, Callable[..., object]]]:
    """Yield the public functions and methods that take keywords as a TypedDict."""
    for path in IMPORTABLE:
        module = importlib.import_module(module_name(path))
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            for called, member in (vars(value) if inspect.isclass(value) else {name: value}).items():
                if inspect.isfunction(member) and not called.startswith("_") and _keywords(member):
                    yield f"{name}.{called}", member


OF_KEYWORDS = dict(_functions_of_keywords())


def test_functions_of_keywords_are_found() -> None:
    assert "CreateMixin.create" in OF_KEYWORDS


@pytest.mark.parametrize("function", OF_KEYWORDS.values(), ids=OF_KEYWORDS)
def test_every_keyword_is_explained(function: Callable[..., object]) -> None:
    """A signature with `**values` does not show the keywords, so the docstring lists them, in the same order."""
    listed = re.findall(r"^- `(\w+)`: \w", inspect.getdoc(function) or "", re.MULTILINE)
    assert list(_keywords(function)) == listed


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_underscore_means_private(path: Path) -> None:
    """No room imports what another keeps to itself."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("runstate"):
            assert [] == [alias.name for alias in node.names if alias.name.startswith("_")], relative(path)
