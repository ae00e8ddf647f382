"""Runs and recordings of runs, made odd; and whether they were answered as they should be."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import random
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import yaml

from runstate import Run, RunDecodeError
from runstate.cli._files import bounded_lines
from runstate.traces import check_snapshots, read_snapshots
from tests.support.lifecycle import STATUSES, ask, bring, new_run
from torture.fuzz.mutation import TEXTS, mutate, some, spoil, written
from torture.fuzz.telling import Broken, unsent

DATA: Final = Path(__file__).parents[2] / "tests" / "traces" / "data"


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
        if not error.errors or len(error.errors) > 100:
            raise Broken(f"{len(error.errors)} faults") from error
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
            packed = gzip.compress(written(a_run(rng), rng), 1, mtime=0)[: rng.choice((None, None, 20, 200))]
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
    report = check_snapshots(read_snapshots(bounded_lines(io.BytesIO(given))))
    for complaint in report.findings:
        said = str(complaint)
        unsent(said)
        if "\n" in said:
            raise Broken(f"more than a line: {said!r}")
    if not report.snapshots and not report.findings:
        raise Broken("nothing read, and nothing said")
    return bool(report.snapshots)
