"""Odd values, and how a valid one is made odd: its structure first, then its bytes."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from tests.support.lifecycle import KEYS, STATUSES

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
