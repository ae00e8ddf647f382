"""The handler by itself, and the whole service."""

import time
from collections.abc import Iterator
from pathlib import Path

import app as service
import pytest
from alembic import command
from alembic.config import Config
from fastapi.testclient import TestClient

from runstate.testing import handle

HERE = Path(__file__).parent


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A service with an empty database."""
    monkeypatch.setattr(service, "URL", f"sqlite+aiosqlite:///{tmp_path / 'app.db'}")
    command.upgrade(Config(HERE / "alembic.ini"), "head")
    command.check(Config(HERE / "alembic.ini"))  # autogenerate has nothing to do
    with TestClient(service.app) as client:
        yield client


def test_the_handler_answers_and_counts_its_tokens() -> None:
    handled = handle(service.answer, instructions="How are you?")
    assert handled.event == "complete"
    assert [event.data for event in handled.events] == [{"text": "You asked: How are you?"}]
    assert handled.usage.total_tokens == 24


def test_a_question_is_answered(client: TestClient) -> None:
    asked = client.post("/questions", json={"text": "How are you?"})
    assert (201, "queued") == (asked.status_code, asked.json()["status"])
    until = time.monotonic() + 30
    while (told := client.get(f"/questions/{asked.json()['id']}").json())["status"] != "completed":
        assert time.monotonic() < until, told
        time.sleep(0.02)
    assert told["answer"] == "You asked: How are you?"


def test_a_question_that_is_refused_leaves_no_run(client: TestClient) -> None:
    assert 422 == client.post("/questions", json={"text": ""}).status_code
    assert 404 == client.get("/questions/1").status_code
    assert 0 == len(client.app.state.store.list())  # type: ignore[attr-defined]
