"""What this library says of a text that a reader of JSON or YAML refuses.

The words and the order of the checks differ from one release of a reader to the next. Of a reader's error only the
place is used; the sentence is made here.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["is_deeper", "reason"]

# A string, also one that is cut off. No part of it can be matched in two ways, so the time grows with the length alone.
_STRINGS: Final = re.compile(r'"[^"\\]*+(?:\\.?[^"\\]*+)*+"?', re.DOTALL)
_STRING: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(code for code in range(256) if code not in b"[]{}")


def reason(text: str, index: int) -> str:
    """Return why a text cannot be read, from the index where the reader stopped: what it met there.

    >>> reason('{"a" 1}', 5), reason("[1,", 3), reason('["a', 1)
    ("unexpected '1'", 'the text ends too early', 'a string does not end')
    """
    if index >= len(text):
        return "the text ends too early"
    if text[index] == '"' and _STRING.match(text, index) is None:
        return "a string does not end"
    return f"unexpected {text[index]!r}"


def is_deeper(text: str, levels: int, opened: int = 0) -> bool:
    """Tell whether a text as in JSON goes deeper than so many levels, with some opened before it begins.

    >>> is_deeper("[[]", 1), is_deeper("[][]", 1), is_deeper('["[["]', 1), is_deeper("]{[]", 1, opened=1)
    (True, False, False, True)
    """
    plain = _STRINGS.sub("", text).encode(errors="replace").translate(_ONE_KIND, _NO_BRACKETS)
    left = b"[" * opened + plain
    left += b"]" * left.count(b"[")  # those that were not closed
    # Without the innermost pairs it is one level less deep. To go from bracket to bracket would take 10x as long.
    for _ in range(levels):
        if b"[" not in left:
            return False
        left = left.replace(b"[]", b"")
    return b"[" in left
