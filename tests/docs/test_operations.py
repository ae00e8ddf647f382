"""The how-tos for operators show what works: their SQL, their grants, their service files, and their commands."""

from __future__ import annotations

import configparser
import json
import os
import re
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click
import psycopg
import pytest
import yaml

from runstate import RunStatus
from runstate.cli import cli
from runstate.errors import AccessDenied
from runstate.store import Store, open_store
from runstate.store.doctor import examine
from runstate.worker import Context, Outcome, RetryLater, Worker
from tests.store.conftest import make_url, opened, postgres_broom, postgres_home, sqlite_template
from tests.store.support import Prompt, names
from tests.support.cli_runner import CliRunner
from tests.support.postgres import postgres_server, postgres_url, wait_until

__all__ = ["postgres_broom", "postgres_home", "postgres_server", "postgres_url", "sqlite_template"]  # fixtures

PAGES: Final = Path(__file__).parents[2] / "docs" / "how-to"
MINUTE_S: Final = 60
HOUR_S: Final = 3600


def blocks(page: str, kind: str) -> list[str]:
    """Return the blocks of a page that are in one language."""
    return re.findall(rf"^```{kind}\n(.*?)^```", (PAGES / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def recipes(page: str) -> dict[str, str]:
    """Return the SQL blocks of a page by the names in their first lines, `-- name: what it does`."""
    found: dict[str, str] = {}
    for block in blocks(page, "sql"):
        first, _, statements = block.partition("\n")
        name = re.fullmatch(r"-- (\w+): \S.*", first)
        assert name is not None, first
        found[name[1]] = statements
    return found


QUERIES: Final = recipes("monitor.md")


# --- monitor.md -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty store."""
    yield from make_url(request.param, request)


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    yield from opened(store_url)


@pytest.fixture
def prompt(store_url: str) -> Iterator[Prompt]:
    with Prompt(store_url) as prompt:
        yield prompt


def ask(ctx: Context) -> str:
    """Be the function of a step."""
    ctx.add_usage(prompt_tokens=12, completion_tokens=30)
    return "sunny"


def answer(ctx: Context) -> Outcome | None:
    """Be a handler that ends as the assistant of its run says."""
    match ctx.run.assistant_id:
        case "fails":
            return ctx.fail("rate_limit_exceeded", "too many requests")
        case "raises":
            raise ValueError("a bug")
        case "retries":
            raise RetryLater(1000, "the model is overloaded")
        case _:
            ctx.step("ask", ask, ctx)
            return None


def fill(store: Store) -> dict[str, str]:
    """Bring runs into different states; return the ids of those that queries name."""

    def create(queue: str, assistant: str = "asst_1", expires_in_s: int = HOUR_S, **other: Any) -> str:
        wanted = names(queue=queue, assistant_id=assistant, expires_in_s=expires_in_s, **other)
        return store.create(**wanted).id

    for assistant in ("completes", "fails", "raises", "raises", "retries"):
        create("work", assistant)
    Worker(store, answer, queues=["work"], name="w1").run(until_idle=True)
    ids = {"lost": create("lost"), "released": create("released"), "cancelling": create("cancelled")}
    store.claim(store.open_lease("dead", lease_s=0.05), queues=["lost"])
    wait_until(lambda: bool(store.sweep().expired_leases), "the lease to lapse")
    alive, slow = store.open_lease("alive", lease_s=30), store.open_lease("slow", lease_s=30)
    assert [ids["lost"]] == [claim.run.id for claim in store.take_over(alive, queues=["lost"])]
    (claim,) = store.claim(alive, queues=["released"])
    store.release(alive, claim.run)
    assert store.claim(slow, queues=["cancelled"])
    assert "cancelling" == store.request_cancel(ids["cancelling"]).status
    create("default")
    create("default")
    create("later", not_before=int(time.time()) + 600)
    create("paused")
    store.pause("paused", reason="the provider is away")
    ids["soon"] = create("soon", expires_in_s=50)
    return ids


def ask_page(prompt: Prompt, name: str, now: int) -> list[tuple[Any, ...]]:
    return prompt.run(QUERIES[name].replace(":now", str(now)))


def test_the_page_has_these_queries() -> None:
    """Each has a test below."""
    assert {
        *("oldest", "statuses", "moves", "failures", "attempts", "steps", "deadlines", "cancelling", "busy"),
        *("size", "pages"),
    } == set(QUERIES)


def test_the_queries_for_work_that_waits(store: Store, prompt: Prompt) -> None:
    """Only what can be claimed is counted; a paused queue is not, nor is a run that waits for its time."""
    fill(store)
    now = int(time.time())
    found = {queue: (runs, oldest_s) for queue, runs, oldest_s in ask_page(prompt, "oldest", now + 1000)}
    assert {"default": 2, "soon": 1} == {queue: runs for queue, (runs, _) in found.items()}
    assert all(1000 <= oldest_s < 1000 + MINUTE_S for _, oldest_s in found.values())
    statuses = dict(ask_page(prompt, "statuses", now))
    assert {"queued": 5, "in_progress": 3, "cancelling": 1, "failed": 3, "completed": 1} == statuses
    assert statuses == {str(status): runs for status, runs in store.counts().items() if runs}


def test_the_queries_for_how_runs_end(store: Store, prompt: Prompt) -> None:
    """What happened in the last hour is counted, and nothing of before."""
    fill(store)
    now = int(time.time())
    moves = dict(ask_page(prompt, "moves", now))
    assert {"queued": 13, "in_progress": 8, "cancelling": 1, "failed": 3, "completed": 1} == moves
    assert [("work", "server_error", 2), ("work", "rate_limit_exceeded", 1)] == ask_page(prompt, "failures", now)
    assert [("lost", 1, 1), ("released", 1, 1), ("retry", 1, 1)] == ask_page(prompt, "attempts", now)
    ((name, steps, mean_s, tokens),) = ask_page(prompt, "steps", now)
    assert ("ask", 1, 42) == (name, steps, tokens)
    assert 0 <= mean_s < MINUTE_S
    for query in ("moves", "failures", "attempts", "steps"):
        assert [] == ask_page(prompt, query, now + 2 * HOUR_S), query


def test_the_queries_for_runs_that_need_attention(store: Store, prompt: Prompt) -> None:
    """A deadline that comes soon, a cancel that nothing has confirmed, and the workers that have runs."""
    ids = fill(store)
    now = int(time.time())
    ((run_id, status, queue, worker, left_s),) = ask_page(prompt, "deadlines", now)
    assert (ids["soon"], "queued", "soon", None) == (run_id, status, queue, worker)
    assert left_s <= 50
    assert [] == ask_page(prompt, "deadlines", now - 2 * MINUTE_S)
    assert [] == ask_page(prompt, "cancelling", now - MINUTE_S)
    ((run_id, queue, worker, for_s),) = ask_page(prompt, "cancelling", now + 2 * MINUTE_S)
    assert (ids["cancelling"], "cancelled", "slow") == (run_id, queue, worker)
    assert for_s >= 2 * MINUTE_S
    busy = ask_page(prompt, "busy", now)
    assert [("alive", 1), ("slow", 1)] == [(worker, runs) for worker, runs, _ in busy]
    assert all(lease_left_s <= 30 for *_, lease_left_s in busy)
    assert all(lease_left_s < 0 for *_, lease_left_s in ask_page(prompt, "busy", now + HOUR_S))


def test_the_queries_for_the_size(store: Store, prompt: Prompt) -> None:
    """Each is for one database."""
    fill(store)
    if prompt.is_sqlite:
        prompt.run("PRAGMA wal_checkpoint(TRUNCATE)")
        assert ask_page(prompt, "pages", 0) == [(Path(prompt.url.removeprefix("sqlite:///")).stat().st_size,)]
    else:
        sizes = dict(ask_page(prompt, "size", 0))
        assert {"runstate_run", "runstate_history", "runstate_step", "runstate_event"} <= set(sizes)
        assert sizes["runstate_run"] > 0


def test_the_commands_of_the_page_print_json(store: Store, store_url: str) -> None:
    """Each is executed as it stands there, and says the same as the store."""
    fill(store)
    found: dict[str, Any] = {}
    for command in _commands_of(blocks("monitor.md", "console")[0]):
        said = CliRunner().invoke(cli, shlex.split(command)[1:], env={"RUNSTATE_STORE": store_url})
        assert said.exit_code == 0, (command, said.output)
        found[command] = json.loads(said.stdout)
    assert found["runstate runs counts --json"]["queued"] == 5
    assert {"alive", "slow"} == {worker["name"] for worker in found["runstate workers --json"]["workers"]}
    assert found["runstate doctor --json"]["findings"] == []
    assert {"default", "soon", "paused"} <= set(found["runstate queues list --json"]["waiting"])


# --- permissions.md ---------------------------------------------------------------------------------------------------


class Roles:
    """The statements of the page, with names that no other test uses: roles belong to the whole server."""

    def __init__(self, url: str) -> None:
        self.url: Final = url
        self.mark: Final = secrets.token_hex(4)
        self.statements: Final = {name: self.mine(text) for name, text in recipes("permissions.md").items()}

    def mine(self, text: str) -> str:
        return re.sub(r"\bruns_(owner|worker|reader|operator)\b", rf"runs_\1_{self.mark}", text)

    def url_of(self, role: str) -> str:
        return re.sub(r"^(\w+://)([^@/?]*@)?", rf"\g<1>{self.mine(role)}@", self.url)

    def execute(self, name: str, role: str | None = None) -> list[tuple[Any, ...]]:
        with Prompt(self.url if role is None else self.url_of(role)) as prompt:
            return prompt.run(self.statements[name])


@pytest.fixture
def roles(postgres_url: str) -> Iterator[Roles]:
    """A database with the roles of the page, in which the owner has migrated."""
    roles = Roles(postgres_url)
    try:
        roles.execute("roles")
    except psycopg.errors.InsufficientPrivilege as error:
        pytest.skip(f"no right to create a role here: {error}")
    try:
        open_store(roles.url_of("runs_owner"), migrate=True).close()
        roles.execute("views", "runs_owner")
        yield roles
    finally:
        with Prompt(postgres_url) as prompt:
            for role in ("runs_worker", "runs_reader", "runs_operator", "runs_owner"):
                prompt.run(roles.mine(f"DROP OWNED BY {role} CASCADE"))
                prompt.run(roles.mine(f"DROP ROLE {role}"))


def test_the_role_of_a_worker_drives_a_run(roles: Roles) -> None:
    """It creates, pauses, works with steps and output events, and prunes; doctor finds nothing to say."""
    with open_store(roles.url_of("runs_worker")) as store:
        run = store.create(**names(metadata={"a": "b"}))
        store.pause("other")
        store.resume("other")

        def handle(ctx: Context) -> None:
            ctx.emit("sunny")
            ctx.step("ask", ask, ctx)
            ctx.checkpoint(1)

        Worker(store, handle).run(until_idle=True)
        assert store.get(run.id).status == "completed"
        assert [event.data for event in store.events_page(run.id)] == ["sunny"]
        assert examine(store).findings == ()
        assert store.prune(0) == 1


ILLEGAL: Final = (
    "UPDATE runstate_run SET status = 'completed'",
    "UPDATE runstate_runs SET status = 'completed'",
    "DELETE FROM runstate_run",
    "TRUNCATE runstate_run",
    "ALTER TABLE runstate_run DISABLE TRIGGER ALL",
    "DROP TABLE runstate_run",
    "CREATE TABLE mine (id int)",
)


def test_the_role_of_a_worker_changes_no_status_by_sql(roles: Roles) -> None:
    """Nor does it change tables or triggers; what it tried has changed nothing."""
    with open_store(roles.url_of("runs_worker")) as store, Prompt(roles.url_of("runs_worker")) as prompt:
        run = store.create(**names())
        for statement in ILLEGAL:
            assert prompt.refusal(statement) is not None, statement
        assert (prompt.refusal(ILLEGAL[0]) or "").startswith("runstate: illegal transition")
        assert store.get(run.id) == run


def test_the_role_of_a_reader_reads_the_views_and_changes_nothing(roles: Roles) -> None:
    """It has no right to the tables, and so none to the commands."""
    views = re.findall(r"runstate_\w+", roles.statements["views"])
    assert len(views) == 6
    with open_store(roles.url_of("runs_worker")) as store, Prompt(roles.url_of("runs_reader")) as prompt:
        run = store.create(**names())
        assert prompt.run("SELECT id, status FROM runstate_runs") == [(run.id, "queued")]
        for view in views:
            assert prompt.refusal(f"SELECT * FROM {view}") is None
            assert prompt.refusal(f"DELETE FROM {view}") is not None
        for statement in (*ILLEGAL, "SELECT * FROM runstate_run", "SELECT * FROM runstate_worker_session"):
            assert prompt.refusal(statement) is not None, statement
        assert store.get(run.id) == run
    with pytest.raises(AccessDenied, match="permission denied"):
        open_store(roles.url_of("runs_reader"))


def test_the_role_of_an_operator_uses_the_commands_that_read(roles: Roles) -> None:
    """Those that change are refused with exit code 2."""
    with open_store(roles.url_of("runs_worker")) as store:
        run = store.create(**names())
    environment = {"RUNSTATE_STORE": roles.url_of("runs_operator")}
    (row,) = [line for line in (PAGES / "permissions.md").read_text().splitlines() if "| `runs_operator` |" in line]
    commands = re.findall(r"`(runstate [a-z ]+)`", row)
    assert len(commands) == 4
    for command in (*commands, f"runstate runs show {run.id}", "runstate doctor --live"):
        assert CliRunner().invoke(cli, command.split()[1:], env=environment).exit_code == 0, command
    for command in (f"runs cancel {run.id}", "runs sweep"):
        said = CliRunner().invoke(cli, command.split(), env=environment)
        assert (said.exit_code, "permission denied" in said.stderr) == (2, True), command


def test_the_statement_that_finds_an_owner(roles: Roles) -> None:
    """It counts nothing for the role of a worker, and the tables for their owner."""
    assert roles.execute("owned", "runs_worker") == [(0,)]
    assert roles.execute("owned", "runs_owner")[0][0] > 10


def test_the_grants_for_tables_that_exist(roles: Roles) -> None:
    """They give what the default privileges give."""
    with Prompt(roles.url_of("runs_owner")) as owner:
        for role in ("runs_worker", "runs_operator"):
            owner.run(roles.mine(f"REVOKE ALL ON ALL TABLES IN SCHEMA runs FROM {role}"))
    with pytest.raises(AccessDenied):
        open_store(roles.url_of("runs_worker"))
    roles.execute("existing", "runs_owner")
    with open_store(roles.url_of("runs_worker")) as store:
        store.create(**names())
    with open_store(roles.url_of("runs_operator")) as store:
        assert store.counts()[RunStatus.QUEUED] == 1


# --- deploy.md --------------------------------------------------------------------------------------------------------


def _commands_of(text: str) -> list[str]:
    """Return the command lines of `runstate` in a text: after a prompt, in a crontab, or in a shell."""
    lines = re.sub(r"\\\"", '"', text).splitlines()
    found = [match for line in lines for match in re.findall(r"(?:^|[\s/'\"])(runstate [a-z][^;|'#]*)", line)]
    return [command.strip().removesuffix('"]').rstrip() for command in found]


def check_command(words: list[str]) -> None:
    """Fail unless the command exists, and has the options that it is given."""
    found: click.Command = cli
    with click.Context(cli) as context:
        while isinstance(found, click.Group):
            under = found.get_command(context, words.pop(0))
            assert under is not None, words
            found = under
    options = {option for parameter in found.params for option in parameter.opts}
    assert [word for word in words if word.startswith("-") and word not in options] == []


@pytest.mark.parametrize("page", ["deploy", "permissions", "pgbouncer", "monitor", "upgrade", "retention"])
def test_every_command_of_a_block_exists(page: str) -> None:
    """With its options; `test_names_in_pages.py` checks those in code spans."""
    texts = [text for kind in ("console", "text", "ini", "dockerfile") for text in blocks(f"{page}.md", kind)]
    commands = [command for text in texts for command in _commands_of(text) if ":" not in command.split()[1]]
    assert commands
    for command in commands:
        check_command(shlex.split(command)[1:])


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(blocks("deploy.md", "ini")[0])
    return parser


def test_the_unit_gives_a_worker_the_time_to_drain() -> None:
    """The unit file can be read; it executes a worker, and waits for longer than that drains."""
    service = unit()["Service"]
    words = shlex.split(service["ExecStart"])
    assert words[0].endswith("/runstate")
    check_command(words[1:])
    assert int(service["TimeoutStopSec"]) >= _drain_s(words) + 15
    assert service["KillMode"] == "mixed"
    assert {"2", "130", "143"} == {*service["RestartPreventExitStatus"].split(), *service["SuccessExitStatus"].split()}


def _drain_s(words: list[str]) -> int:
    return int(words[words.index("--drain") + 1].removesuffix("s"))


def manifests() -> Mapping[str, Any]:
    """Return the objects of Kubernetes on the page, by their kinds."""
    return {found["kind"]: found for found in map(yaml.safe_load, blocks("deploy.md", "yaml"))}


def pod() -> Mapping[str, Any]:
    """Return the specification of the pods of the deployment."""
    deployment = manifests()["Deployment"]
    assert deployment["apiVersion"] == "apps/v1"
    template = deployment["spec"]["template"]
    assert deployment["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    specification: Mapping[str, Any] = template["spec"]
    return specification


def test_the_deployment_gives_a_worker_the_time_to_drain() -> None:
    """The YAML can be read, its command exists, and the variables that it uses are set."""
    specification = pod()
    (container,) = specification["containers"]
    assert container["command"][0] == "runstate"
    check_command(container["command"][1:])
    assert specification["terminationGracePeriodSeconds"] >= _drain_s(container["command"]) + 15
    given = {variable["name"] for variable in container["env"]}
    used = set(re.findall(r"\$\(?(\w+)", json.dumps(container)))
    assert given == {"POD_NAME", "RUNSTATE_STORE"}
    assert used - given == set()


def test_the_job_migrates_before_the_roll_out() -> None:
    """The YAML can be read; the job has the image of the workers, another address, and the name that is waited for."""
    job = manifests()["Job"]
    assert job["apiVersion"] == "batch/v1"
    specification = job["spec"]["template"]["spec"]
    assert specification["restartPolicy"] == "Never"
    (container,), (worker,) = specification["containers"], pod()["containers"]
    assert container["command"] == ["runstate", "migrate"]
    assert container["image"] == worker["image"]
    (variable,) = container["env"]
    assert variable["name"] == "RUNSTATE_STORE"
    assert variable not in worker["env"]
    assert f"job/{job['metadata']['name']}\n" in "".join(blocks("deploy.md", "console"))


def _probe(name: str, store_url: str) -> int:
    """Execute a probe as the kubelet does; return its exit code."""
    (container,) = pod()["containers"]
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": programs, "RUNSTATE_STORE": store_url, "POD_NAME": "worker-1"}
    command: list[str] = container[f"{name}Probe"]["exec"]["command"]
    for inner in _commands_of(command[-1]):
        check_command(shlex.split(inner)[1:])
    return subprocess.run(command, env=environment, capture_output=True, timeout=60).returncode


@pytest.mark.slow
def test_the_probes_say_whether_a_worker_is_at_work(tmp_path: Path) -> None:
    """A worker without a lease is neither ready nor alive; one whose store is away is alive, and not ready."""
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    assert (_probe("readiness", url), _probe("liveness", url)) == (2, 0)
    with open_store(url) as store:
        assert (_probe("readiness", url), _probe("liveness", url)) == (1, 1)
        store.open_lease("worker-1", lease_s=HOUR_S)
        assert (_probe("readiness", url), _probe("liveness", url)) == (0, 0)
    away = "postgresql://nobody@/nothing?host=/nowhere"
    assert (_probe("readiness", away), _probe("liveness", away)) == (3, 0)


def test_the_image_executes_a_worker() -> None:
    """The health check and the command of the Dockerfile exist; the command replaces its shell."""
    (text,) = blocks("deploy.md", "dockerfile")
    (command,) = re.findall(r"^CMD (.*)$", text, re.MULTILINE)
    shell, flag, script = json.loads(command)
    assert (shell, flag, script.partition(" ")[0]) == ("sh", "-c", "exec")
    check_command(shlex.split(script)[2:])
    (health,) = re.findall(r"^HEALTHCHECK .*\\\n +CMD (.*)$", text, re.MULTILINE)
    (container,) = pod()["containers"]
    assert health.replace("WORKER_NAME", "POD_NAME") == container["livenessProbe"]["exec"]["command"][-1]


# --- retention.md -----------------------------------------------------------------------------------------------------


def test_the_copy_of_the_page_has_what_ended(store: Store, prompt: Prompt) -> None:
    """The statements are for both databases. A second copy adds what has ended since, and nothing twice."""
    ids = fill(store)
    statements = recipes("retention.md")
    prompt.run(statements["table"])
    try:
        for cancelled in ([], [("cancelled", 1)]):
            prompt.run(statements["copy"])
            counts = prompt.run("SELECT status, count(*) FROM my_runs GROUP BY status ORDER BY status")
            assert counts == [*cancelled, ("completed", 1), ("failed", 3)]
            store.request_cancel(ids["soon"])
    finally:
        prompt.run("DROP TABLE my_runs")
