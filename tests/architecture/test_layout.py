"""The layout: what each package may import, how large a module may be, and which words no name uses."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import runstate
import runstate.errors
import runstate.store
import runstate.worker

ROOT = Path(runstate.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

# What each package may import of this library, besides the standard library and attrs. One that is not here has no
# place. Imports go downward only: a table that knew its pictures could not be drawn by others, and cycles hide who
# decides. A module in the root of the package is a package of one.
LIFECYCLE = ("lifecycle", "clock")
BELOW: dict[str, frozenset[str]] = {
    "_redaction": frozenset(),
    "clock": frozenset(),
    "_lazy": frozenset(),
    "errors": frozenset({"lifecycle", "run", "store"}),  # names again what each package raises; none imports it
    "lifecycle": frozenset(),
    "run": frozenset({*LIFECYCLE}),
    "traces": frozenset({*LIFECYCLE, "run"}),
    "store": frozenset({*LIFECYCLE, "_lazy", "_redaction", "run", "traces"}),
    "worker": frozenset({*LIFECYCLE, "_redaction", "run", "store"}),
    "diagram": frozenset({*LIFECYCLE, "run"}),
    "integrations": frozenset({*LIFECYCLE, "run"}),
    "testing": frozenset({*LIFECYCLE, "run", "traces", "store", "diagram"}),
    "demo": frozenset({*LIFECYCLE, "run", "traces", "store", "worker"}),
    "cli": frozenset({*LIFECYCLE, "_redaction", "run", "traces", "store", "worker", "diagram", "demo"}),
    "__main__": frozenset({"cli"}),
    "__init__": frozenset({*LIFECYCLE, "_lazy", "errors", "run"}),
}
FACES = ("diagram", "integrations", "testing", "cli", "demo")
# The root has names of the store and the worker, which it loads when they are first asked for.
FOR_TYPES_ONLY = {("__init__", "store"), ("__init__", "worker")}

# What else may be imported, and by whom. `transitions` drags a machine of its own in; click and rich are an extra.
FOREIGN: dict[str, frozenset[str]] = {
    "transitions": frozenset({"integrations"}),
    "click": frozenset({"cli", "__main__"}),
    "rich": frozenset({"cli"}),
    "psycopg": frozenset({"store", "testing"}),
    "yaml": frozenset({"traces"}),
    "pytest": frozenset({"testing"}),
    "hypothesis": frozenset({"testing"}),
    "attrs": frozenset(BELOW),
    "_runstate_hypothesis": frozenset({"__init__"}),  # this library's own, and outside of it so that it loads nothing
}


class Import(NamedTuple):
    """A module that a module imports, at any depth, and whether only a type checker sees it."""

    name: str
    for_types: bool
    line: int


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def dotted(path: Path) -> str:
    return ".".join(("runstate", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """Return every import of a module, those inside functions too."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, id(node) in for_types, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            assert node.module is not None
            folder = ROOT.parent / Path(*node.module.split("."))
            modules = [
                name.name
                for name in node.names
                if (folder / name.name).is_dir() or (folder / f"{name.name}.py").is_file()
            ]
            if len(modules) < len(node.names):  # also names of the package itself
                yield Import(node.module, id(node) in for_types, node.lineno)
            for name in modules:
                yield Import(f"{node.module}.{name}", id(node) in for_types, node.lineno)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- packages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_go_downward(path: Path) -> None:
    """A package imports only packages below its own, also inside its functions."""
    assert package_of(path) in BELOW, "a package that is not in the table"
    for found in imports(path):
        if not found.name.startswith("runstate."):
            continue
        other = found.name.split(".")[1]
        if not (ROOT / other).exists() and not (ROOT / f"{other}.py").exists():
            continue  # a name out of `runstate` itself
        if other != package_of(path) and not (found.for_types and (package_of(path), other) in FOR_TYPES_ONLY):
            assert other in BELOW[package_of(path)], f"{relative(path)}:{found.line} imports {found.name}"


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent != ROOT], ids=relative)
def test_a_package_has_no_cycle(path: Path) -> None:
    """Inside a package of several modules no module imports itself by way of others."""
    by_name = {dotted(module): module for module in MODULES}
    waiting, seen = [path], set()
    while waiting:
        for found in imports(waiting.pop()):
            other = by_name.get(found.name)
            if other is not None and other not in seen and package_of(other) == package_of(path):
                assert other != path, f"{relative(path)} imports itself"
                seen.add(other)
                waiting.append(other)


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_foreign_imports(path: Path) -> None:
    """Only the packages of the table import a library of others; all may import the standard library and attrs."""
    for found in imports(path):
        top = found.name.split(".")[0]
        if top != "runstate" and top not in sys.stdlib_module_names:
            assert package_of(path) in FOREIGN.get(top, frozenset()), (
                f"{relative(path)}:{found.line} imports {found.name}"
            )


@pytest.mark.parametrize("path", [path for path in MODULES if package_of(path) != "clock"], ids=relative)
def test_only_the_clock_reads_the_time(path: Path) -> None:
    """No other module asks the machine for the time, or tests could not move it; some packages may sleep."""
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
    """`import runstate` loads nothing that shows things to people, no driver and no test tool."""
    heavy = ["transitions", "click", "rich", "pytest", "hypothesis", "sqlite3", "asyncio", "psycopg", "graphviz"]
    heavy += [
        "runstate.diagram",
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


def test_the_files_of_the_mutation_are_there() -> None:
    """What `make mutation` changes, copies and runs exists: it passes over a name that it does not find."""
    settings = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"]
    lists = ("source_paths", "also_copy", "only_mutate", "pytest_add_cli_args_test_selection")
    assert [] == [name for key in lists for name in settings[key] if not (ROOT.parent / name).exists()]


# --- ceilings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_module_is_small(path: Path) -> None:
    """A module has at most 400 lines."""
    assert 400 >= len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_function_is_small(path: Path) -> None:
    """A function has at most 50 lines, its signature and docstring aside."""
    for function in functions(path):
        body = function.body[1:] if ast.get_docstring(function) else function.body
        lines = function.end_lineno - body[0].lineno + 1 if body and function.end_lineno else 0
        assert 50 >= lines, f"{relative(path)}:{function.lineno} {function.name}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_module_says_what_it_is_for(path: Path) -> None:
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
# Terms of the field, of the wire, or of a library that one package speaks to.
EXCUSED = {
    "diagram": {"edge"},  # of a box: its outline
    "integrations": {"state", "states", "trigger"},  # what `transitions` calls them
}


def words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_no_synonym_of_a_domain_word(path: Path) -> None:
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


# --- public names -----------------------------------------------------------------------------------------------------


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
    for_loops_of_ones_own = {"BoundStore", "Claim", "HeartbeatResult", "Lease", "Settle", "SweepResult"}
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
    public = {"lifecycle", "run", "traces", "store", "worker", "testing", "diagram", "integrations.transitions"}
    assert {f"runstate.{name}" for name in public} == set(named)
    for name in ("Run", "RUN_LIFECYCLE", "open_store", "Worker", "drive"):
        assert f"`{name}`" in told
        assert hasattr(runstate, name)


@pytest.mark.parametrize("path", [path for path in MODULES if path.stem != "__main__"], ids=relative)
def test_every_public_name_is_explained(path: Path) -> None:
    """Each name in a module's `__all__` is there; a class or function has a docstring, its public methods too."""
    module = importlib.import_module(dotted(path))
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        if inspect.isclass(value) or (inspect.isfunction(value) and value.__name__ == name):
            assert value.__doc__, f"{module.__name__}.{name}"
        if inspect.isclass(value) and value.__module__ == module.__name__:
            for attribute, member in vars(value).items():
                if not attribute.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                    assert member.__doc__, f"{module.__name__}.{name}.{attribute}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_underscore_means_private(path: Path) -> None:
    """No module imports a private name of another."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("runstate"):
            assert [] == [alias.name for alias in node.names if alias.name.startswith("_")], relative(path)
