"""The reference pages say what the classes and the commands say: `errors.md` and `json.md`."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

import runstate.errors
import runstate.worker
from runstate import ManualClock, Run, RunStatus, use_clock
from runstate.cli import cli
from runstate.cli.errors import as_click_error
from runstate.errors import RunstateError
from runstate.run.json_schema import run_json_schema
from runstate.store import open_store
from runstate.testing import a_run, walks
from runstate.worker import Context, Outcome, RetryPolicy, drive
from tests.support.cli_runner import CliRunner

REFERENCE: Final = Path(__file__).parents[2] / "docs" / "reference"
ERRORS: Final = (REFERENCE / "errors.md").read_text(encoding="utf-8")
JSON: Final = (REFERENCE / "json.md").read_text(encoding="utf-8")
"""The texts of the two pages."""


def section(page: str, heading: str) -> str:
    """Return the text under a heading, up to the next one of any level."""
    assert page.count(f"\n{heading}\n") == 1, heading
    return page.partition(f"\n{heading}\n")[2].partition("\n#")[0]


def rows(page: str, heading: str) -> list[list[str]]:
    """Return the rows of the table under a heading, each as its cells."""
    lines = [line for line in section(page, heading).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names_in(cell: str) -> list[str]:
    """Return the names in the code spans of a cell."""
    return re.findall(r"`([^`]+)`", cell)


# --- errors.md --------------------------------------------------------------------------------------------------------


def exceptions_of(module: ModuleType) -> list[type[RunstateError]]:
    """Return the public exception classes of a module."""
    public = [getattr(module, name) for name in module.__all__]
    found = [each for each in public if inspect.isclass(each) and issubclass(each, RunstateError)]
    others = [each for each in public if inspect.isclass(each) and issubclass(each, BaseException)]
    assert found == others
    return found


OF_HANDLERS: Final = exceptions_of(runstate.worker)
CLASSES: Final = {each.__name__: each for each in (*exceptions_of(runstate.errors), *OF_HANDLERS)}
TOLD: Final = {names_in(row[0])[0]: row[1:] for row in rows(ERRORS, "## The table")}
"""The cells of the table of errors, by the name of the class."""


def exit_code_of(error: type[RunstateError]) -> int:
    """Return the exit code of a command that ends with an error of this class."""
    empty: dict[str, Any] = {"__init__": lambda _: None, "__str__": lambda _: "refused"}
    kind = type(error.__name__, (error,), empty)
    return as_click_error(kind()).exit_code


def bases_of(error: type[BaseException]) -> list[str]:
    return [base.__name__ for base in error.__bases__]


def test_the_table_names_every_public_exception_once() -> None:
    """No class is missing, none has two rows, and each row says what the class means."""
    named = [names_in(row[0]) for row in rows(ERRORS, "## The table")]
    assert sorted([name] for name in CLASSES) == sorted(named)
    assert all(told[-1].endswith(".") for told in TOLD.values())


def test_a_row_has_the_base_classes_of_its_error() -> None:
    """First the one of the library, then those of Python."""
    assert {name: bases_of(error) for name, error in CLASSES.items()} == {
        name: names_in(cells[0]) for name, cells in TOLD.items()
    }


def test_a_row_says_whether_a_repetition_can_help() -> None:
    """The column is the attribute `retryable` of the class."""
    assert {name: "yes" if error.retryable else "no" for name, error in CLASSES.items()} == {
        name: cells[1] for name, cells in TOLD.items()
    }


def test_a_row_has_the_exit_code_of_its_error() -> None:
    """The command line makes it of the class. Errors of handlers reach no command."""
    assert {name: "none" if error in OF_HANDLERS else str(exit_code_of(error)) for name, error in CLASSES.items()} == {
        name: cells[2] for name, cells in TOLD.items()
    }


def test_the_tree_is_that_of_the_classes() -> None:
    """Each line has the class, at the depth of its first base, and in parentheses its bases of Python."""
    (tree,) = re.findall(r"```text\n(.*?)```", section(ERRORS, "## The classes"), re.DOTALL)
    path: list[str] = []
    found: list[str] = []
    for line in tree.splitlines():
        marks, name, others = re.fullmatch(r"([├└─│ ]*)(\w+)(?: \((\w+)\))?", line).groups()  # type: ignore[union-attr]
        path[len(marks) // 4 :] = [name]
        above = path[-2:-1]
        assert bases_of(CLASSES[name]) == [*above, *([others] if others else [])], name
        found.append(name)
    assert sorted(CLASSES) == sorted(found)


def test_the_second_table_has_every_error_that_is_raised() -> None:
    """All but the two base classes that are for `except` alone."""
    named = [names_in(row[0])[0] for row in rows(ERRORS, "## What raises them, and what to do")]
    assert sorted(CLASSES.keys() - {"RunstateError", "LostRace"}) == sorted(named)


def test_the_second_table_has_the_attributes_of_the_classes() -> None:
    """The names that a class defines or sets, without those of its base classes of Python."""
    for row in rows(ERRORS, "## What raises them, and what to do"):
        (name,), named = names_in(row[0]), names_in(row[2])
        if named == ["IllegalTransition"]:
            continue  # the same as the row above
        source = "".join(inspect.getsource(each) for each in CLASSES[name].__mro__ if each.__module__[:8] == "runstate")
        own = set(re.findall(r"self\.(\w+): ", source))
        own |= {each for each, value in inspect.getmembers(CLASSES[name]) if isinstance(value, property)}
        own |= {"retryable"} & set(vars(CLASSES[name]))
        assert sorted(each for each in own if not each.startswith("_")) == sorted(named), name


def test_a_refusal_and_a_missing_run_have_their_exit_codes(tmp_path: Path) -> None:
    """The codes of the table are those with which commands really end."""
    url = f"sqlite:///{tmp_path}/runs.db"
    names: dict[str, Any] = {"thread_id": "thread_1", "assistant_id": "asst_1", "model": "gpt-4o"}
    with open_store(url) as store:
        ended, live = store.create(**names), store.create(**names)
        store.request_cancel(ended.id)
    for name, arguments in {
        "TerminalStatus": ["runs", "cancel", ended.id],
        "RunIsLive": ["runs", "repeat", live.id],
        "RunNotFound": ["runs", "show", "run_abc123"],
        "StoreUrlError": ["runs", "counts", "--store", "nonsense"],
    }.items():
        done = CliRunner().invoke(cli, arguments, env={"RUNSTATE_STORE": url})
        assert (TOLD[name][2], 1) == (str(done.exit_code), len(done.stderr.splitlines())), (name, done.stderr)


# --- json.md ----------------------------------------------------------------------------------------------------------

FREE: Final = frozenset({"metadata", "result", "schema", "waiting", "tool_outputs"})
"""Keys whose objects have keys of the user, of a handler, or names of queues."""

KEYS: Final = rows(JSON, "### The 27 keys")
FIELDS: Final = (
    *("expires_at", "started_at", "completed_at", "failed_at", "cancelled_at"),
    *("required_action", "last_error", "incomplete_details", "usage"),
)
"""The keys whose values depend on the status, in the order of the table."""


def ask_model(ctx: Context) -> str:
    ctx.add_usage(prompt_tokens=12, completion_tokens=30)
    return "sunny"


def answer(ctx: Context) -> Outcome:
    """Fail once, then require a tool, then call the model in a step."""
    if not ctx.tool_outputs and ctx.run.failed == 0:
        raise TimeoutError("the model does not answer")
    if not ctx.tool_outputs:
        return ctx.require_action([ctx.tool_call("weather", city="Paris")])
    ctx.step("answer", ask_model, ctx)
    ctx.progress("answered")
    return ctx.complete()


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the library and the commands print about a store with two runs, by the headings of the page."""
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/runs.db"
    names: dict[str, Any] = {"thread_id": "thread_1", "assistant_id": "asst_1", "model": "gpt-4o"}
    found: dict[str, Any] = {}

    def keep(command: str, *arguments: str) -> None:
        arguments = (*command.split(), *arguments, "--json")
        done = CliRunner().invoke(cli, [*arguments], env={"RUNSTATE_STORE": url}, catch_exceptions=False)
        found[f"### `runstate {command} --json`"] = json.loads(done.stdout)

    with use_clock(ManualClock(1_800_000_000)) as clock, open_store(url) as store:
        run = store.create(**names, metadata={"user": "ada"}, actor="web")
        for _ in range(3):
            drive(store, run.id, answer, name="worker_1", retry=RetryPolicy(backoff=1.0, jitter=0.0))
            clock.advance(2)
            if (action := store.get(run.id).required_action) is not None:
                store.submit_tool_outputs(run.id, dict.fromkeys(action.call_ids, "sunny"), actor="web")
        keep("runs show", run.id)
        keep("runs history", run.id)
        found["### snake_case"] = found["### `runstate runs show --json`"]["run"]
        found["### camelCase"] = store.get(run.id).to_dict("camel")
        store.create(**names, queue="slow", expires_in_s=86_400)
        store.pause("slow", reason="the provider is away", actor="ada")
        store.open_lease("worker_2")
        for command in ("runs counts", "workers", "queues list"):
            keep(command)
        keep("runs list", "--limit", "1")
        clock.advance(7200)
        keep("doctor")
    return found


HEADINGS: Final = re.findall(r"^(### .*)$\n(?:(?!^#).*\n)*?```json\n", JSON, re.MULTILINE)
"""The headings of the page that have an example."""


def example_under(heading: str) -> Any:
    """Return the value of the example under a heading."""
    (text,) = re.findall(r"```json\n(.*?)```", section(JSON, heading), re.DOTALL)
    return json.loads(text)


def shape_of(value: Any, key: str = "") -> Any:
    """Return what a value is: the keys of its objects, the shapes of its members, the types of the rest."""
    if isinstance(value, dict):
        return "any object" if key in FREE else {each: shape_of(item, each) for each, item in value.items()}
    if isinstance(value, list):
        return [shape_of(item) for item in value]
    return type(value).__name__


def is_part(told: Any, real: Any) -> bool:
    """Return whether a shape of the page is a real one. An example may leave out members of arrays, but no keys."""
    if isinstance(told, dict) and isinstance(real, dict):
        return [*told] == [*real] and all(is_part(told[key], real[key]) for key in told)
    if isinstance(told, list) and isinstance(real, list):
        return bool(told) is bool(real) and all(any(is_part(one, other) for other in real) for one in told)
    return bool(told == real)


def test_every_example_is_checked(printed: dict[str, Any]) -> None:
    """What the page shows and what is printed here are the same values."""
    assert sorted(printed) == sorted(HEADINGS)


@pytest.mark.parametrize("heading", HEADINGS)
def test_an_example_has_exactly_the_keys_that_are_printed(printed: dict[str, Any], heading: str) -> None:
    told, real = shape_of(example_under(heading)), shape_of(printed[heading])
    assert is_part(told, real), (told, real)


def test_the_table_of_keys_is_that_of_a_run() -> None:
    """All 27 keys, in the order of writing, each with its spelling in camelCase."""
    run = Run.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o")
    told = [(names_in(row[0])[0], names_in(row[1])[0]) for row in KEYS]
    assert [*zip(run.to_dict(), run.to_dict("camel"), strict=True)] == told
    assert 27 == len(told)


def types_of(schema: dict[str, Any]) -> set[str]:
    """Return the types that a schema of one value allows. Words and constants are strings."""
    if "anyOf" in schema:
        return {kind for each in schema["anyOf"] for kind in types_of(each)}
    return {schema.get("type", "string")}


def test_a_key_has_the_types_of_the_schema() -> None:
    """The third column has the types, and the fourth whether null is one of them."""
    told = {names_in(row[0])[0]: {*row[2].split(" or "), *(["null"] if row[3] == "yes" else [])} for row in KEYS}
    assert {key: types_of(schema) for key, schema in run_json_schema()["properties"].items()} == told


def test_the_table_of_nulls_is_that_of_legal_histories() -> None:
    """A field is set, null, or either, over all legal paths that lead to a status."""
    found: dict[RunStatus, dict[str, set[bool]]] = {}
    for walk in walks(8):
        run = a_run(path=walk.events)
        fields = found.setdefault(run.status, {field: set() for field in FIELDS})
        for field in FIELDS:
            fields[field].add(getattr(run, field) is not None)
    words = {(True,): "set", (False,): "null", (False, True): "either"}
    real = [
        [f"`{status}`", *(words[tuple(sorted(fields[each]))] for each in fields)] for status, fields in found.items()
    ]
    assert sorted(real) == sorted(rows(JSON, "### Which values are null"))
    (head,) = re.findall(r"^\| status \|(.*)\|$", JSON, re.MULTILINE)
    assert [*FIELDS] == names_in(head)
