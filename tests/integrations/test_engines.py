"""Runs inside somebody else's engine: real workers of Celery and Procrastinate, which deliver late, twice or never.

What is driven are the tasks of the examples, with another handler, which tells who called it. What came of a run is
judged by its history. Celery's messages are files, and the tests are the postman: what is sent lies in one folder
until they move it, whole, to the other, where the workers look.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count, pairwise
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from runstate import RUN_LIFECYCLE, RunEvent
from runstate.store import Store, StoredRun, open_store
from runstate.traces import judge
from runstate.worker import Dispatcher
from tests.support.postgres import Server, postgres_server  # noqa: F401

pytestmark = pytest.mark.foreign

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
LIMIT_S: Final = 60.0
LEASE_S: Final = 3.0
AFTER_S: Final = 0.5  # so long a run may wait before the dispatcher sends it again

# What a worker process imports. It ends by itself should the tests be unable to end it.
DRIVEN: Final = """
import os, sys, threading, time
sys.path.insert(0, {examples!r})
import {name} as example

limit = threading.Timer(120, os._exit, [1])
limit.daemon = True
limit.start()

def tell(*words):
    with open({told!r}, "a") as file:
        file.write(" ".join(map(str, words)) + "\\n")

def answer(ctx):
    tell("called", ctx.run_id, os.getpid(), ctx.attempt)
    time.sleep(60 if ctx.run.instructions == "hang" and ctx.attempt == 1 else 0.3)
    return ctx.complete()

def told(drive):
    def drive_then_tell(store, run_id, handler, **settings):
        run = drive(store, run_id, handler, **settings)
        tell("delivered", run_id, run and run.status)
        return run
    return drive_then_tell

def told_async(drive_async):
    async def drive_then_tell(store, run_id, handler, **settings):
        run = await drive_async(store, run_id, handler, **settings)
        tell("delivered", run_id, run and run.status)
        return run
    return drive_then_tell

app, example.answer, example.LEASE_S = example.app, answer, {lease_s!r}
"""
CELERY: Final = """
example.drive = told(example.drive)
app.conf.broker_transport_options["polling_interval"] = 0.05
app.conf.broker_transport_options["data_folder_out"] = app.conf.broker_transport_options["data_folder_in"]
"""
PROCRASTINATE: Final = """
example.drive_async = told_async(example.drive_async)
"""


def load(name: str) -> Any:
    """Import an example under the name that its workers know it by."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Engine:
    """An engine at work: two worker processes, and what the tests do to its deliveries."""

    name: str
    patch: str
    options: tuple[str, ...]

    def __init__(self, folder: Path, url: str, **environment: str) -> None:
        self.store: Final[Store] = open_store(url, migrate=True)
        self._folder = folder
        self._told = folder / "told"
        self._told.touch()
        self._environment = {**os.environ, **environment, "RUNSTATE_STORE": url}
        self._workers: list[subprocess.Popen[bytes]] = []

    def send(self, run_id: str, times: int = 1) -> None:
        """Have a run delivered, so many times."""
        raise NotImplementedError

    def lose(self, run_id: str) -> None:
        """Send a run, and have it never delivered."""
        raise NotImplementedError

    def start(self) -> None:
        """Have two workers at work."""
        names = {"name": f"with_{self.name}", "examples": str(EXAMPLES), "told": str(self._told), "lease_s": LEASE_S}
        (self._folder / "driven.py").write_text(DRIVEN.format(**names) + self.patch, encoding="utf-8")
        command = [sys.executable, "-m", self.name, "--app=driven.app", "worker", *self.options]
        self._workers = [worker for worker in self._workers if worker.poll() is None]
        with (self._folder / "log").open("ab") as log:
            while len(self._workers) < 2:
                self._workers.append(
                    subprocess.Popen(command, cwd=self._folder, env=self._environment, stdout=log, stderr=log)
                )

    def stop(self) -> None:
        """Kill the workers."""
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.wait(LIMIT_S)
        self.store.close()

    def told(self, word: str, run_id: str) -> list[list[str]]:
        """Return what the workers told of a run: who called its handler, or what came of its deliveries."""
        lines = [line.split() for line in self._told.read_text(encoding="utf-8").splitlines()]
        return [rest for said, about, *rest in lines if (said, about) == (word, run_id)]

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition, but not for ever, nor without a worker."""
        end = time.monotonic() + LIMIT_S
        while not condition():
            late, dead = time.monotonic() > end, all(worker.poll() is not None for worker in self._workers)
            if late or dead:
                log = (self._folder / "log").read_text(encoding="utf-8", errors="replace")
                pytest.fail(f"{'every worker died' if dead else 'waited too long'} before {what}:\n{log}")
            time.sleep(0.02)

    def create(self, instructions: str | None = None) -> StoredRun:
        return self.store.create(
            thread_id="thread_1", assistant_id="asst_1", model="gpt-4o", instructions=instructions, actor="web"
        )

    def dispatch_until_it_ends(self, run_id: str) -> list[str]:
        """Look as a dispatcher until a run has ended; return what was sent again."""
        dispatcher = Dispatcher(self.store, self.send, after_s=AFTER_S)
        sent: list[str] = []

        def has_ended() -> bool:
            sent.extend(dispatcher.look())
            return self.store.get(run_id).is_terminal

        self.wait_until(has_ended, "the run to end")
        return sent


class Celery(Engine):
    name = "celery"
    patch = CELERY
    options = ("--pool=solo", "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=WARNING")

    def __init__(self, folder: Path) -> None:
        inbox = folder / "inbox"
        super().__init__(folder, f"sqlite:///{folder}/runs.db", CELERY_FOLDER=str(inbox))
        self._inbox, self._outbox, self._letters = inbox, folder / "outbox", count()
        for place in (self._inbox, self._outbox):
            place.mkdir()
        self.example = load("with_celery")
        self.example.app.conf.broker_url = "filesystem://"
        self.example.app.conf.broker_transport_options = {
            "data_folder_in": str(self._inbox),
            "data_folder_out": str(self._outbox),
            "control_folder": str(self._outbox),
        }

    def send(self, run_id: str, times: int = 1) -> None:
        self.example.drive_run.delay(run_id)
        for letter in self._outbox.glob("*.celery.msg"):
            for _ in range(times):
                copy = shutil.copy(letter, self._outbox / f"{next(self._letters):06}_copy.celery.msg.new")
                Path(copy).rename(self._inbox / Path(copy).stem)
            letter.unlink()

    def lose(self, run_id: str) -> None:
        self.example.drive_run.delay(run_id)
        for letter in self._outbox.glob("*.celery.msg"):
            letter.unlink()


class Procrastinate(Engine):
    name = "procrastinate"
    patch = PROCRASTINATE
    options = ("--concurrency=3",)

    def __init__(self, folder: Path, server: Server) -> None:
        self.url: Final = server.create_database()
        super().__init__(folder, self.url)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RUNSTATE_STORE", self.url)
            self.example = load("with_procrastinate")
        self.example.app.open()
        self.example.app.schema_manager.apply_schema()

    def send(self, run_id: str, times: int = 1) -> None:
        for _ in range(times):
            self.example.drive_run.defer(run_id=run_id)

    def lose(self, run_id: str) -> None:
        with psycopg.connect(self.url) as db, db.transaction():  # or a worker would have it by now
            job = self.example.drive_run.configure(connection=db).defer(run_id=run_id)
            db.execute("DELETE FROM procrastinate_jobs WHERE id = %s", [job])

    def stop(self) -> None:
        self.example.app.close()
        super().stop()


@pytest.fixture(scope="module", params=[Celery, Procrastinate], ids=lambda engine: engine.name)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    pytest.importorskip(request.param.name, reason=f"{request.param.name} is not installed")
    folder = tmp_path_factory.mktemp(request.param.name)
    if request.param is Celery:
        engine: Engine = Celery(folder)
    else:
        engine = Procrastinate(folder, request.getfixturevalue("postgres_server"))
    try:
        yield engine
    finally:
        engine.stop()


@pytest.fixture
def engine(running: Engine) -> Engine:
    """An engine with two workers, whatever the test before did to them."""
    running.start()
    return running


def assert_it_ended_once(engine: Engine, run_id: str) -> list[RunEvent]:
    """Judge a run's history by the law; return its events after the birth."""
    run, history = engine.store.get(run_id), engine.store.history(run_id)
    assert [*range(1, run.version + 1)] == [entry.version for entry in history]
    for before, entry in pairwise(history):
        assert entry.source == before.target
        assert entry.event is not None
        assert RUN_LIFECYCLE.find(before.target, entry.event) is not None
        assert RUN_LIFECYCLE.target_of(entry.event) == entry.target
    assert [run.status] == [entry.target for entry in history if RUN_LIFECYCLE.is_terminal(entry.target)]
    assert () == judge(run)
    return [entry.event for entry in history if entry.event is not None]


def test_a_delivery_that_comes_three_times_is_driven_once(engine: Engine) -> None:
    """Whoever comes second while the first is at work, or after it, gets nothing."""
    run = engine.create()
    engine.send(run.id, times=3)
    engine.wait_until(lambda: len(engine.told("delivered", run.id)) == 3, "three deliveries")
    assert [RunEvent.START, RunEvent.COMPLETE] == assert_it_ended_once(engine, run.id)
    assert 1 == len(engine.told("called", run.id))
    assert ["None", "None", "completed"] == sorted(came for (came,) in engine.told("delivered", run.id))


def test_a_delivery_that_comes_too_late_is_not_driven(engine: Engine) -> None:
    """The run was cancelled while its id was on its way."""
    run = engine.create()
    engine.store.request_cancel(run.id)
    engine.send(run.id)
    engine.wait_until(lambda: engine.told("delivered", run.id) != [], "the delivery")
    assert [RunEvent.REQUEST_CANCEL, RunEvent.CONFIRM_CANCEL] == assert_it_ended_once(engine, run.id)
    assert [] == engine.told("called", run.id)


def test_a_worker_that_is_killed_loses_no_run(engine: Engine) -> None:
    """Its run is sent again when the lease has lapsed, taken over without a change of status, and ends once."""
    run = engine.create("hang")
    engine.send(run.id)
    engine.wait_until(lambda: engine.told("called", run.id) != [], "the handler to be called")
    ((pid, _),) = engine.told("called", run.id)
    os.kill(int(pid), signal.SIGKILL)
    assert run.id in engine.dispatch_until_it_ends(run.id)
    assert [RunEvent.START, RunEvent.COMPLETE] == assert_it_ended_once(engine, run.id)
    (first, first_attempt), (second, second_attempt) = engine.told("called", run.id)
    assert first != second
    assert ("1", "2") == (first_attempt, second_attempt)
    assert {"attempt": 2} == engine.store.history(run.id)[-1].detail


def test_a_delivery_that_never_arrives_is_sent_again(engine: Engine) -> None:
    """The dispatcher notices that nobody claims the run."""
    run = engine.create()
    engine.lose(run.id)
    time.sleep(2 * AFTER_S)
    assert [] == engine.told("delivered", run.id)
    assert {run.id} == {*engine.dispatch_until_it_ends(run.id)}, "more than once, if the engine is that slow"
    assert [RunEvent.START, RunEvent.COMPLETE] == assert_it_ended_once(engine, run.id)


def test_a_run_and_its_job_are_committed_together(postgres_server: Server) -> None:  # noqa: F811
    """The example for Procrastinate rolls both back, then commits both and drives the run."""
    pytest.importorskip("procrastinate", reason="procrastinate is not installed")
    url = postgres_server.create_database()
    told, run_id = run_example("with_procrastinate.py", RUNSTATE_STORE=url)
    assert told[0].startswith("the user went away: 0 runs are queued")
    assert f"{run_id}: queued, in_progress, completed" == told[1]
    with psycopg.connect(url) as db:
        assert [(run_id,)] == db.execute("SELECT args ->> 'run_id' FROM procrastinate_jobs").fetchall()
    postgres_server.drop_database(url)


def test_the_example_for_celery() -> None:
    """It delivers one run three times and another not at all, and both end once, after their tool round."""
    pytest.importorskip("celery", reason="celery is not installed")
    told, _ = run_example("with_celery.py")
    ways = [line.partition(": ")[2] for line in told[-2:]]
    assert ["queued, in_progress, requires_action, queued, in_progress, completed"] * 2 == ways


def run_example(name: str, **environment: str) -> tuple[list[str], str]:
    """Run an example as its reader would; return what it said, and the run that it said last."""
    running = subprocess.Popen(
        [sys.executable, EXAMPLES / name],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said, complained = running.communicate(timeout=3 * LIMIT_S)
    finally:
        with suppress(ProcessLookupError):  # and whoever it left behind
            os.killpg(running.pid, signal.SIGKILL)
    assert (0, "") == (running.returncode, complained)
    told = said.splitlines()
    return told, told[-1].partition(":")[0]


def test_the_example_for_dbos() -> None:
    """A failure is retried, and the workflow of a run exists once."""
    pytest.importorskip("dbos", reason="dbos is not installed")
    done = subprocess.run(
        [sys.executable, EXAMPLES / "with_dbos.py"], capture_output=True, text=True, check=True, timeout=3 * LIMIT_S
    )
    told = done.stdout.splitlines()
    assert ["the workflow says: completed"] * 2 == told[:2]
    assert "completed in attempt 2; 1 had failed" == told[2]
