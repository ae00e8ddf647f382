"""Runs in recorded HTTP: cassettes (vcrpy, VCR for Ruby and R, betamax) in YAML or JSON, and HAR files.

What is recorded there is mostly other traffic, so only what says that it is a run is one; everything else is passed
over in silence. What cannot be read is told only if it may have held a run: by its path, or by what it says.
"""

from __future__ import annotations

import base64
import binascii
import io
import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final, cast

import attrs

from runstate import wire, yaml_values
from runstate.errors import Fault, RunDecodeError
from runstate.lifecycle import RunEvent
from runstate.sightings import FIELDS_OF_SSE, JsonObject, Place, Snapshot, events_in, runs_in
from runstate.yaml_values import Base64

__all__ = ["YAML_BEGINS", "read", "read_yaml"]

YAML_BEGINS: Final = (b"interactions:", b"http_interactions:", b"version:", b"recorded_with:", b"---")
"""What the first line of a cassette in YAML begins with."""

_LISTS: Final = ("interactions", "http_interactions")
_MAX_UNPACKED: Final = 4 * wire.MAX_BYTES  # of all bodies of one file together
_PIECE: Final = 1024 * 1024
_FIRST_ERROR: Final = 400  # of the HTTP statuses that say no
_GZIP: Final = b"\x1f\x8b"
_ASKED: Final = {"cancel": RunEvent.REQUEST_CANCEL, "submit_tool_outputs": RunEvent.SUBMIT_TOOL_OUTPUTS}


@attrs.frozen
class _Answer:
    """One recorded request, and what was answered."""

    at: Place
    method: str
    path: tuple[str, ...]
    """The names in the path of the request; () if it was not recorded."""
    code: int
    encoding: str
    """How the body is compressed, as the answer's header says."""
    body: object
    """Text, `Base64`, or a JSON value that was written as one; None if there is none."""

    @property
    def asked(self) -> RunEvent | None:
        """The event of the law that the request asked for, if it is one."""
        is_move = self.method == "POST" and "runs" in self.path
        return _ASKED.get(self.path[-1]) if is_move else None

    def may_hold_run(self, said: bytes = b"") -> bool:
        """Tell whether it is about runs, by the path of the request or by what it says."""
        by_path = not self.path or ("runs" in self.path and "steps" not in self.path)
        return by_path or b'"thread.run"' in said


# --- files to answers -------------------------------------------------------------------------------------------------


def read(value: object) -> Iterator[Snapshot] | None:
    """Return the snapshots in the value of a cassette or a HAR file; None if it is neither."""
    answers = _answers(value)
    return None if answers is None else _snapshots(answers)


def read_yaml(lines: Iterable[tuple[int, bytes]]) -> Iterator[Snapshot]:
    """Yield the snapshots of a cassette in YAML, from its numbered lines."""
    collected: list[bytes] = []
    size = 0
    for number, line in lines:
        # What stands before the first was left out, but an error's line number must be the file's.
        before = b"" if collected else b"\n" * min(number - 1, wire.MAX_BYTES)
        collected.append(before + line.rstrip(b"\r\n"))
        size += len(line)
        if size > wire.MAX_BYTES:  # enough for the reader to refuse it with its sentence
            break
    try:
        found = read(yaml_values.parse(b"\n".join(collected)))
        if found is None:
            raise _refusal("no cassette: it has neither interactions nor http_interactions")
    except RunDecodeError as error:
        yield Snapshot(Place(1), None, None, error.faults)
        return
    yield from found


def _answers(value: object) -> Iterator[_Answer] | None:
    found = _object(value)
    if "status" in found:  # a run may have keys of any name
        return None
    entries = _object(found.get("log")).get("entries")
    if isinstance(entries, list):
        return _in_har(cast("list[object]", entries))
    for interactions in (found.get(key) for key in _LISTS):
        if isinstance(interactions, list):
            return _in_cassette(cast("list[object]", interactions))
    return None


def _in_cassette(interactions: list[object]) -> Iterator[_Answer]:
    """Yield the answers of a cassette, in the order they were recorded."""
    for number, interaction in enumerate(map(_object, interactions), start=1):
        request, response = _object(interaction.get("request")), _object(interaction.get("response"))
        status = response.get("status", response.get("status_code"))
        coded = _object(status)
        headers = _object(response.get("headers"))
        yield _Answer(
            Place(0, "", "interaction", number),
            _text(request.get("method")).upper(),
            _path(request.get("uri")),
            _code(coded.get("code", coded.get("status_code")) if coded else status),
            next((_first(headers[name]) for name in headers if name.lower() == "content-encoding"), ""),
            _body(response),
        )


def _body(response: JsonObject) -> object:
    """Return the body of a recorded response, wherever the one that wrote it puts it."""
    body = response.get("body")
    if body is None:  # vcrpy wrote httpx's answers so until version 6; others write JSON as it is
        return response.get("content", response.get("parsed_body"))
    found = _object(body)
    if isinstance(found.get("base64_string"), str):
        return Base64(found["base64_string"])
    return found.get("string") if "string" in found else body


def _in_har(entries: list[object]) -> Iterator[_Answer]:
    """Yield the answers of a HAR file in the order of their requests, each with the number it has in the file."""
    for number, entry in _by_time(list(enumerate(map(_object, entries), start=1))):
        request, response = _object(entry.get("request")), _object(entry.get("response"))
        content = _object(response.get("content"))
        text, headers = content.get("text"), response.get("headers")
        named = map(_object, cast("list[object]", headers)) if isinstance(headers, list) else ()
        yield _Answer(
            Place(0, "", "entry", number),
            _text(request.get("method")).upper(),
            _path(request.get("url")),
            _code(response.get("status")),
            next((_text(h.get("value")) for h in named if _text(h.get("name")).lower() == "content-encoding"), ""),
            Base64(text) if isinstance(text, str) and content.get("encoding") == "base64" else text,
        )


def _by_time(entries: list[tuple[int, JsonObject]]) -> list[tuple[int, JsonObject]]:
    def started(entry: tuple[int, JsonObject]) -> datetime:
        time = datetime.fromisoformat(_text(entry[1].get("startedDateTime"))[:64])
        return time if time.tzinfo else time.replace(tzinfo=UTC)

    try:
        return sorted(entries, key=started)
    except (ValueError, OverflowError):
        return entries  # where one has no time there is no order but that of the file


def _object(value: object) -> JsonObject:
    """Return a value that is an object; an empty one for any other, which has none of the keys that are looked for."""
    return cast("JsonObject", value) if isinstance(value, Mapping) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _first(value: object) -> str:
    """Return the value of a header, of which some write a list."""
    if isinstance(value, list):
        return _text(next(iter(cast("list[object]", value)), None))
    return _text(value)


def _code(value: object) -> int:
    """Return an HTTP status; 200 where none was recorded."""
    if isinstance(value, str) and value.isdecimal():
        return int(value[:9])
    return value if isinstance(value, int) else 200


def _path(uri: object) -> tuple[str, ...]:
    whole = _text(uri).partition("?")[0].partition("#")[0]
    _, _, after_scheme = whole.partition("://")
    path = after_scheme.partition("/")[2] if after_scheme else whole
    return tuple(name for name in path.split("/") if name)


# --- answers to snapshots ---------------------------------------------------------------------------------------------


def _snapshots(answers: Iterable[_Answer]) -> Iterator[Snapshot]:
    unpacking = _Unpacking()
    for answer in answers:
        if answer.code >= _FIRST_ERROR or answer.body is None:
            continue
        if isinstance(answer.body, dict | list):
            yield from _runs(answer, answer.at, None, cast("object", answer.body))
            continue
        try:
            body = unpacking.bytes_of(answer)
        except RunDecodeError as error:
            if answer.may_hold_run():
                yield Snapshot(answer.at, None, None, error.faults)
            continue
        yield from _in_body(answer, body.removeprefix(b"\xef\xbb\xbf"))


def _in_body(answer: _Answer, body: bytes) -> Iterator[Snapshot]:
    """Yield the runs in a body, whose form is known by how it begins: what is neither JSON nor events has none."""
    if not answer.may_hold_run(body):
        return
    head = body.lstrip()
    if head.startswith((b"{", b"[")):
        yield from _in_json(answer, answer.at, None, body)
    elif head.startswith(FIELDS_OF_SSE):
        for line, event, data in events_in(enumerate(io.BytesIO(body), start=1)):
            yield from _in_json(answer, attrs.evolve(answer.at, line=line), event, data)


def _in_json(answer: _Answer, at: Place, event: str | None, text: bytes) -> Iterator[Snapshot]:
    try:
        value = wire.parse(text, first_line=at.line or 1)
    except RunDecodeError as error:
        yield Snapshot(at, event, None, error.faults)
        return
    yield from _runs(answer, at, event, value)


def _runs(answer: _Answer, at: Place, event: str | None, value: object) -> Iterator[Snapshot]:
    """Yield what says that it is a run."""
    for snapshot in runs_in(at, event, value):
        if snapshot.record is not None and snapshot.record.get("object") == "thread.run":
            yield attrs.evolve(snapshot, asked=answer.asked)


# --- bodies to bytes --------------------------------------------------------------------------------------------------


@attrs.define
class _Unpacking:
    """Turns bodies into bytes. What those of one file unpack to is bounded: a few bytes can stand for gigabytes."""

    left: int = _MAX_UNPACKED

    def bytes_of(self, answer: _Answer) -> bytes:
        """Return the bytes of a body that is text. Raises `RunDecodeError`."""
        if not isinstance(answer.body, Base64):
            # Text was unpacked before it was written, whatever the header says.
            return _text(answer.body).encode(errors="surrogatepass")
        try:
            packed = base64.b64decode("".join(answer.body.split()), validate=True)
        except (binascii.Error, ValueError):
            raise _refusal("the body is not base64") from None
        return self._unpacked(packed, answer.encoding.strip().lower())

    def _unpacked(self, packed: bytes, encoding: str) -> bytes:
        if packed.startswith(_GZIP):
            return self._inflated(packed, "gzip", 16 + zlib.MAX_WBITS)
        if not packed or encoding in ("", "identity") or _is_text(packed):
            return packed
        if encoding == "deflate":
            # Some send it with a header of its own, as the standard says, and some without.
            has_header = packed[0] & 0x0F == zlib.DEFLATED and int.from_bytes(packed[:2]) % 31 == 0
            return self._inflated(packed, encoding, zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
        if encoding == "gzip":
            raise _refusal("the body is not gzip, as its header says")
        told = f"the body is compressed with {encoding[:40]}"
        raise _refusal(f"{told}: only gzip and deflate are read, so record it with Accept-Encoding: gzip")

    def _inflated(self, packed: bytes, encoding: str, how: int) -> bytes:
        reader = zlib.decompressobj(how)
        pieces: list[bytes] = []
        size = 0
        try:
            while packed and not reader.eof:
                pieces.append(reader.decompress(packed, _PIECE))
                packed = reader.unconsumed_tail
                size += len(pieces[-1])
                self.left -= len(pieces[-1])
                if size > wire.MAX_BYTES:
                    raise _refusal(f"the body unpacks from {encoding} to more than {wire.MAX_BYTES} bytes")
                if self.left < 0:
                    raise _refusal(f"the bodies of this file unpack to more than {_MAX_UNPACKED} bytes")
        except zlib.error:
            raise _refusal(f"the body is broken {encoding}") from None
        if not reader.eof:
            raise _refusal(f"the body is {encoding} that was cut off")
        return b"".join(pieces)


def _is_text(data: bytes) -> bool:
    """Tell whether bytes are what a run could stand in, and so were unpacked before they were written."""
    if not data.lstrip().startswith((b"{", b"[", *FIELDS_OF_SSE)):
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _refusal(problem: str) -> RunDecodeError:
    return RunDecodeError([Fault("", problem)])
