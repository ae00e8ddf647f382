"""The worst shapes at doubling sizes: how the time grows with the input."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Final

from torture.fuzz.loop import TARGETS
from torture.fuzz.recordings import run_texts


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
    "lines that open": ("check", lambda n: b"got {\n" * n),
    "lines that open and end": ("check", lambda n: b"got {\n}\n" * n),
    "braces in a line": ("check", lambda n: b"got " + b"{" * n),
    "objects in a line": ("check", lambda n: b"got " + b'{"a": {}} ' * n),
    "objects cut off": ("check", lambda n: b"got " + b'{"object": "thread.run", ' * n),
    "quotes in a line": ("check", lambda n: b"thread.run '{" + b"\\'{" * n),
    "printed objects": ("check", lambda n: (b"Run(a=" * 80 + b"\n") * (n // 64)),
    "printed structs": ("check", lambda n: (b"Run{ a, " * 60 + b"run_1\n") * (n // 64)),
    "text in text": ("check", lambda n: json.dumps({"a": ["thread.run {"] * n}).encode()),
    "envelopes": ("check", lambda n: b"[" + b",".join([b'{"data":' * 70 + b"{}" + b"}" * 70] * (n // 64)) + b"]"),
    "objects below": ("check", lambda n: b"{\n}\n" * n),
    "carriage returns": ("check", lambda n: b"data: {}\r\r" * n),
    "UTF-16": ("check", lambda n: b"\xff\xfe" + "\u0a41".encode("utf-16-le") * n),
    "printed HTTP": ("check", lambda n: b"HTTP/1.1 200 OK\n\n{\n" * n),
    "zeros for null": ("check", lambda n: (json.dumps(_base(started_at=0, usage={})) + "\n").encode() * (n // 64)),
    "exchanges": ("cassette", lambda n: json.dumps([{"request": {}, "response": {"body": "{"}}] * (n // 8)).encode()),
    "headers": ("cassette", lambda n: json.dumps([{"request": {}, "response": {"headers": ["a"] * n}}]).encode()),
    "folders": ("cassette", lambda n: json.dumps({"info": 1, "item": [{"item": [{"response": [{}]}]}] * n}).encode()),
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
