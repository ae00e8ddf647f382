"""Formats that are recognised and not read: binary files, printed objects of languages, documents of other tools.

Each has a message about what it is and what to do instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, cast

from runstate.lifecycle import RunStatus
from runstate.run.errors import FieldError, RunDecodeError

__all__ = ["binary_format", "decode_error", "other_document", "printed_object"]

_AS_JSON: Final = "record it as JSON"

_FIRST_BYTES: Final[tuple[tuple[re.Pattern[bytes], str], ...]] = tuple(
    (re.compile(pattern, re.DOTALL), hint)
    for pattern, hint in (
        (rb"\x1f\x8b", "a gzip file: unpack it first (gunzip -c FILE | runstate check -)"),
        (rb"PK\x03\x04", "a ZIP archive, as Fiddler and others write: unpack it, or export the session as HAR"),
        (rb"\x28\xb5\x2f\xfd", "a zstd file: unpack it first (zstd -dc FILE | runstate check -)"),
        (rb"BZh[1-9]", "a bzip2 file: unpack it first (bunzip2 -c FILE | runstate check -)"),
        (rb"\xfd7zXZ\x00", "an xz file: unpack it first (xz -dc FILE | runstate check -)"),
        (rb"SQLite format 3\x00", "an SQLite database: if it is a store, ask runstate doctor --store sqlite:///FILE"),
        (
            rb"\x0a\x0d\x0d\x0a|\xa1\xb2\xc3\xd4|\xd4\xc3\xb2\xa1",
            "a packet capture: record HAR instead",
        ),
        (rb"\x80[\x02-\x05]", f"a Python pickle, which is never loaded: {_AS_JSON}"),
        (rb"%PDF-", f"a PDF file: {_AS_JSON}"),
        (rb"\x89PNG|\xff\xd8\xff|GIF8", f"a picture: {_AS_JSON}"),
        (rb"\d+:\d+:[a-z_]+[;,]", "a mitmproxy flow file: export it (mitmdump -nr FILE --set hardump=FILE.har)"),
    )
)

_PRINTED: Final[tuple[tuple[re.Pattern[bytes], str], ...]] = tuple(
    (re.compile(pattern, re.MULTILINE), hint)
    for pattern, hint in (
        (rb"\bclass \w*Run\w* \{", "an object as a Java client prints it: write it with the JSON library instead"),
        (rb"\bRun\w*\(id: \"", "a value as Swift prints it: write it with JSONEncoder instead"),
        (
            rb"<\w+ .{1,256}? (?:%b): created_at=\d" % b"|".join(status.value.encode() for status in RunStatus),
            "a run as this library's repr shows it: print run.to_json() instead",
        ),
        (rb"^\s*(?:id|object|status) +: ", "a list as PowerShell prints it: write it with ConvertTo-Json -Depth 20"),
        (
            rb"\b(?:Thread)?Run(?:Object|Output)?\(\s*(?:$|(?:\w+=.*)?\bid=')",
            "the repr of a Python object: print run.to_json() or run.model_dump_json() instead",
        ),
        (
            rb"\{'(?:id|object|status|created_at|event|data|thread_id)': ",
            "the repr of a Python dict (or an object as JavaScript prints it): print json.dumps(run) instead",
        ),
        (
            rb"%\w*(?:\.\w+)*\{(?:\"?(?:id|object|status|created_at|assistant_id|thread_id)\"?(?::| =>))",
            "a term as Elixir prints it: print Jason.encode!(run) instead",
        ),
        (
            rb"\{\"(?:id|object|status|created_at)\"\s?=>|#<\w[\w:]*Run\b|\{(?:id|object): \"",
            "an object as Ruby prints it: print run.to_json instead",
        ),
        (
            rb"\b(?:Thread)?Run(?:Object|Response)? ?\{ ?(?:$|.*\b(?:id|object|status): )",
            "a struct as Rust prints it: print serde_json::to_string(&run) instead",
        ),
        (
            rb"\{(?:ID|Object):|\b\w+\.Run\{",
            "a struct as Go prints it: print json.Marshal(run) instead",
        ),
        (
            rb"\b(?:Thread)?Run(?:Object|Response)?[({\[](?:$|.*\b(?:id|object|status)=)",
            "an object as Java, Kotlin or a C# record prints it: write it with the JSON library instead",
        ),
        (
            rb"\b(?:Thread)?Run(?:Object|Response)? \{ \w+ = ",
            "an object as C# prints it: print JsonSerializer.Serialize(run) instead",
        ),
        (
            rb"(?:^|\s)OpenAI\.Assistants\.ThreadRun$",
            "the name of a C# class: print JsonSerializer.Serialize(run) instead",
        ),
        (
            (
                rb"\bobject\(stdClass\)|^(?:stdClass Object|object\(|Array$|array\(|array:\d)"
                rb"|\[(?:object|status)\] => |'(?:id|object)' => "
            ),
            "an object as PHP or Perl prints it: print json_encode($run) or encode_json($run) instead",
        ),
        (
            rb"\bnock\(['\"`]|require\(['\"]nock['\"]\)",
            "a nock fixture in JavaScript: record with output_objects: true and write it as JSON",
        ),
        (
            rb"^\{?\s*(?:id|object|status|meta|req|request): ['{\"]|\{ (?:id|object): '|^(?:module\.exports|export) ",
            "JavaScript or JSON5: write it with JSON.stringify(run)",
        ),
    )
)

_RUN_OR_RECORDER: Final = re.compile(
    rb"run_|thread\.run|Run\b|RunObject|nock\(|nock.\)|stdClass|^Array$|^array|^object\(|: created_at="
)

_HEAD: Final = 512  # bytes of a line that are searched

_DOCUMENTS: Final[tuple[tuple[str, str], ...]] = (
    ("openapi", "an OpenAPI document: its examples are no recording; save the value of one as a file to judge it"),
    ("swagger", "an OpenAPI document: its examples are no recording; save the value of one as a file to judge it"),
    ("imposters", "a mountebank configuration: save the bodies of its responses as JSON lines"),
    ("__export_format", "an Insomnia export: export the responses as HAR"),
    ("nbformat", "a Jupyter notebook: save the runs that its cells print as JSON lines"),
)


def decode_error(problem: str) -> RunDecodeError:
    """Return the error for input that cannot be read."""
    return RunDecodeError([FieldError("", problem)])


def binary_format(head: bytes) -> str | None:
    """Return what a binary file is and what to do, by its first bytes; None for other files."""
    return next((f"this is {hint}" for begin, hint in _FIRST_BYTES if begin.match(head)), None)


def printed_object(line: bytes) -> str | None:
    """Return what a printed object is and what to do, by a line of it; None for other lines."""
    head = line[:_HEAD]
    if not _RUN_OR_RECORDER.search(head):
        return None
    return next((f"this is {hint}" for begin, hint in _PRINTED if begin.search(head)), None)


def other_document(value: object) -> str | None:
    """Return what a document of another tool is and what to do; None for other values."""
    if not isinstance(value, Mapping):
        return None
    found = cast("Mapping[str, object]", value)
    return next((f"this is {hint}" for key, hint in _DOCUMENTS if key in found and "status" not in found), None)
