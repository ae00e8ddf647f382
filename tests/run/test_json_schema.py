"""The JSON Schema of a run, and runs in pydantic's models and FastAPI's responses."""

from __future__ import annotations

import json
from typing import Any

import pytest

pydantic = pytest.importorskip("pydantic")
fastapi = pytest.importorskip("fastapi")

from fastapi.testclient import TestClient  # noqa: E402

from runstate.run import Run, RunSnapshot  # noqa: E402
from runstate.run.json_schema import run_json_schema  # noqa: E402
from runstate.store import StoredRun, open_store  # noqa: E402
from runstate.testing import a_run  # noqa: E402
from tests.store.support import names  # noqa: E402
from tests.support.lifecycle import LIVE, TERMINAL  # noqa: E402

ADAPTER = pydantic.TypeAdapter(Run)


def of_type(schema: dict[str, Any], value: Any) -> bool:
    """Return whether a value fits the parts of JSON Schema that are used here."""
    if "anyOf" in schema:
        return any(of_type(each, value) for each in schema["anyOf"])
    if "const" in schema:
        return bool(value == schema["const"])
    if "enum" in schema:
        return value in schema["enum"]
    kinds: dict[str, Any] = {
        "string": str,
        "integer": int,
        "number": int | float,
        "boolean": bool,
        "object": dict,
        "array": list,
    }
    if schema["type"] == "null":
        return value is None
    if not isinstance(value, kinds[schema["type"]]):
        return False
    inner: dict[str, Any] = schema.get("properties", {})
    return all(name in value for name in schema.get("required", ())) and all(
        of_type(inner[name], value[name]) for name in inner if name in value
    )


@pytest.mark.parametrize("status", sorted({*LIVE, *TERMINAL}))
def test_a_run_in_each_status_fits_the_schema(status: str) -> None:
    told = a_run(status).to_dict()
    schema = run_json_schema()
    assert told.keys() == schema["properties"].keys() == {*schema["required"]}
    for name, value in told.items():
        assert of_type(schema["properties"][name], value), name


@pytest.mark.parametrize(
    ("name", "value"), [("status", "running"), ("id", 3), ("created_at", "now"), ("usage", {}), ("tools", "x")]
)
def test_what_no_run_is_does_not_fit(name: str, value: Any) -> None:
    assert not of_type(run_json_schema()["properties"][name], value)


def test_the_schema_is_a_new_one_each_time() -> None:
    run_json_schema()["properties"].clear()
    assert run_json_schema()["properties"]
    json.dumps(run_json_schema())


@pytest.mark.parametrize("cls", [Run, RunSnapshot, StoredRun])
def test_pydantic_knows_the_schema_of_each_kind_of_run(cls: type[RunSnapshot]) -> None:
    assert run_json_schema() == pydantic.TypeAdapter(cls).json_schema()


def test_pydantic_reads_and_writes_runs() -> None:
    run = a_run("completed")
    told = ADAPTER.dump_python(run)
    assert told == run.to_dict()
    again = ADAPTER.validate_python(told)
    assert isinstance(again, Run)
    assert told == again.to_dict()
    assert again == ADAPTER.validate_json(ADAPTER.dump_json(run))
    assert run is pydantic.TypeAdapter(RunSnapshot).validate_python(run)


def test_pydantic_tells_all_that_is_wrong() -> None:
    with pytest.raises(pydantic.ValidationError, match="unknown status 'running'"):
        ADAPTER.validate_python({**a_run("completed").to_dict(), "status": "running"})


def test_fastapi_answers_with_a_run(tmp_path: Any) -> None:
    app = fastapi.FastAPI()
    with open_store(tmp_path / "runs.db") as store:
        run = store.create(**names())

        @app.get("/runs/{run_id}")  # type: ignore[untyped-decorator]
        def get(run_id: str) -> StoredRun:
            return store.get(run_id)

        with TestClient(app) as client:
            assert run.to_dict() == client.get(f"/runs/{run.id}").json()
            schemas = client.get("/openapi.json").json()
    assert "thread.run" in json.dumps(schemas)
