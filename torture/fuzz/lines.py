"""Command lines, made odd; and whether they were answered as they should be."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import re
import sys
import tempfile
from collections.abc import Generator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import psycopg

from runstate.__main__ import main as command
from runstate.lifecycle import RunEvent
from runstate.store import Entry, Store, open_store
from tests.store.support import bring_in_store
from tests.support.lifecycle import CALL, STATUSES
from torture.fuzz.addresses import BITS, splice
from torture.fuzz.mutation import TEXTS, leaf, mutate, some, written
from torture.fuzz.recordings import DATA, make_cassette, make_recording, run_texts
from torture.fuzz.telling import CONTROL, SECRET, Broken, unsent

STORE: Final = "sqlite:///store.db"
ADDRESS: Final = re.compile(rf"^\w+://[^\s/@:]*:[^\s@]*{SECRET}[^\s@]*@|[?&]password=[^&\s]*{SECRET}")
"""A word that is an address with a password. What else holds one, with a letter missing, nobody can tell."""
LINES: Final = tuple(
    line.split()
    for line in """
table --json
table --documented
explain queued start --json
explain completed cancel
diagram
diagram -f mermaid
diagram --run one.jsonl
diagram --run - -f svg
diagram --output picture.svg --format svg
check one.jsonl
check --json many.jsonl sse.txt
check cassette.yaml
check -
check - --json
ddl --dialect sqlite
migrate --store STORE --plan
doctor --store STORE --json
doctor --store STORE --most 3 --stuck-after 1h30m
runs create --store STORE --thread t --assistant a --model m --metadata k=v --queue q --priority 3 --json
runs list --store STORE --status queued --metadata k=v --limit 5 --older-than 1s
runs list --store STORE --json
runs list --store STORE --after run_queued --order asc
runs show run_failed --store STORE
runs show run_odd --store STORE
runs history run_completed --store STORE --json
runs cancel run_queued run_odd --store STORE --json
runs submit run_requires_action call_1=sunny --store STORE
runs submit run_odd --file - --store STORE
runs watch run_completed --store STORE
runs watch run_odd --after 1 --store STORE --json
runs sweep --store STORE --plan --json
runs prune --store STORE --older-than 30d --plan
runs prune --store STORE --older-than 10d --yes
worker no_such_module:answer --store STORE --until-idle
demo --keep one.jsonl
runs list --store postgresql://me:hunter2@host/db
doctor --store postgresql://me@host/db?password=hunter2
runs cancel run_x postgresql://me:hunter2@host/db --store STORE
--version
--help
runs --help
""".strip().splitlines()
)
OPTIONS: Final = tuple(sorted({word for line in LINES for word in line if word.startswith("-")}))
WORDS: Final = (
    *(text.replace("\0", "").encode(errors="replace").decode() for text in TEXTS),
    *(*BITS[:34], *STATUSES, *RunEvent, *OPTIONS, "9" * 5000, "1e999", "-0", "nan", "0s", "9" * 400 + "d", "1h" * 900),
    *("one.jsonl", "many.jsonl", "cassette.yaml", "store.db", "missing", ".", "STORE", "run_odd", "run_queued"),
    "\udcff",
)


def make_line(rng: random.Random) -> tuple[list[str], bytes]:
    words = list(rng.choice(LINES))
    for _ in some(rng):
        at = rng.randrange(len(words) + 1)
        change = rng.randrange(6)
        if change == 0:
            words.insert(at, rng.choice(WORDS))
        elif change == 1:
            words = words[:at] + rng.choice(LINES)[: rng.randrange(4)] + words[at:]
        elif at == len(words):
            words.append(rng.choice(OPTIONS))
        elif change == 2:
            del words[at]
        elif change == 3:
            words[at] = rng.choice(WORDS)
        elif change == 4:
            words[at] = splice(words[at], rng, WORDS)
        else:
            words[at : at + 1] = [words[at]] * 2
    stdin = b"" if "-" not in words else rng.choice((make_recording, make_cassette))(rng)
    if "submit" in words:
        answer = {"tool_outputs": [{"tool_call_id": "call_1", "output": "sunny"}]}
        stdin = written(mutate(answer, rng, partial(leaf, rng)), rng)
    # What no shell can pass on is left out, and bytes that are no UTF-8 come as Python spells them.
    return [harmless(re.sub("[\0\ud800-\udc7f\udd00-\udfff]", "", word)) for word in words], stdin


def harmless(word: str) -> str:
    """Return a word that names nothing outside of the folder in which the commands are played."""
    for prefix in ("postgresql://", "postgres://", "mysql://", "sqlite:///"):
        if prefix in word:
            before, _, rest = word.partition(prefix)
            return harmless(before) + prefix + (rest if "sql://" in prefix or "gres" in prefix else harmless(rest))
    word = re.sub("%(2[ef]|5c)", "_", word, flags=re.IGNORECASE)
    return word.replace("STORE", STORE) if "/" not in word else word.replace("/", "_").replace("..", "_")


class _Pipe(io.TextIOWrapper):
    """A stream in memory that says it has a number, as the real ones do."""

    def __init__(self, held: bytes = b"", errors: str = "strict") -> None:
        super().__init__(io.BytesIO(held), encoding="utf-8", errors=errors, write_through=True)

    def fileno(self) -> int:
        return _null()

    def text(self) -> str:
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode()


@cache
def _null() -> int:
    return os.open(os.devnull, os.O_RDWR)


def judge_line(given: tuple[list[str], bytes]) -> bool:
    """Exit code 0, 1, 2 or 3, no traceback, nothing that a terminal obeys, no password."""
    words, stdin = given
    out, err = _Pipe(), _Pipe(errors="backslashreplace")
    streams: dict[str, Any] = {"argv": ["runstate", *words], "stdin": _Pipe(stdin), "stdout": out, "stderr": err}
    code: object = 0
    with patch.multiple(sys, **streams):
        try:
            command()
        except SystemExit as ended:
            code = 0 if ended.code is None else ended.code
    said = out.text() + err.text()
    if code not in (0, 1, 2, 3):
        raise Broken(f"exit code {code!r}: {said[-300:]!r}")
    if "Traceback" in said:
        raise Broken(f"a traceback: {said[-300:]!r}")
    unsent(said)
    if SECRET in said and all(ADDRESS.search(word) for word in words if SECRET in word):
        raise Broken(f"the password is told: {said[-300:]!r}")
    return code == 0


def _no_network(*_: object, **__: object) -> None:
    # No outage, which a worker would wait for.
    raise psycopg.errors.InvalidPassword("connection failed: password authentication failed")


def _watched(store: Store, run_id: str | None = None, **_: object) -> Sequence[Entry]:
    return store.history(run_id or "run_odd")


@contextlib.contextmanager
def stage() -> Generator[None]:
    """A folder with a store and recordings in it, to stand in. What would go on for ever, or go out, is cut short."""
    here = Path.cwd()
    logged = logging.getLogger()
    handlers = list(logged.handlers)
    shm = Path("/dev/shm")
    with contextlib.ExitStack() as undo:
        home = undo.enter_context(tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None))
        os.chdir(home)
        undo.callback(os.chdir, here)
        undo.callback(setattr, logged, "handlers", handlers)
        Path("one.jsonl").write_text(run_texts()[0], encoding="utf-8")
        Path("many.jsonl").write_text("\n".join(run_texts()), encoding="utf-8")
        Path("sse.txt").write_text(f"event: thread.run.queued\ndata: {run_texts()[0]}\n\n", encoding="utf-8")
        Path("cassette.yaml").write_bytes((DATA / "cassette.yaml").read_bytes())
        with open_store(STORE) as store:
            for status in STATUSES:
                bring_in_store(store, status, id=f"run_{status}", thread_id=status)
            odd = "".join(text for text in TEXTS if "\0" not in text and ("\x1b" in text or not CONTROL.search(text)))
            odd = odd.encode(errors="ignore").decode()
            run = store.create(id="run_odd", thread_id=odd[:400], assistant_id=odd, model=odd, actor=odd)
            store.start(run.id, actor=odd)
            store.require_action(run.id, [CALL], actor=odd)
        undo.enter_context(patch("psycopg.connect", _no_network))
        undo.enter_context(patch("runstate.worker.Worker.run", lambda *_, **__: None))
        undo.enter_context(
            patch("runstate.cli.commands.demo.DemoCluster", side_effect=TimeoutError("nobody works here"))
        )
        watched = patch(
            "runstate.store.Store.watch", lambda store, run_id=None, **given: store.history(run_id or "run_odd")
        )
        undo.enter_context(watched)
        yield
