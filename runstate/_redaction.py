"""Taking the parts of a store's address out of a text: hosts, names, paths, and above all the password."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

__all__ = ["Password", "redacted", "without_passwords"]

_HIDDEN: Final = "***"
_SHORT: Final = 4
"""A password that is shorter is a part of too many words to be hidden everywhere."""
_QUOTES: Final = "\"'`»«›‹“”„‘’"
_SCHEME: Final = r"(?:postgres(?:ql)?|sqlite)(?:\+\w+)?://"
_LIBPQ: Final = (
    r"(?<=connection to server )(?:at|on socket) \".*?(?= failed)"  # with the numbers that a name stands for
)
_SET: Final = r"\\*['\"]?\]?[ \t]*[:=][ \t]*"  # what stands between a name and its value: host=, 'host': , ["HOST"] =
_PASSWORD_SET: Final = rf"(?i:password)(?:{_SET}|[ \t]+(?='))"  # also of SQL: ALTER ROLE ... PASSWORD '...'
_PART_SET: Final = rf"(?<![A-Za-z])(?i:(?:pg)?(?:host(?:addr|name)?|user(?:name)?|dbname|database|port)){_SET}\\*['\"]?"


class Password(str):
    """A part of an address that is hidden wherever it stands, and however it is spelled."""

    __slots__ = ()


def redacted(text: str, private: Sequence[str]) -> str:
    """Return a text without addresses of stores, without passwords, and without the parts of one's own address."""
    passwords = tuple(str(part) for part in private if isinstance(part, Password))
    parts = tuple(part for part in private if part and not isinstance(part, Password))
    return _pattern(parts, tuple(filter(None, passwords))).sub(_hide, text)


def without_passwords(text: str) -> str:
    """Return a text without the values that it gives as passwords, as in `password=secret`.

    >>> print(without_passwords("host=db PGPASSWORD=secret password = 'a b' port=5432"))
    host=db PGPASSWORD=*** password = *** port=5432
    """
    return _PASSWORDS.sub(_hide, text)


def _hide(found: re.Match[str]) -> str:
    """Return what stands for a secret; the name that it is given under stays."""
    return next(filter(None, found.groups()), "") + _HIDDEN


@lru_cache(maxsize=16)
def _pattern(parts: tuple[str, ...], passwords: tuple[str, ...]) -> re.Pattern[str]:
    secrets = "|".join(_spelled(password) for password in passwords if len(password) >= _SHORT)
    # One pattern for all, so that no part is looked for in a text that lost the words around it: the password may be
    # `postgres`, and then no address would be known by its beginning any more.
    kinds = [_given_passwords(secrets), _with(secrets, _SCHEME, r"[^\s\"'<>]", "*+"), _LIBPQ, secrets]
    kinds += [
        rf"(?<=[{_QUOTES}]){_spelled(short)}(?=[{_QUOTES}])|(?<=:){_spelled(short)}(?=@)"
        for short in passwords
        if len(short) < _SHORT
    ]
    ports = "|".join(part for part in parts if part.isdecimal())
    for part in parts:
        word = re.escape(part)
        kinds.append(rf"({_PART_SET}){word}(?!\w)")
        kinds.append(rf"(?<=[{_QUOTES}]){word}(?=[{_QUOTES}])")
        if part.isdecimal():
            kinds.append(rf"(?<=port ){word}\b|(?<=[\w\]]:){word}\b")
        elif re.search(r"[./:\\]", part):  # a host or a path, which is no word of a language
            kinds.append(rf"(?<![\w.]){word}(?![\w])")
        elif ports:
            kinds.append(rf"(?<![\w.]){word}(?=:(?:{ports})\b)")
    return re.compile("|".join(filter(None, kinds)))


def _given_passwords(secrets: str = "") -> str:
    """Return the pattern of a password that is given under its name, in quotes or up to a space."""
    quoted = "|".join(
        _with(secrets, rf"\\*{quote}", rf"[^{quote}\\\n]|\\+[^{quote}\n]|\\+{quote}(?=\w)", "*+") + rf"\\*{quote}"
        for quote in "'\""
    )
    unquoted = _with(secrets, "", r"\S", "++")
    return rf"({_PASSWORD_SET})(?:{quoted}|{unquoted})"


def _with(secrets: str, first: str, character: str, times: str) -> str:
    """Return the pattern of a text of such characters; a password in it may have others."""
    return rf"{first}(?:{secrets}|{character}){times}" if secrets else rf"{first}(?:{character}){times}"


def _spelled(password: str) -> str:
    """Return the pattern of a password as it is, percent-encoded, or escaped as in a literal or a libpq string."""
    return "".join(_character(each) for each in password)


def _character(character: str) -> str:
    encoded = "".join(f"%{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))
    spellings = [re.escape(character), f"(?i:{encoded})"]
    if character == " ":
        spellings.append(r"\+")
    if not character.isascii() or not character.isprintable():
        spellings.append(rf"\\+(?i:{re.escape(json.dumps(character)[2:-1])})")
        spellings.append(rf"\\+(?i:{re.escape(ascii(character)[2:-1])})")
    escapes = "" if character.isalnum() else r"\\*" if character == "\\" else r"\\*+"
    return f"{escapes}(?:{'|'.join(spellings)})"


_PASSWORDS: Final = re.compile(_given_passwords())
