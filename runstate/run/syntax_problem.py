"""Messages for text that a parser of JSON or YAML refuses.

The messages and the order of checks differ between releases of a parser. So only the position of its error is used, and
the message is made here.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["is_deeper", "syntax_problem"]

# A string, also one that is cut off. No part can match in two ways, so the time is linear in the length.
_STRINGS: Final = re.compile(r'"[^"\\]*+(?:\\.?[^"\\]*+)*+"?', re.DOTALL)
_STRING: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(code for code in range(256) if code not in b"[]{}")


def syntax_problem(text: str, index: int) -> str:
    """Return why a text cannot be parsed, by what is at the index where the parser stopped.

    >>> syntax_problem('{"a" 1}', 5), syntax_problem("[1,", 3), syntax_problem('["a', 1)
    ("unexpected '1'", 'the text ends too early', 'a string does not end')
    """
    if index >= len(text):
        return "the text ends too early"
    if text[index] == '"' and _STRING.match(text, index) is None:
        return "a string does not end"
    return f"unexpected {text[index]!r}"


def is_deeper(text: str, levels: int, opened: int = 0) -> bool:
    """Return whether a text like JSON is deeper than `levels`, with `opened` levels open before it.

    >>> is_deeper("[[]", 1), is_deeper("[][]", 1), is_deeper('["[["]', 1), is_deeper("]{[]", 1, opened=1)
    (True, False, False, True)
    """
    plain = _STRINGS.sub("", text).encode(errors="replace").translate(_ONE_KIND, _NO_BRACKETS)
    left = b"[" * opened + plain
    left += b"]" * left.count(b"[")  # those that are still open
    # Removing the innermost pairs removes one level. A walk from bracket to bracket would take 10x as long.
    for _ in range(levels):
        if b"[" not in left:
            return False
        left = left.replace(b"[]", b"")
    return b"[" in left
