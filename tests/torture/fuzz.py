"""Odd input by the million: `python -m tests.torture.fuzz --target run|check|cassette|url|cli --inputs N --seed S`.

Each input is made of a valid one by a few mutations, of its structure first and then of its bytes, by a random number
generator that target, seed and number begin: any input comes again by its number alone (`--number`). An answer is a run
or the documented refusal. Everything else is a crash: another exception, a warning, a control character that is sent
on as it came, a password that is told, an exit code that nobody documented, time past a generous linear bound.

`--growth` measures the worst shapes at doubling sizes; what it prints decides nothing.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import io
import json
import logging
import os
import random
import re
import sys
import tempfile
import time
import traceback
import tracemalloc
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest.mock import patch

import psycopg
import yaml  # type: ignore[import-untyped]

from runstate import Run, RunDecodeError
from runstate.__main__ import main as command
from runstate.cli.files import bounded_lines
from runstate.errors import StoreUrlError
from runstate.json_values import printable
from runstate.lifecycle import RunEvent
from runstate.recordings import inspect, snapshots
from runstate.store import Entry, Store, open_store
from runstate.store.address import database_at
from runstate.store.postgres import PostgresDatabase
from tests.store.support import bring_in_store
from tests.support import CALL, KEYS, STATUSES, ask, bring, new_run

DATA: Final = Path(__file__).parents[1] / "data"
SECRET: Final = "hunter2"
SLOW_S: Final = 0.5  # of processor time, for an input of no length
SLOW_S_PER_BYTE: Final = 20e-6
CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal may obey. A tab and the end of a line are the program's own."""


class Crash(NamedTuple):
    """An input whose answer is none, and how to have it again."""

    target: str
    seed: int
    number: int
    told: str
    given: str

    def __str__(self) -> str:
        again = f"python -m tests.torture.fuzz --target {self.target} --seed {self.seed} --number {self.number}"
        return f"{self.target} {self.number} of seed {self.seed}: {self.told}\n  input: {self.given}\n  again: {again}"


class Broken(AssertionError):
    """An answer that is none."""


class Tally:
    """What came of the inputs of one target."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.inputs = self.read = self.refused = 0
        self.crashes: list[Crash] = []
        self.took_s = 0.0

    def __str__(self) -> str:
        speed = self.inputs / self.took_s if self.took_s else 0.0
        return (
            f"{self.target:<9}{self.inputs:>9} inputs {self.read:>9} runs read {self.refused:>9} refused "
            f"{len(self.crashes):>5} crashes {speed:>8.0f} a second"
        )


# --- mutations --------------------------------------------------------------------------------------------------------

TEXTS: Final = (
    *("", " ", "\0", "a\0b", "\x1b[2J\x1b[31m", "\x9b31m", "\u202eevil\u202c", "e\u0301\u0301\u0301", "\u200b"),
    "\ufeff",
    *("\ud800", "\udfff\ud83d", "\U0001f600", "\u2028", "\r\n", "a\nb", "\x7f", "'; DROP TABLE runstate_run; --"),
    "%s%n",
    *("$1", ":name", "{}", "null", "NaN", "[]", '"', "\\", "\\u0000", "x" * 65, "y" * 513, "z" * 3000),
    *("run_1", "queued", "__class__", "constructor", "../../etc/passwd", "-", "--", "=", "data:", "\N{KELVIN SIGN}"),
    "\u0661",
)
NUMBERS: Final = (
    *(0, -0.0, 1, -1, 16, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**400, 1_800_000_000_000),
    *(253_402_300_799, 253_402_300_800, 0.1, 1e308, -1e308, 5e-324, float("nan"), float("inf"), -float("inf")),
)
LITERALS: Final = (
    *(b"1e999", b"-1e999", b"-0", b"-0.0", b"NaN", b"Infinity", b"01", b"1.", b".5", b"+1", b"0x10", b"1_000", b"tru"),
    *(b"9" * 4301, b"1" + b"0" * 4400, b"1e-999", b"null", b"{}", b"[]", b'""', b"'a'", b"\xff", b"\xed\xa0\x80"),
    b"\0",
    *(b"\xef\xbb\xbf", b"\\ud800", b"\\u0000", b"\n", b"\r", b",", b":", b"}", b"]", b"[" * 90, b'{"a":' * 90, b"/*"),
    b"%00",
    *(b"data: ", b"\n\n", b"event: thread.run.completed\n", b"---\n", b"&a ", b"*a ", b"!!python/object:os.system "),
    b"\t",
)
NAMES: Final = (
    *KEYS,
    *("createdAt", "threadId", "requiredAction", "lastError", "status", "id", "object", "event", "run", "data", "type"),
    *("function", "name", "arguments", "tool_calls", "submit_tool_outputs", "submit_tool_approval", "prompt_tokens"),
    *("interactions", "http_interactions", "log", "entries", "request", "response", "body", "string", "base64_string"),
    *("headers", "content-encoding", "code", "uri", "url", "method", "text", "encoding", "startedDateTime", "content"),
)


def leaf(rng: random.Random) -> Any:
    """Return a value that nobody expects."""
    kind = rng.randrange(5)
    if kind == 0:
        return rng.choice(TEXTS)
    if kind == 1:
        return rng.choice(NUMBERS)
    if kind == 2:
        return rng.choice((None, True, False, [], {}, [None], {"": None}, [[]], {"type": "function"}))
    if kind == 3:
        return rng.choice(STATUSES)
    return deep(rng.choice((1, 5, 60, 63, 64, 65, 79, 81, 200)), rng)


def deep(levels: int, rng: random.Random) -> Any:
    """Return a value so many levels deep."""
    value: Any = rng.choice(TEXTS)
    for _ in range(levels):
        value = [value] if rng.random() < 0.5 else {rng.choice(("a", "run", "data", "event", "status")): value}
    return value


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container in a value with each key or index of it."""
    waiting = [value]
    while waiting:
        container = waiting.pop()
        for key in list(container) if isinstance(container, dict) else range(len(container)):
            yield container, key
            if isinstance(container[key], dict | list):
                waiting.append(container[key])


def mutate(value: Any, rng: random.Random, spare: Callable[[], Any]) -> Any:
    """Return the value changed somewhere; `spare` gives another whose parts may be taken."""
    found = list(places(value)) if isinstance(value, dict | list) else []
    if not found:
        return leaf(rng)
    container, key = rng.choice(found)
    change = rng.randrange(9)
    if change == 0:
        del container[key]
    elif change in (1, 2):
        container[key] = leaf(rng)
    elif change == 3:
        container[key] = (
            [container[key]] * rng.randrange(4) if rng.random() < 0.5 else {rng.choice(NAMES): container[key]}
        )
    elif change == 4 and isinstance(container, dict):
        container[rng.choice((*NAMES, rng.choice(TEXTS)))] = container.pop(key)
    elif change == 5:
        container[key] = spare()
    elif change == 6 and isinstance(container, list):
        container.extend(container[: rng.randrange(20)])
    elif change == 7:
        other, place = rng.choice(found)
        if place in other if isinstance(other, dict) else place < len(other):
            container[key] = json.loads(json.dumps(other[place]))
    elif isinstance(container[key], str):
        container[key] = spoil(container[key].encode(errors="surrogatepass"), rng).decode(errors="surrogateescape")
    elif isinstance(container[key], int | float):
        held = container[key]
        container[key] = rng.choice((-held, held * 1000, str(held), held / 3 if -1e9 < held < 1e9 else 0.5))
    else:
        container[key] = leaf(rng)
    return value


def spoil(text: bytes, rng: random.Random) -> bytes:
    """Return bytes changed somewhere, whatever they mean."""
    at = rng.randrange(len(text) + 1)
    end = min(len(text), at + rng.choice((1, 1, 2, 8, 64)))
    change = rng.randrange(7)
    if change == 0:
        return text[:at]
    if change == 1:
        return text[:at] + text[end:]
    if change == 2:
        return text[:at] + text[at:end] * rng.choice((2, 3, 20)) + text[end:]
    if change == 3:
        return text[:at] + bytes([rng.randrange(256)]) + text[at + 1 :]
    if change == 4:
        return text[:at] + rng.choice(LITERALS) + text[end if rng.random() < 0.5 else at :]
    if change == 5:
        return text[at:] + text[:at]
    numbers = [found.span() for found in re.finditer(rb"(?<=:)\s?-?[0-9.]+", text[:20_000])]
    if not numbers:
        return text + text[at:end]
    begin, end = rng.choice(numbers)
    return text[:begin] + rng.choice(LITERALS) + text[end:]


def written(value: Any, rng: random.Random) -> bytes:
    """Return a value as JSON text, one way or another."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.7, indent=rng.choice((None, None, None, 1)))
    return text.encode(errors="surrogatepass")


def some(rng: random.Random) -> range:
    """Return a few: mostly one or two, sometimes none."""
    return range(rng.choice((0, 1, 1, 1, 2, 2, 3, 6)))


# --- what is judged ---------------------------------------------------------------------------------------------------


def unsent(text: str) -> None:
    """Demand that a sentence holds nothing that a terminal obeys."""
    if found := CONTROL.search(text):
        raise Broken(f"{found[0]!r} is sent as it came: {text[max(0, found.start() - 60) : found.end() + 20]!r}")


@cache
def run_texts() -> tuple[str, ...]:
    """Return runs in every status as JSON, in both spellings, with much and with little in them."""
    much = new_run(
        id="run_2",
        metadata={"color": "red", "size": "large"},
        tools=[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": {}}},
        temperature=0.5,
        max_prompt_tokens=1000,
    )
    for event in ("start", "require_action", "submit_tool_outputs", "start", "complete"):
        ask(much, event, 1_800_000_009)
    runs = [*(bring(status) for status in STATUSES), much]
    texts = [run.to_json(spelling) for run in runs for spelling in ("snake", "camel")]
    old = json.loads(texts[0])
    oldest = ("id", "object", "created_at", "thread_id", "assistant_id", "status", "expires_at", "started_at")
    stamps = ("cancelled_at", "failed_at", "completed_at", "last_error")
    return (*texts, json.dumps({key: old[key] for key in (*oldest, *stamps)}))


def a_run(rng: random.Random) -> Any:
    return json.loads(rng.choice(run_texts()))


def make_run(rng: random.Random) -> Any:
    value = a_run(rng)
    for _ in some(rng):
        value = mutate(value, rng, partial(a_run, rng))
    if rng.random() < 0.3:
        return value  # as a Python object
    text = written(value, rng)
    for _ in some(rng) if rng.random() < 0.5 else ():
        text = spoil(text, rng)
    return text if rng.random() < 0.7 else text.decode(errors="surrogateescape")


def judge_run(given: Any) -> bool:
    """A run, which is written and read again as it is, or `RunDecodeError` in a sentence."""
    try:
        run = Run.from_json(given) if isinstance(given, str | bytes) else Run.from_dict(given)
    except RunDecodeError as error:
        if not error.faults or len(error.faults) > 100:
            raise Broken(f"{len(error.faults)} faults") from error
        unsent(f"{error}{error!r}")
        return False
    if Run.from_json(run.to_json()) != run or Run.from_json(run.to_json("camel")) != run:
        raise Broken("the run is not what was written of it")
    unsent(repr(run))
    return True


def make_recording(rng: random.Random) -> bytes:
    runs = [a_run(rng) for _ in range(rng.choice((1, 1, 2, 5)))]
    for _ in some(rng):
        place = rng.randrange(len(runs))
        runs[place] = mutate(runs[place], rng, partial(a_run, rng))
    form = rng.randrange(5)
    if form == 0:
        text = b"\n".join(json.dumps(run).encode() for run in runs)
    elif form == 1:
        text = written(runs, rng)
    elif form == 2:
        text = written({"object": "list", "data": runs, "has_more": False}, rng)
    elif form == 3:
        named = ("created", "queued", "completed", "done", rng.choice(STATUSES))
        events = (f"event: thread.run.{rng.choice(named)}\ndata: {json.dumps(run)}\n\n" for run in runs)
        text = "".join(events).encode() + b"event: done\ndata: [DONE]\n\n"
    else:
        text = b"\n".join(json.dumps({"event": rng.choice(TEXTS), "run": run}).encode() for run in runs)
    for _ in some(rng):
        text = spoil(text, rng)
    return text


@cache
def cassette_texts() -> tuple[str, ...]:
    """Return the cassettes and HAR files of the tests, as JSON."""
    found = []
    for path in sorted(DATA.iterdir()):
        text = path.read_text(encoding="utf-8")
        value = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
        found.append(json.dumps(value, default=lambda held: base64.b64encode(held).decode()))
    return tuple(found)


def make_cassette(rng: random.Random) -> bytes:
    if rng.random() < 0.2:  # as it was written, in YAML mostly
        text = rng.choice(sorted(DATA.iterdir())).read_bytes()
    else:
        value = json.loads(rng.choice(cassette_texts()))
        for _ in some(rng):
            value = mutate(value, rng, partial(a_run, rng))
        if rng.random() < 0.2:
            packed = gzip.compress(written(a_run(rng), rng), 1)[: rng.choice((None, None, 20, 200))]
            body = {"base64_string": base64.b64encode(packed).decode()}
            response = {"status": {"code": 200}, "headers": {"content-encoding": ["gzip"]}, "body": body}
            value = {"interactions": [{"request": {"method": "GET", "uri": "/runs/r"}, "response": response}]}
        text = written(value, rng)
        if rng.random() < 0.1:
            with contextlib.suppress(UnicodeEncodeError, RecursionError):  # YAML has no half characters
                text = yaml.dump(value, Dumper=yaml.CSafeDumper).encode()
    for _ in some(rng):
        text = spoil(text, rng)
    return text


def judge_recording(given: bytes) -> bool:
    """A report, each of whose complaints is one line."""
    report = inspect(snapshots(bounded_lines(io.BytesIO(given))))
    for complaint in report.complaints:
        said = str(complaint)
        unsent(said)
        if "\n" in said:
            raise Broken(f"more than a line: {said!r}")
    if not report.snapshots and not report.complaints:
        raise Broken("nothing read, and nothing said")
    return bool(report.snapshots)


# --- addresses --------------------------------------------------------------------------------------------------------

URLS: Final = (
    *("sqlite:///runs.db", "sqlite:////var/lib/runs.db", "sqlite:///:memory:", "sqlite:///a%20b%3F.db", "runs.db"),
    *("postgresql://me:hunter2@host/db", "postgres://me:hunter2@host:5432/db?sslmode=require", "postgresql:///db"),
    *("postgresql://me@host/db?password=hunter2", "postgresql://?host=/tmp&password=hunter2&dbname=db&user=me"),
    *("postgresql://me:hunter2@[::1]:5432/db", "postgresql://me:hunter2@a:1,b:2/db?target_session_attrs=any"),
    *("postgresql://me:%68unter2@host/db?options=-c%20geqo%3Doff", "postgresql://me:hunter2@/db?service=s&passfile=p"),
    *("host=h dbname=db user=me password=hunter2", "mysql://me:hunter2@host/db", "redis://:hunter2@host"),
)
BITS: Final = (
    *("@", ":", "/", "//", "?", "#", "%", "%zz", "%00", "%ff", "%2F", "%40", "%1b", "=", "&", "[", "]", "::", " "),
    "\\",
    *("?password=", "password=", "&password=", "sqlite:///", "postgresql://", "\u2100", "\N{FULLWIDTH COLON}"),
    "\u202e",
    *("\ud800", "\0", "\n", ",", "é", "99999", "-1", "host=", "port=", "dbname=", "sslpassword=", "x" * 2100, "'", '"'),
)


def make_url(rng: random.Random) -> Any:
    url = rng.choice(URLS)
    for _ in some(rng):
        url = splice(url, rng, BITS)
    return url if rng.random() < 0.98 else rng.choice((None, 5, url.encode(errors="replace"), [url], {}, object))


def splice(text: str, rng: random.Random, bits: Sequence[str]) -> str:
    """Return a text with a bit put in, in the place of something, or something gone, doubled or moved."""
    at = rng.randrange(len(text) + 1)
    end = min(len(text), at + rng.choice((1, 1, 2, 7)))
    change = rng.randrange(6)
    if change in (0, 1):
        return text[:at] + rng.choice(bits) + text[at:]
    if change == 2:
        return text[:at] + rng.choice(bits) + text[end:]
    if change == 3:
        return text[:at] + text[end:]
    if change == 4:
        return text[:at] + text[at:end] * 2 + text[end:]
    return text[at:] + text[:at]


def judge_url(given: Any) -> bool:
    """An address that shows no password, or `StoreUrlError` in a line; neither that nor what is behind it tells one."""
    try:
        database = database_at(given)
    except StoreUrlError as error:
        told = [f"{each}{each!r}{each.args!r}" for each in behind(error)]
        scheme = given.partition("://")[0] if isinstance(given, str) else ""
        if SECRET in "".join(told) and SECRET not in scheme:
            raise Broken(f"the password is told: {told}") from None
        unsent(told[0])
        if "\n" in str(error):
            raise Broken(f"more than a line: {error}") from None
        return False
    unsent(database.shown)
    if isinstance(database, PostgresDatabase) and SECRET in f"{database.shown}{database!r}":
        parts = psycopg.conninfo.conninfo_to_dict(database.url)
        if SECRET not in str(parts.get("host")) + str(parts.get("dbname")):  # it is a name now
            raise Broken(f"the password is shown: {database.shown}")
    return True


def behind(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that came before it."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__]


# --- the command line -------------------------------------------------------------------------------------------------

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
scenes --quick
check one.jsonl
check --json many.jsonl sse.txt
check cassette.yaml
check -
check - --json
ddl --dialect sqlite
migrate --store STORE --dry-run
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
runs sweep --store STORE --dry-run --json
runs prune --store STORE --older-than 30d --dry-run
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
    """Exit code 0, 1 or 2, no traceback, nothing that a terminal obeys, no password."""
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
    if code not in (0, 1, 2):
        raise Broken(f"exit code {code!r}: {said[-300:]!r}")
    if "Traceback" in said:
        raise Broken(f"a traceback: {said[-300:]!r}")
    unsent(said)
    if SECRET in said and all(ADDRESS.search(word) for word in words if SECRET in word):
        raise Broken(f"the password is told: {said[-300:]!r}")
    return code == 0


def _no_network(*_: object, **__: object) -> None:
    raise psycopg.OperationalError("connection failed: nobody is asked here")


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
        undo.enter_context(patch("runstate.cli.demo.Fleet", side_effect=TimeoutError("nobody works here")))
        watched = patch(
            "runstate.store.Store.watch", lambda store, run_id=None, **given: store.history(run_id or "run_odd")
        )
        undo.enter_context(watched)
        yield


# --- the loop ---------------------------------------------------------------------------------------------------------


class Target(NamedTuple):
    """How an input is made, and how its answer is judged: True for what was read, False for what was refused."""

    make: Callable[[random.Random], Any]
    judge: Callable[[Any], bool]


TARGETS: Final = {
    "run": Target(make_run, judge_run),
    "check": Target(make_recording, judge_recording),
    "cassette": Target(make_cassette, judge_recording),
    "url": Target(make_url, judge_url),
    "cli": Target(make_line, judge_line),
}


def size_of(given: Any) -> int:
    if isinstance(given, tuple):
        return sum(map(len, given[0])) + len(given[1])
    return len(given) if isinstance(given, str | bytes) else len(repr(given))


def one(target: str, seed: int, number: int, tally: Tally) -> Any:
    """Make one input, ask for its answer and judge it; return the input."""
    rng = random.Random(f"{target}/{seed}/{number}")
    given = TARGETS[target].make(rng)
    shown = printable(repr(given)[:2000])
    began = time.process_time()
    try:
        read = TARGETS[target].judge(given)
        took_s = time.process_time() - began
        if took_s > SLOW_S and took_s > SLOW_S + SLOW_S_PER_BYTE * size_of(given):
            raise Broken(f"took {took_s:.1f} s for {size_of(given)} bytes")
        tally.read += read
        tally.refused += not read
    except (Exception, SystemExit) as error:
        told = str(error) if isinstance(error, Broken) else "".join(traceback.format_exception(error)[-4:])
        tally.crashes.append(Crash(target, seed, number, f"{type(error).__name__}: {told}", shown))
    tally.inputs += 1
    return given


def fuzz(target: str, inputs: int, seed: int, first: int = 0, tell: Callable[[Tally], None] | None = None) -> Tally:
    """Ask for the answers to so many inputs, and return what came of them."""
    tally = Tally(target)
    began = time.monotonic()
    with stage() if target == "cli" else contextlib.nullcontext(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(first, first + inputs):
            one(target, seed, number, tally)
            if tell is not None and number % 256 == 255:
                tally.took_s = time.monotonic() - began
                tell(tally)
            if target == "cli" and number % 5000 == 4999:  # what was created there makes the listing of it slow
                _sweep_stage()
    tally.took_s = time.monotonic() - began
    return tally


def _sweep_stage() -> None:
    for path in Path().iterdir():
        if path.is_file() and path.name not in ("one.jsonl", "many.jsonl", "sse.txt", "cassette.yaml"):
            path.unlink()
    with open_store(STORE) as store:
        for status in STATUSES:
            bring_in_store(store, status, id=f"run_{status}", thread_id=status)


# --- growth -----------------------------------------------------------------------------------------------------------


def _base(**other: Any) -> dict[str, Any]:
    return {**json.loads(run_texts()[0]), **other}


def _calls(many: int) -> list[Any]:
    return [{"id": "c", "type": "function", "function": {"name": "", "arguments": 5}}] * many


def _waiting(many: int) -> dict[str, Any]:
    return {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": _calls(many)}}


SHAPES: Final[dict[str, tuple[str, Callable[[int], bytes]]]] = {
    "unknown keys": ("run", lambda n: json.dumps(_base(**{f"k{i}": i for i in range(n)})).encode()),
    "a key many times": ("run", lambda n: b"{" + b'"a":1,' * n + b'"a":1}'),
    "keys twice": ("run", lambda n: b"{" + b",".join(b'"%d":1,"%d":2' % (i, i) for i in range(n)) + b"}"),
    "deep side by side": ("run", lambda n: json.dumps(_base(x=[json.loads("[" * 60 + "]" * 60)] * (n // 60))).encode()),
    "too deep": ("run", lambda n: b"[" * n + b"]" * n),
    "too deep, never ended": ("run", lambda n: b'{"a":' * n),
    "bad tools": ("run", lambda n: json.dumps(_base(tools=[5] * n)).encode()),
    "bad tool calls": ("run", lambda n: json.dumps(_base(required_action=_waiting(n))).encode()),
    "no JSON inside": ("run", lambda n: json.dumps(_base(x=[float("nan")] * n)).encode()),
    "a long id": ("run", lambda n: json.dumps(_base(id="\u001b" * n)).encode()),
    "much metadata": ("run", lambda n: json.dumps(_base(metadata={str(i): i for i in range(n)})).encode()),
    "many digits": ("run", lambda n: b"[" + b",".join([b"9" * 4300] * (n // 400)) + b"]"),
    "one run seen often": ("check", lambda n: (run_texts()[0].encode() + b"\n") * (n // 64)),
    "one run to and fro": ("check", lambda n: "\n".join([run_texts()[0], run_texts()[8]] * (n // 128)).encode()),
    "many runs": ("check", lambda n: b"\n".join(json.dumps(_base(id=f"run_{i}")).encode() for i in range(n // 64))),
    "events": (
        "check",
        lambda n: (b"event: thread.run.failed\ndata: " + run_texts()[0].encode() + b"\n\n") * (n // 64),
    ),
    "data without end": ("check", lambda n: b"data: {\n" * n),
    "blank lines": ("check", lambda n: b"{\n" + b"\n" * n + b"}\n"),
    "pages in pages": ("check", lambda n: b"[" + b",".join([b"[" * 70 + b"{}" + b"]" * 70] * (n // 64)) + b"]"),
    "interactions": (
        "cassette",
        lambda n: json.dumps({"interactions": [{"response": {"body": "{"}}] * (n // 8)}).encode(),
    ),
    "YAML in flow": ("cassette", lambda n: b"interactions: [" + b"[a, b, {c: d}], " * (n // 4) + b"]"),
    "YAML in blocks": ("cassette", lambda n: b"interactions:\n" + b"- a: b\n  ? c\n  : d\n" * (n // 4)),
    "YAML, a long word": ("cassette", lambda n: b"interactions:\n- " + b"word " * n),
    "YAML, a folded text": ("cassette", lambda n: b'interactions:\n- "' + b"word\n  " * n + b'"'),
    "YAML, colons": ("cassette", lambda n: b"interactions: [" + b"a: " * n + b"]"),
    "YAML, anchors": ("cassette", lambda n: b"interactions:\n" + b"".join(b"- &a%d x\n" % i for i in range(n))),
    "YAML, directives": (
        "cassette",
        lambda n: b"---\na\n...\n" + b"".join(b"%%TAG !a%d! b\n" % i for i in range(n)) + b"---\n",
    ),
    "YAML, deep": ("cassette", lambda n: b"interactions: " + b"[" * n),
    "YAML, keys in keys": ("cassette", lambda n: b"interactions:\n" + b"? " * n),
    "an address": ("url", lambda n: b"postgresql://me:%41@h/" + b"%41" * (n // 40)),
}


def growth(least: int, doublings: int) -> Iterator[str]:
    """Yield for each of the worst shapes what it takes at doubling sizes: bytes, processor time, and their ratios."""
    for name, (target, make) in SHAPES.items():
        times: list[float] = []
        size = least
        for _ in range(doublings + 1):
            given = make(size)
            began = time.process_time()
            TARGETS[target].judge(given.decode() if target == "url" else given)
            times.append(max(time.process_time() - began, 1e-6))
            size *= 2
        tracemalloc.start()
        TARGETS[target].judge(given.decode() if target == "url" else given)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        ratios = " ".join(f"{after / before:5.2f}" for before, after in pairwise(times))
        yield (
            f"{name:<24}{len(given):>10} bytes {times[-1] * 1000:>9.1f} ms"
            f" {times[-1] / len(given) * 1e9:>7.0f} ns a byte  x2: {ratios}  memory {peak / len(given):5.1f} x"
        )


# --- asked by a person ------------------------------------------------------------------------------------------------


def _tell(tally: Tally) -> None:
    sys.stderr.write(f"\r{tally}")
    sys.stderr.flush()


def main() -> int:
    """Fuzz, and print what came of it; 1 if anything crashed."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.fuzz", description=__doc__)
    parser.add_argument("--target", choices=[*TARGETS], action="append", help="All if none is given.")
    parser.add_argument("--inputs", type=int, default=10_000, help="Of each target.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, help="Only this input, shown whole.")
    parser.add_argument("--growth", action="store_true", help="Measure the worst shapes at doubling sizes instead.")
    parser.add_argument("--least", type=int, default=4_000, help="The smallest of these sizes, in parts.")
    asked = parser.parse_args()
    if asked.growth:
        for line in growth(asked.least, 4):
            print(line, flush=True)
        return 0
    crashed = 0
    for target in asked.target or TARGETS:
        if asked.number is not None:
            print(printable(repr(TARGETS[target].make(random.Random(f"{target}/{asked.seed}/{asked.number}")))))
        first, inputs = (0, asked.inputs) if asked.number is None else (asked.number, 1)
        tally = fuzz(target, inputs, asked.seed, first, _tell if sys.stderr.isatty() else None)
        for crash in tally.crashes[:20]:
            print(crash)
        print(f"\r{tally}", flush=True)
        crashed += len(tally.crashes)
    return 1 if crashed else 0


if __name__ == "__main__":
    sys.exit(main())
